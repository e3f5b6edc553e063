# Every score of the run in one place, and every stage's result beside its image.


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


rule audit:
    input:
        index=f"{RESULTS}/index.csv",
        classes=f"{RESULTS}/classes.txt",
        maps=shards("maps"),
        refined=shards("refined"),
        saliency=saliency_shards(),
        pseudo_labels=shards("pseudo_labels"),
        deeplab=f"{RESULTS}/deeplab/predictions",
        end_to_end=f"{RESULTS}/end_to_end/predictions",
        scores=rules.summary.input,
    output:
        directory(f"{RESULTS}/audit"),
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
        flags=section(SETTINGS.audit),
        run=subpath(input.index, parent=True),
        shards=SETTINGS.data.shards,
    message:
        f"audit: {SETTINGS.audit.images or 'all'} images of each split, {RESULTS}/audit/index.html"
    shell:
        "getam audit --run {params.run:q} --index {input.index:q} --shards {params.shards} --out {output:q}"
        " {params.flags:q}"
        " --threads {threads} --log {log:q}"
