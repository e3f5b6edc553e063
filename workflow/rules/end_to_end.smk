# The end-to-end path: the network that makes its pseudo labels while it trains, or a checkpoint of the authors'.


rule train_end_to_end:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        saliency=saliency_shards,
        pretrained=weights_of("end_to_end"),
    output:
        weights="results/{run}/end_to_end/model.safetensors",
        model="results/{run}/end_to_end/model.json",
    log:
        "results/{run}/logs/train_end_to_end.log",
    benchmark:
        "results/{run}/benchmarks/train_end_to_end.tsv"
    conda:
        CONDA_ENV
    threads: training_threads("end_to_end")
    resources:
        gpu=gpus_of("end_to_end"),
        mem_mb=scaled(16000),
        runtime=scaled(4320),
    params:
        code=code_of("getam.stages.train_end_to_end"),
        flags=section("end_to_end"),
        saliency=saliency_flags,
        out=subpath(output.weights, parent=True),
        about=about(lambda settings: f"{settings.end_to_end.backbone}, {settings.end_to_end.epochs} epochs"),
    message:
        "train_end_to_end: {wildcards.run}, {params.about}"
    shell:
        "getam train-end-to-end --index {input.index:q} {params.saliency:q}"
        " --out {params.out:q} {params.flags:q} --gpus {resources.gpu} --threads {threads} --log {log:q}"


rule import_checkpoint:
    input:
        classes=run_file("classes.txt"),
        # A function, since the key is empty in most runs, where nothing asks for this rule.
        file=lambda wildcards: settings_of(wildcards).checkpoint.file,
    output:
        weights="results/{run}/imported/model.safetensors",
        model="results/{run}/imported/model.json",
    log:
        "results/{run}/logs/import_checkpoint.log",
    benchmark:
        "results/{run}/benchmarks/import_checkpoint.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(8000),
        runtime=scaled(30),
    params:
        code=code_of("getam.stages.import_checkpoint"),
        backbone=lambda wildcards: settings_of(wildcards).checkpoint.backbone,
        out=subpath(output.weights, parent=True),
    message:
        "import_checkpoint: {wildcards.run}, {input.file}"
    shell:
        "getam import-checkpoint {input.file:q} --backbone {params.backbone:q} --classes {input.classes:q}"
        " --out {params.out:q} --threads {threads} --log {log:q}"


rule predict_end_to_end:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        weights=end_to_end_model("model.safetensors"),
        model=end_to_end_model("model.json"),
    output:
        directory("results/{run}/end_to_end/predictions"),
    log:
        "results/{run}/logs/predict_end_to_end.log",
    benchmark:
        "results/{run}/benchmarks/predict_end_to_end.tsv"
    conda:
        CONDA_ENV
    threads: NETWORK_THREADS
    resources:
        gpu=1,
        mem_mb=scaled(prediction_memory("end_to_end_prediction")),
        runtime=scaled(1440),
    params:
        code=code_of("getam.stages.predict_end_to_end"),
        flags=section("end_to_end_prediction"),
        model=subpath(input.weights, parent=True),
        about=about(lambda settings: inference_of(settings.end_to_end_prediction)),
    message:
        "predict_end_to_end: {wildcards.run}, val, {params.about}"
    shell:
        "getam predict-end-to-end --index {input.index:q} --model {params.model:q} --split val --out {output:q}"
        " {params.flags:q} --gpus {resources.gpu} --threads {threads} --log {log:q}"


rule evaluate_end_to_end:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        predictions=run_file("end_to_end/predictions"),
        masks=newest_of("masks"),
    output:
        "results/{run}/end_to_end/metrics.json",
    log:
        "results/{run}/logs/evaluate_end_to_end.log",
    benchmark:
        "results/{run}/benchmarks/evaluate_end_to_end.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(60),
    params:
        code=code_of("getam.stages.evaluate_end_to_end"),
        files=state_of("masks"),
    message:
        "evaluate_end_to_end: {wildcards.run}, val against ground truth"
    shell:
        "getam evaluate-end-to-end --index {input.index:q} --predictions {input.predictions:q} --split val"
        " --out {output:q} --threads {threads} --log {log:q}"
