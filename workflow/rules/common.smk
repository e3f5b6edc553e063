# Shared by the rules: the checked configuration, the run and its variants, shards, and the flags of the stages.
#
# A job's wildcard {run} is the run of the configuration, or one of its variants (getam.experiments.variants): runs with
# a few settings changed, which share every file that does not depend on the changes. So everything that may differ
# between runs has to be a function of wildcards.

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from pydantic import BaseModel
from snakemake.logging import logger
from snakemake_internals import (
    config_files,
    first_output,
    given_config,
    given_cores,
    is_recorded,
    make_names_targets,
    recorded_params,
    resource_limit,
)

from getam.datasets.formats import FORMATS
from getam.errors import InputError
from getam.experiments.table_runs import content_flags, register, runs_of, score_files
from getam.experiments.variants import Variants
from getam.runs.artifacts import SCORE_FILES
from getam.settings.completion import LABEL_METHODS, LabelSettings
from getam.settings.config import Config, validate_config
from getam.settings.data import DATA_FORMATS, DEMO_FORMAT, DataSettings, IndexSettings
from getam.settings.flags import flags
from getam.settings.prediction import PredictionSettings
from getam.settings.reading import merge, read_yaml
from getam.settings.maps import MapSettings
from getam.settings.saliency import SaliencyMapSettings, SaliencySettings
from getam.settings.section import section_of
from getam.system.names import printable
from getam.system.version import source_hash

STARTED = time.time()
DEMO_DATA = "data/demo"
CONDA_ENV = "../../envs/getam.yaml"

