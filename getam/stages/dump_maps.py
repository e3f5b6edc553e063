"""Writes the class activation maps of a shard: GETAM (Eq. 1-3) or the CAM baseline, one map a present class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from getam.classifier import ViTClassifier, load_classifier, patch_size
from getam.errors import InputError
from getam.files import write_array
from getam.images import fit_long_side, whole_images
from getam.index import read_index, shard_of
from getam.machine import MachineArguments
from getam.maps import AttentionMaps, cam
from getam.progress import progress
from getam.settings import MapSettings, only
from getam.shards import check_classes, new_shard

SECTION = "maps"
BATCH_SIZE = 16

MapFunction = Callable[[Tensor, Sequence[Sequence[int]]], list[Tensor]]


class Arguments(MapSettings, MachineArguments):
    """Write maps/<shard>/<id>.npy: float32 (K, n_h, n_w), K present classes in ascending order, raw, >= 0."""

    index: Path = Field(description="index.csv")
    classifier: Path = Field(description="folder of the classifier's model.safetensors and model.json")
    split: str = Field(description="split whose images are mapped")
    shard: Annotated[int, Field(ge=0)] = Field(description="which part of the split, counted from 0")
    shards: Annotated[int, Field(ge=1)] = Field(description="number of parts")
    out: Path = Field(description="folder of the shard")


def run(arguments: Arguments) -> None:
    settings = only(MapSettings, arguments)
    device = arguments.prepare()
    index = read_index(arguments.index)
    rows = shard_of(index.split(arguments.split), arguments.shard, arguments.shards)
    model, classes = load_classifier(arguments.classifier)
    check_classes(classes, index, source=arguments.classifier / "model.json")
    model.to(device)
    multiple = patch_size(model.backbone)
    # A batch takes as many backward passes as its image of most classes has: like goes with like.
    batches = whole_images(
        sorted(rows, key=lambda row: len(row.labels)),
        path=lambda row: row.image,
        size=lambda size: fit_long_side(size, settings.image_size, multiple=multiple),
        batch_size=BATCH_SIZE,
        threads=arguments.threads,
    )
    with new_shard(
        arguments.out, ids=[row.id for row in rows], suffix=".npy", classes=index.classes, settings=settings
    ) as folder:
        for batch, _, inputs in progress(
            batches, total=len(rows), unit="image", what="dump_maps", size=lambda item: len(item[0])
        ):
            present = [index.class_indices(row) for row in batch]
            maps = averaged_maps(
                METHODS[settings.method](model, settings), inputs.to(device), present, settings, multiple
            )
            for row, values in zip(batch, maps, strict=True):
                write_array(folder / f"{row.id}.npy", values.float().cpu().numpy())


def _getam(model: ViTClassifier, settings: MapSettings) -> MapFunction:
    def compute(images: Tensor, classes: Sequence[Sequence[int]]) -> list[Tensor]:
        with AttentionMaps(model, coupling=settings.coupling, start_block=settings.start_block) as attention_maps:
            return attention_maps(images, classes)[1]

    return compute


def _cam(model: ViTClassifier, settings: MapSettings) -> MapFunction:
    return lambda images, classes: cam(model, images, classes)


METHODS: dict[str, Callable[[ViTClassifier, MapSettings], MapFunction]] = {"getam": _getam, "cam": _cam}


def averaged_maps(
    compute: MapFunction,
    images: Tensor,
    classes: Sequence[Sequence[int]],
    settings: MapSettings,
    multiple: int,
) -> list[Tensor]:
    """Mean of the maps at all scales and, with `flip`, of the mirrored image, on the token grid of scale 1.

    Args:
        images: (B, 3, H, W), normalized, sides multiples of the patch.

    Returns:
        For each image (K_b, n_h, n_w).
    """
    height, width = images.shape[2:]
    grid = (height // multiple, width // multiple)
    totals = [images.new_zeros((len(indices), *grid)) for indices in classes]
    views = 0
    for scale in settings.scales:
        size = [max(multiple, round(side * scale / multiple) * multiple) for side in (height, width)]
        scaled = images if scale == 1 else F.interpolate(images, size=size, mode="bilinear", antialias=True)
        for mirrored in (False, True) if settings.flip else (False,):
            maps = compute(scaled.flip(-1) if mirrored else scaled, classes)
            views += 1
            for total, values in zip(totals, maps, strict=True):
                if not bool(torch.isfinite(values).all()):
                    raise InputError("the classifier's maps are not finite; train it again with a lower learning rate")
                aligned = values.flip(-1) if mirrored else values
                if values.shape[1:] != grid and len(values):
                    aligned = F.interpolate(aligned[None], size=grid, mode="bilinear", align_corners=False)[0]
                total += aligned
    return [total / views for total in totals]
