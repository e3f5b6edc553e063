"""Refines the maps of a shard to the images' resolution by PAMR, each class divided by its maximum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from getam.errors import InputError
from getam.files import read_array, read_image, write_array
from getam.index import read_index
from getam.machine import MachineArguments
from getam.progress import progress
from getam.refine import normalize, pamr
from getam.settings import RefineSettings, only
from getam.shards import new_shard, rows_of

SECTION = "refine"


class Arguments(RefineSettings, MachineArguments):
    """Write refined/<shard>/<id>.npy: float16 (K, H, W), each class in [0, 1]."""

    index: Path = Field(description="index.csv")
    maps: Path = Field(description="folder of a shard of dump-maps")
    out: Path = Field(description="folder of the shard")


def run(arguments: Arguments) -> None:
    settings = only(RefineSettings, arguments)
    device = arguments.prepare()
    index = read_index(arguments.index)
    rows = rows_of(arguments.maps, index)
    with new_shard(
        arguments.out, ids=[row.id for row in rows], suffix=".npy", classes=index.classes, settings=settings
    ) as folder:
        for row in progress(rows, total=len(rows), unit="image", what="refine_maps"):
            path = arguments.maps / f"{row.id}.npy"
            maps = read_array(path)
            if maps.ndim != 3 or len(maps) != len(row.labels) or maps.dtype != np.float32:
                raise InputError(
                    f"{path}: {maps.dtype} {maps.shape} is not float32 (K, n_h, n_w), K = {len(row.labels)}"
                )
            image = torch.from_numpy(read_image(row.image).copy()).to(device).permute(2, 0, 1)[None].float()
            refined = pamr(
                image,
                torch.from_numpy(maps).to(device)[None],
                iterations=settings.iterations,
                dilations=settings.dilations,
            )
            write_array(folder / f"{row.id}.npy", normalize(refined)[0].half().cpu().numpy())
