"""Finds a user's photographs by files, folders and patterns, without a data set's layout."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from getam.datasets.index import composed, is_safe_id
from getam.errors import InputError, listed
from getam.system.image_files import image_size
from getam.system.names import is_formula

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp")
"""Suffixes of photographs in a folder or behind a pattern, in upper or lower case."""

UNREAD = (".heic", ".heif", ".avif", ".gif", ".jp2", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".psd")
"""Suffixes of photographs that are not read, in lower case."""

LONGEST_NAME = 200
"""Most bytes of a name without suffix, as of an id: file systems allow 255, and results have longer names."""

MASK_ENDINGS = ("_mask", "-mask")
"""What some tools add to an id in the name of its mask."""

MASK = re.compile(rf"(.+)(?:{'|'.join(MASK_ENDINGS)})(?:[_-]?[0-9]+)?")
"""The name of a photograph's mask, without suffix; there may be several: cat_mask, cat_mask_1."""

ENDINGS = 8
"""Number of endings of passed-over files that are named; the others are counted."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Photograph:
    """A photograph, and how its results are called: the path below the folder that it was found in, without suffix.

    Where several words name photographs that would have one name, it is the path below the folder that all lie in.
    """

    path: Path
    name: str
    height: int
    width: int


def find_photographs(given: Sequence[str], *, leave_out: Path) -> tuple[list[Photograph], list[str]]:
    """Finds photographs, sorted by name.

    Args:
        given: files, folders (searched to any depth, without hidden files) and patterns such as `shoot/*.jpg` or
            `shoot/**/*.png`.
        leave_out: a folder, of results, in which no photographs are sought.

    Returns:
        The photographs that can be opened; a message for each of the others.

    Raises:
        InputError: nothing is found, or two photographs would have the same name.
    """
    found: dict[Path, tuple[Path, str]] = {}
    others: set[Path] = set()
    for word in given:
        for path, name in _files(word, leave_out.resolve(), others):
            found.setdefault(path.resolve(), (Path(os.path.abspath(path)), name))
    if others:
        logger.warning("%s", _passed_over(others))
    names = {path: name for path, (_, name) in found.items()}
    if len({*names.values()}) < len(names):
        above = os.path.commonpath([file.parent for file, _ in found.values()])
        names = {path: str(file.relative_to(above).with_suffix("")) for path, (file, _) in found.items()}
    by_name = defaultdict(list)
    for path, name in names.items():
        by_name[name].append(path)
    if doubles := [paths for paths in by_name.values() if len(paths) > 1]:
        raise InputError(
            listed([f"{paths[0]} and {paths[1]} would have the same name" for paths in doubles])
            + "; rename one of them, or write their results into two folders"
        )
    photographs, problems = [], []
    for name, (path,) in sorted(by_name.items()):
        try:
            name.encode()
        except UnicodeEncodeError:
            problems.append(f"{str(path)!a}: its name is not UTF-8; rename it")
            continue
        if len(path.stem.encode()) > LONGEST_NAME:
            problems.append(f"{path}: its name leaves no room for the names of its results; shorten it")
            continue
        try:
            photographs.append(Photograph(path, name, *image_size(path)))
        except InputError as error:
            problems.append(str(error))
    return photographs, problems


def files_below(folder: Path, suffixes: Collection[str], *, leave_out: Collection[Path]) -> list[PurePosixPath]:
    """The files of a folder at any depth, as sorted paths below it, without hidden ones.

    Links are followed: two links to one file are two files.

    Args:
        suffixes: those of the files, in lower case.
        leave_out: folders in which no files are sought.

    Raises:
        InputError: the folder does not exist.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name one that exists")
    left_out = {each.resolve() for each in leave_out}
    # A link to a folder that it lies in would lead in a circle.
    above_of = {folder: {folder.resolve()}}
    found = []
    for walked, folders, files in os.walk(folder, followlinks=True):
        here = Path(walked)
        above = above_of.pop(here)
        real = {name: (here / name).resolve() for name in folders if not name.startswith(".")}
        folders[:] = [name for name, path in real.items() if path not in left_out | above]
        above_of |= {here / name: above | {real[name]} for name in folders}
        below = PurePosixPath(here.relative_to(folder).as_posix())
        found += [
            below / name
            for name in files
            if not name.startswith(".") and PurePosixPath(name).suffix.lower() in suffixes and (here / name).is_file()
        ]
    return sorted(found)


