"""Finds the image labels of a folder of photographs: in files, or in the names of folders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from getam.datasets.annotations import json_files, tables, xml_files
from getam.datasets.annotations.json_files import read_json_labels
from getam.datasets.annotations.matching import NamedImages
from getam.datasets.annotations.records import Annotations, Record, merged
from getam.datasets.annotations.tables import read_label_table
from getam.datasets.annotations.xml_files import read_xml_labels
from getam.datasets.class_names import NO_CLASSES
from getam.datasets.documents import frequent_delimiter, read_document_text, rows_of
from getam.datasets.folder import LIST_COLUMNS
from getam.datasets.photographs import MASK, files_below, masks_among
from getam.datasets.split import given_splits, split_of_folder
from getam.errors import InputError, enumerated

FOLDERS = "folder a class"

FORMS = (tables.FORM, json_files.LABELME, json_files.COCO, json_files.LABEL_STUDIO, xml_files.VOC, xml_files.CVAT)
"""The forms of files with image labels."""

SUFFIXES = (*tables.SUFFIXES, *json_files.SUFFIXES, *xml_files.SUFFIXES)
"""The suffixes of files that may have image labels, in lower case."""

MASKS = frozenset(
    {
        *("mask", "masks", "gt", "ground_truth", "groundtruth", "annotations", "labels", "segmentationclass"),
        *("segmentationobject", "predicted", "predictions", "pseudo_labels"),
    }
)
"""Names of folders that have masks of the photographs in others, in lower case."""


class NoLabelsError(Exception):
    """A folder of photographs has no labels.

    Args:
        unused: files in it that may have been meant as labels.
    """

    def __init__(self, unused: Sequence[Path]) -> None:
        super().__init__(unused)
        self.unused = unused


def find_labels(
    photographs: NamedImages,
    labels: Path | None,
    *,
    leave_out: Collection[Path],
    classes: Collection[str] | None = None,
) -> Annotations:
    """Reads the image labels of photographs.

    Args:
        classes: the names of the classes, if a file names them.
        labels: a file of labels, a folder of such files, or the folder whose folders are classes; None: what the
            photographs' own folder has.
        leave_out: folders in which no files are sought.

    Raises:
        InputError: a file is damaged or of no known form; files of several forms are found; or folders are no classes.
        NoLabelsError: no labels are found, and none are named.
    """
    if labels is not None and not labels.is_dir():
        return _read_named(labels, photographs, classes)
    folder = photographs.folder if labels is None else labels
    by_form: dict[str, list[Annotations]] = defaultdict(list)
    unused = []
    for path in (folder / below for below in files_below(folder, SUFFIXES, leave_out=leave_out)):
        if _is_list(path):
            continue
        if (found := _read_found(path, photographs, classes)) is not None:
            by_form[found.form].append(found)
        else:
            unused.append(path)
    if len(by_form) > 1:
        files = enumerated([f"{form} ({parts[0].files[0]})" for form, parts in by_form.items()], "and")
        raise InputError(f"{folder}: has labels in several forms, {files}; name one file or folder by --labels")
    if by_form:
        return merged(next(iter(by_form.values())))
    return _of_folders(photographs, labels, unused)


def _read_named(path: Path, photographs: NamedImages, classes: Collection[str] | None) -> Annotations:
    """Reads the labels of a file that the user has named.

    Raises:
        InputError: the file is of none of the known forms.
    """
    suffix = path.suffix.lower()
    found = None
    is_photograph = partial(photographs.is_named, base=path.parent)
    if suffix in json_files.SUFFIXES:
        found = read_json_labels(path)
    elif suffix in xml_files.SUFFIXES:
        found = read_xml_labels(path)
    elif suffix in (*tables.SUFFIXES, ".txt"):
        found = read_label_table(path, is_photograph=is_photograph, classes=classes)
    if found is None:
        raise InputError(f"{path}: has labels in no form that is known: {enumerated(FORMS, 'or')}; export another one")
    return found


def _read_found(path: Path, photographs: NamedImages, classes: Collection[str] | None) -> Annotations | None:
    """Reads the labels of a file that lies among the photographs; None if it has none."""
    suffix = path.suffix.lower()
    if suffix in json_files.SUFFIXES:
        return read_json_labels(path)
    if suffix in xml_files.SUFFIXES:
        return read_xml_labels(path)
    is_photograph = partial(photographs.is_named, base=path.parent)
    return read_label_table(path, is_photograph=is_photograph, classes=classes, is_named=False)


def _is_list(path: Path) -> bool:
    """Whether a file is a list as getam new writes it, which is made of labels, and is none of them."""
    if path.suffix.lower() not in tables.SUFFIXES:
        return False
    text = read_document_text(path)
    header = text.partition("\n")[0]
    _, columns = next(rows_of(path, header, delimiter=frequent_delimiter(text)), (0, ()))
    return {*LIST_COLUMNS} <= {*columns}


def _of_folders(photographs: NamedImages, labels: Path | None, unused: Sequence[Path]) -> Annotations:
    """The labels of photographs by the first folder that each lies in, or the second within folders of splits.

    Raises:
        InputError: a folder is no class, or `labels` is a folder without any labels.
        NoLabelsError: nothing says that the folders are classes.
    """
    if labels is not None and labels.resolve() != photographs.folder.resolve():
        raise InputError(f"{labels}: has no file of labels; name one, or the folder of the photographs")
    splits = given_splits(photographs.paths)
    masks = {*masks_among(photographs.paths)}
    of_class: dict[str, list[PurePosixPath]] = defaultdict(list)
    for path in photographs.paths:
        folders = [name for name in path.parts[:-1] if not splits or split_of_folder(name) is None]
        if folders and path not in masks:
            of_class[folders[0]].append(path)
    if splits and not of_class:
        names = sorted({path.parts[0] for path in photographs.paths})
        raise InputError(
            f"{photographs.folder}: its folders {enumerated(map(repr, names), 'and')} look like splits, not classes; "
            "put a folder a class into each, or write the labels into a file"
        )
    # A single folder says nothing, and beside a file that is not understood no folder does, unless the user says so.
    if not of_class or (labels is None and (len(of_class) < 2 or unused)):
        raise NoLabelsError(unused)
    for name, paths in of_class.items():
        _check_is_class(photographs, name, paths, is_said=labels is not None)
    records = tuple(
        Record(str(path), frozenset({name}), f"folder {name!r}", photographs.folder)
        for name, paths in of_class.items()
        for path in paths
    )
    notes = (f"{len(masks)} files, such as {str(min(masks))!r}, are masks by their names: left out",) if masks else ()
    return Annotations(FOLDERS, (photographs.folder,), records, notes=notes)


def _check_is_class(photographs: NamedImages, name: str, paths: Collection[PurePosixPath], *, is_said: bool) -> None:
    """Refuses folders of background, or of masks.

    Args:
        name: the folders' name.
        paths: the photographs in them.
        is_said: whether the user has said that the folders are classes.

    Raises:
        InputError: they are no class.
    """
    folder = next(above for path in paths for above in path.parents if above.name == name)
    place = photographs.folder / folder
    if name.casefold() in NO_CLASSES:
        raise InputError(
            f"{place}: {name!r} is no class; photographs that show none of the classes have an empty cell in a table "
            "of labels: write one, or move the folder away"
        )
    if is_said or name.casefold() not in MASKS:
        return
    others = {each.stem for each in {*photographs.paths} - {*paths}}
    if {match[1] if (match := MASK.fullmatch(path.stem)) else path.stem for path in paths} <= others:
        raise InputError(
            f"{place}: looks like the masks of the other photographs, and not like a class; name it by --masks, or say "
            f"by --labels {photographs.folder} that it is one"
        )
