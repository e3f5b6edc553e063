"""Finds the image labels of a folder of photographs: in files, or in the names of folders."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from getam.datasets.annotations import json_files, tables, xml_files
from getam.datasets.annotations.json_files import read_json_labels
from getam.datasets.annotations.matching import Photographs
from getam.datasets.annotations.records import Annotations, Record, merged
from getam.datasets.annotations.tables import read_label_table
from getam.datasets.annotations.xml_files import read_xml_labels
from getam.datasets.documents import read_table
from getam.datasets.folder import LIST_COLUMNS
from getam.errors import InputError, enumerated

FOLDERS = "folder a class"

FORMS = (tables.FORM, json_files.LABELME, json_files.COCO, json_files.LABEL_STUDIO, xml_files.VOC, xml_files.CVAT)
"""The forms of files with image labels."""

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Names of folders that look like splits of a data set, in lower case."""


def find_labels(photographs: Photographs, labels: Path | None, *, leave_out: Collection[Path]) -> Annotations | None:
    """Reads the image labels of photographs.

    Args:
        labels: a file of labels, a folder of such files, or the folder whose folders are classes; None: what the
            photographs' own folder has.
        leave_out: folders in which no files are sought.

    Returns:
        The labels; None if none are found and none are named.

    Raises:
        InputError: a file is damaged or of no known form; files of several forms are found; or folders are no classes.
    """
    if labels is not None and not labels.is_dir():
        return _read_named(labels, photographs)
    folder = photographs.folder if labels is None else labels
    by_form: dict[str, list[Annotations]] = defaultdict(list)
    for path in _files(folder, leave_out):
        if (found := _read_found(path, photographs)) is not None:
            by_form[found.form].append(found)
    if len(by_form) > 1:
        files = enumerated([f"{form} ({parts[0].files[0]})" for form, parts in by_form.items()], "and")
        raise InputError(f"{folder}: has labels in several forms, {files}; name one file or folder by --labels")
    if by_form:
        return merged(next(iter(by_form.values())))
    return _of_folders(photographs, labels)


def _files(folder: Path, leave_out: Collection[Path]) -> Iterator[Path]:
    """Yields the files of a folder that may have labels, sorted, without hidden ones."""
    left_out = {each.resolve() for each in leave_out}
    for above, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (Path(above) / name).resolve() not in left_out
        )
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in (
                *tables.SUFFIXES,
                *json_files.SUFFIXES,
                *xml_files.SUFFIXES,
            ):
                yield Path(above) / name


def _read_named(path: Path, photographs: Photographs) -> Annotations:
    """Reads the labels of a file that the user has named.

    Raises:
        InputError: the file is of none of the known forms.
    """
    suffix = path.suffix.lower()
    found = None
    if suffix in json_files.SUFFIXES:
        found = read_json_labels(path)
    elif suffix in xml_files.SUFFIXES:
        found = read_xml_labels(path)
    elif suffix in (*tables.SUFFIXES, ".txt"):
        found = read_label_table(path, is_photograph=photographs.is_photograph)
    if found is None:
        raise InputError(f"{path}: has labels in no form that is known: {enumerated(FORMS, 'or')}; export another one")
    return found


def _read_found(path: Path, photographs: Photographs) -> Annotations | None:
    """Reads the labels of a file that lies among the photographs; None if it has none."""
    suffix = path.suffix.lower()
    if suffix in json_files.SUFFIXES:
        return read_json_labels(path)
    if suffix in xml_files.SUFFIXES:
        return read_xml_labels(path)
    table = read_table(path)
    # A list that getam new has written is made of labels, and is none of them.
    names = (row[tables.key_of(table)] for _, row in table.records())
    if table.columns == LIST_COLUMNS or not any(map(photographs.is_photograph, names)):
        return None
    return read_label_table(path, is_photograph=photographs.is_photograph)


def _of_folders(photographs: Photographs, labels: Path | None) -> Annotations | None:
    """The labels of photographs by the first folder that each lies in.

    Raises:
        InputError: the folders look like splits, or `labels` is a folder without any labels.
    """
    if labels is not None and labels.resolve() != photographs.folder.resolve():
        raise InputError(f"{labels}: has no file of labels; name one, or the folder of the photographs")
    classes = {path.parts[0] for path in photographs.paths if len(path.parts) > 1}
    # A single folder says nothing, unless it is said that the folders are classes.
    if len(classes) < 2 and (labels is None or not classes):
        return None
    if {name.lower() for name in classes} <= SPLITS:
        raise InputError(
            f"{photographs.folder}: its folders {enumerated(sorted(classes), 'and')} look like splits, not classes; "
            "name the folder that holds a folder a class, or write the labels into a file"
        )
    records = tuple(
        Record(str(path), frozenset({path.parts[0]}), f"folder {path.parts[0]!r}", photographs.folder)
        for path in photographs.paths
        if len(path.parts) > 1
    )
    return Annotations(FOLDERS, (photographs.folder,), records)
