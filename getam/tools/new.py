"""Makes a run of your own photographs: a list with a split, and an overlay, from a folder and its image labels."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Annotated, NamedTuple

from pydantic import Field

from getam.datasets.annotations.finding import FOLDERS, FORMS, NoLabelsError, find_labels
from getam.datasets.annotations.masks import find_masks
from getam.datasets.annotations.matching import (
    GivenClasses,
    Labelled,
    NamedImages,
    match_labels,
)
from getam.datasets.annotations.records import Annotations
from getam.datasets.class_names import check_class_names, read_classes
from getam.datasets.folder import LIST_COLUMNS, classes_file
from getam.datasets.index import CLASSES
from getam.datasets.photographs import SUFFIXES, UNREAD, files_below, ids_of
from getam.datasets.repeated import repeated_files
from getam.datasets.split import given_splits, outside_of_splits, stratified_split
from getam.errors import InputError, enumerated, listed
from getam.pages.text.tables import aligned_table
from getam.runs.hours import measured_hours
from getam.runs.timings import duration
from getam.settings.networks import Pretrained
from getam.settings.recipes import OwnData, Recipe, choose_recipe
from getam.settings.section import POSITIONAL, Seed
from getam.system import gpu
from getam.system.arguments.machine import MachineArguments
from getam.system.files import write_text
from getam.system.image_files import image_size
from getam.system.names import is_formula, shown_name

RESULTS = Path("results")
"""The folder that the workflow writes into, in the folder where it runs."""

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")

logger = logging.getLogger(__name__)


class Arguments(MachineArguments):
    """Write an overlay, and beside it a list of the photographs with a split; print the command that runs them.

    Nothing is copied or moved. Labels are found in the folder: a table (.csv, .tsv), a folder a class, or what labelme,
    COCO, VOC, Label Studio or CVAT write.
    """

    folder: Path = Field(
        description=f"folder of your photographs, at any depth ({', '.join(SUFFIXES)})", json_schema_extra=POSITIONAL
    )
    labels: Path | None = Field(
        default=None, description="file or folder of the image labels [what the folder of the photographs has]"
    )
    classes: Path | None = Field(
        default=None,
        description="file of class names, one a line, in the order of the masks' label values [classes.txt in the "
        "folder of the photographs; without it the names of the labels, sorted]",
    )
    masks: Path | None = Field(
        default=None,
        description="folder of masks, for scores alone: <id>.png, 0 background, 1..C classes, 255 unknown [none]",
    )
    saliency: Path | None = Field(default=None, description="folder of saliency maps, .png or .jpg, by the ids [none]")
    weights: Pretrained = Field(
        default=True,
        description="pretrained weights: true (fetched by name), a file of DINOv2's ViT-S/14, or false (none) [true]",
    )
    val: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.2, description="part of the photographs, and of each class's, that is for scores alone [0.2]"
    )
    seed: Seed = Field(default=0, description="of the split [0]")
    out: Path | None = Field(
        default=None, description="overlay, .yaml; the list is written beside it [<name of the folder>.yaml]"
    )


class Row(NamedTuple):
    """A row of the list, with paths below the folders of photographs and masks."""

    id: str
    split: str
    image: PurePosixPath
    mask: PurePosixPath | None
    labels: tuple[str, ...]


def run(arguments: Arguments) -> None:
    out = arguments.out if arguments.out is not None else Path(f"{_name_of(arguments.folder)}.yaml")
    _check_paths(arguments, out)
    left_out = [each for each in (arguments.masks, arguments.saliency, RESULTS) if each is not None]
    paths = files_below(arguments.folder, SUFFIXES, leave_out=left_out)
    unread = files_below(arguments.folder, UNREAD, leave_out=left_out)
    others = f"{len(unread)} files, such as {str(unread[0])!r}, are not read: convert them to JPEG" if unread else ""
    if not paths:
        found = f" ({others})" if others else ""
        raise InputError(
            f"{arguments.folder}: no photograph ({', '.join(SUFFIXES)}) there{found}; name the folder of yours"
        )
    if others:
        logger.warning("%s: %s", arguments.folder, others)
    paths = _readable(arguments, paths)
    ids = ids_of(paths)
    photographs = NamedImages(arguments.folder, paths, ids=ids)
    classes = _classes(arguments)
    try:
        annotations = find_labels(
            photographs, arguments.labels, leave_out=left_out, classes=None if classes is None else classes.names
        )
    except NoLabelsError as error:
        raise InputError(_what_to_write(arguments.folder, [*ids.values()], error.unused)) from None
    labelled = match_labels(photographs, annotations, classes=classes)
    check_class_names(labelled.classes, annotations.files[0])
    masks = {} if arguments.masks is None else find_masks(arguments.masks, ids, photographs=arguments.folder)
    copies = _copies(arguments.folder, [*labelled.labels])
    rows = _divided(arguments, labelled, ids, masks, copies)
    recipe = choose_recipe(_own_data(arguments, out, rows))
    _write(
        {
            classes_file(out): "".join(f"{name}\n" for name in labelled.classes),
            out.with_suffix(".csv"): _list(arguments, out, rows),
            out: recipe.overlay,
        }
    )
    warnings = (*annotations.notes, *labelled.warnings, *_copy_warnings(labelled, copies), *_split_warnings(labelled))
    for message in warnings:
        logger.warning("%s", message)
    print("\n".join(_report(arguments, photographs, annotations, labelled, rows)))
    print("\n".join(_next_steps(arguments, out, recipe, rows)))


def _name_of(folder: Path) -> str:
    """The name of a folder as the name of a run."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", folder.resolve().name).strip("_.-")[:100]
    return name if name and name != "demo" else "photographs"


