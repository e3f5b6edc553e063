# The results of a run for people: summary of all scores, plots, and the audit page.


rule summary:
    input:
        score_files_of_run,
        rounds=round_scores,
    output:
        json="results/{run}/summary.json",
        markdown="results/{run}/summary.md",
        html=report(
            "results/{run}/summary.html",
            caption="../report/summary.rst",
            category="Scores",
            labels={"result": "scores with their protocols, IoU of each class"},
        ),
    log:
        "results/{run}/logs/summary.log",
    benchmark:
        "results/{run}/benchmarks/summary.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(1000),
        runtime=scaled(10),
    params:
        code=code_of("getam.stages.summary"),
        run=subpath(output.json, parent=True),
        files=files_of_run,
        rounds=lambda wildcards: json.dumps(round_files(wildcards)),
    message:
        "summary: {output.markdown}"
    shell:
        "getam summary --run {params.run:q} --files {params.files:q} --rounds {params.rounds:q} --out {output.json:q}"
        " --threads {threads} --log {log:q}"


# The models are inputs because the folder of a model contains the TensorBoard files of its training.
rule plot_scores:
    input:
        scores=score_files_of_run,
        classifier=classifier_model,
        deeplab=run_file("deeplab/model.json"),
        end_to_end=end_to_end_model("model.json"),
    output:
        report(
            directory("results/{run}/plots"),
            patterns=["{plot}.svg"],
            caption="../report/plots.rst",
            category="Plots",
            labels={"plot": "{plot}"},
        ),
    log:
        "results/{run}/logs/plot_scores.log",
    benchmark:
        "results/{run}/benchmarks/plot_scores.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(30),
    params:
        code=code_of("getam.stages.plot_scores"),
        run=subpath(output[0], parent=True),
        files=files_of_run,
    message:
        "plot_scores: {output}"
    shell:
        "getam plot-scores --run {params.run:q} --files {params.files:q} --out {output:q} --threads {threads}"
        " --log {log:q}"


rule audit:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        maps=shards_of("maps"),
        refined=shards_of("refined"),
        saliency=saliency_shards,
        pseudo_labels=shards_of("pseudo_labels"),
        deeplab=run_file("deeplab/predictions"),
        end_to_end=run_file("end_to_end/predictions"),
        scores=score_files_of_run,
    output:
        # Snakemake's report includes only the contact sheet, since the page with every image may take a GB.
        report(
            directory("results/{run}/audit"),
            patterns=["contact_{page}.html"],
            caption="../report/audit.rst",
            category="Images",
            labels={"result": "the worst, the best and the most unknown images"},
        ),
    log:
        "results/{run}/logs/audit.log",
    benchmark:
        "results/{run}/benchmarks/audit.tsv"
    conda:
        CONDA_ENV
    threads: DECODING_THREADS
    resources:
        mem_mb=scaled(1000 + 800 * DECODING_THREADS),
        runtime=scaled(60),
    params:
        code=code_of("getam.stages.audit"),
        flags=section("audit"),
        run=subpath(output[0], parent=True),
        files=files_of_run,
        shards=number_of_shards,
        about=about(lambda settings: f"{settings.audit.images or 'all'} images of each split"),
    message:
        "audit: {params.about}, {output}/index.html"
    shell:
        "getam audit --run {params.run:q} --files {params.files:q} --index {input.index:q} --shards {params.shards}"
        " --out {output:q} {params.flags:q} --threads {threads} --log {log:q}"
