# Class activation maps, raw (dump_maps, or collect_maps from the user's own folder) and at the images' resolution
# (refine_maps).


rule dump_maps:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        weights=run_file("classifier/model.safetensors"),
        model=run_file("classifier/model.json"),
    output:
        directory("results/{run}/maps/{shard}"),
    log:
        "results/{run}/logs/dump_maps/{shard}.log",
    benchmark:
        "results/{run}/benchmarks/dump_maps/{shard}.tsv"
    conda:
        CONDA_ENV
    threads: NETWORK_THREADS
    resources:
        gpu=1,
        mem_mb=scaled(8000),
        runtime=scaled(240),
    params:
        code=code_of("getam.stages.dump_maps"),
        flags=section("maps", MapSettings),
        classifier=subpath(input.weights, parent=True),
        shard=shard_number,
        shards=number_of_shards,
        split=split_of,
        about=about(lambda settings: f"{settings.maps.method} from block {settings.maps.start_block}"),
    message:
        "dump_maps: {wildcards.run}, {params.about}, shard {wildcards.shard}"
    shell:
        "getam dump-maps --index {input.index:q} --classifier {params.classifier:q} --split {params.split:q}"
        " --shard {params.shard} --shards {params.shards} --out {output:q} {params.flags:q}"
        " --gpus {resources.gpu} --threads {threads} --log {log:q}"


rule collect_maps:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        # As in collect_saliency.
        folder=lambda wildcards: ancient(SETTINGS.maps.folder or "maps.folder"),
        brought=newest_of("class maps"),
    output:
        directory("results/{run}/maps/{shard}"),
    log:
        "results/{run}/logs/collect_maps/{shard}.log",
    benchmark:
        "results/{run}/benchmarks/collect_maps/{shard}.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(120),
    params:
        code=code_of("getam.stages.collect_maps"),
        files=state_of("class maps"),
        shard=shard_number,
        shards=number_of_shards,
        split=split_of,
    message:
        "collect_maps: {wildcards.run}, {input.folder}, shard {wildcards.shard}"
    shell:
        "getam collect-maps --index {input.index:q} --folder {input.folder:q} --split {params.split:q}"
        " --shard {params.shard} --shards {params.shards} --out {output:q} --threads {threads} --log {log:q}"


if SETTINGS.maps.source == "folder":

    ruleorder: collect_maps > dump_maps

else:

    ruleorder: dump_maps > collect_maps


rule refine_maps:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        maps=run_file("maps/{shard}"),
    output:
        directory("results/{run}/refined/{shard}"),
    log:
        "results/{run}/logs/refine_maps/{shard}.log",
    benchmark:
        "results/{run}/benchmarks/refine_maps/{shard}.tsv"
    conda:
        CONDA_ENV
    threads: NETWORK_THREADS
    resources:
        gpu=1,
        mem_mb=scaled(8000),
        runtime=scaled(240),
    params:
        code=code_of("getam.stages.refine_maps"),
        flags=section("refine"),
        about=about(lambda settings: f"PAMR, {settings.refine.iterations} iterations"),
    message:
        "refine_maps: {wildcards.run}, {params.about}, shard {wildcards.shard}"
    shell:
        "getam refine-maps --index {input.index:q} --maps {input.maps:q} --out {output:q} {params.flags:q}"
        " --gpus {resources.gpu} --threads {threads} --log {log:q}"
