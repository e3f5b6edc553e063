# Class activation maps, raw (dump_maps) and at the images' resolution (refine_maps).


rule dump_maps:
    input:
        index=of("index.csv"),
        classes=of("classes.txt"),
        weights=of("classifier/model.safetensors"),
        model=of("classifier/model.json"),
    output:
        directory(f"{RESULTS}/maps/{{shard}}"),
    log:
        f"{RESULTS}/logs/dump_maps/{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/dump_maps/{{shard}}.tsv"
    conda:
        CONDA_ENV
    threads: NETWORK_THREADS
    resources:
        gpu=1,
        mem_mb=scaled(8000),
        runtime=scaled(240),
    params:
        code=code_of("getam.stages.dump_maps"),
        flags=section("maps"),
        classifier=subpath(input.weights, parent=True),
        shard=shard_number,
        shards=number_of_shards,
        split=split_of,
    message:
        f"dump_maps: {SETTINGS.maps.method} from block {SETTINGS.maps.start_block}, shard {{wildcards.shard}}"
    shell:
        "getam dump-maps --index {input.index:q} --classifier {params.classifier:q} --split {params.split:q}"
        " --shard {params.shard} --shards {params.shards} --out {output:q} {params.flags:q}"
        " --gpus {resources.gpu} --threads {threads} --log {log:q}"


rule refine_maps:
    input:
        index=of("index.csv"),
        classes=of("classes.txt"),
        maps=of("maps/{shard}"),
    output:
        directory(f"{RESULTS}/refined/{{shard}}"),
    log:
        f"{RESULTS}/logs/refine_maps/{{shard}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/refine_maps/{{shard}}.tsv"
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
    message:
        f"refine_maps: PAMR, {SETTINGS.refine.iterations} iterations, shard {{wildcards.shard}}"
    shell:
        "getam refine-maps --index {input.index:q} --maps {input.maps:q} --out {output:q} {params.flags:q}"
        " --gpus {resources.gpu} --threads {threads} --log {log:q}"
