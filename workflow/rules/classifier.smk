# The network whose attention the maps come from.


rule train_classifier:
    input:
        index=of("index.csv"),
        classes=of("classes.txt"),
        pretrained=weights_of("classifier"),
    output:
        weights=f"{RESULTS}/classifier/model.safetensors",
        model=f"{RESULTS}/classifier/model.json",
        metrics=f"{RESULTS}/classifier/metrics.json",
    log:
        f"{RESULTS}/logs/train_classifier.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_classifier.tsv"
    conda:
        CONDA_ENV
    threads: training_threads("classifier")
    resources:
        gpu=gpus_of("classifier"),
        mem_mb=scaled(16000),
        runtime=scaled(1440),
    params:
        code=code_of("getam.stages.train_classifier"),
        flags=section("classifier"),
        out=subpath(output.weights, parent=True),
    message:
        f"train_classifier: {SETTINGS.classifier.backbone}, {SETTINGS.classifier.epochs} epochs"
    shell:
        "getam train-classifier --index {input.index:q} --out {params.out:q} {params.flags:q}"
        " --gpus {resources.gpu} --threads {threads} --log {log:q}"
