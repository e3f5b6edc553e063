# The inputs of a run: the embedded demo data set, the index of a data set, pretrained weights.


rule make_demo:
    output:
        directory(DEMO_DATA),
    log:
        f"{RESULTS}/logs/make_demo.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_demo.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(10),
    params:
        code=code_of("getam.stages.make_demo"),
        flags=section("demo"),
        about=about(
            lambda settings: (
                f"{settings.demo.train_images} + {settings.demo.val_images} images, seed {settings.demo.seed}"
            )
        ),
    message:
        "make_demo: {params.about}"
    shell:
        "getam make-demo --out {output:q} {params.flags:q} --threads {threads} --log {log:q}"


rule index_dataset:
    input:
        index_inputs,
        newest_of("images and labels"),
    output:
        **converted_masks(SETTINGS.data, "results/{run}"),
        index="results/{run}/index.csv",
        classes="results/{run}/classes.txt",
        report="results/{run}/index.json",
    log:
        "results/{run}/logs/index_dataset.log",
    benchmark:
        "results/{run}/benchmarks/index_dataset.tsv"
    conda:
        CONDA_ENV
    threads: DECODING_THREADS
    resources:
        mem_mb=scaled(5000),
        runtime=scaled(240),
    params:
        code=code_of("getam.stages.index_dataset"),
        flags=section("data", IndexSettings),
        files=state_of("images and labels"),
        splits='["train", "val"]',
        about=about(
            lambda settings: f"{settings.data.format}, {settings.data.root}, labels from {settings.data.labels}"
        ),
    message:
        "index_dataset: {wildcards.run}, {params.about}"
    shell:
        "getam index-dataset --out {output.index:q} {params.flags:q} --splits {params.splits:q} --threads {threads}"
        " --log {log:q}"


# The test split has an index of its own, so that test images that are added later retrain nothing.
use rule index_dataset as index_test with:
    input:
        lambda wildcards: test_list(settings_of(wildcards).data),
        newest_of("test images"),
    output:
        index="results/{run}/test/index.csv",
        classes="results/{run}/test/classes.txt",
        report="results/{run}/test/index.json",
    log:
        "results/{run}/logs/index_test.log",
    benchmark:
        "results/{run}/benchmarks/index_test.tsv"
    params:
        code=code_of("getam.stages.index_dataset", rule="index_test"),
        flags=section("data", IndexSettings),
        files=state_of("test images"),
        splits='["test"]',
        about=about(lambda settings: f"the split test of {settings.data.root}"),
    message:
        "index_test: {wildcards.run}, {params.about}"


# Weights are fetched on the machine that starts the workflow, since cluster nodes may have no internet connection.
localrules:
    fetch_weights,


rule fetch_weights:
    input:
        weights_file,
    output:
        "results/{run}/weights/{section}.json",
    log:
        "results/{run}/logs/fetch_weights/{section}.log",
    benchmark:
        "results/{run}/benchmarks/fetch_weights/{section}.tsv"
    # The weights of all networks are fetched before any training, so that missing ones fail at once, not after days.
    priority: 1
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(4000),
        runtime=scaled(120),
    params:
        code=code_of("getam.stages.fetch_weights"),
        flags=weights_flags,
    message:
        "fetch_weights: {wildcards.run}, {wildcards.section}"
    shell:
        "getam fetch-weights --section {wildcards.section:q} --out {output:q} {params.flags:q} --threads {threads}"
        " --log {log:q}"
