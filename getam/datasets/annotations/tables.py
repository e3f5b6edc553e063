"""Image labels in a CSV, a TSV or a text file: a row a photograph, a row a label, or a column a class.

Tabs, commas, semicolons or spaces separate cells, whichever makes most rows begin with a photograph. With a header the
first column, or the one of a name in KEYS, says the photograph. Of the other columns

- a single one, or the one of a name in ONE_LABEL or ALL_LABELS, has names of classes, joined by one of JOINERS.
  Under a name in ALL_LABELS a row has all of a photograph's labels. Under any other the labels of its rows add up,
  unless a cell joins several.
- any others are classes, with 0 and 1 in their cells.

Without a header a row is a photograph and its classes. Between spaces a name with a space stands in quotes, unless the
classes are known and a single reading fits them. What can be read in two ways is refused.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from getam.datasets.annotations.records import Annotations, Record
from getam.datasets.documents import DELIMITERS, Table, frequent_delimiter, read_document_text, rows_of, table_of
from getam.datasets.index import composed
from getam.errors import InputError, listed

FORM = "table"
SUFFIXES = (".csv", ".tsv")

KEYS = ("path", "image", "file", "filename", "file_name", "image_name", "photograph", "photo", "id", "image_id")
"""Names of a column that says the photograph, in lower case; the first of them that a table has is taken."""

ONE_LABEL = ("label", "class", "tag", "category")
ALL_LABELS = ("labels", "classes", "tags", "categories")
"""Names of a column of names, in lower case."""

JOINERS = (";", "|", ",")
"""What joins names; the first of them that occurs in a table's column is taken."""

SPACE = " "
"""Separates the cells of a list as VOC's tools write them."""

WORD = re.compile(r'"([^"]*)"|(\S+)')
"""A word of a list with spaces; quotes hold a name together."""

PROGRAM = re.compile(r"""\[.*\]|\{[^"'\n]*["'].*\}""")
"""A list or an object as programs write them."""

LONGEST_PATH = 500
"""Most characters of a photograph's path in a list with spaces."""

MOST_NAMES = 8
"""Most photographs whose names a line with spaces may begin with; each is a reading of the whole line."""

TRUTH = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
"""Cells of a column that is a class, in lower case."""

Rows = list[tuple[int, tuple[str, ...]]]
"""The number of each row's line, and its cells."""


@dataclass(frozen=True)
class _Reader:
    """What is known of the photographs and classes of a file.

    Attributes:
        is_photograph: whether a text names a photograph.
        classes: the names of the classes; None if they are not known.
    """

    path: Path
    is_photograph: Callable[[str], bool]
    classes: frozenset[str] | None

    def where(self, line: int) -> str:
        return f"{self.path}, line {line}"

    def known(self, names: Sequence[str]) -> bool:
        return self.classes is None or self.classes.issuperset(names)


def read_label_table(
    path: Path,
    *,
    is_photograph: Callable[[str], bool],
    classes: Collection[str] | None = None,
    is_named: bool = True,
) -> Annotations | None:
    """Reads a table or list of image labels.

    Args:
        is_photograph: whether a text names a photograph, by which rows, separators and a header are known.
        classes: the names of the classes, if they are known, by which names with spaces and commas are.
        is_named: whether the user has named the file as one of labels; otherwise it is one if it names a photograph.

    Returns:
        The labels; None if the file names no photograph, and `is_named` is false.

    Raises:
        InputError: the file is no table, a cell of a class is neither 0 nor 1, or a row can be read in two ways.
    """
    text = composed(read_document_text(path))
    reader = _Reader(path, is_photograph, None if classes is None else frozenset(classes))
    counts = {
        delimiter: _photographs(reader, text, delimiter)
        for delimiter in (*DELIMITERS, SPACE)
        if delimiter in text or delimiter == SPACE
    }
    delimiter = max(counts, key=lambda each: counts[each])
    if not counts[delimiter]:
        if not is_named:
            return None
        delimiter = frequent_delimiter(text)
        delimiter = delimiter if delimiter in text else SPACE
    rows = list(_rows(path, text, delimiter))
    if not rows or _has_header(reader, rows):
        # Under a header, a list with spaces is a photograph and its classes too, unless it has a column a class.
        if delimiter != SPACE or not rows or len(rows[0][1]) != 2:
            return _of_table(reader, table_of(path, rows))
        rows = rows[1:]
    return _of_lines(reader, text, rows) if delimiter == SPACE else _without_header(reader, rows)


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    if delimiter != SPACE:
        yield from rows_of(path, text, delimiter=delimiter)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if words := _words(line):
            yield number, tuple(words)


def _words(text: str) -> list[str]:
    return [match[1] if match[1] is not None else match[2] for match in WORD.finditer(text)]


