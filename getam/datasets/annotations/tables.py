"""Image labels in a CSV or TSV: a column of names, a row a label, or a column a class.

The first column, or the one of a name in KEYS, says the photograph. Of the other columns

- a single one, or the one of a name in ONE_LABEL or ALL_LABELS, has names of classes, joined by one of SEPARATORS.
  Under a name in ALL_LABELS a row has all of a photograph's labels. Under any other the labels of its rows add up,
  unless a cell joins several.
- any others are classes, with 0 and 1 in their cells.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from getam.datasets.annotations.records import Annotations, Record
from getam.datasets.documents import Table, read_table
from getam.errors import InputError, listed

FORM = "table"
SUFFIXES = (".csv", ".tsv")

KEYS = ("path", "image", "file", "filename", "file_name", "image_name", "photograph", "photo", "id", "image_id")
"""Names of a column that says the photograph, in lower case; the first of them that a table has is taken."""

ONE_LABEL = ("label", "class", "tag", "category")
ALL_LABELS = ("labels", "classes", "tags", "categories")
"""Names of a column of names, in lower case."""

SEPARATORS = (";", "|", ",")
"""What joins names; the first of them that occurs in a table's column is taken."""

TRUTH = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
"""Cells of a column that is a class, in lower case."""


def read_label_table(path: Path, *, is_photograph: Callable[[str], bool]) -> Annotations:
    """Reads a table of image labels.

    Args:
        is_photograph: whether a text names a photograph, by which a first row without headings is known.

    Raises:
        InputError: the file is no table, or a cell of a class is neither 0 nor 1.
    """
    table = read_table(path)
    if any(is_photograph(cell) for cell in table.columns[:1]):
        raise InputError(f"{path}: begins with the photograph {table.columns[0]!r}; write a header above, as id,labels")
    key = key_of(table)
    others = [name for name in table.columns if name != key and name.lower() not in KEYS]
    if not others:
        raise InputError(f"{path}: has no column of labels; write one, such as id,labels")
    known = [name for name in others if name.lower() in (*ONE_LABEL, *ALL_LABELS)]
    if len(known) == 1:
        return _of_names(table, key, known[0])
    if len(others) == 1 and any(row[others[0]].lower() not in TRUTH for _, row in table.records()):
        return _of_names(table, key, others[0])
    return _of_classes(table, key, others)


def key_of(table: Table) -> str:
    """The column that says the photograph."""
    by_name = {name.lower(): name for name in table.columns}
    return next((by_name[name] for name in KEYS if name in by_name), table.columns[0])


def _of_names(table: Table, key: str, column: str) -> Annotations:
    cells = [row[column] for _, row in table.records()]
    separator = next((each for each in SEPARATORS if any(each in cell for cell in cells)), None)
    a_row_a_label = separator is None and column.lower() not in ALL_LABELS
    records = [
        Record(
            photograph=row[key],
            names=frozenset(filter(None, map(str.strip, row[column].split(separator) if separator else [row[column]]))),
            where=where,
            base=table.path.parent,
            partial=a_row_a_label,
        )
        for where, row in table.records()
    ]
    return Annotations(FORM, (table.path,), tuple(records), notes=_unread(table, key, column))


def _unread(table: Table, *read: str) -> tuple[str, ...]:
    names = ", ".join(repr(name) for name in table.columns if name not in read)
    return (f"{table.path}: the columns {names} are not read",) if names else ()


def _of_classes(table: Table, key: str, classes: list[str]) -> Annotations:
    problems = [
        f"{where}: {row[name]!r} in column {name!r} is neither 0 nor 1; correct it, or call the column of the labels "
        "`labels`"
        for where, row in table.records()
        for name in classes
        if row[name].lower() not in TRUTH
    ]
    if problems:
        raise InputError(listed(problems))
    records = [
        Record(
            photograph=row[key],
            names=frozenset(name for name in classes if TRUTH[row[name].lower()]),
            where=where,
            base=table.path.parent,
        )
        for where, row in table.records()
    ]
    notes = _unread(table, key, *classes)
    return Annotations(FORM, (table.path,), tuple(records), declared=frozenset(classes), notes=notes)
