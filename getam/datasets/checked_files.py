"""What index_dataset found in photographs and masks, kept in a file so that unchanged ones are not read again.

A file counts as unchanged while its path, its size and its times of change stay. One that was changed within
CLOCK_SECONDS before it was read is read again the next time, since a further change might leave its time as it is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL

import getam.system.image_files
from getam.errors import InputError
from getam.settings.foreign import DOCUMENT_BYTES, open_regular, read_text
from getam.system.files import sha256_of, write_text
from getam.system.image_files import UNKNOWN, decoded_size, read_labels, read_palette

CLOCK_SECONDS = 2
"""Coarsest time of change of a file system (FAT's)."""

MIDDLE_BYTES = 4096

NO_COLOR = -1
"""Stands for the color of a value to which no palette gives one."""

Facts = list[int]

logger = logging.getLogger(__name__)


class MaskFacts(NamedTuple):
    """What a label PNG shows."""

    size: tuple[int, int]
    values: list[int]
    """The label values that occur, ascending."""
    colors: list[int]
    """The color that the palette gives to each of them, as packed_colors has it, or NO_COLOR."""


class _Cache:
    """Facts of files by kind and path: [size, time of change, time of a change of the inode, facts ...]."""

    def __init__(self, kept: dict[str, Facts]) -> None:
        self.kept = kept
        self.found: dict[str, Facts] = {}
        """What has been read since; without what was too new, it is kept."""
        self.new: set[str] = set()

    def facts(self, kind: str, path: Path, find: Callable[[], Facts]) -> Facts:
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            # Whoever reads it says what is wrong.
            return find()
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        key = f"{kind}\0{os.path.abspath(path)}"
        for entries in (self.found, self.kept):
            if (entry := entries.get(key)) is not None and entry[:3] == state:
                return entry[3:]
        if status.st_mtime_ns > time.time_ns() - CLOCK_SECONDS * 10**9:
            self.new.add(key)
        facts = find()
        self.found[key] = [*state, *facts]
        return facts

    def to_keep(self) -> dict[str, Facts]:
        return self.kept | {key: entry for key, entry in self.found.items() if key not in self.new}


FITS: dict[str, Callable[[Facts], bool]] = {
    "photograph": lambda facts: len(facts) == 3 and min(facts) > 0,
    "mask": lambda facts: (
        len(facts) % 2 == 0
        and len(facts[:2]) == 2
        and min(facts[:2]) > 0
        and all(0 <= value <= UNKNOWN for value in facts[2::2])
        and all(NO_COLOR <= color < 1 << 24 for color in facts[3::2])
    ),
    "content": lambda facts: len(facts) == 1,
    "middle": lambda facts: len(facts) == 1,
}
"""Kind of facts -> whether a list can be such facts."""

_cache: _Cache | None = None


@contextmanager
def remembered(path: Path) -> Iterator[None]:
    """Within the block, facts of files are taken from the file `path`, and kept there.

    What was found is written after an error too, so that the next call reads the rest alone. A file that is damaged, or
    written by another version, is ignored; one that cannot be written is no error.
    """
    global _cache
    cache = _cache = _Cache(_read(path))
    try:
        yield
    finally:
        _cache = None
        if (entries := cache.to_keep()) != cache.kept:
            text = json.dumps(entries, separators=(",", ":"))
            try:
                write_text(path, f"{_digest(text)}\n{text}\n")
            except InputError as error:
                logger.warning("index_dataset: %s; every photograph is read again the next time", error)


def _facts(kind: str, path: Path, find: Callable[[], Facts]) -> Facts:
    return find() if _cache is None else _cache.facts(kind, path, find)


def photograph_size(path: Path) -> tuple[int, int]:
    """(H, W) of an upright photograph, all of which has been decoded.

    Raises:
        InputError: see read_image.
    """
    height, width, _ = _facts("photograph", path, lambda: [*decoded_size(path)])
    return height, width


def photograph_turn(path: Path) -> int:
    """The EXIF orientation of a photograph, all of which has been decoded."""
    return _facts("photograph", path, lambda: [*decoded_size(path)])[2]


def mask_facts(path: Path) -> MaskFacts:
    """What a label PNG shows.

    Raises:
        InputError: see read_labels.
    """
    height, width, *rest = _facts("mask", path, lambda: _found_in_mask(path))
    return MaskFacts((height, width), rest[::2], rest[1::2])


def content_hash(path: Path) -> int:
    """The SHA-256 of a file's content."""
    return _facts("content", path, lambda: [int(sha256_of(path), 16)])[0]


def middle_hash(path: Path) -> int:
    """The SHA-256 of some bytes in the middle of a file, where those of two photographs of one size differ."""
    return _facts("middle", path, lambda: [_hash_of_middle(path)])[0]


def _hash_of_middle(path: Path) -> int:
    with open_regular(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size // 2 - MIDDLE_BYTES // 2))
        return int(hashlib.sha256(file.read(MIDDLE_BYTES)).hexdigest(), 16)


def values_in(labels: np.ndarray) -> list[int]:
    """The values that occur in labels (H, W), uint8, ascending."""
    # numpy's unique takes twice as long.
    values: list[int] = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist()
    return values


def packed_colors(colors: np.ndarray) -> list[int]:
    """A number for each of the colors (N, 3), uint8 RGB."""
    numbers: list[int] = (colors.astype(int) @ [1 << 16, 1 << 8, 1]).tolist()
    return numbers


def _found_in_mask(path: Path) -> Facts:
    labels, palette = read_labels(path), read_palette(path)
    values = values_in(labels)
    colors = [NO_COLOR] * 256
    if palette is not None:
        colors[: len(palette)] = packed_colors(palette)
    return [*labels.shape, *(number for value in values for number in (value, colors[value]))]


def _digest(text: str) -> str:
    """Hash of a text and of the code that reads the files: what an older one let pass may be refused by a newer one."""
    digest = hashlib.sha256(PIL.__version__.encode())
    for file in (getam.system.image_files.__file__, __file__):
        digest.update(Path(file).read_bytes())
    digest.update(text.encode())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Facts]:
    try:
        digest, _, text = read_text(path, DOCUMENT_BYTES).rstrip("\n").partition("\n")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        digest, text = str(error), ""
    # The text of another version or of a damaged file is not looked at; who changes it can give it a fitting digest.
    entries = _entries(text) if digest == _digest(text) else None
    if entries is None:
        logger.warning("index_dataset: %s is of another version or damaged; every photograph is read again", path)
        return {}
    return entries


def _entries(text: str) -> dict[str, Facts] | None:
    """The facts of files as JSON holds them; None if some are none."""
    try:
        entries: dict[str, Facts] = json.loads(text)
        fit = all(
            all(type(number) is int for number in entry) and FITS[key.partition("\0")[0]](entry[3:])
            for key, entry in entries.items()
        )
    # What is no dictionary of lists raises one of these.
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None
    return entries if fit else None
