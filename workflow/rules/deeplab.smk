# The end of the multi-stage path: DeepLabv2, or another segmenter, trained on the pseudo labels.


rule train_deeplab:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        pseudo_labels=shards_of("pseudo_labels"),
        pretrained=weights_of("deeplab"),
        masks=newest_of("ground truth"),
    output:
        weights="results/{run}/deeplab/model.safetensors",
        model="results/{run}/deeplab/model.json",
    log:
        "results/{run}/logs/train_deeplab.log",
    benchmark:
        "results/{run}/benchmarks/train_deeplab.tsv"
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
        files=state_of("ground truth"),
        pseudo_labels=parent_of("pseudo_labels"),
        shards=number_of_shards,
        out=subpath(output.weights, parent=True),
        about=about(lambda settings: f"{settings.deeplab.encoder}, {settings.deeplab.epochs} epochs"),
    message:
        "train_deeplab: {wildcards.run}, {params.about}"
    shell:
        "deeplab train-deeplab --index {input.index:q} --pseudo-labels {params.pseudo_labels:q} --shards {params.shards}"
        " --out {params.out:q} {params.flags:q} --gpus {resources.gpu} --threads {threads} --log {log:q}"


rule predict_deeplab:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        weights=run_file("deeplab/model.safetensors"),
        model=run_file("deeplab/model.json"),
    output:
        directory("results/{run}/deeplab/predictions"),
    log:
        "results/{run}/logs/predict_deeplab.log",
    benchmark:
        "results/{run}/benchmarks/predict_deeplab.tsv"
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
        about=about(lambda settings: inference_of(settings.deeplab_prediction)),
    message:
        "predict_deeplab: {wildcards.run}, {params.split}, {params.about}"
    shell:
        "deeplab predict-deeplab --index {input.index:q} --model {params.model:q} --split {params.split} --out {output:q}"
        " {params.flags:q} --gpus {resources.gpu} --threads {threads} --log {log:q}"


# Predictions for the test split, which has no ground truth.
use rule predict_deeplab as predict_deeplab_test with:
    input:
        index=run_file("test/index.csv"),
        classes=run_file("test/classes.txt"),
        weights=run_file("deeplab/model.safetensors"),
        model=run_file("deeplab/model.json"),
    output:
        directory("results/{run}/deeplab/predictions_test"),
    log:
        "results/{run}/logs/predict_deeplab_test.log",
    benchmark:
        "results/{run}/benchmarks/predict_deeplab_test.tsv"
    params:
        code=code_of("deeplab.stages.predict_deeplab", rule="predict_deeplab_test"),
        flags=section("deeplab_prediction"),
        model=subpath(input.weights, parent=True),
        split="test",
        about=about(lambda settings: inference_of(settings.deeplab_prediction)),


rule voc_submission:
    input:
        index=run_file("test/index.csv"),
        classes=run_file("test/classes.txt"),
        predictions=run_file("deeplab/predictions_test"),
    output:
        directory("results/{run}/voc_submission"),
    log:
        "results/{run}/logs/voc_submission.log",
    benchmark:
        "results/{run}/benchmarks/voc_submission.tsv"
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
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        predictions=run_file("deeplab/predictions"),
        masks=newest_of("masks"),
    output:
        "results/{run}/deeplab/metrics.json",
    log:
        "results/{run}/logs/evaluate_deeplab.log",
    benchmark:
        "results/{run}/benchmarks/evaluate_deeplab.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(60),
    params:
        code=code_of("deeplab.stages.evaluate_deeplab"),
        files=state_of("masks"),
    message:
        "evaluate_deeplab: {wildcards.run}, val against ground truth"
    shell:
        "deeplab evaluate-deeplab --index {input.index:q} --predictions {input.predictions:q} --split val"
        " --out {output:q} --threads {threads} --log {log:q}"
