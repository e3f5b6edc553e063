# Pseudo labels, from maps and saliency, and their scores.


rule complete_labels:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        maps=run_file("refined/{shard}"),
        saliency=saliency_of_labels,
        verdicts=verdicts_file,
        corrected=corrected_labels,
    output:
        directory("results/{run}/pseudo_labels/{shard}"),
    log:
        "results/{run}/logs/complete_labels/{shard}.log",
    benchmark:
        "results/{run}/benchmarks/complete_labels/{shard}.tsv"
    wildcard_constraints:
        run=FIRST_ROUNDS,
    conda:
        CONDA_ENV
    threads: label_threads
    resources:
        mem_mb=scaled(lambda wildcards: 2000 + 200 * label_threads(wildcards)),
        runtime=scaled(120),
    params:
        code=code_of("getam.stages.complete_labels"),
        flags=section("completion"),
        saliency=run_file("saliency/{shard}"),
        about=about(lambda settings: settings.completion.method),
    message:
        "complete_labels: {wildcards.run}, {params.about}, shard {wildcards.shard}"
    shell:
        "getam complete-labels --maps {input.maps:q} --saliency {params.saliency:q} --index {input.index:q}"
        " --out {output:q} {params.flags:q} --threads {threads} --log {log:q}"


rule score_labels:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        maps=shards_of("refined"),
        pseudo_labels=shards_of("pseudo_labels"),
        masks=newest_of("masks"),
    output:
        "results/{run}/pseudo_labels.json",
    log:
        "results/{run}/logs/score_labels.log",
    benchmark:
        "results/{run}/benchmarks/score_labels.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(120),
    params:
        code=code_of("getam.stages.score_labels"),
        flags=section("score_labels"),
        files=state_of("masks"),
        maps=parent_of("maps"),
        pseudo_labels=parent_of("pseudo_labels"),
        shards=number_of_shards,
    message:
        "score_labels: {wildcards.run}, {params.shards} shards against the ground truth"
    shell:
        "getam score-labels --index {input.index:q} --maps {params.maps:q} --pseudo-labels {params.pseudo_labels:q}"
        " --shards {params.shards} --out {output:q} {params.flags:q} --threads {threads} --log {log:q}"
