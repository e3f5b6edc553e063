# Class-agnostic saliency: from a network trained on image/mask pairs, or maps brought along.


rule train_saliency:
    input:
        saliency_inputs,
        # Not read: bad images have to stop the run before any training. A new index alone trains nothing anew.
        old("index.csv"),
        weights_of("saliency"),
    output:
        weights=f"{RESULTS}/saliency_model/model.safetensors",
        model=f"{RESULTS}/saliency_model/model.json",
        metrics=f"{RESULTS}/saliency_model/metrics.json",
    log:
        f"{RESULTS}/logs/train_saliency.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_saliency.tsv"
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
        train=lambda wildcards: str(settings_of(wildcards).data.saliency_train),
        val=lambda wildcards: str(settings_of(wildcards).data.saliency_val),
        out=subpath(output.weights, parent=True),
    message:
        f"train_saliency: {SETTINGS.saliency.backbone}, {SETTINGS.saliency.epochs} epochs"
    shell:
        "getam train-saliency --train {params.train:q} --val {params.val:q} --out {params.out:q} {params.flags:q}"
        " --gpus {resources.gpu} --threads {threads} --log {log:q}"


rule predict_saliency:
    input:
        index=of("index.csv"),
        classes=of("classes.txt"),
        weights=of("saliency_model/model.safetensors"),
        model=of("saliency_model/model.json"),
    output:
        directory(f"{RESULTS}/saliency/{{shard}}"),
    log:
        f"{RESULTS}/logs/predict_saliency/{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict_saliency/{{shard}}.tsv"
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
        "predict_saliency: shard {wildcards.shard}"
    shell:
        "getam predict-saliency --index {input.index:q} --model {params.model:q} --split {params.split:q}"
        " --shard {params.shard} --shards {params.shards} --out {output:q} {params.flags:q}"
        " --gpus {resources.gpu} --threads {threads} --log {log:q}"


rule collect_saliency:
    input:
        index=of("index.csv"),
        classes=of("classes.txt"),
        # A function: without a folder nobody asks for this rule. Old, as all folders of the user's.
        folder=lambda wildcards: ancient(SETTINGS.saliency.folder or "saliency.folder"),
    output:
        directory(f"{RESULTS}/saliency/{{shard}}"),
    log:
        f"{RESULTS}/logs/collect_saliency/{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/collect_saliency/{{shard}}.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(120),
    params:
        code=code_of("getam.stages.collect_saliency"),
        shard=shard_number,
        shards=number_of_shards,
        split=split_of,
    message:
        f"collect_saliency: {SETTINGS.saliency.folder}, shard {{wildcards.shard}}"
    shell:
        "getam collect-saliency --index {input.index:q} --folder {input.folder:q} --split {params.split:q}"
        " --shard {params.shard} --shards {params.shards} --out {output:q} --threads {threads} --log {log:q}"


if SETTINGS.saliency.source == "folder":

    ruleorder: collect_saliency > predict_saliency

else:

    ruleorder: predict_saliency > collect_saliency