def _check_paths(arguments: Arguments, out: Path) -> None:
    """Checks all paths that are given or written, before the photographs are read.

    Raises:
        InputError: a path is missing, unfit for a file of settings, or in the way of what is written.
    """
    problems = []
    if out.suffix not in (".yaml", ".yml") or not RUN_NAME.fullmatch(out.stem) or out.stem == "demo":
        problems.append(f"--out {out}: write a name of letters, digits, _ and - that ends in .yaml, and is not demo's")
    for path in (out, out.with_suffix(".csv"), classes_file(out)):
        if path.exists() or path.is_symlink():
            problems.append(f"{path}: is there already; choose another --out, or move it away")
    folders = {"--masks": arguments.masks, "--saliency": arguments.saliency}
    for flag, folder in folders.items():
        if folder is not None and not folder.is_dir():
            problems.append(f"{flag} {folder}: no such folder; name one, or leave the flag out")
    weights = Path(arguments.weights) if isinstance(arguments.weights, str) else None
    if weights is not None and not (weights.is_file() and weights.suffix in (".safetensors", ".pth")):
        problems.append(f"--weights {weights}: no such .safetensors or .pth file; name one, or write true or false")
    if (arguments.folder / "ImageSets" / "Segmentation").is_dir():
        problems.append(
            f"{arguments.folder}: has VOC's layout, which data.format: voc reads as it is; to divide its photographs "
            "anew, name its JPEGImages, and its Annotations by --labels"
        )
    # The photographs and masks themselves are no inputs of a rule.
    inputs = [each for each in (arguments.saliency, weights, out) if each is not None]
    for path in (arguments.folder, *([arguments.masks] if arguments.masks is not None else []), *inputs):
        if not os.path.abspath(path).isprintable():
            problems.append(f"{str(path)!r}: has a character that is not printable or no UTF-8; rename the folder")
    for path in inputs:
        if {"{", "}"} & {*os.path.abspath(path)}:
            problems.append(f"{path}: braces are wildcards to Snakemake; give the file or folder a name without")
    if problems:
        raise InputError(listed(problems))


