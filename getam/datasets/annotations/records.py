"""What every form of image labels is read as: a record for each photograph that somebody has labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """The labels of a photograph, as a place in a file states them.

    Attributes:
        photograph: names the photograph, as the file does: an id, a file name or a path.
        names: names of classes, as the file has them; none where the photograph shows none of them.
        where: the place, for messages.
        base: folder that a path in `photograph` is relative to, if it climbs.
        by_stem: whether `photograph` is the path of the record's own file, without suffix, which has the photograph's
            name, perhaps in another folder.
        stored: what the photograph is called if it has not that name: the name that a program has given to its copy.
        partial: whether further records of the photograph add to its labels: of a table with a row a label.
    """

    photograph: str
    names: frozenset[str]
    where: str
    base: Path
    by_stem: bool = False
    stored: str | None = None
    partial: bool = False


@dataclass(frozen=True)
class Annotations:
    """The image labels of one or several files of one form.

    Attributes:
        form: what the form is called, for messages: "COCO".
        files: the files that were read.
        declared: classes that the files name without regard to a photograph, such as columns of a table.
        notes: what of a file was not read, for the log.
    """

    form: str
    files: tuple[Path, ...]
    records: tuple[Record, ...]
    declared: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def merged(parts: Sequence[Annotations]) -> Annotations:
    """The annotations of several files of one form as one."""
    return Annotations(
        form=parts[0].form,
        files=tuple(file for part in parts for file in part.files),
        records=tuple(record for part in parts for record in part.records),
        declared=frozenset().union(*(part.declared for part in parts)),
        notes=tuple(note for part in parts for note in part.notes),
    )