def _photographs(reader: _Reader, text: str, delimiter: str) -> int:
    """The number of rows that name a photograph where a character separates cells, up to a malformed row."""
    count = column = 0
    try:
        for number, (_, row) in enumerate(_rows(reader.path, text, delimiter)):
            if number == 0 and not reader.is_photograph(row[0]):
                column = _key_column(row)
            if delimiter == SPACE and not column:
                count += any(map(reader.is_photograph, _beginnings(row)))
            else:
                count += column < len(row) and reader.is_photograph(row[column])
    except InputError:
        # The row is named where the file is read by this separator.
        pass
    return count


def _beginnings(words: Sequence[str]) -> Iterator[str]:
    """Yields what a line begins with, a word more each time, as far as a photograph's name may reach."""
    text = ""
    for word in words:
        text = f"{text} {word}".lstrip()
        if len(text) > LONGEST_PATH:
            return
        yield text


def _key_column(header: Sequence[str]) -> int:
    names = [name.lower() for name in header]
    return next((names.index(name) for name in KEYS if name in names), 0)


def _has_header(reader: _Reader, rows: Rows) -> bool:
    """Whether the first row names columns."""
    first = rows[0][1]
    names = {name.lower() for name in first}
    if names & {*ONE_LABEL, *ALL_LABELS} and names & {*KEYS}:
        return True
    if reader.is_photograph(first[0]):
        return False
    if names & {*KEYS, *ONE_LABEL, *ALL_LABELS}:
        return True
    # Where the classes are known, any other row without a photograph is one of an image that is not there.
    return reader.classes is None or _are_numbers(reader, rows[1:])


def _are_numbers(reader: _Reader, rows: Rows) -> bool:
    """Whether the cells beside the photographs say 0 or 1 of a class that a header names."""
    cells = {cell for _, row in rows for cell in row[1:]}
    return (
        bool(cells) and all(cell.lower() in TRUTH for cell in cells) and not (reader.classes and cells & reader.classes)
    )


def _of_table(reader: _Reader, table: Table) -> Annotations:
    key = table.columns[_key_column(table.columns)]
    others = [name for name in table.columns if name != key and name.lower() not in KEYS]
    if not others:
        raise InputError(f"{table.path}: has no column of labels; write one, such as id,labels")
    known = [name for name in others if name.lower() in (*ONE_LABEL, *ALL_LABELS)]
    column = known[0] if len(known) == 1 else None
    if column is None and len(others) == 1 and any(row[others[0]].lower() not in TRUTH for _, row in table.records()):
        column = others[0]
    if column is None:
        return _of_classes(table, key, others)
    cells = [(line, row[key], (row[column],)) for line, (_, row) in zip(table.lines, table.records(), strict=True)]
    has_all = column.lower() in ALL_LABELS
    records = _records(reader, cells, has_all=has_all)
    return Annotations(FORM, (table.path,), records, notes=_unread(table, key, column))


def _without_header(reader: _Reader, rows: Rows) -> Annotations:
    """The labels of rows of a photograph and its classes.

    Raises:
        InputError: a column is a class, whose name only a header can say.
    """
    if _are_numbers(reader, rows):
        raise InputError(f"{reader.path}: has 0 and 1 without names of classes; write a header above, as id,cat,dog")
    cells = [(line, row[0], tuple(filter(None, row[1:]))) for line, row in rows]
    return Annotations(FORM, (reader.path,), _records(reader, cells, has_all=any(len(row) > 2 for _, row in rows)))


def _records(reader: _Reader, rows: Sequence[tuple[int, str, tuple[str, ...]]], *, has_all: bool) -> tuple[Record, ...]:
    """The records of rows: a line, a photograph, and cells of names.

    Args:
        has_all: whether a row has all labels of its photograph, and a comma may join names.

    Raises:
        InputError: a cell may be a name with a comma, or several names.
    """
    open_cells = [cell for *_, cells in rows for cell in cells if reader.classes is None or cell not in reader.classes]
    if written := next((cell for cell in open_cells if PROGRAM.fullmatch(cell)), None):
        line = next(line for line, _, cells in rows if written in cells)
        raise InputError(
            f"{reader.where(line)}: {written!r} is a list in the form of a program's; write its names alone, joined by "
            ";"
        )
    joiner = next((each for each in JOINERS if any(each in cell for cell in open_cells)), None)
    if joiner == "," and reader.classes is None and not has_all:
        line, cell = next((line, cell) for line, _, cells in rows for cell in cells if "," in cell)
        raise InputError(
            f"{reader.where(line)}: {cell!r} is one name with a comma or several names; call the column `labels` if a "
            "comma joins names, or write the names of the classes into classes.txt"
        )
    adds_up = joiner is None and not has_all
    return tuple(
        Record(
            photograph=photograph,
            names=frozenset(name for cell in cells for name in _names(reader, cell, joiner)),
            where=reader.where(line),
            base=reader.path.parent,
            partial=adds_up,
        )
        for line, photograph, cells in rows
    )


