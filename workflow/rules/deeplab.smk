# DeepLabv2 on the pseudo labels: the end of the multi-stage path.


rule train_deeplab:
    input:
        index=of("index.csv"),
        classes=of("classes.txt"),
        pseudo_labels=shards_of("pseudo_labels"),
        pretrained=weights_of("deeplab"),
    output:
        weights=f"{RESULTS}/deeplab/model.safetensors",
        model=f"{RESULTS}/deeplab/model.json",
    log:
        f"{RESULTS}/logs/train_deeplab.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_deeplab.tsv"
    conda:
        CONDA_ENV
    threads: training_threads("deeplab")
    resources:
        gpu=gpus_of("deeplab"),
        mem_mb=scaled(16000),
        runtime=scaled(4320),
    params:
        code=code_of("deeplab.stages.train_deeplab"),
        flags=section("deeplab"),
        pseudo_labels=parent_of("pseudo_labels"),
        shards=number_of_shards,
        out=subpath(output.weights, parent=True),
    message:
        f"train_deeplab: {SETTINGS.deeplab.encoder}, {SETTINGS.deeplab.epochs} epochs"
    shell:
        "deeplab train-deeplab --index {input.index:q} --pseudo-labels {params.pseudo_labels:q} --shards {params.shards}"
        " --out {params.out:q} {params.flags:q} --gpus {resources.gpu} --threads {threads} --log {log:q}"


rule predict_deeplab:
    input:
        index=of("index.csv"),
        classes=of("classes.txt"),
        weights=of("deeplab/model.safetensors"),
        model=of("deeplab/model.json"),
    output:
        directory(f"{RESULTS}/deeplab/predictions"),
    log:
        f"{RESULTS}/logs/predict_deeplab.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict_deeplab.tsv"
    conda:
        CONDA_ENV
    threads: NETWORK_THREADS
    resources:
        gpu=1,
        mem_mb=scaled(prediction_memory("deeplab_prediction")),
        runtime=scaled(1440),
    params:
        code=code_of("deeplab.stages.predict_deeplab"),
        flags=section("deeplab_prediction"),
        model=subpath(input.weights, parent=True),
        split="val",
    message:
        f"predict_deeplab: {{params.split}}, {sizes_of(SETTINGS.deeplab_prediction)}, flip {SETTINGS.deeplab_prediction.flip},"
        f" {SETTINGS.deeplab_prediction.crf.iterations} CRF iterations"
    shell:
        "deeplab predict-deeplab --index {input.index:q} --model {params.model:q} --split {params.split} --out {output:q}"
        " {params.flags:q} --gpus {resources.gpu} --threads {threads} --log {log:q}"


# The photographs of the test split, which have no ground truth.
use rule predict_deeplab as predict_deeplab_test with:
    input:
        index=of("test/index.csv"),
        classes=of("test/classes.txt"),
        weights=of("deeplab/model.safetensors"),
        model=of("deeplab/model.json"),
    output:
        directory(f"{RESULTS}/deeplab/predictions_test"),
    log:
        f"{RESULTS}/logs/predict_deeplab_test.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict_deeplab_test.tsv"
    params:
        code=code_of("deeplab.stages.predict_deeplab", rule="predict_deeplab_test"),
        flags=section("deeplab_prediction"),
        model=subpath(input.weights, parent=True),
        split="test",


rule voc_submission:
    input:
        index=of("test/index.csv"),
        classes=of("test/classes.txt"),
        predictions=of("deeplab/predictions_test"),
    output:
        directory(f"{RESULTS}/voc_submission"),
    log:
        f"{RESULTS}/logs/voc_submission.log",
    benchmark:
        f"{RESULTS}/benchmarks/voc_submission.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(60),
    params:
        code=code_of("getam.stages.voc_submission"),
    message:
        "voc_submission: {output}/results.tgz"
    shell:
        "getam voc-submission --index {input.index:q} --predictions {input.predictions:q} --split test"
        " --out {output:q} --threads {threads} --log {log:q}"


rule evaluate_deeplab:
    input:
        index=of("index.csv"),
        classes=of("classes.txt"),
        predictions=of("deeplab/predictions"),
    output:
        f"{RESULTS}/deeplab/metrics.json",
    log:
        f"{RESULTS}/logs/evaluate_deeplab.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate_deeplab.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(60),
    params:
        code=code_of("deeplab.stages.evaluate_deeplab"),
    message:
        "evaluate_deeplab: val against ground truth"
    shell:
        "deeplab evaluate-deeplab --index {input.index:q} --predictions {input.predictions:q} --split val"
        " --out {output:q} --threads {threads} --log {log:q}"
