"""Finds photographs that are there twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from getam.system.files import sha256_of


def repeated_files(paths: Sequence[Path]) -> Iterator[tuple[int, int]]:
    """Yields pairs of positions in `paths` of files that are the same, byte for byte: the first one, and another."""
    # Only files of the same length are read and hashed.
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, path in enumerate(paths):
        by_length[path.stat().st_size].append(number)
    for numbers in by_length.values():
        seen: dict[str, int] = {}
        for number in numbers if len(numbers) > 1 else ():
            first = seen.setdefault(sha256_of(paths[number]), number)
            if first != number:
                yield first, number