def _readable(arguments: Arguments, paths: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """The photographs whose files can be opened; a warning names the others.

    Raises:
        InputError: no photograph can be opened.
    """

    def problem(path: PurePosixPath) -> str | None:
        try:
            image_size(arguments.folder / path)
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(arguments.threads) as pool:
        problems = dict(zip(paths, pool.map(problem, paths), strict=True))
    damaged = [message for message in problems.values() if message is not None]
    if len(damaged) == len(paths):
        raise InputError(listed(damaged))
    if damaged:
        logger.warning("%s; left out", listed(damaged))
    return [path for path, message in problems.items() if message is None]


def _what_to_write(folder: Path, ids: Sequence[str], unused: Sequence[Path]) -> str:
    """What a user has to write who has no labels yet.

    Args:
        unused: files that may have been meant as labels.
    """
    table = io.StringIO()
    examples = ["one class;another class", "one class", ""]
    csv.writer(table, lineterminator="\n").writerows([("id", "labels"), *zip(ids, examples, strict=False)])
    lines = "".join(f"  {line}\n" for line in table.getvalue().splitlines())
    return (
        f"{folder}: has {len(ids)} photographs and no labels. Write {folder / 'labels.csv'}, a row a photograph, with "
        f"the names of the classes that it shows:\n\n{lines}\nAn empty cell says that a photograph shows none of the "
        "classes; one without a row is left out. Then give this command again. Labels of another form "
        f"({enumerated(FORMS, 'or')}) may lie in the folder, or be named by --labels; --labels {folder} says that its "
        f"folders are classes ({FOLDERS})."
        + (
            f" {unused[0]} names none of these photographs, or is of no known form; --labels says more of it."
            if unused
            else ""
        )
    )


def _classes(arguments: Arguments) -> GivenClasses | None:
    """The classes that a file names, if there is one.

    Raises:
        InputError: a file that is named is missing, or holds no names of classes; masks have no names.
    """
    path = arguments.folder / CLASSES if arguments.classes is None else arguments.classes
    if arguments.classes is not None or path.is_file():
        return GivenClasses(read_classes(path), path)
    if arguments.masks is not None:
        raise InputError(
            f"--masks: the values of masks need names: write {path}, a class a line in the order of the values, or "
            "name such a file by --classes"
        )
    return None


def _copies(folder: Path, paths: Sequence[PurePosixPath]) -> dict[PurePosixPath, PurePosixPath]:
    """Photographs that are the same file, byte for byte, as an earlier one -> the first of them."""
    pairs = repeated_files([folder / path for path in paths])
    return {paths[second]: paths[first] for first, second in pairs}


def _copy_warnings(labelled: Labelled, copies: Mapping[PurePosixPath, PurePosixPath]) -> Iterator[str]:
    differing = [
        f"{str(first)!r} and {str(second)!r} are the same file, byte for byte, with other labels"
        for second, first in copies.items()
        if labelled.labels[first] != labelled.labels[second]
    ]
    if differing:
        yield f"{listed(differing)}; correct one of them"


def _split_warnings(labelled: Labelled) -> Iterator[str]:
    if strays := outside_of_splits(labelled.labels):
        yield (
            f"{len(strays)} photographs, such as {str(strays[0])!r}, lie outside of the folders of splits, so that all "
            "are divided anew; move them into one of these folders to keep the splits"
        )


def _divided(
    arguments: Arguments,
    labelled: Labelled,
    ids: Mapping[PurePosixPath, str],
    masks: Mapping[PurePosixPath, PurePosixPath],
    copies: Mapping[PurePosixPath, PurePosixPath],
) -> list[Row]:
    """The rows of the list, sorted by photograph.

    Photographs in folders of splits stay in those. Otherwise copies of a photograph come into the same split, and where
    some photographs have a mask, val is taken from those.
    """
    splits = given_splits(labelled.labels)
    if "val" not in splits.values():
        free = {path: None for path in labelled.labels if splits.get(path, "train") == "train"}
        first = {path: copies[path] if copies.get(path) in free else path for path in free}
        labels: dict[str, set[str]] = defaultdict(set)
        for path in free:
            labels[ids[first[path]]].update(labelled.labels[path])
        eligible = {ids[first[path]] for path in masks if path in first} if masks else None
        val = stratified_split(labels, share=arguments.val, seed=arguments.seed, eligible=eligible)
        splits |= {path: "val" if ids[first[path]] in val else "train" for path in free}
    return [Row(ids[path], splits[path], path, masks.get(path), names) for path, names in labelled.labels.items()]


def _own_data(arguments: Arguments, out: Path, rows: Sequence[Row]) -> OwnData:
    weights, saliency = arguments.weights, arguments.saliency
    return OwnData(
        run=out.stem,
        list=Path(os.path.abspath(out.with_suffix(".csv"))),
        train=sum(row.split == "train" for row in rows),
        val=sum(row.split == "val" for row in rows),
        masks=sum(row.split == "val" and row.mask is not None for row in rows),
        gpus=_gpus(arguments),
        weights=weights if isinstance(weights, bool) else os.path.abspath(weights),
        saliency=None if saliency is None else Path(os.path.abspath(saliency)),
    )


def _gpus(arguments: Arguments) -> int:
    return 0 if arguments.device == "cpu" else len(gpu.devices())


def _list(arguments: Arguments, out: Path, rows: Sequence[Row]) -> str:
    """The content of the list."""

    def cell(folder: Path | None, path: PurePosixPath | None) -> str:
        if folder is None or path is None:
            return ""
        whole, here = Path(os.path.abspath(folder / path)), Path(os.path.abspath(out.parent))
        text = str(whole.relative_to(here) if whole.is_relative_to(here) else whole)
        return f"./{text}" if is_formula(text) and not os.path.isabs(text) else text

    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(LIST_COLUMNS)
    for row in rows:
        image, mask = cell(arguments.folder, row.image), cell(arguments.masks, row.mask)
        writer.writerow([row.id, row.split, image, mask, ";".join(row.labels)])
    return table.getvalue()


def _write(files: Mapping[Path, str]) -> None:
    """Writes all files, or none of them."""
    written: list[Path] = []
    try:
        for path, text in files.items():
            write_text(path, text)
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink()
        raise


def _report(
    arguments: Arguments,
    photographs: NamedImages,
    annotations: Annotations,
    labelled: Labelled,
    rows: Sequence[Row],
) -> Iterator[str]:
    """Yields what was found, and how it was divided."""
    files = len(annotations.files)
    source = f"{annotations.files[0]}" if files == 1 else f"{files} files in {os.path.commonpath(annotations.files)}"
    if annotations.form == FOLDERS:
        source = "the names of its folders"
    found = f"{len(photographs.paths)} photographs in {arguments.folder}"
    yield f"{found}, labels from {shown_name(source)} ({annotations.form})"
    if unlabelled := len(photographs.paths) - len(rows):
        yield f"{unlabelled} photographs that nobody has labelled are left out."
    if empty := sum(not row.labels for row in rows):
        yield f"{empty} photographs show none of the classes. If nobody has looked at some, take them off the list."
    if given_splits(labelled.labels):
        yield "They stay in the splits whose folders they lie in."
    splits = ("train", "val", *(["test"] if any(row.split == "test" for row in rows) else []))
    counts = {split: Counter(name for row in rows if row.split == split for name in row.labels) for split in splits}
    table = [(shown_name(name), *(str(counts[split][name]) for split in splits)) for name in labelled.classes]
    totals = [str(sum(row.split == split for row in rows)) for split in splits]
    yield ""
    yield aligned_table(("class", *splits), [*table, ("photographs", *totals)], right={1, 2, 3})


def _next_steps(arguments: Arguments, out: Path, recipe: Recipe, rows: Sequence[Row]) -> Iterator[str]:
    """Yields the commands that come next, and what they cost."""
    overlays = [*([recipe.config] if recipe.config else []), str(out)]
    gpus = _gpus(arguments)
    cores = len(os.sched_getaffinity(0))
    words = ["--cores", str(cores), *(["--resources", f"gpu={gpus}"] if gpus > 1 else []), "--configfile", *overlays]
    yield ""
    yield f"Written: {out}, {out.with_suffix('.csv')}, {classes_file(out)}"
    yield recipe.why
    yield "Look at what would run, then run it:"
    yield ""
    yield f"  {shlex.join(['getam', 'run', '-n', *words])}"
    yield f"  {shlex.join(['getam', 'run', *words])}"
    yield ""
    counts = Counter(row.split for row in rows)
    measured = measured_hours(RESULTS, recipe.settings, train=counts["train"], val=counts["val"])
    if measured is not None:
        without = (
            f" without {enumerated(measured.missing, 'and')}, of which they say nothing" if measured.missing else ""
        )
        yield (
            f"By the logs of {measured.run}, which trained the same networks, that takes "
            f"{duration(3600 * measured.hours)} on its machine, one stage after the other{without}."
        )
        return
    trainings = recipe.settings.trainings()
    epochs = enumerated([f"{settings.epochs} of {name}" for name, settings in trainings.items()], "and")
    yield (
        f"How long that takes here is not known: no run of these networks lies in {RESULTS}/. The epochs over "
        f"{counts['train']} photographs decide it ({epochs}), on {f'{gpus} GPUs' if gpus else f'{cores} cores'}. Few "
        "steps of each training measure it:"
    )
    rehearsals = ["configs/rehearsal.yaml", *(["configs/rehearsal_gpu.yaml"] if gpus else [])]
    run = f"{RESULTS}/{Path(rehearsals[-1]).stem}"
    yield ""
    yield f"  {shlex.join(['getam', 'run', *words, *rehearsals])}"
    yield f"  {shlex.join(['getam', 'estimate', '--run', run, '--configs', json.dumps(overlays)])}"
