# The labelled images: the embedded demo, and the index of whatever data set the run is on.


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
        mem_mb=2000,
        runtime=10,
    params:
        flags=section(SETTINGS.demo),
    message:
        f"make_demo: {SETTINGS.demo.train_images} + {SETTINGS.demo.val_images} images, seed {SETTINGS.demo.seed}"
    shell:
        "getam make-demo --out {output:q} {params.flags:q} --threads {threads} --log {log:q}"


rule index_dataset:
    input:
        index_inputs(SETTINGS.data),
    output:
        **converted_masks(SETTINGS.data),
        index=f"{RESULTS}/index.csv",
        classes=f"{RESULTS}/classes.txt",
        report=f"{RESULTS}/index.json",
    log:
        f"{RESULTS}/logs/index_dataset.log",
    benchmark:
        f"{RESULTS}/benchmarks/index_dataset.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        flags=section(only(IndexSettings, SETTINGS.data)),
    message:
        f"index_dataset: {SETTINGS.data.format}, {SETTINGS.data.root}, labels from {SETTINGS.data.labels}"
    shell:
        "getam index-dataset --out {output.index:q} {params.flags:q} --threads {threads} --log {log:q}"
