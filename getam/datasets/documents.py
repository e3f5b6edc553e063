"""Reads documents that users bring, from people, spreadsheets and annotation programs: tables, JSON and XML.

Nothing in them is trusted: sizes are bounded, XML has no entities, and whatever is malformed ends in one message.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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

SEPARATOR = re.compile(r"\Asep=.(?=\r?\n)", re.IGNORECASE)
"""The first line of a table by which some programs tell a spreadsheet what separates its cells."""

DECLARATION = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["'][^>]*\?>""")
"""The first line of an XML file that declares its encoding."""

DECLARATION_BYTES = 1000
"""Bytes at the beginning of an XML file in which that line ends; an endless one would be searched again and again."""

MULTIBYTE = {
    **dict.fromkeys(("gb2312", "gbk", "cp936", "gb18030"), "gb18030"),
    **{name: name for name in ("big5", "shift_jis", "euc-jp", "euc-kr")},
}
"""Encodings that the XML parser can't read, in lower case -> what reads them."""

REPLACED = "\ufffd"
"""Stands for a letter that could not be read."""


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
    text = read_document_text(path)
    return table_of(path, list(rows_of(path, text, delimiter=frequent_delimiter(text))))


def frequent_delimiter(text: str) -> str:
    """The character of DELIMITERS that is most frequent in the first line that is not empty."""
    return max(DELIMITERS, key=text.lstrip("\r\n").partition("\n")[0].count)


def rows_of(path: Path, text: str, *, delimiter: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields the number of each row's line and its cells, without blanks around them and without empty rows.

    Raises:
        InputError: a row is no row of a CSV.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            row = tuple(cell.strip() for cell in cells)
            if any(row):
                yield line, row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: malformed row ({error}); correct the quotes") from None


def table_of(path: Path, rows: Sequence[tuple[int, tuple[str, ...]]]) -> Table:
    """A table of rows with their lines, the first of which names the columns.

    Spreadsheets write empty cells behind the last column, which are dropped.

    Raises:
        InputError: there is no row, a row has other cells than the header, or two columns have one name.
    """
    if not rows:
        raise InputError(f"{path}: is empty; write a header, such as id,labels, and a row a photograph")
    width = max(number for _, row in rows for number, cell in enumerate(row, start=1) if cell)
    (_, columns), *others = [(line, row[:width]) for line, row in rows]
    for line, row in others:
        if len(row) != len(columns):
            raise InputError(
                f"{path}, line {line}: {len(row)} cells where the header has {len(columns)}; give each column one, "
                "and put a cell with a separator in quotes"
            )
    if repeated := [name for name, count in Counter(columns).items() if count > 1]:
        raise InputError(f"{path}: two columns are called {repeated[0]!r}; rename one")
    return Table(path, columns, tuple(row for _, row in others), tuple(line for line, _ in others))


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
    declared = DECLARATION.match(content[:DECLARATION_BYTES])
    encoding = declared[1].decode().lower() if declared else "utf-8"
    try:
        if declared and encoding in MULTIBYTE:
            content = content[declared.end() :].decode(MULTIBYTE[encoding]).encode()
        elif encoding == "utf-8" and not _is_utf8(content):
            # Some tools write file names and comments in the encoding of their machine, and declare none.
            content = content.decode(errors="replace").encode()
        root: Element = ElementTree.fromstring(content)
    except (ElementTree.ParseError, DefusedXmlException, ValueError, LookupError, RecursionError) as error:
        raise InputError(f"{path}: not a harmless, well-formed XML file ({error!r}); {cure}") from None
    for element in root.iter():
        texts = (element.text if element.tag == "name" else None, element.get("name"), element.get("label"))
        if any(REPLACED in text for text in texts if text):
            raise InputError(
                f"{path}: has names in another encoding than UTF-8, and does not say in which; declare it in the first "
                'line (<?xml version="1.0" encoding="iso-8859-1"?>), or save the file as UTF-8'
            )
    return root


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        # UTF-16 begins with a mark, by which the parser knows it.
        return content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return True


def _bytes(path: Path, most: int, *, missing: str = "name one that exists", cure: str = "name a file") -> bytes:
    try:
        return read_bytes(path, most)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {missing}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {cure}") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; take what isn't needed out of it") from None


def read_document_text(path: Path) -> str:
    """Reads a user's text file, in UTF-8 with or without a byte order mark.

    Raises:
        InputError: the file is missing, too large, or no UTF-8 text.
    """
    try:
        # Spreadsheets write a byte order mark at the start of a UTF-8 file.
        return SEPARATOR.sub("", _bytes(path, DOCUMENT_BYTES).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error}); save it as such") from None
