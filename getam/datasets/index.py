"""Reads and writes index.csv, which lists a data set's images with split, mask, size and labels, and classes.txt."""

from __future__ import annotations

import csv
import io
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from getam.errors import InputError
from getam.settings.foreign import DOCUMENT_BYTES, MAX_ACCENTS, read_text
from getam.system.files import read_json, write_text
from getam.system.image_files import read_image

COLUMNS = ("id", "split", "image", "mask", "height", "width", "labels")
LABELLED = "labelled"
"""A further column, yes or no, of a list in which nobody has labelled some image; without it all are labelled."""

CLASSES = "classes.txt"
REPORT = "index.json"

Item = TypeVar("Item")


@dataclass(frozen=True)
class IndexRow:
    """One image of a data set; `labels` are class names in ascending class order.

    No labels mean that the image shows none of the classes, unless nobody has labelled it: then they say nothing.
    """

    id: str
    split: str
    image: Path
    mask: Path | None
    height: int
    width: int
    labels: tuple[str, ...]
    labelled: bool = True


@dataclass(frozen=True)
class Index:
    """The images of a data set and the names of its classes; label value = position in `classes` + 1."""

    rows: tuple[IndexRow, ...]
    classes: tuple[str, ...]

    def split(self, name: str) -> list[IndexRow]:
        return [row for row in self.rows if row.split == name]

    def labelled(self, split: str) -> list[IndexRow]:
        """The images of a split whose labels are known, on which a classifier is scored."""
        return [row for row in self.split(split) if row.labelled]

    @cached_property
    def by_id(self) -> dict[str, IndexRow]:
        return {row.id: row for row in self.rows}

    def row(self, id: str, *, source: Path) -> IndexRow:
        """The row of an id.

        Args:
            source: the file that the id comes from, for the message.

        Raises:
            InputError: the index has no such id.
        """
        try:
            return self.by_id[id]
        except KeyError:
            raise InputError(f"{source}: id {id!r} is not in index.csv; run the stage before it again") from None

    def class_indices(self, row: IndexRow) -> list[int]:
        """The indices of the row's labels in `classes`, counted from 0, ascending."""
        return sorted(self.classes.index(name) for name in row.labels)


def read_photograph(row: IndexRow) -> np.ndarray:
    """Reads the row's image: (H, W, 3), uint8 RGB.

    Raises:
        InputError: the image cannot be read, or has another size than in the index.
    """
    image = read_image(row.image)
    if image.shape[:2] != (row.height, row.width):
        raise InputError(
            f"{row.image}: size {image.shape[:2]} is not {(row.height, row.width)} (H, W) of index.csv; "
            "run index-dataset again"
        )
    return image


def is_safe_id(id: str) -> bool:
    """Whether an id can be a file name in any folder: no separator, no leading dot or dash, printable, short."""
    return re.fullmatch(r"[^./\\\-][^/\\]{0,199}", id) is not None and id.isprintable() and len(id.encode()) <= 200


def composed(text: str) -> str:
    """A name as it is compared: file systems and archives differ in how they write letters with accents.

    A text with more than MAX_ACCENTS accents in a row is no name, and stays as it is: Python sorts them in a time that
    is quadratic in their number.
    """
    if text.isascii() or _many_accents().search(text):
        return text
    return unicodedata.normalize("NFC", text)


@cache
def _many_accents() -> re.Pattern[str]:
    accents = "".join(letter for letter in map(chr, range(sys.maxunicode + 1)) if unicodedata.combining(letter))
    return re.compile(f"[{accents}]{{{MAX_ACCENTS + 1},}}")


