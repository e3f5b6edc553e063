# Further rounds: the segmenter labels the images that it was trained on, and is trained once more on those labels.


rule relabel:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        weights=run_file("deeplab/model.safetensors", of=VARIANTS.round_before),
        model=run_file("deeplab/model.json", of=VARIANTS.round_before),
        pseudo_labels=run_file("pseudo_labels/{shard}", of=VARIANTS.first_round),
    output:
        directory("results/{run}/pseudo_labels/{shard}"),
    log:
        "results/{run}/logs/relabel/{shard}.log",
    benchmark:
        "results/{run}/benchmarks/relabel/{shard}.tsv"
    wildcard_constraints:
        run=FURTHER_ROUNDS,
    conda:
        CONDA_ENV
    threads: NETWORK_THREADS
    resources:
        gpu=1,
        mem_mb=scaled(prediction_memory("relabel")),
        runtime=scaled(1440),
    params:
        code=code_of("deeplab.stages.relabel"),
        flags=section("relabel"),
        model=subpath(input.weights, parent=True),
        about=about(lambda settings: f"confidence {settings.relabel.confidence}, {inference_of(settings.relabel)}"),
    message:
        "relabel: {wildcards.run}, {params.about}, shard {wildcards.shard}"
    shell:
        "deeplab relabel --index {input.index:q} --model {params.model:q} --pseudo-labels {input.pseudo_labels:q}"
        " --out {output:q} {params.flags:q} --gpus {resources.gpu} --threads {threads} --log {log:q}"
