"""Copies the class maps of a shard of images from the user's own folder, in the form that dump_maps writes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from getam.datasets.index import IndexRow, read_index, shard_of
from getam.datasets.naming import files_of_ids
from getam.datasets.shards import new_shard
from getam.errors import InputError
from getam.networks.supervision import BROUGHT_MAPS, IMAGE_LABELS, SUPERVISION, joined
from getam.system.arguments.machine import MachineArguments
from getam.system.files import read_array, read_arrays, write_array
from getam.system.progress import progress

ARRAYS = ".npz"
"""Suffix of a file that has an array for each class, by the class's name."""
SUFFIXES = (".npy", ARRAYS)


class Arguments(MachineArguments):
    """Write maps/<shard>/<id>.npy: float32 (K, h, w), K present classes in ascending order, >= 0, from own maps."""

    index: Path = Field(description="index.csv")
    folder: Path = Field(
        description="folder of the maps, named by the ids or with the same text before or after every id: .npy "
        "(K, h, w) of the image's K classes or (C, h, w) of all, in the order of classes.txt, or .npz with an array "
        "(h, w) for each of the image's classes, by its name"
    )
    split: str = Field(description="split whose maps are taken")
    shard: Annotated[int, Field(ge=0)] = Field(description="which part of the split, counted from 0")
    shards: Annotated[int, Field(ge=1)] = Field(description="number of parts")
    out: Path = Field(description="folder of the shard")


def run(arguments: Arguments) -> None:
    index = read_index(arguments.index)
    split = index.split(arguments.split)
    files = files_of_ids(arguments.folder, [row.id for row in split], SUFFIXES, what="class map", setting="maps.folder")
    rows = shard_of(split, arguments.shard, arguments.shards)
    with (
        new_shard(
            arguments.out,
            ids=[row.id for row in rows],
            suffix=".npy",
            classes=index.classes,
            settings=None,
            threads=arguments.threads,
            inputs=[arguments.index, *(files[row.id] for row in rows)],
            # What the maps were learned from is not known here; the labels say of which classes an image has maps.
            manifest_entries={SUPERVISION: joined(IMAGE_LABELS, BROUGHT_MAPS)},
        ) as shard,
    ):
        todo = shard.unfinished_rows(rows)
        written = shard.write_all(todo, _write, lambda row: (row, files[row.id], index.classes))
        for _ in progress(written, total=len(todo), unit="image", what="collect_maps", size=int):
            pass


def _write(path: Path, row: IndexRow, file: Path, classes: tuple[str, ...]) -> None:
    write_array(path, read_class_maps(file, row.labels, classes))


def read_class_maps(file: Path, present: Iterable[str], classes: tuple[str, ...]) -> np.ndarray:
    """Reads the maps of an image's classes from a file of somebody else's: (K, h, w), float32, >= 0.

    Args:
        file: .npy or .npz, as Arguments.folder describes; maps of other classes than the image's are left out.
        present: names of the image's K classes, in the order of `classes`.
        classes: names of all C classes.

    Raises:
        InputError: the file holds a pickle or is damaged, or its arrays do not fit the classes or are no maps.
    """
    present = tuple(present)
    maps = _by_name(file, present) if file.suffix.lower() == ARRAYS else _by_position(file, present, classes)
    maps = maps.astype(np.float32)
    if not np.isfinite(maps).all():
        raise InputError(f"{file}: holds values that are not finite; write maps of finite values")
    if (maps < 0).any():
        raise InputError(f"{file}: holds negative values; save np.maximum(maps, 0)")
    return maps


def _by_position(file: Path, present: tuple[str, ...], classes: tuple[str, ...]) -> np.ndarray:
    maps = read_array(file)
    if maps.ndim == 3 and 0 not in maps.shape[1:]:
        if len(maps) == len(present):
            return maps
        if len(maps) == len(classes):
            return maps[[classes.index(name) for name in present]]
    raise InputError(
        f"{file}: shape {maps.shape}; class maps are (K, h, w), with K = {len(present)}, the image's classes "
        f"({', '.join(present)}), or K = {len(classes)}, all classes"
    )


def _by_name(file: Path, present: tuple[str, ...]) -> np.ndarray:
    arrays = read_arrays(file)
    missing = [name for name in present if name not in arrays]
    if missing:
        raise InputError(
            f"{file}: has no map of {', '.join(missing)}, which the image's labels name; its arrays are "
            f"{', '.join(map(repr, arrays)) or 'none'}: name each by its class"
        )
    shapes = {arrays[name].shape for name in present}
    if len(shapes) > 1 or any(len(shape) != 2 or 0 in shape for shape in shapes):
        raise InputError(f"{file}: arrays of shape {', '.join(map(str, sorted(shapes)))}; all are (h, w), of one size")
    return np.stack([arrays[name] for name in present]) if present else np.zeros((0, 1, 1), np.float32)
