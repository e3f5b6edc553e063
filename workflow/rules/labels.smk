# Pseudo labels from maps and saliency, and their scores.


rule complete_labels:
    input:
        index=of("index.csv"),
        classes=of("classes.txt"),
        maps=of("refined/{shard}"),
        saliency=saliency_of_labels,
        verdicts=verdicts_file,
    output:
        directory(f"{RESULTS}/pseudo_labels/{{shard}}"),
    log:
        f"{RESULTS}/logs/complete_labels/{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/complete_labels/{{shard}}.tsv"
    conda:
        CONDA_ENV
    threads: label_threads
    resources:
        mem_mb=scaled(lambda wildcards: 2000 + 200 * label_threads(wildcards)),
        runtime=scaled(120),
    params:
        code=code_of("getam.stages.complete_labels"),
        flags=section("completion"),
        saliency=of("saliency/{shard}"),
    message:
        f"complete_labels: {SETTINGS.completion.method}, shard {{wildcards.shard}}"
    shell:
        "getam complete-labels --maps {input.maps:q} --saliency {params.saliency:q} --index {input.index:q}"
        " --out {output:q} {params.flags:q} --threads {threads} --log {log:q}"


rule score_labels:
    input:
        index=of("index.csv"),
        classes=of("classes.txt"),
        maps=shards_of("refined"),
        pseudo_labels=shards_of("pseudo_labels"),
    output:
        f"{RESULTS}/pseudo_labels.json",
    log:
        f"{RESULTS}/logs/score_labels.log",
    benchmark:
        f"{RESULTS}/benchmarks/score_labels.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(120),
    params:
        code=code_of("getam.stages.score_labels"),
        maps=parent_of("maps"),
        pseudo_labels=parent_of("pseudo_labels"),
        shards=number_of_shards,
    message:
        f"score_labels: {SETTINGS.data.shards} shards against the ground truth of train"
    shell:
        "getam score-labels --index {input.index:q} --maps {params.maps:q} --pseudo-labels {params.pseudo_labels:q}"
        " --shards {params.shards} --out {output:q} --threads {threads} --log {log:q}"
