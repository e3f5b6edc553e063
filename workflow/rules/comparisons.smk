# What tables and figures are made of: the runs that they compare, and the files of those.


def runs_compared(comparison: str) -> list[tuple[str, str]]:
    """(label, name) of the runs of a comparison; exits with one message if the configuration rules it out."""
    try:
        found = [(row.label, name) for row, name in runs_of(VARIANTS, comparison)]
        for label, name in found:
            for problem in missing_data(VARIANTS[name]):
                raise InputError(f"{comparison}, {label}: {problem}")
    except InputError as error:
        exit_with(error)
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
