"""Refines the maps of a shard to the images' resolution by PAMR, and divides each class by its maximum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from getam.datasets.images import planned_batches, read_ahead
from getam.datasets.index import IndexRow, read_index, read_photograph
from getam.datasets.shards import new_shard, rows_of
from getam.datasets.working_size import enlarged, say_scaled_down, shrunk, working_size
from getam.errors import InputError
from getam.labels.refined_maps import SUFFIXES, write_refined
from getam.maps.pamr import normalize, pamr
from getam.networks.supervision import IMAGE_LABELS, SUPERVISION, of_shards
from getam.settings.maps import RefineMapsSettings
from getam.settings.section import section_of
from getam.system.arguments.network import NetworkArguments
from getam.system.files import read_array
from getam.system.progress import image_progress

SECTION = "refine"
BATCH_SIZE = 16
BATCH_PIXELS = {"cpu": 512 * 512, "cuda": 16 * 512 * 512}
"""Number of image pixels at most in a batch: few for a CPU, whose caches hold the affinities; many to fill a GPU."""


class Arguments(RefineMapsSettings, NetworkArguments):
    """Write refined/<shard>/<id>.npy: float16 (K, H, W), each class in [0, 1]; or <id>.npz, the same quantized."""

    index: Path = Field(description="index.csv")
    maps: Path = Field(description="folder of a shard of dump-maps")
    out: Path = Field(description="folder of the shard")


def run(arguments: Arguments) -> None:
    settings = section_of(RefineMapsSettings, arguments)
    device = arguments.prepare()
    index = read_index(arguments.index)
    rows = rows_of(arguments.maps, index)
    say_scaled_down(rows, settings.long_side, what="refine_maps")
    batches = planned_batches(
        rows,
        size=lambda row: working_size(row, settings.long_side),
        batch_size=BATCH_SIZE,
        pixels=BATCH_PIXELS[device.type],
        like=lambda row: len(row.labels),
    )
    with (
        new_shard(
            arguments.out,
            ids=[row.id for row in rows],
            suffix=SUFFIXES[settings.storage],
            classes=index.classes,
            settings=settings,
            threads=arguments.threads,
            inputs=[
                arguments.index,
                *(path for row in rows for path in (row.image, arguments.maps / f"{row.id}.npy")),
            ],
            manifest_entries={SUPERVISION: of_shards([arguments.maps], unknown=IMAGE_LABELS)},
        ) as shard,
    ):
        todo = shard.unfinished(batches)
        loaded = read_ahead(todo, lambda row: _read(row, arguments.maps, settings.long_side), threads=arguments.threads)
        for batch, pairs in image_progress(loaded, todo, what="refine_maps"):
            images = torch.stack([image for image, _ in pairs]).to(device)
            # Images with fewer classes than others in the batch are padded with zero maps, which are not read.
            maps = pad_sequence([values for _, values in pairs], batch_first=True).to(device)
            refined = normalize(pamr(images, maps, iterations=settings.iterations, dilations=settings.dilations))
            for row, values in zip(batch, refined, strict=True):
                shard.submit(row.id, _write, values[: len(row.labels)], (row.height, row.width), settings.storage)


def _read(row: IndexRow, folder: Path, long_side: int) -> tuple[Tensor, Tensor]:
    """Reads an image (3, h, w) in 0..255, at its working size, and its maps (K, n_h, n_w), both float32.

    Raises:
        InputError: the maps have another shape or type, or values that are not finite or negative.
    """
    path = folder / f"{row.id}.npy"
    maps = read_array(path)
    if maps.ndim != 3 or len(maps) != len(row.labels) or maps.dtype != np.float32:
        raise InputError(f"{path}: {maps.dtype} {maps.shape} is not float32 (K, n_h, n_w), K = {len(row.labels)}")
    if not (np.isfinite(maps) & (maps >= 0)).all():
        raise InputError(f"{path}: holds NaN, infinite or negative values; dump the maps again")
    photograph = shrunk(read_photograph(row), working_size(row, long_side))
    image = torch.from_numpy(photograph.copy()).permute(2, 0, 1).float()
    return image, torch.from_numpy(maps)


def _write(path: Path, refined: Tensor, size: tuple[int, int], storage: str) -> None:
    """Writes maps (K, h, w) at `size` (H, W)."""
    if refined.shape[1:] == size:
        write_refined(path, refined.half().cpu().numpy(), storage)
        return
    values = np.empty((len(refined), *size), np.float16)
    for number, each in enumerate(refined.cpu().numpy()):
        values[number] = enlarged(each, size)
    write_refined(path, values, storage)
