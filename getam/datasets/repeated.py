"""Finds photographs that are there twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from getam.datasets.checked_files import content_hash, middle_hash


def repeated_files(paths: Sequence[Path]) -> Iterator[tuple[int, int]]:
    """Yields pairs of positions in `paths` of files that are the same, byte for byte: the first one, and another."""
    groups = [list(range(len(paths)))]
    # Many photographs have one length, so only those that are alike in the middle too are read whole.
    for look in (_length, middle_hash, content_hash):
        alike = [defaultdict[int, list[int]](list) for _ in groups]
        for numbers, parts in zip(groups, alike, strict=True):
            for number in numbers:
                parts[look(paths[number])].append(number)
        groups = [numbers for parts in alike for numbers in parts.values() if len(numbers) > 1]
    for first, *others in groups:
        yield from ((first, other) for other in others)


def _length(path: Path) -> int:
    return path.stat().st_size
