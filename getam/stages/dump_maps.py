"""Writes the class activation maps of a shard, one for each class in an image: GETAM (Eq. 1-3) or a baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from getam.datasets.images import BATCH_PIXELS, fit_long_side, planned_batches, require_rows, whole_images
from getam.datasets.index import IndexRow, read_index, read_photograph, shard_of
from getam.datasets.shards import check_classes, new_shard
from getam.errors import InputError
from getam.labels.class_maps import over_maximum
from getam.maps.baselines import create_maps
from getam.networks.checkpoints import model_files
from getam.networks.classifier import load_classifier
from getam.networks.supervision import IMAGE_LABELS, SUPERVISION, of_model
from getam.settings.maps import MapSettings
from getam.settings.section import section_of
from getam.system.arguments.network import NetworkArguments
from getam.system.files import write_array
from getam.system.progress import image_progress

SECTION = "maps"
BATCH_SIZE = 16

MapFunction = Callable[[Tensor, Sequence[Sequence[int]]], tuple[Tensor, list[Tensor]]]


class Arguments(MapSettings, NetworkArguments):
    """Write maps/<shard>/<id>.npy: float32 (K, n_h, n_w), K present classes in ascending order, >= 0.

    The maps are raw; those of several scales are each divided by their maximum before they are averaged.
    """

    index: Path = Field(description="index.csv")
    classifier: Path = Field(description="folder of the classifier's model.safetensors and model.json")
    split: str = Field(description="split whose images are mapped")
    shard: Annotated[int, Field(ge=0)] = Field(description="which part of the split, counted from 0")
    shards: Annotated[int, Field(ge=1)] = Field(description="number of parts")
    out: Path = Field(description="folder of the shard")


def run(arguments: Arguments) -> None:
    settings = section_of(MapSettings, arguments)
    device = arguments.prepare()
    index = read_index(arguments.index)
    split = require_rows(index.split(arguments.split), split=arguments.split, index=arguments.index)
    rows = shard_of(split, arguments.shard, arguments.shards)
    model, classes = load_classifier(arguments.classifier)
    check_classes(classes, index, source=arguments.classifier / "model.json")
    model.to(device)
    # cuDNN would compute float32 convolutions in TF32. Who wants speed sets precision: bfloat16 explicitly.
    torch.backends.cudnn.allow_tf32 = False

    def size(row: IndexRow) -> tuple[int, int]:
        return fit_long_side((row.height, row.width), settings.image_size, multiple=model.stride)

    batches = planned_batches(
        rows,
        size=size,
        batch_size=BATCH_SIZE,
        pixels=BATCH_PIXELS[device.type] / max(settings.scales) ** 2,
        # A batch needs as many backward passes as its images have classes at most, so similar images are batched.
        like=lambda row: len(row.labels),
    )
    with (
        create_maps(model, settings) as maps_of,
        new_shard(
            arguments.out,
            ids=[row.id for row in rows],
            suffix=".npy",
            classes=index.classes,
            settings=settings,
            threads=arguments.threads,
            inputs=[arguments.index, *model_files(arguments.classifier), *(row.image for row in rows)],
            manifest_entries={SUPERVISION: of_model(arguments.classifier, unknown=IMAGE_LABELS)},
        ) as shard,
    ):
        todo = shard.unfinished(batches)
        inputs = whole_images(todo, read=read_photograph, size=size, threads=arguments.threads)
        for batch, images in image_progress(inputs, todo, what="dump_maps"):
            present = [index.class_indices(row) for row in batch]
            images = images.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                maps = averaged_maps(maps_of, images, present, settings, model.stride)
            # The maps of a batch come in one transfer, since each waits for the GPU.
            arrays = torch.cat([values.float() for values in maps]).cpu().split([len(values) for values in maps])
            for row, values in zip(batch, arrays, strict=True):
                if not values.isfinite().all():
                    raise InputError(
                        f"{arguments.classifier}: gives maps of {row.id} that are not finite; train it again with a "
                        "lower learning rate"
                    )
                shard.submit(row.id, write_array, values.numpy())


def averaged_maps(
    maps_of: MapFunction,
    images: Tensor,
    classes: Sequence[Sequence[int]],
    settings: MapSettings,
    multiple: int,
) -> list[Tensor]:
    """Averages the maps over all scales and, with `flip`, the mirrored images, on the token grid of scale 1.

    The size of raw values depends on the resolution, since a gradient is spread over the tokens: maps of an image of
    half the size are several times as large. So where there are several scales, each view's map of a class is divided
    by its maximum first, and all views count alike. The views of a single scale are averaged as they are.

    Args:
        maps_of: (images, classes of each image) -> (scores, maps of each image).
        images: (B, 3, H, W), normalized; the sides are multiples of `multiple`.
        classes: class indices of each image.
        multiple: pixels a token.

    Returns:
        For each image (K_b, n_h, n_w), >= 0: raw values of a single scale, values in [0, 1] of several.
    """
    height, width = images.shape[2:]
    grid = (height // multiple, width // multiple)
    totals = [images.new_zeros((len(indices), *grid)) for indices in classes]
    views = 0
    for scale in settings.scales:
        size = [max(multiple, round(side * scale / multiple) * multiple) for side in (height, width)]
        scaled = images if scale == 1 else F.interpolate(images, size=size, mode="bilinear", antialias=True)
        for mirrored in (False, True) if settings.flip else (False,):
            _, maps = maps_of(scaled.flip(-1) if mirrored else scaled, classes)
            views += 1
            for total, values in zip(totals, maps, strict=True):
                if not len(values):
                    continue
                if len(settings.scales) > 1:
                    values = over_maximum(values, values.amax((1, 2), keepdim=True))
                aligned = values.flip(-1) if mirrored else values
                if values.shape[1:] != grid:
                    aligned = F.interpolate(aligned[None], size=grid, mode="bilinear", align_corners=False)[0]
                total += aligned
    return [total / views for total in totals]
