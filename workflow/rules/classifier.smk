# The classifier, from whose attention the class activation maps come.


rule train_classifier:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        pretrained=weights_of("classifier"),
    output:
        weights="results/{run}/classifier/model.safetensors",
        model="results/{run}/classifier/model.json",
        metrics="results/{run}/classifier/metrics.json",
    log:
        "results/{run}/logs/train_classifier.log",
    benchmark:
        "results/{run}/benchmarks/train_classifier.tsv"
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
        about=about(lambda settings: f"{settings.classifier.backbone}, {settings.classifier.epochs} epochs"),
    message:
        "train_classifier: {wildcards.run}, {params.about}"
    shell:
        "getam train-classifier --index {input.index:q} --out {params.out:q} {params.flags:q}"
        " --gpus {resources.gpu} --threads {threads} --log {log:q}"
