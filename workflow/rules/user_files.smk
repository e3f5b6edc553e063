# The user's files that jobs read, and how a change of one of them in place reruns those that depend on it.
#
# Snakemake would need a file's name as an input to notice that, and takes minutes for a graph with 82,000 of them. So a
# job has two things instead: a param with the state of all of them, and as an input the one that was changed last, which
# counts where params do not (--rerun-triggers mtime).

import time
from functools import cache

from snakemake_internals import is_main_process, reruns_by_params

from getam.datasets.sources import FilesState, files_state, folder_state

NO_FILES = FilesState("", None)
CLOCKS_DIFFER = 5
"""Seconds by which the clocks of a file's host and of this one may differ."""


def check_clock() -> None:
    """Refuses input files that were changed in the future: Snakemake would fail their jobs once these have ended."""
    weights = [each.pretrained for each in SETTINGS.pretrained_networks().values() if isinstance(each.pretrained, str)]
    for file in (*weights, *verdicts_file(None), *corrected_labels(None)):
        if os.path.exists(file) and (ahead := os.path.getmtime(file) - time.time()) > CLOCKS_DIFFER:
            exit_with(
                InputError(
                    f"{file}: was changed {ahead:.0f} seconds in the future, by this machine's clock; set the clocks, "
                    "and give the file the time of now (touch)"
                )
            )


def state_of(kind: str) -> Callable[[object], str]:
    """For `params`: the state of the user's files of a kind that a job reads; a change of one reruns the job."""
    return lambda wildcards: f"{kind} {user_files(kind, wildcards).digest}".strip()


def newest_of(kind: str) -> Callable[[object], list[str]]:
    """An input function: the newest of the user's files of a kind that a job reads; none where it reads none."""

    def newest(wildcards: object) -> list[str]:
        file = user_files(kind, wildcards).newest
        if file is None:
            return []
        # The time of a file alone proves no change: the clocks of cameras are wrong. Its params do.
        return [ancient(file) if reruns_by_params(workflow) else file]

    return newest


def user_files(kind: str, wildcards: object) -> FilesState:
    """The state of the user's files of a kind that a job reads."""
    # A job on a cluster reads these rules again, but Snakemake records what the process has that was started first.
    # The files of the demo are made by a rule.
    settings = settings_of(wildcards)
    data, saliency = settings.data, settings.saliency
    if not is_main_process(workflow):
        return NO_FILES
    if kind in ("saliency maps", "class maps"):
        source = saliency if kind == "saliency maps" else settings.maps
        brought = source.source == "folder" and not in_demo(source.folder)
        return state_of_folders(Path(source.folder)) if brought else NO_FILES
    if kind == "pairs of saliency":
        folders = {each for each in (data.saliency_train, data.saliency_val) if not in_demo(each)}
        return state_of_folders(*sorted(folders)) if folders else NO_FILES
    if in_demo(data.root) or (kind == "ground truth" and settings.deeplab.labels != "truth"):
        return NO_FILES
    return state_of_data(kind, section_of(IndexSettings, data))


@cache
def state_of_folders(*folders: Path) -> FilesState:
    return folder_state(*folders)


@cache
def state_of_data(kind: str, data: IndexSettings) -> FilesState:
    """The state of a data set's files: those of the index, those of the index of test, or the masks."""
    found = FORMATS[data.format].sources(data, ("test",) if kind == "test images" else ("train", "val"))
    if kind in ("masks", "ground truth"):
        return files_state(found.masks)
    return files_state(found.indexed, names=found.masks)


if is_main_process(workflow):
    check_clock()
