"""Reads documents that users bring, from people, spreadsheets and annotation programs: tables, JSON and XML.

Nothing in them is trusted: sizes are bounded, XML has no entities, and whatever is malformed ends in one message.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from getam.errors import InputError
from getam.settings.foreign import DOCUMENT_BYTES, read_bytes

DELIMITERS = ("\t", ",", ";")
"""What may separate the cells of a table: spreadsheets of some languages write semicolons."""


@dataclass(frozen=True)
class Table:
    """A table of text. `lines` are the numbers of the rows' lines in the file, each row has a cell for each column."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def records(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yields for each row where it stands ("labels.csv, line 3") and its cells by column."""
        for line, row in zip(self.lines, self.rows, strict=True):
            yield f"{self.path}, line {line}", dict(zip(self.columns, row, strict=True))


def read_table(path: Path) -> Table:
    """Reads a CSV or TSV with a header, in UTF-8. Blanks around cells and empty rows are dropped.

    The character of DELIMITERS that is most frequent in the header separates cells.

    Raises:
        InputError: the file is missing, too large, no UTF-8 text or no table, or two columns have one name.
    """
    text = _decoded(path)
    header = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    try:
        start = 1
        for cells in reader:
            line, start = start, reader.line_num + 1
            row = tuple(cell.strip() for cell in cells)
            if not any(row):
                continue
            if not columns:
                columns = row
                continue
            if len(row) != len(columns):
                raise InputError(
                    f"{path}, line {line}: {len(row)} cells where the header has {len(columns)}; give each column one, "
                    "and put a cell with a separator in quotes"
                )
            rows.append(row)
            lines.append(line)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: malformed row ({error}); correct the quotes") from None
    if not columns:
        raise InputError(f"{path}: is empty; write a header, such as id,labels, and a row a photograph")
    if repeated := [name for name in columns if columns.count(name) > 1]:
        raise InputError(f"{path}: two columns are called {repeated[0]!r}; rename one")
    return Table(path, columns, tuple(rows), tuple(lines))


def read_json_document(
    path: Path, *, most: int = DOCUMENT_BYTES, missing: str = "name one that exists", cure: str = "export it again"
) -> Any:
    """Reads a user's JSON file; the arguments are those of `read_xml_document`.

    Raises:
        InputError: the file is missing, too large, or not valid JSON.
    """
    try:
        return json.loads(_bytes(path, most, missing=missing, cure=cure))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); {cure}") from None


def read_xml_document(
    path: Path, *, most: int = DOCUMENT_BYTES, missing: str = "name one that exists", cure: str = "export it again"
) -> Element:
    """Reads a user's XML file and returns its root.

    Args:
        most: bytes that it has at most.
        missing: what to do about a missing file.
        cure: what to do about one that cannot be read.

    Raises:
        InputError: the file is missing, too large, no well-formed XML, or has entities.
    """
    content = _bytes(path, most, missing=missing, cure=cure)
    try:
        root: Element = ElementTree.fromstring(content)
    except (ElementTree.ParseError, DefusedXmlException, ValueError, LookupError, RecursionError) as error:
        raise InputError(f"{path}: not a harmless, well-formed XML file ({error!r}); {cure}") from None
    return root


def _bytes(path: Path, most: int, *, missing: str = "name one that exists", cure: str = "name a file") -> bytes:
    try:
        return read_bytes(path, most)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {missing}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {cure}") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; take what isn't needed out of it") from None


def _decoded(path: Path) -> str:
    try:
        # Spreadsheets write a byte order mark at the start of a UTF-8 file.
        return _bytes(path, DOCUMENT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error}); save it as such") from None
