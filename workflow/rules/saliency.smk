# Class-agnostic saliency maps: from a network trained on image/mask pairs, or from the user's own folder.


rule train_saliency:
    input:
        saliency_inputs,
        # The index is not read: the training waits for it so that bad images stop the run before any training. A new
        # index alone does not rerun the training.
        waited_for("index.csv"),
        weights_of("saliency"),
        newest_of("pairs of saliency"),
    output:
        weights="results/{run}/saliency_model/model.safetensors",
        model="results/{run}/saliency_model/model.json",
        metrics="results/{run}/saliency_model/metrics.json",
    log:
        "results/{run}/logs/train_saliency.log",
    benchmark:
        "results/{run}/benchmarks/train_saliency.tsv"
    conda:
        CONDA_ENV
    threads: training_threads("saliency")
    resources:
        gpu=gpus_of("saliency"),
        mem_mb=scaled(16000),
        runtime=scaled(1440),
    params:
        code=code_of("getam.stages.train_saliency"),
        flags=section("saliency", SaliencySettings),
        files=state_of("pairs of saliency"),
        train=lambda wildcards: str(settings_of(wildcards).data.saliency_train),
        val=lambda wildcards: str(settings_of(wildcards).data.saliency_val),
        out=subpath(output.weights, parent=True),
        about=about(lambda settings: f"{settings.saliency.backbone}, {settings.saliency.epochs} epochs"),
    message:
        "train_saliency: {wildcards.run}, {params.about}"
    shell:
        "getam train-saliency --train {params.train:q} --val {params.val:q} --out {params.out:q} {params.flags:q}"
        " --gpus {resources.gpu} --threads {threads} --log {log:q}"


rule predict_saliency:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        weights=run_file("saliency_model/model.safetensors"),
        model=run_file("saliency_model/model.json"),
    output:
        directory("results/{run}/saliency/{shard}"),
    log:
        "results/{run}/logs/predict_saliency/{shard}.log",
    benchmark:
        "results/{run}/benchmarks/predict_saliency/{shard}.tsv"
    conda:
        CONDA_ENV
    threads: NETWORK_THREADS
    resources:
        gpu=1,
        mem_mb=scaled(8000),
        runtime=scaled(240),
    params:
        code=code_of("getam.stages.predict_saliency"),
        flags=section("saliency", SaliencyMapSettings),
        model=subpath(input.weights, parent=True),
        shard=shard_number,
        shards=number_of_shards,
        split=split_of,
    message:
        "predict_saliency: {wildcards.run}, shard {wildcards.shard}"
    shell:
        "getam predict-saliency --index {input.index:q} --model {params.model:q} --split {params.split:q}"
        " --shard {params.shard} --shards {params.shards} --out {output:q} {params.flags:q}"
        " --gpus {resources.gpu} --threads {threads} --log {log:q}"


rule collect_saliency:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        # A function, since the key is empty in most runs, where nothing asks for this rule. The folder is ancient, as
        # all folders of the user's are: what has changed in it says the param `files`.
        folder=lambda wildcards: ancient(SETTINGS.saliency.folder or "saliency.folder"),
        maps=newest_of("saliency maps"),
    output:
        directory("results/{run}/saliency/{shard}"),
    log:
        "results/{run}/logs/collect_saliency/{shard}.log",
    benchmark:
        "results/{run}/benchmarks/collect_saliency/{shard}.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(120),
    params:
        code=code_of("getam.stages.collect_saliency"),
        files=state_of("saliency maps"),
        shard=shard_number,
        shards=number_of_shards,
        split=split_of,
    message:
        "collect_saliency: {wildcards.run}, {input.folder}, shard {wildcards.shard}"
    shell:
        "getam collect-saliency --index {input.index:q} --folder {input.folder:q} --split {params.split:q}"
        " --shard {params.shard} --shards {params.shards} --out {output:q} --threads {threads} --log {log:q}"


if SETTINGS.saliency.source == "folder":

    ruleorder: collect_saliency > predict_saliency

else:

    ruleorder: predict_saliency > collect_saliency
