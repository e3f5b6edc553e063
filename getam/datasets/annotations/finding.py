"""Finds the image labels of a folder of photographs: in files, or in the names of folders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from getam.datasets.annotations import json_files, tables, xml_files
from getam.datasets.annotations.json_files import read_json_labels
from getam.datasets.annotations.matching import NamedImages
from getam.datasets.annotations.records import Annotations, Record, merged
from getam.datasets.annotations.tables import read_label_table
from getam.datasets.annotations.xml_files import read_xml_labels
from getam.datasets.documents import frequent_delimiter, read_document_text, rows_of
from getam.datasets.folder import LIST_COLUMNS
from getam.datasets.photographs import files_below
from getam.errors import InputError, enumerated

FOLDERS = "folder a class"

FORMS = (tables.FORM, json_files.LABELME, json_files.COCO, json_files.LABEL_STUDIO, xml_files.VOC, xml_files.CVAT)
"""The forms of files with image labels."""

SUFFIXES = (*tables.SUFFIXES, *json_files.SUFFIXES, *xml_files.SUFFIXES)
"""The suffixes of files that may have image labels, in lower case."""

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
"""Names of folders that look like splits of a data set, in lower case."""


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
    if suffix in json_files.SUFFIXES:
        found = read_json_labels(path)
    elif suffix in xml_files.SUFFIXES:
        found = read_xml_labels(path)
    elif suffix in (*tables.SUFFIXES, ".txt"):
        found = read_label_table(path, is_photograph=photographs.is_named, classes=classes)
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
    return read_label_table(path, is_photograph=photographs.is_named, classes=classes, is_named=False)


def _is_list(path: Path) -> bool:
    """Whether a file is a list as getam new writes it, which is made of labels, and is none of them."""
    if path.suffix.lower() not in tables.SUFFIXES:
        return False
    text = read_document_text(path)
    header = text.partition("\n")[0]
    _, columns = next(rows_of(path, header, delimiter=frequent_delimiter(text)), (0, ()))
    return {*LIST_COLUMNS} <= {*columns}


def _of_folders(photographs: NamedImages, labels: Path | None, unused: Sequence[Path]) -> Annotations:
    """The labels of photographs by the first folder that each lies in.

    Raises:
        InputError: the folders look like splits, or `labels` is a folder without any labels.
        NoLabelsError: nothing says that the folders are classes.
    """
    if labels is not None and labels.resolve() != photographs.folder.resolve():
        raise InputError(f"{labels}: has no file of labels; name one, or the folder of the photographs")
    classes = {path.parts[0] for path in photographs.paths if len(path.parts) > 1}
    # A single folder says nothing, and beside a file that is not understood no folder does, unless the user says so.
    if not classes or (labels is None and (len(classes) < 2 or unused)):
        raise NoLabelsError(unused)
    if {name.lower() for name in classes} <= SPLITS:
        raise InputError(
            f"{photographs.folder}: its folders {enumerated(map(repr, sorted(classes)), 'and')} look like splits, not "
            "classes; name the folder that holds a folder a class, or write the labels into a file"
        )
    records = tuple(
        Record(str(path), frozenset({path.parts[0]}), f"folder {path.parts[0]!r}", photographs.folder)
        for path in photographs.paths
        if len(path.parts) > 1
    )
    return Annotations(FOLDERS, (photographs.folder,), records)