def masks_among(paths: Collection[PurePosixPath]) -> list[PurePosixPath]:
    """The files that are masks of others beside them, by their names: cat/1_mask.png beside cat/1.png."""
    names = {path.with_suffix("") for path in paths}
    return [path for path in paths if (match := MASK.fullmatch(path.stem)) and path.parent / match[1] in names]


def ids_of(paths: Sequence[PurePosixPath]) -> dict[PurePosixPath, str]:
    """An id for each photograph of a folder: its name without suffix, by which masks and saliency maps are called.

    If two photographs have one name, the ids of all have their folders before it: cat/1.jpg is cat_1.

    Raises:
        InputError: a name is unfit for an id, or two photographs would have the same one.
    """
    ids = {path: composed(path.stem) for path in paths}
    if len({*ids.values()}) < len(ids):
        ids = {path: composed("_".join(path.with_suffix("").parts)) for path in paths}
    problems = []
    first: dict[str, PurePosixPath] = {}
    for path, id in ids.items():
        if not is_safe_id(id) or not str(path).isprintable():
            problems.append(f"{str(path)!r}: its name has a leading dot or dash, a control character, or is too long")
        elif is_formula(id) or is_formula(f"./{path}"):
            problems.append(f"{str(path)!r}: its name begins like a formula of a spreadsheet (= + - @)")
        elif (other := first.setdefault(id, path)) != path:
            problems.append(f"{str(other)!r} and {str(path)!r} would have the same id, {id!r}")
    if problems:
        raise InputError(
            f"{listed(problems)}; rename the photographs (masks belong into a folder of their own, which --masks names)"
        )
    return ids


def _passed_over(others: Collection[Path]) -> str:
    """Says how many files are no photographs by their endings, and which endings those are."""
    counts = Counter(path.suffix.lower() or "none" for path in others)
    named = [f"{suffix} {count}" for suffix, count in counts.most_common(ENDINGS)]
    rest = [f"{len(counts) - ENDINGS} others"] if len(counts) > ENDINGS else []
    return f"{len(others)} files were passed over, whose endings are no photograph's: {', '.join(named + rest)}"


def _files(word: str, leave_out: Path, others: set[Path]) -> Iterator[tuple[Path, str]]:
    """Yields the files that a word names, and their names without suffix; adds to `others` what is no photograph."""
    path = Path(word)
    if path.is_file():
        yield path, path.stem
        return
    among: Iterator[Path]
    if path.is_dir():
        root, among = path, path.rglob("*")
    else:
        parts = Path(word).parts
        fixed = next((number for number, part in enumerate(parts) if glob.has_magic(part)), None)
        if fixed is None:
            raise InputError(f"{word}: no such file or folder; name photographs that exist")
        root, among = Path(*parts[:fixed]), map(Path, glob.iglob(word, recursive=True))
    empty, left_out = True, False
    passed: set[Path] = set()
    for file in among:
        below = file.relative_to(root)
        if any(part.startswith(".") for part in below.parts) or not file.is_file():
            continue
        in_results = file.resolve().is_relative_to(leave_out)
        if file.suffix.lower() not in SUFFIXES:
            passed |= set() if in_results else {file.resolve()}
            continue
        if in_results:
            left_out = True
            continue
        empty = False
        yield file, str(below.with_suffix(""))
    if empty and left_out:
        raise InputError(f"{word}: its photographs lie in the folder of the results; choose another --out")
    if empty:
        seen = f"; {_passed_over(passed)}" if passed else ""
        raise InputError(
            f"{word}: no photograph ({', '.join(SUFFIXES)}) there; name photographs, or their folder{seen}"
        )
    others |= passed
