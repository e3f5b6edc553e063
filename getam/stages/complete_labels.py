"""Makes the pseudo labels of a shard from refined maps and saliency (Eq. 4-5)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from getam.completion import complete_labels
from getam.errors import InputError
from getam.files import read_array, read_gray, write_labels
from getam.index import IndexRow, read_index
from getam.machine import MachineArguments
from getam.progress import progress
from getam.settings import CompletionSettings, only
from getam.shards import new_shard, rows_of

SECTION = "completion"


class Arguments(CompletionSettings, MachineArguments):
    """Write pseudo_labels/<shard>/<id>.png: palette PNG (H, W), 0..C, 255 unknown."""

    maps: Path = Field(description="folder of a shard of refine-maps")
    saliency: Path = Field(description="folder of saliency maps <id>.png, 8-bit gray")
    index: Path = Field(description="index.csv")
    out: Path = Field(description="folder of the shard")


def run(arguments: Arguments) -> None:
    settings = only(CompletionSettings, arguments)
    arguments.prepare()
    index = read_index(arguments.index)
    rows = rows_of(arguments.maps, index)
    with new_shard(
        arguments.out, ids=[row.id for row in rows], suffix=".png", classes=index.classes, settings=settings
    ) as folder:
        for row in progress(rows, total=len(rows), unit="image", what="complete_labels"):
            maps, saliency = _read(arguments, row)
            labels = complete_labels(
                maps,
                index.class_indices(row),
                (saliency > 255 * settings.saliency_threshold).astype(np.uint8),
                alpha=settings.alpha,
                gamma=settings.gamma,
                conflict=settings.conflict,
                opening=settings.opening,
            )
            write_labels(folder / f"{row.id}.png", labels)


def _read(arguments: Arguments, row: IndexRow) -> tuple[np.ndarray, np.ndarray]:
    maps_path, saliency_path = arguments.maps / f"{row.id}.npy", arguments.saliency / f"{row.id}.png"
    maps, saliency = read_array(maps_path), read_gray(saliency_path)
    size = (row.height, row.width)
    if maps.shape != (len(row.labels), *size):
        raise InputError(
            f"{maps_path}: shape {maps.shape} is not {(len(row.labels), *size)} (K, H, W); refine it again"
        )
    if saliency.shape != size:
        raise InputError(f"{saliency_path}: size {saliency.shape} is not the image's {size} (H, W); predict it again")
    return maps, saliency
