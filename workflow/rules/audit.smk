# Every score of the run in one place, its plots, and every stage's result beside its image.


rule summary:
    input:
        f"{RESULTS}/classifier/metrics.json",
        trained_saliency_score(),
        f"{RESULTS}/pseudo_labels.json",
        f"{RESULTS}/deeplab/metrics.json",
        f"{RESULTS}/end_to_end/metrics.json",
    output:
        json=f"{RESULTS}/summary.json",
        markdown=f"{RESULTS}/summary.md",
        html=report(
            f"{RESULTS}/summary.html",
            caption="../report/summary.rst",
            category="Scores",
            labels={"result": "scores with their protocols, IoU of each class"},
        ),
    log:
        f"{RESULTS}/logs/summary.log",
    benchmark:
        f"{RESULTS}/benchmarks/summary.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(1000),
        runtime=scaled(10),
    params:
        code=code_of("getam.stages.summary"),
        run=subpath(output.json, parent=True),
    message:
        "summary: {output.markdown}"
    shell:
        "getam summary --run {params.run:q} --out {output.json:q} --threads {threads} --log {log:q}"


# Models: beside one lies what its training left for TensorBoard.
rule plot_scores:
    input:
        scores=rules.summary.input,
        classifier=f"{RESULTS}/classifier/model.json",
        deeplab=f"{RESULTS}/deeplab/model.json",
        end_to_end=end_to_end_model("model.json"),
    output:
        report(
            directory(f"{RESULTS}/plots"),
            patterns=["{plot}.svg"],
            caption="../report/plots.rst",
            category="Plots",
            labels={"plot": "{plot}"},
        ),
    log:
        f"{RESULTS}/logs/plot_scores.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_scores.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(30),
    params:
        code=code_of("getam.stages.plot_scores"),
        run=subpath(output[0], parent=True),
    message:
        "plot_scores: {output}"
    shell:
        "getam plot-scores --run {params.run:q} --out {output:q} --threads {threads} --log {log:q}"


rule audit:
    input:
        index=f"{RESULTS}/index.csv",
        classes=f"{RESULTS}/classes.txt",
        maps=shards_of("maps"),
        refined=shards_of("refined"),
        saliency=saliency_shards,
        pseudo_labels=shards_of("pseudo_labels"),
        deeplab=f"{RESULTS}/deeplab/predictions",
        end_to_end=f"{RESULTS}/end_to_end/predictions",
        scores=rules.summary.input,
    output:
        # Of the page with every image, which may take a GB, the report has what shows a few.
        report(
            directory(f"{RESULTS}/audit"),
            patterns=["contact_{page}.html"],
            caption="../report/audit.rst",
            category="Images",
            labels={"result": "the worst, the best and the most unknown images"},
        ),
    log:
        f"{RESULTS}/logs/audit.log",
    benchmark:
        f"{RESULTS}/benchmarks/audit.tsv"
    conda:
        CONDA_ENV
    threads: DECODING_THREADS
    resources:
        mem_mb=scaled(1000 + 800 * DECODING_THREADS),
        runtime=scaled(60),
    params:
        code=code_of("getam.stages.audit"),
        flags=section("audit"),
        run=subpath(input.index, parent=True),
        shards=SETTINGS.data.shards,
    message:
        f"audit: {SETTINGS.audit.images or 'all'} images of each split, {RESULTS}/audit/index.html"
    shell:
        "getam audit --run {params.run:q} --index {input.index:q} --shards {params.shards} --out {output:q}"
        " {params.flags:q}"
        " --threads {threads} --log {log:q}"
