"""Divides labelled photographs into train and val, with the same share of every class in both.

Iterative stratification (Sechidis et al. 2011): the class with the fewest photographs left is divided first. The order
of photographs comes from a hash of seed and id, so that the split is the same on every machine.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What the folders of a split are called, in lower case; a further word may follow, as in training_set."""


def split_of_folder(name: str) -> str | None:
    """The split that a folder is of by its name; None if it is of none."""
    return FOLDERS.get(re.split(r"[^a-z]", name.lower())[0])


def given_splits(paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, str]:
    """The split of each photograph by the folders that it lies in, as in train/1.jpg.

    Returns:
        None unless each photograph lies in such a folder, and some in one of train. There may be none in val.
    """
    splits = _splits(paths)
    return splits if "train" in splits.values() and "" not in splits.values() else {}


def outside_of_splits(paths: Iterable[PurePosixPath]) -> list[PurePosixPath]:
    """The photographs that lie in no folder of a split, where others lie in one of train and one of another split."""
    splits = _splits(paths)
    named = {*splits.values()} - {""}
    return [path for path, split in splits.items() if not split] if "train" in named and len(named) > 1 else []


def _splits(paths: Iterable[PurePosixPath]) -> dict[PurePosixPath, str]:
    return {path: next(filter(None, map(split_of_folder, path.parts[:-1])), "") for path in paths}


def stratified_split(
    labels: Mapping[str, Collection[str]], *, share: float, seed: int, eligible: Collection[str] | None = None
) -> set[str]:
    """Chooses the photographs of val.

    Each class has a photograph in train, and one in val as far as that is possible: it is not where a class has a
    single photograph, or where each of its photographs is the last one of another class in train.

    Args:
        labels: id of each photograph -> its classes, perhaps none.
        share: part of the photographs, and of each class's, that val gets, in [0, 1).
        eligible: the ids that val may get; None: all.

    Returns:
        The ids of val; none for a share of 0.
    """
    order = sorted(labels, key=lambda id: hashlib.sha256(f"{seed}\0{id}".encode()).digest())
    candidates = [id for id in order if eligible is None or id in eligible]
    if not share or not candidates:
        return set()
    val = _divided(candidates, labels, share=min(1.0, share * len(order) / len(candidates)))
    in_train = Counter(name for id in order if id not in val for name in labels[id])
    _keep_in_train(val, in_train, candidates, labels)
    _bring_to_val(val, in_train, candidates, labels)
    return val


def _divided(ids: Sequence[str], labels: Mapping[str, Collection[str]], *, share: float) -> set[str]:
    """Divides photographs class by class, the rarest first, and those without a class in the end."""
    shares = {"val": share, "train": 1 - share}
    remaining = Counter(name for id in ids for name in labels[id])
    lacking = {side: {name: part * count for name, count in remaining.items()} for side, part in shares.items()}
    lacking_in_all = {side: part * len(ids) for side, part in shares.items()}
    sides: dict[str, str] = {}
    while len(sides) < len(ids):
        left = [name for name, count in remaining.items() if count]
        rarest = min(left, key=lambda name: (remaining[name], name), default="")
        for id in ids:
            if id in sides or (rarest and rarest not in labels[id]):
                continue
            # Of two sides that lack as many of the class, the one that lacks more photographs gets it, or train.
            side = max(shares, key=lambda side: (lacking[side].get(rarest, 0), lacking_in_all[side], side == "train"))
            sides[id] = side
            lacking_in_all[side] -= 1
            for name in labels[id]:
                lacking[side][name] -= 1
                remaining[name] -= 1
    return {id for id, side in sides.items() if side == "val"}


def _keep_in_train(
    val: set[str], in_train: Counter[str], candidates: Sequence[str], labels: Mapping[str, Collection[str]]
) -> None:
    """Moves a photograph of each class that train has none of from val to train."""
    for name in sorted({name for id in val for name in labels[id]}):
        if not in_train[name]:
            moved = next(id for id in candidates if id in val and name in labels[id])
            val.remove(moved)
            in_train.update(labels[moved])


def _bring_to_val(
    val: set[str], in_train: Counter[str], candidates: Sequence[str], labels: Mapping[str, Collection[str]]
) -> None:
    """Moves a photograph of each class that val has none of to val, where train keeps one of all its classes."""
    in_val = Counter(name for id in val for name in labels[id])
    for name in sorted(in_train):
        if in_val[name]:
            continue
        movable = [
            id
            for id in candidates
            if id not in val and name in labels[id] and all(in_train[each] > 1 for each in labels[id])
        ]
        if movable:
            moved = min(movable, key=lambda id: len(labels[id]))
            val.add(moved)
            in_train.subtract(labels[moved])
            in_val.update(labels[moved])