def files_by_id(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """The files of a folder with these suffixes, in upper or lower case, by stem with composed accents, sorted.

    Hidden files are ignored.

    Raises:
        InputError: two files have the same stem.
    """
    files = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            files[composed(path.stem)].append(path)
    for paths in files.values():
        if len(paths) > 1:
            raise InputError(f"{paths[0]} and {paths[1].name} have one id; rename or remove one of them")
    return {file_id: files[file_id][0] for file_id in sorted(files)}


def evenly_spaced(ids: Sequence[Item], most: int) -> Sequence[Item]:
    """Selects at most `most` of the ids, evenly spaced; 0: all."""
    return [ids[i * len(ids) // most] for i in range(most)] if 0 < most < len(ids) else ids


def count_problems(lists: Mapping[str, Sized], counts: Mapping[str, int]) -> Iterator[str]:
    """Yields a message for each split whose number of images is not the expected one.

    Args:
        lists: the images of each split.
        counts: expected number of images by split; 0: any.
    """
    for split, expected in counts.items():
        if expected and split in lists and len(lists[split]) != expected:
            yield (
                f"split {split}: {len(lists[split])} images where data.counts.{split} expects {expected}; complete the "
                "data set, or set that key to 0"
            )


def shard_of(rows: Sequence[IndexRow], shard: int, shards: int) -> Sequence[IndexRow]:
    """The rows of one shard: part `shard`, counted from 0, of `shards` consecutive parts of nearly equal length.

    Raises:
        InputError: `shard` is not below `shards`.
    """
    if shard >= shards:
        raise InputError(f"shard: {shard} is beyond the {shards} shards, which count from 0")
    return rows[shard * len(rows) // shards : (shard + 1) * len(rows) // shards]


def write_index(path: Path, index: Index) -> None:
    """Writes index.csv and classes.txt beside it."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    is_partial = not all(row.labelled for row in index.rows)
    writer.writerow([*COLUMNS, LABELLED] if is_partial else COLUMNS)
    for row in index.rows:
        cells = [row.id, row.split, row.image, row.mask or "", row.height, row.width, ";".join(row.labels)]
        writer.writerow([*cells, "yes" if row.labelled else "no"] if is_partial else cells)
    write_text(path.parent / CLASSES, "".join(f"{name}\n" for name in index.classes))
    write_text(path, table.getvalue())


def read_label_source(index: Path) -> str | None:
    """The source of an index's image labels: `annotations`, `masks` or `file`; None if it is not recorded.

    The source is read from index.json beside the index. Scores state it.
    """
    path = index.parent / REPORT
    report = read_json(path) if path.is_file() else {}
    return report.get("labels") if isinstance(report, dict) else None


def read_index(path: Path) -> Index:
    """Reads index.csv and, beside it, classes.txt.

    Raises:
        InputError: a file or a column is missing, or a row is malformed.
    """
    cure = "run index-dataset again"
    try:
        text = read_text(path, DOCUMENT_BYTES)
        names = read_text(path.parent / CLASSES, DOCUMENT_BYTES)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: no such file; {cure}") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not UTF-8 text ({error}); {cure}") from None
    classes = tuple(line for line in names.splitlines() if line)
    known = {*classes}
    reader = csv.DictReader(io.StringIO(text))
    try:
        missing = set(COLUMNS) - set(reader.fieldnames or ())
        lines = []
        for line in reader:
            lines.append(line)
            # A short row is refused below. DictReader would give each all columns that the heading names.
            if None in line.values():
                break
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num + 1}: malformed row ({error}); {cure}") from None
    if missing:
        raise InputError(f"{path}: column {sorted(missing)[0]!r} is missing; {cure}")
    rows: list[IndexRow] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, start=2):
        try:
            if None in line.values() or None in line:
                raise ValueError("not one field a column")
            row = IndexRow(
                id=line["id"],
                split=line["split"],
                image=Path(line["image"]),
                mask=Path(line["mask"]) if line["mask"] else None,
                height=int(line["height"]),
                width=int(line["width"]),
                labels=tuple(line["labels"].split(";")) if line["labels"] else (),
                labelled={"yes": True, "no": False}[line.get(LABELLED, "yes")],
            )
            if row.labels and not row.labelled:
                raise ValueError("labels of an image that nobody has labelled")
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise InputError(f"{path}, line {number}: malformed row ({error}); {cure}") from None
        if row.height < 1 or row.width < 1:
            raise InputError(f"{path}, line {number}: height and width must be above 0; {cure}")
        if row.id in seen:
            raise InputError(f"{path}, line {number}: id {row.id!r} is there twice; {cure}")
        seen.add(row.id)
        if not is_safe_id(row.id):
            raise InputError(f"{path}, line {number}: id {row.id!r} is not a plain file name; {cure}")
        unknown = [name for name in row.labels if name not in known]
        if unknown:
            raise InputError(f"{path}, line {number}: {unknown[0]!r} is not in {CLASSES}; {cure}")
        rows.append(row)
    return Index(rows=tuple(rows), classes=classes)
