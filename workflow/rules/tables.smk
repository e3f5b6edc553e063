# The paper's tables and figures, and sweeps: comparisons of runs that differ in a few settings.


rule make_table:
    input:
        table_scores,
    output:
        json=f"{RESULTS}/tables/{{table}}.json",
        markdown=f"{RESULTS}/tables/{{table}}.md",
        # The report shows the HTML, since it cannot show Markdown.
        html=in_report("{table}.html", shown_as="table"),
        plot=in_report("{table}.svg", shown_as="plot"),
    log:
        f"{RESULTS}/logs/make_table/{{table}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_table/{{table}}.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(1000),
        runtime=scaled(10),
    params:
        code=code_of("getam.stages.make_table"),
        content=lambda wildcards: content_flags(VARIANTS, wildcards.table),
    message:
        "make_table: {output.markdown}"
    shell:
        "getam make-table {params.content:q} --out {output.json:q} --threads {threads} --log {log:q}"


rule compare_maps:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        maps=maps_compared("figure2", "refined"),
        scores=label_scores,
    output:
        picture=in_report("figure2.png", shown_as="picture"),
        json=f"{RESULTS}/tables/figure2.json",
        markdown=f"{RESULTS}/tables/figure2.md",
        html=in_report("figure2.html", shown_as="table"),
    log:
        f"{RESULTS}/logs/compare_maps.log",
    benchmark:
        f"{RESULTS}/benchmarks/compare_maps.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(30),
    params:
        code=code_of("getam.stages.compare_maps"),
        methods=map_methods,
        shards=number_of_shards,
        images=SETTINGS.tables.images,
    message:
        "compare_maps: {output.picture}"
    shell:
        "getam compare-maps --index {input.index:q} --methods {params.methods:q} --shards {params.shards}"
        " --images {params.images} --out {output.picture:q} --threads {threads} --log {log:q}"


rule plot_fusions:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        maps=maps_compared("figure7", "maps"),
    output:
        plot=in_report("figure7.svg", shown_as="plot"),
        json=f"{RESULTS}/tables/figure7.json",
        markdown=f"{RESULTS}/tables/figure7.md",
        html=in_report("figure7.html", shown_as="table"),
    log:
        f"{RESULTS}/logs/plot_fusions.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_fusions.tsv"
    conda:
        CONDA_ENV
    threads: IMAGE_THREADS
    resources:
        mem_mb=scaled(2000),
        runtime=scaled(60),
    params:
        code=code_of("getam.stages.plot_fusions"),
        maps=fusion_folders,
        shards=number_of_shards,
    message:
        "plot_fusions: {output.plot}"
    shell:
        "getam plot-fusions --index {input.index:q} --maps {params.maps:q} --shards {params.shards}"
        " --out {output.plot:q} --threads {threads} --log {log:q}"


rule time_labels:
    input:
        index=run_file("index.csv"),
        classes=run_file("classes.txt"),
        maps=run_file("refined/000"),
        saliency=timed_saliency,
    output:
        plot=in_report("figure11.svg", shown_as="plot"),
        json=f"{RESULTS}/tables/figure11.json",
        markdown=f"{RESULTS}/tables/figure11.md",
        html=in_report("figure11.html", shown_as="table"),
    log:
        f"{RESULTS}/logs/time_labels.log",
    benchmark:
        f"{RESULTS}/benchmarks/time_labels.tsv"
    conda:
        CONDA_ENV
    # The dense CRF uses one thread, so completion gets no more either.
    threads: 1
    resources:
        gpu=1,
        mem_mb=scaled(4000),
        runtime=scaled(60),
    params:
        code=code_of("getam.stages.time_labels"),
        flags=section("completion", LabelSettings),
        images=SETTINGS.tables.images,
        batch_sizes=json.dumps(SETTINGS.tables.batch_sizes),
    message:
        "time_labels: {output.plot}"
    shell:
        "getam time-labels --index {input.index:q} --maps {input.maps:q} --saliency {input.saliency:q}"
        " --images {params.images} --batch-sizes {params.batch_sizes:q} --out {output.plot:q} {params.flags:q}"
        " --gpus {resources.gpu} --threads {threads} --log {log:q}"
