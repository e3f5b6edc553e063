"""Matches image labels with the photographs of a folder, and checks what they say.

Nothing that a file of labels names is opened: a name counts if one of the folder's photographs has it.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path, PurePath, PurePosixPath

from getam.datasets.annotations.records import Annotations, Record
from getam.datasets.class_names import alike_names, class_name_problem
from getam.datasets.index import composed
from getam.errors import InputError, enumerated, listed

DRIVE = re.compile(r"[A-Za-z]:/")


class ImageNameError(Exception):
    """A text names no image of a folder, or several; the message says why, with the cure."""


class MissingImageError(ImageNameError):
    """A text names an image that is not there."""


class NamedImages:
    """The images of a folder, found by what files of labels call them.

    Args:
        folder: the folder.
        paths: the images, as paths below it.
        ids: the id of each image; none if they have no ids beside their names.
    """

    def __init__(
        self, folder: Path, paths: Sequence[PurePosixPath], *, ids: Mapping[PurePosixPath, str] | None = None
    ) -> None:
        self.folder = folder
        self.paths = tuple(paths)
        self._by_id = {composed(id): path for path, id in (ids or {}).items()}
        self._roots = [Path(os.path.abspath(folder)), folder.resolve()]
        self._by_name: dict[str, list[PurePosixPath]] = defaultdict(list)
        self._by_stem: dict[str, list[PurePosixPath]] = defaultdict(list)
        for path in paths:
            self._by_name[composed(path.name)].append(path)
            self._by_stem[composed(path.stem)].append(path)

    def is_named(self, text: str, *, base: Path | None = None) -> bool:
        """Whether a text names one of the images; `base` is as in `named`, by default the folder of the images."""
        try:
            self.named(text, base=self.folder if base is None else base)
        except ImageNameError:
            return False
        return True

    def of_record(self, record: Record) -> PurePosixPath:
        """The photograph of a record.

        Raises:
            MissingImageError: it names no image of the folder.
            ImageNameError: it names several, or a file outside of the folder.
        """
        if record.by_stem:
            return self._beside(record)
        try:
            return self.named(record.photograph, base=record.base)
        except MissingImageError:
            if record.stored is None or not self.is_named(record.stored, base=record.base):
                raise
            return self.named(record.stored, base=record.base)

    def named(self, text: str, *, base: Path) -> PurePosixPath:
        """The image that a text names: an id (a file's name without suffix), a file's name, or a path.

        Args:
            base: folder that the text stands in: a path may be relative to it, and one that climbs is.

        Raises:
            MissingImageError: it names no image of the folder.
            ImageNameError: it names several, or a file outside of the folder.
        """
        parts, is_whole = self._parts(text, base)
        if not parts or not text.isprintable():
            raise ImageNameError(f"{text!r} is no name of a photograph; write an id or a path")
        *folders, name = parts
        called = self._by_name.get(name) or self._by_stem.get(name, [])
        # A file that lies deeper, such as train/labels.csv, means what lies beside it.
        here = [] if is_whole else self._below(base)
        if here and (beside := [path for path in called if _folders(path) == [*here, *folders]]):
            return _single(beside, text, self.folder)
        if len(parts) == 1 and name in self._by_id:
            return self._by_id[name]
        if exact := [path for path in called if _folders(path) == folders]:
            return _single(exact, text, self.folder)
        # A name of a file may lack folders, or have more than there are, such as COCO's train2014/.
        depth = len(here)
        beside = [
            path
            for path in called
            if depth and _folders(path)[:depth] == here and _fit(_folders(path)[depth:], folders)
        ]
        return _single(beside or [path for path in called if _fit(_folders(path), folders)], text, self.folder)

    def _below(self, folder: Path) -> list[str]:
        """The folders that lead to a folder from that of the images; none if it does not lie in it."""
        there = Path(os.path.abspath(folder))
        for root in self._roots:
            if there.is_relative_to(root):
                return [*map(composed, there.relative_to(root).parts)]
        return []

    def _parts(self, text: str, base: Path) -> tuple[list[str], bool]:
        """The folders and the name of a photograph's path, and whether it was absolute or climbed.

        Then it is the path below the folder.
        """
        path = PurePosixPath(text.replace("\\", "/"))
        has_drive = DRIVE.match(str(path)) is not None
        if not path.is_absolute() and ".." not in path.parts and not has_drive:
            return [*map(composed, path.parts)], False
        there = Path(os.path.normpath(os.path.abspath(base) / path))
        for root in self._roots:
            if there.is_relative_to(root) and not has_drive:
                return [*map(composed, there.relative_to(root).parts)], True
        raise ImageNameError(f"{text!r} lies outside of {self.folder}; write the path below that folder")

    def _beside(self, record: Record) -> PurePosixPath:
        """The photograph with the name of a record's own file: of several the one that shares most of its folders."""
        own = Path(os.path.abspath(record.photograph))
        shared = {
            path: _common_end(_folders(own), _folders(self._roots[0] / path))
            for path in self._by_stem.get(composed(own.name), [])
        }
        most = max(shared.values(), default=0)
        return _single([path for path, count in shared.items() if count == most], record.photograph, self.folder)


def _single(found: Sequence[PurePosixPath], text: str, folder: Path) -> PurePosixPath:
    if not found:
        raise MissingImageError(f"{text!r} is no photograph in {folder}")
    if len(found) > 1:
        names = enumerated([repr(str(path)) for path in found[:3]], "and")
        raise ImageNameError(f"{text!r} may be {names}; write the path below {folder}")
    return found[0]


def _folders(path: PurePath) -> list[str]:
    return [*map(composed, path.parts[:-1])]


def _is_end(end: list[str], parts: list[str]) -> bool:
    return not end or parts[-len(end) :] == end


def _fit(first: list[str], second: list[str]) -> bool:
    """Whether one of two lists of folders is the end of the other."""
    return _is_end(first, second) or _is_end(second, first)


def _common_end(first: list[str], second: list[str]) -> int:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


@dataclass(frozen=True)
class Labelled:
    """The labels of a folder's photographs.

    Attributes:
        labels: photograph -> its classes, in ascending order; empty where it shows none of them. A photograph that
            nobody has labelled is missing.
        classes: the classes, in the order of their label values.
        warnings: what the user should know, a message each.
    """

    labels: Mapping[PurePosixPath, tuple[str, ...]]
    classes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class GivenClasses:
    """The classes that a file names, in its order."""

    names: tuple[str, ...]
    file: Path


def match_labels(photographs: NamedImages, annotations: Annotations, *, classes: GivenClasses | None) -> Labelled:
    """Matches image labels with photographs.

    Args:
        classes: the classes that there are, in the order of their label values; None: those that occur, sorted.

    Raises:
        InputError: a label is no class or no name of one; a photograph's name is ambiguous or leads out of the folder;
            two records of a photograph disagree; no photograph has a label.
    """
    records: dict[PurePosixPath, list[Record]] = defaultdict(list)
    problems, missing = [], []
    for record in annotations.records:
        try:
            records[photographs.of_record(record)].append(record)
        except MissingImageError as error:
            missing.append(f"{record.where}: {error}")
        except ImageNameError as error:
            problems.append(f"{record.where}: {error}")
    if not records and missing and not problems:
        raise InputError(f"{listed(missing)}; name the folder of the labelled photographs, or other labels by --labels")
    problems += _name_problems(annotations.records, classes)
    names: dict[PurePosixPath, frozenset[str] | None] = {}
    twice, disagreeing = [], []
    for path in sorted(records):
        names[path], repeated = _united(records[path])
        if repeated and names[path] is None:
            disagreeing.append(_disagreement(path, records[path]))
        elif repeated:
            first, second = records[path][:2]
            twice.append(f"{second.where}: {str(path)!r} stands there twice, first in {first.where}")
    if problems or disagreeing:
        raise InputError(listed(problems + disagreeing))
    found = {path: each for path, each in names.items() if each is not None}
    shown = frozenset().union(*found.values())
    if not shown:
        raise InputError(f"{annotations.files[0]}: no photograph has a label; label some")
    order = tuple(sorted(shown)) if classes is None else classes.names
    warnings = [
        *([f"{listed(missing)}; their labels are not used: correct the names, or add the files"] if missing else []),
        *([f"{listed(twice)}; it counts once"] if twice else []),
        *_class_warnings(annotations, shown, classes),
    ]
    labels = {path: tuple(name for name in order if name in each) for path, each in found.items()}
    return Labelled(labels, order, tuple(warnings))


def _united(records: Sequence[Record]) -> tuple[frozenset[str] | None, bool]:
    """The labels that a photograph's records state together, None if they disagree; whether one repeats another."""
    stated = [_normalized(record.names) for record in records]
    if all(record.partial for record in records) and all(stated):
        return frozenset().union(*stated), False
    return (stated[0] if len({*stated}) == 1 else None), len(stated) > 1


def _normalized(names: Iterable[str]) -> frozenset[str]:
    return frozenset(composed(name.strip()) for name in names)


def _disagreement(path: PurePosixPath, records: Sequence[Record]) -> str:
    first = records[0]
    other = next(record for record in records if _normalized(record.names) != _normalized(first.names))
    said = [f"{_said(record.names)} in {record.where}" for record in (first, other)]
    return f"{str(path)!r}: {said[0]}, but {said[1]}; correct one of them, or take it off"


def _said(names: frozenset[str]) -> str:
    return enumerated([repr(name) for name in sorted(names)], "and") if names else "none of the classes"


def _name_problems(records: Iterable[Record], classes: GivenClasses | None) -> Iterator[str]:
    """Yields a message for each text that is no class, at its first place."""
    seen: set[str] = set()
    for record in records:
        for name in sorted(_normalized(record.names) - seen):
            seen.add(name)
            if problem := class_name_problem(name):
                yield f"{record.where}: {problem}"
            elif classes is not None and name not in classes.names:
                yield f"{record.where}: label {name!r} is not in {classes.file}; add it there or correct it"


def _class_warnings(annotations: Annotations, shown: frozenset[str], classes: GivenClasses | None) -> Iterator[str]:
    if classes is not None:
        for name in classes.names:
            if name not in shown:
                yield f"class {name!r}: no photograph shows it, so that it can't be learned; label some, or take it off"
    else:
        for name in sorted(_normalized(annotations.declared) - shown):
            yield f"class {name!r}: no photograph shows it; it is left out"
    for names in alike_names(sorted(shown)):
        yield f"the classes {enumerated(map(repr, names), 'and')} differ in case alone; are they one?"