# Threads that a job asks for. Changes of threads, memory and run time rerun nothing. Network jobs that run at the same
# time (one for each gpu of --resources) share the cores.
CORES = given_cores(workflow)
GPU_SLOTS = resource_limit(workflow, "gpu") or 1
NETWORK_THREADS = max(1, min(8, (CORES or 8) // GPU_SLOTS))
IMAGE_THREADS = 1
DECODING_THREADS = max(1, min(8, CORES or 8))


def exit_with(error: InputError) -> NoReturn:
    """Ends Snakemake with one message; an exception would be printed with a file, a line and a trace."""
    sys.exit(printable(str(error)))


def run_of(wildcards: object) -> str:
    """The run that a job belongs to: its wildcard {run}; the main run for the rules of tables, which have none."""
    return getattr(wildcards, "run", SETTINGS.run)


def settings_of(wildcards: object) -> Config:
    """The settings with which a job's files are made."""
    return VARIANTS[run_of(wildcards)]


def split_of(wildcards: object) -> str:
    """The split for whose images a job makes maps, saliency and pseudo labels."""
    return VARIANTS.split(run_of(wildcards))


def run_file(file: str, *, of: Callable[[str], str] = str) -> Callable[[object], str]:
    """An input function: the path of a file of the job's run, given its path within a run.

    With `of`, a function of the run's name, it is the file of another run or round.
    """
    return lambda wildcards: VARIANTS.file(of(run_of(wildcards)), file.format(**dict(wildcards.items())))


def waited_for(file: str) -> Callable[[object], object]:
    """Like `run_file`, for a file that a job waits for, but whose change does not rerun the job."""
    return lambda wildcards: ancient(run_file(file)(wildcards))


def gpus_of(section: str) -> Callable[[object], int]:
    """A resource function: the number of GPUs that a training asks for."""
    return lambda wildcards: getattr(settings_of(wildcards), section).gpus


def training_threads(section: str) -> Callable[[object], int]:
    """The threads of a training: NETWORK_THREADS for each of its processes."""

    def threads(wildcards: object) -> int:
        count = NETWORK_THREADS * max(1, getattr(settings_of(wildcards), section).gpus)
        return min(count, CORES) if CORES else count

    return threads


def warn_of_trainings() -> None:
    """Warns of what a training would do in silence.

    Snakemake gives a training fewer GPUs than it asks for if --resources allows no more. Frozen layers need pretrained
    weights, and GETAM a read-out that reads the class token. A run of one's own data in the demo's folder replaces the
    demo's results.
    """
    limit = resource_limit(workflow, "gpu")
    for name in ("classifier", "saliency", "deeplab", "end_to_end"):
        training = getattr(SETTINGS, name)
        if limit and training.gpus > limit:
            logger.warning(
                f"{name}.gpus: {training.gpus}, but jobs share {limit}: --resources gpu={training.gpus} gives them all"
            )
        if frozen := training.frozen_at_random():
            logger.warning(f"{name}.{frozen}")
    for warning in SETTINGS.unread_class_tokens():
        logger.warning(warning)
    if SETTINGS.run == "demo" and not in_demo(SETTINGS.data.root):
        logger.warning(f"run: results/demo takes the results of {SETTINGS.data.root}; write another name of the run")


def scaled(amount: int | Callable[[object], int]) -> Callable[..., int]:
    """A resource that is multiplied by the attempt, since a job may have failed for want of it."""
    return lambda wildcards, attempt: (amount(wildcards) if callable(amount) else amount) * attempt


def code_of(stage: str, *, rule: str | None = None) -> str | Callable[[object], str]:
    """For `params`: the hash of the package's sources that a stage imports, by which an edit reruns it.

    With `code_hash: false` it is the hash that was recorded when the outputs were made, so that no edit reruns them.
    """
    try:
        code = f"code {source_hash(stage)}"
    except InputError as error:
        exit_with(error)
    name = rule or stage.rpartition(".")[2]

    def recorded(wildcards: object) -> str:
        params = recorded_params(workflow, first_output(workflow, name, dict(wildcards.items())))
        return next((value.strip("'") for value in params if value.startswith("'code ")), code)

    return code if SETTINGS.code_hash else recorded


def prediction_memory(section: str) -> Callable[[object], int]:
    """Memory of a prediction, MB; each process of the dense CRF gets what COCO's 81 classes need."""
    return lambda wildcards: (
        8000 + (1200 * NETWORK_THREADS if getattr(settings_of(wildcards), section).crf.iterations else 0)
    )


def weights_of(section: str) -> Callable[[object], list[str]]:
    """An input function: the record that the pretrained weights of a section have been fetched, if it has some."""
    file = run_file(f"weights/{section}.json")
    return lambda wildcards: [file(wildcards)] if section in settings_of(wildcards).pretrained_networks() else []


def weights_file(wildcards: object) -> list[str]:
    """The user's file of pretrained weights; empty if the section names none."""
    pretrained = settings_of(wildcards).pretrained_networks()[wildcards.section].pretrained
    return [pretrained] if isinstance(pretrained, str) else []


def weights_flags(wildcards: object) -> list[str]:
    """The flags of fetch_weights."""
    return flags(settings_of(wildcards).pretrained_networks()[wildcards.section])


def forget_finished() -> None:
    """Removes the copies that finished trainings keep for a Snakemake that dies before it has recorded their outputs.

    Copies of trainings whose outputs are not recorded yet stay.
    """
    for name in ("train_classifier", "train_saliency", "train_deeplab", "train_end_to_end"):
        for run in VARIANTS:
            model = first_output(workflow, name, {"run": run})
            if is_recorded(workflow, model):
                shutil.rmtree(Path(model).parent / ".finished", ignore_errors=True)


def say_where() -> None:
    """Says where the results are that this run has made; of several rounds, the network of the last."""
    last_round = VARIANTS.rounds(SETTINGS.run)[-1]
    worth_a_look = {
        "Scores:": f"{RESULTS}/summary.md",
        "Overview:": f"{RESULTS}/audit/overview.html",
        "Audit page:": f"{RESULTS}/audit/index.html",
        "Network, multi-stage:": VARIANTS.file(last_round, "deeplab/model.safetensors"),
        "Network, end to end:": f"{RESULTS}/end_to_end/model.safetensors",
    }
    for title, name in worth_a_look.items():
        path = Path(name)
        if path.is_file() and path.stat().st_mtime >= STARTED:
            logger.info(f"{title:<22}{path.parent if title.startswith('Network') else path}")


def saliency_of_labels(wildcards: object) -> list[str]:
    """The saliency input of complete_labels; empty if its method does not use saliency."""
    return [run_file("saliency/{shard}")(wildcards)] if settings_of(wildcards).completion.needs_saliency else []


def verdicts_file(wildcards: object) -> list[str]:
    """The file of verdicts by which complete_labels rejects images; empty if none is named."""
    verdicts = settings_of(wildcards).completion.verdicts
    return [verdicts] if verdicts else []


def corrected_labels(wildcards: object) -> list[str]:
    """The labels that a person has corrected; empty if no folder of them is named."""
    folder = settings_of(wildcards).completion.corrected
    return sorted(map(str, Path(folder).glob("*.png"))) if folder else []


def saliency_shards(wildcards: object) -> list[str]:
    """The saliency maps of all shards; empty in a run without saliency."""
    return shards_of("saliency")(wildcards) if SETTINGS.saliency.source != "none" else []


def saliency_flags(wildcards: object, input: object) -> list[str]:
    """The flags of train_end_to_end about saliency maps; empty in a run without saliency."""
    if not input.saliency:
        return []
    return ["--saliency", str(Path(input.saliency[0]).parent), "--shards", str(number_of_shards(wildcards))]


def further_rounds(wildcards: object) -> list[str]:
    """The names of the rounds after the first of the job's run; none if the job's files are a further round's."""
    run = run_of(wildcards)
    return [] if VARIANTS.is_round(run) else VARIANTS.rounds(run)[1:]


def round_files(wildcards: object) -> list[dict[str, str]]:
    """The files with the scores of each further round, by their sections in the summary."""
    sections = {section: SCORE_FILES[section].path for section in ("pseudo_labels", "deeplab")}
    return [
        {section: VARIANTS.file(name, path) for section, path in sections.items()} for name in further_rounds(wildcards)
    ]


def round_scores(wildcards: object) -> list[str]:
    """The files with the scores of all further rounds."""
    return [path for files in round_files(wildcards) for path in files.values()]


def files_of_run(wildcards: object) -> str:
    """The paths of a variant's files, as JSON, for stages that read a whole run."""
    return json.dumps(VARIANTS.files(run_of(wildcards)))


def score_files_of_run(wildcards: object) -> list[str]:
    """The files with the scores of a run; those of the classifier and the saliency network where it trains them."""
    without = set() if SETTINGS.saliency.source == "train" else {"saliency"}
    without |= set() if SETTINGS.maps.source == "classifier" else {"classifier"}
    files = [artifact.path for section, artifact in SCORE_FILES.items() if section not in without]
    return [run_file(file)(wildcards) for file in files]


def classifier_model(wildcards: object) -> list[str]:
    """The description of the classifier; empty in a run that trains none."""
    return [run_file("classifier/model.json")(wildcards)] if SETTINGS.maps.source == "classifier" else []


def end_to_end_model(file: str) -> Callable[[object], str]:
    """An input function: a file of the end-to-end model, either the trained one or the imported checkpoint."""
    trained, imported = run_file(f"end_to_end/{file}"), run_file(f"imported/{file}")
    return lambda wildcards: (imported if settings_of(wildcards).checkpoint.file else trained)(wildcards)


def label_threads(wildcards: object) -> int:
    """The threads of complete_labels: methods that take seconds an image share the cores among the shards."""
    settings = settings_of(wildcards)
    if not LABEL_METHODS[settings.completion.method].runs_crf:
        return IMAGE_THREADS
    return max(1, min(16, (CORES or 8) // settings.data.shards))


def about(words: Callable[[Config], str]) -> Callable[..., str]:
    """For `params`: a text about the settings of the job's run, for its message.

    A message itself holds no setting: Snakemake formats it, and a backbone called {os} would print a module.

    A change of it reruns nothing, since Snakemake does not record params that are functions of the outputs.
    """
    return lambda wildcards, output: words(settings_of(wildcards))


def inference_of(settings: PredictionSettings) -> str:
    """The inference settings of a network as text, for messages."""
    sizes = f"squares {list(settings.squares)}" if settings.squares else f"scales {list(settings.scales)}"
    windows = f", windows of {settings.window}" if settings.window else ""
    return f"{sizes}{windows}, flip {settings.flip}, {settings.crf.iterations} CRF iterations"


def checked_config() -> Variants:
    """Validates the configuration; returns its run with all variants that tables and sweeps may ask for.

    Raises:
        InputError: a value is not valid, or a file that the user provides is missing.
    """
    # Snakemake merges --configfile and --config into config.yaml at every depth. They are merged once more by `merge`,
    # which replaces the options of a backbone as a whole: an overlay's {} has to remove all of them.
    values = merge(config, given_config(workflow))
    # Snakemake has read the files already, but keeps the last of two equal keys; this reading refuses them.
    for file in config_files(workflow):
        read_yaml(file)
    variants = Variants(values, validate_config(values, source="configuration"))
    register(variants)
    for problem in missing_data(variants[variants.run]):
        raise InputError(f"configuration: {problem}")
    return variants


def missing_data(settings: Config) -> Iterator[str]:
    """Yields a message, with key and cure, for each of the user's files or folders that is missing or unusable."""
    data, saliency = settings.data, settings.saliency
    brought = {f"data.{key}": getattr(data, key) for key in ("root", "augmented", "saliency_train", "saliency_val")}
    brought |= {"saliency.folder": saliency.folder, "maps.folder": settings.maps.folder}
    brought |= {"checkpoint.file": settings.checkpoint.file}
    completion = settings.completion
    brought |= {"completion.verdicts": completion.verdicts, "completion.corrected": completion.corrected}
    brought |= {f"{name}.pretrained": weights.pretrained for name, weights in settings.pretrained_networks().items()}
    for key, path in brought.items():
        if {"{", "}"} & {*str(path)}:
            yield f"{key}: {path}: braces are wildcards to Snakemake; give the file or folder a name without"
    folders = ["saliency_train", "saliency_val"] if saliency.source == "train" else []
    for key in folders if DATA_FORMATS[data.format].is_list else ["root", *folders]:
        folder = getattr(data, key)
        if not in_demo(folder) and not folder.is_dir():
            yield f"data.{key}: {folder}: no such folder; name an existing one, or one in {DEMO_DATA} for the demo's"
    if saliency.source == "folder" and not Path(saliency.folder).is_dir():
        yield f"saliency.folder: {saliency.folder}: no such folder; name that of your saliency maps"
    if settings.maps.source == "folder" and not Path(settings.maps.folder).is_dir():
        yield f"maps.folder: {settings.maps.folder}: no such folder; name that of your class maps"
    if completion.corrected and not Path(completion.corrected).is_dir():
        yield f"completion.corrected: {completion.corrected}: no such folder; name that of your corrected labels, or ''"
    verdicts = completion.verdicts
    if verdicts and Path(os.path.relpath(verdicts)).is_relative_to(f"results/{settings.run}/audit"):
        yield f"completion.verdicts: {verdicts}: lies in the folder that audit makes anew; move it"
    elif verdicts and not Path(verdicts).is_file():
        yield f"completion.verdicts: {verdicts}: no such file; name one that the audit page has exported, or ''"
    if data.augmented and not Path(data.augmented).is_dir():
        yield f"data.augmented: {data.augmented}: no such folder; name SBD's folder `dataset`, SegmentationClassAug or ''"
    is_list = DATA_FORMATS[data.format].is_list
    if data.format != DEMO_FORMAT and in_demo(data.root):
        own = "a list" if is_list else f"{data.format.upper()}'s folder"
        yield (
            f"data.format: {data.format}, but {data.root} is the demo's, in {DEMO_FORMAT.upper()}'s layout; write "
            f"{DEMO_FORMAT}, or name {own}"
        )
    for path in data_lists(data):
        if path != DEMO_DATA and not Path(path).exists():
            other = "list" if is_list else f"folder in {data.format.upper()}'s layout"
            yield f"data.root: {path}: no such file; add it, or name another {other}"
    for name, weights in settings.pretrained_networks().items():
        if isinstance(weights.pretrained, str) and not Path(weights.pretrained).is_file():
            yield f"{name}.pretrained: {weights.pretrained}: no such file; name a .safetensors or .pth file, true or false"


def in_demo(folder: Path) -> bool:
    """Whether a folder is in the demo data set, which make_demo makes."""
    return Path(os.path.relpath(folder)).is_relative_to(DEMO_DATA)


def index_inputs(wildcards: object) -> list[str]:
    """The input of index_dataset."""
    return data_lists(settings_of(wildcards).data)


def data_lists(data: DataSettings) -> list[str]:
    """The files that define a data set; for the demo, its whole folder."""
    if in_demo(data.root):
        return [DEMO_DATA]
    files = [str(path) for path in FORMATS[data.format].input_files(data)]
    return files + ([ancient(data.augmented)] if data.augmented else [])


def test_list(data: DataSettings) -> str:
    """The file that lists the test split."""
    return str(data.root if DATA_FORMATS[data.format].is_list else data.root / "ImageSets/Segmentation/test.txt")


def converted_masks(data: DataSettings, results: str) -> dict[str, object]:
    """The output of index_dataset for converted masks; empty if the data set has PNGs."""
    return {"masks": directory(f"{results}/masks")} if FORMATS[data.format].converts_masks(data) else {}


def saliency_inputs(wildcards: object) -> list[str]:
    """The folders of image/mask pairs; what has changed in those of the user's says the training's param `files`."""
    data = settings_of(wildcards).data
    folders = (data.saliency_train, data.saliency_val)
    return sorted({DEMO_DATA if in_demo(folder) else ancient(str(folder)) for folder in folders})


def section(name: str, part: type[BaseModel] | None = None) -> Callable[[object], list[str]]:
    """For `params`: the settings of a section as flags; with `part`, only those of the given model."""

    def words(wildcards: object) -> list[str]:
        settings = getattr(settings_of(wildcards), name)
        return flags(settings if part is None else section_of(part, settings))

    return words


def shard_number(wildcards: object) -> int:
    return int(wildcards.shard)


def number_of_shards(wildcards: object) -> int:
    return settings_of(wildcards).data.shards


def shards_of(stage: str) -> Callable[[object], list[str]]:
    """An input function: the folders of all shards of a stage."""
    return lambda wildcards: shards(stage, run=run_of(wildcards))


def shards(stage: str, *, run: str) -> list[str]:
    """The folders of all shards of a stage, in a run or variant."""
    return [VARIANTS.file(run, f"{stage}/{number:03d}") for number in range(VARIANTS[run].data.shards)]


def parent_of(name: str) -> Callable[..., str]:
    """For `params`: the folder that contains the shards of an input."""
    return lambda wildcards, input: str(Path(getattr(input, name)[0]).parent)


try:
    VARIANTS = checked_config()
except InputError as error:
    exit_with(error)

SETTINGS = VARIANTS[VARIANTS.run]
# The folder of the run itself, which also contains the tables that compare it with its variants.
RESULTS = f"results/{SETTINGS.run}"
os.environ.update(
    # The commands of this Python's environment are found even if the environment is not activated.
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]),
    # Finished trainings keep a copy, so that it is found if Snakemake dies before it has recorded the outputs.
    GETAM_KEEP_FINISHED="true",
    GETAM_CODE_HASH=str(SETTINGS.code_hash).lower(),
)
FURTHER_ROUNDS = "|".join(re.escape(run) for run in VARIANTS if VARIANTS.is_round(run)) or "(?!)"
FIRST_ROUNDS = "|".join(re.escape(run) for run in VARIANTS if not VARIANTS.is_round(run))
make_names_targets(SETTINGS.run)
warn_of_trainings()


wildcard_constraints:
    run="|".join(re.escape(run) for run in VARIANTS),
    shard=r"\d{3}",
    table=r"table[1-8]|seeds|sweep",
    section="classifier|saliency|deeplab|end_to_end",