def _names(reader: _Reader, cell: str, joiner: str | None) -> Iterator[str]:
    """Yields the names in a cell: a class, names that a character joins, or classes between spaces."""
    if reader.classes is None or cell in reader.classes:
        parts = [cell] if joiner is None or reader.classes is not None else cell.split(joiner)
        yield from filter(None, map(str.strip, parts))
        return
    for part in cell.split(joiner) if joiner else [cell]:
        groups = _groupings(part.split(), reader.classes)
        yield from groups[0] if len(groups) == 1 else filter(None, [part.strip()])


def _groupings(words: Sequence[str], classes: frozenset[str]) -> list[tuple[str, ...]]:
    """The ways to join words to names of classes, two at most."""
    # ways[i]: those of the words from i on, each as its first name and the way from there, which many share.
    ways: list[list[Any]] = [[] for _ in words] + [[None]]
    for start in reversed(range(len(words))):
        node: Any = _tree(classes)
        for end in range(start, len(words)):
            if (node := node.get(words[end])) is None:
                break
            if None in node:
                ways[start] += [(node[None], rest) for rest in ways[end + 1]]
        del ways[start][2:]
    return [tuple(_along(way)) for way in ways[0]]


def _along(way: Any) -> Iterator[str]:
    while way is not None:
        name, way = way
        yield name


@cache
def _tree(classes: frozenset[str]) -> dict[str | None, Any]:
    """The classes' names by their words: {first word: {second word: ... {None: name}}}."""
    tree: dict[str | None, Any] = {}
    for name in classes:
        node = tree
        for word in name.split(SPACE):
            node = node.setdefault(word, {})
        node[None] = name
    return tree


def _of_lines(reader: _Reader, text: str, rows: Rows) -> Annotations:
    """The labels of lines of a photograph and its classes with spaces between them."""
    lines = text.splitlines()
    found = [(line, *_of_line(reader, line, lines[line - 1].strip())) for line, _ in rows]
    adds_up = all(len(names) <= 1 for *_, names in found)
    records = tuple(
        Record(photograph, frozenset(names), reader.where(line), reader.path.parent, partial=adds_up)
        for line, photograph, names in found
    )
    return Annotations(FORM, (reader.path,), records)


def _of_line(reader: _Reader, number: int, line: str) -> tuple[str, tuple[str, ...]]:
    """The photograph and the names of a line.

    Raises:
        InputError: the line can be read in two ways.
    """
    ends = [match.end() for match in WORD.finditer(line)]
    first = 1 if line.startswith('"') else sum(end <= LONGEST_PATH for end in ends) or 1
    photographs = {end: line[:end].strip('"') for end in ends[:first]}
    possible = {end: name for end, name in photographs.items() if reader.is_photograph(name)}
    if len(possible) > MOST_NAMES:
        raise InputError(
            f"{reader.where(number)}: begins with the names of {len(possible)} photographs; put commas between the "
            "cells of each line"
        )
    readings = [
        (name, names)
        for end, name in (possible or {ends[0]: photographs[ends[0]]}).items()
        for names in _names_of_text(reader, number, line[end:].strip())
    ]
    fitting = [reading for reading in readings if reader.known(reading[1])] or readings[:1]
    if len(fitting) > 1:
        said = [f"{name!r} with {', '.join(map(repr, names)) or 'no class'}" for name, names in fitting[:2]]
        raise InputError(
            f"{reader.where(number)}: {line!r} may be {said[0]} or {said[1]}; put commas between the cells of each line"
        )
    return fitting[0]


def _names_of_text(reader: _Reader, number: int, text: str) -> list[tuple[str, ...]]:
    """The readings of the names in a line's text: joined by one of JOINERS, or with spaces between them."""
    bare = WORD.sub(lambda match: match[2] or "", text)
    if joiner := next((each for each in JOINERS if each in bare), None):
        try:
            cells = next(csv.reader([text], delimiter=joiner, skipinitialspace=True))
        except csv.Error as error:
            raise InputError(f"{reader.where(number)}: malformed row ({error}); correct the quotes") from None
        return [tuple(name for cell in cells for name in _names(reader, cell.strip(), None))]
    words = _words(text)
    return (_groupings(words, reader.classes) if reader.classes is not None else []) or [tuple(words)]


def _unread(table: Table, *read: str) -> tuple[str, ...]:
    known = {*read}
    names = ", ".join(repr(name) for name in table.columns if name not in known)
    return (f"{table.path}: the columns {names} are not read",) if names else ()


def _of_classes(table: Table, key: str, classes: list[str]) -> Annotations:
    problems: dict[str, str] = {}
    for where, row in table.records():
        for name in classes:
            if row[name].lower() not in TRUTH:
                problems.setdefault(
                    name,
                    f"{where}: {row[name]!r} in column {name!r} is neither 0 nor 1; correct it, take the column off, "
                    "or call the column of the labels `labels`",
                )
    if problems:
        raise InputError(listed([*problems.values()]))
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
