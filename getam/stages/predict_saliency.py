"""Writes the saliency maps of a shard of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from getam.files import write_gray
from getam.images import whole_images
from getam.index import read_index, shard_of
from getam.machine import MachineArguments
from getam.progress import progress
from getam.saliency import load_saliency, saliency_map
from getam.shards import new_shard

BATCH_SIZE = 16


class Arguments(MachineArguments):
    """Write saliency/<shard>/<id>.png: 8-bit gray (H, W), 255 times the probability of being salient."""

    index: Path = Field(description="index.csv")
    model: Path = Field(description="folder of the saliency network's model.safetensors and model.json")
    split: str = Field(description="split whose images are predicted")
    shard: Annotated[int, Field(ge=0)] = Field(description="which part of the split, counted from 0")
    shards: Annotated[int, Field(ge=1)] = Field(description="number of parts")
    out: Path = Field(description="folder of the shard")


@torch.no_grad()
def run(arguments: Arguments) -> None:
    device = arguments.prepare()
    index = read_index(arguments.index)
    rows = shard_of(index.split(arguments.split), arguments.shard, arguments.shards)
    model, image_size = load_saliency(arguments.model)
    model.to(device)
    batches = whole_images(
        rows,
        path=lambda row: row.image,
        size=lambda size: (image_size, image_size),
        batch_size=BATCH_SIZE,
        threads=arguments.threads,
    )
    with new_shard(
        arguments.out, ids=[row.id for row in rows], suffix=".png", classes=index.classes, settings=None
    ) as folder:
        for batch, _, inputs in progress(
            batches, total=len(rows), unit="image", what="predict_saliency", size=lambda item: len(item[0])
        ):
            for row, logits in zip(batch, model(inputs.to(device)), strict=True):
                values = saliency_map(logits, (row.height, row.width), stretch=False)
                write_gray(folder / f"{row.id}.png", values.cpu().numpy())
