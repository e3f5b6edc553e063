"""Writes the saliency maps of a shard of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from getam.datasets.images import BATCH_PIXELS, planned_batches, require_rows, whole_images
from getam.datasets.index import IndexRow, read_index, read_photograph, shard_of
from getam.datasets.shards import new_shard
from getam.networks.checkpoints import model_files
from getam.networks.saliency import load_saliency, saliency_map
from getam.networks.supervision import SALIENCY, SUPERVISION, of_model
from getam.settings.saliency import SaliencyMapSettings
from getam.settings.section import section_of
from getam.system.arguments.network import NetworkArguments
from getam.system.image_files import write_gray
from getam.system.progress import image_progress

BATCH_SIZE = 16


SECTION = "saliency"


class Arguments(SaliencyMapSettings, NetworkArguments):
    """Write saliency/<shard>/<id>.png: 8-bit gray (H, W), 255 times the probability of being salient."""

    index: Path = Field(description="index.csv")
    model: Path = Field(description="folder of the saliency network's model.safetensors and model.json")
    split: str = Field(description="split whose images are predicted")
    shard: Annotated[int, Field(ge=0)] = Field(description="which part of the split, counted from 0")
    shards: Annotated[int, Field(ge=1)] = Field(description="number of parts")
    out: Path = Field(description="folder of the shard")


@torch.no_grad()
def run(arguments: Arguments) -> None:
    settings = section_of(SaliencyMapSettings, arguments)
    device = arguments.prepare()
    index = read_index(arguments.index)
    split = require_rows(index.split(arguments.split), split=arguments.split, index=arguments.index)
    rows = shard_of(split, arguments.shard, arguments.shards)
    model, image_size = load_saliency(arguments.model)
    model.to(device)

    def size(row: IndexRow) -> tuple[int, int]:
        return image_size, image_size

    batches = planned_batches(rows, size=size, batch_size=BATCH_SIZE, pixels=BATCH_PIXELS[device.type])
    with (
        new_shard(
            arguments.out,
            ids=[row.id for row in rows],
            suffix=".png",
            classes=index.classes,
            settings=settings,
            threads=arguments.threads,
            inputs=[arguments.index, *model_files(arguments.model), *(row.image for row in rows)],
            manifest_entries={SUPERVISION: of_model(arguments.model, unknown=SALIENCY)},
        ) as shard,
    ):
        todo = shard.unfinished(batches)
        inputs = whole_images(todo, read=read_photograph, size=size, threads=arguments.threads)
        for batch, images in image_progress(inputs, todo, what="predict_saliency"):
            for row, logits in zip(batch, model(images.to(device, non_blocking=True)), strict=True):
                shard.submit(row.id, _write, logits, (row.height, row.width), settings.stretch)


@torch.no_grad()
def _write(path: Path, logits: Tensor, size: tuple[int, int], stretch: bool) -> None:
    write_gray(path, saliency_map(logits, size, stretch=stretch).cpu().numpy())
