# The paper's tables and figures, and sweeps: comparisons of runs that differ in a few settings.


def runs_compared(comparison: str) -> list[tuple[str, str]]:
    """(label, name) of the runs of a comparison; exits with one message if the configuration rules it out."""
    try:
        found = [(row.label, name) for row, name in runs_of(VARIANTS, comparison)]
        for label, name in found:
            for problem in missing_data(VARIANTS[name]):
                raise InputError(f"{comparison}, {label}: {problem}")
    except InputError as error:
        # An exception would be printed with a file, a line and a trace of this function.
        sys.exit(str(error))
    return found


def table_scores(wildcards: object) -> list[str]:
    """The files with a table's scores."""
    runs_compared(wildcards.table)
    return score_files(VARIANTS, wildcards.table)


def maps_compared(comparison: str, stage: str) -> Callable[[object], list[str]]:
    """An input function: the shards of a stage in all runs of a comparison."""
    return lambda wildcards: [folder for _, run in runs_compared(comparison) for folder in shards(stage, run=run)]


def label_scores(wildcards: object) -> list[str]:
    """The files with the scores of the maps in figure 2."""
    return score_files(VARIANTS, "figure2")


def map_methods(wildcards: object) -> str:
    """The flag --methods of compare-maps, as JSON."""
    return json.dumps(
        [
            {"label": label, "maps": VARIANTS.file(run, "refined"), "scores": VARIANTS.file(run, "pseudo_labels.json")}
            for label, run in runs_compared("figure2")
        ]
    )


def fusion_folders(wildcards: object) -> str:
    """The flag --maps of plot-fusions, as JSON."""
    return json.dumps({label: VARIANTS.file(run, "maps") for label, run in runs_compared("figure7")})


def timed_saliency(wildcards: object) -> str:
    """The saliency maps of the images that figure 11 labels; exits with one message in a run without saliency."""
    if SETTINGS.saliency.source == "none":
        sys.exit("figure11: times the paper's completion, which needs saliency; set saliency.source to train or folder")
    return run_file("saliency/000")(wildcards)


def in_report(file: str, *, shown_as: str) -> object:
    """An output of a table or figure that Snakemake's report shows."""
    return report(
        f"{RESULTS}/tables/{file}",
        caption="../report/tables.rst",
        category="Tables and figures of the paper",
        labels={"name": file.rpartition(".")[0], "as": shown_as},
    )


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
