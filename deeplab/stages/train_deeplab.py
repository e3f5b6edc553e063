"""Trains DeepLabv2, or another segmentation network, on the pseudo labels of the train split."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from deeplab.model import build_deeplab, describe_deeplab
from deeplab.multi_scale import multi_scale_loss
from getam.datasets.images import RandomScaleCrop, TrainingImages
from getam.datasets.index import IndexRow, read_index
from getam.datasets.shards import rows_of, shard_folders
from getam.errors import InputError
from getam.networks.supervision import PIXEL_LABELS, of_shards
from getam.settings.deeplab import DeepLabSettings, DeepLabTrainingSettings
from getam.settings.section import section_of
from getam.system.arguments.training import TrainingArguments
from getam.system.files import fingerprint
from getam.system.image_files import image_size, read_labels
from getam.training.loop import StepResult, train

SECTION = "deeplab"

logger = logging.getLogger(__name__)


class Arguments(DeepLabTrainingSettings, TrainingArguments):
    """Train DeepLabv2 on pseudo labels; ground truth is read with `labels: truth` alone."""

    index: Path = Field(description="index.csv")
    pseudo_labels: Path = Field(description="folder of the shards of complete-labels")
    shards: Annotated[int, Field(ge=1)] = Field(description="number of shards")
    out: Path = Field(description="folder for model.safetensors and model.json")


def run(arguments: Arguments) -> None:
    settings = section_of(DeepLabSettings, arguments)
    device = arguments.prepare(seed=settings.seed)
    index = read_index(arguments.index)
    folders = shard_folders(arguments.pseudo_labels, arguments.shards)
    rows = [(row, folder / f"{row.id}.png") for folder in folders for row in rows_of(folder, index)]
    if not rows:
        raise InputError(
            f"{arguments.pseudo_labels}: no pseudo labels; run complete-labels first, or reject fewer images"
        )
    learned_from = of_shards(folders)
    if settings.labels == "truth":
        learned_from, labelled = PIXEL_LABELS, rows
        rows = [(row, row.mask) for row, _ in rows if row.mask is not None]
        if not rows:
            raise InputError(f"labels: no image of {arguments.index} has a mask; write pseudo")
        logger.info("train_deeplab: on the ground truth of %d of %d images", len(rows), len(labelled))
    model = build_deeplab(settings, num_classes=len(index.classes) + 1).to(device)
    images = TrainingImages(rows, load=_load, transform=RandomScaleCrop(settings.crop), seed=settings.seed)

    def step(model: nn.Module, batch: dict[str, Tensor], epoch: int) -> StepResult:
        outputs = model(batch["image"])
        loss = multi_scale_loss(
            outputs, batch["label"].long(), full_resolution=settings.full_resolution_loss, synchronize=True
        )
        return StepResult({"segmentation": loss})

    train(
        model,
        step,
        images,
        settings,
        groups=model.parameter_groups(
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            backbone_rate=settings.backbone_rate,
            layer_decay=settings.layer_decay,
        ),
        data=[index.classes, fingerprint(file for row, path in rows for file in (row.image, path))],
        description=describe_deeplab(settings, index.classes, learned_from=learned_from),
        arguments=arguments,
        out=arguments.out,
        name_of=lambda number: rows[number][0].id,
    )


def _load(row: tuple[IndexRow, Path]) -> tuple[Path, dict[str, np.ndarray]]:
    size, labels = image_size(row[0].image), read_labels(row[1])
    if size != labels.shape:
        raise InputError(f"{row[1]}: size {labels.shape} is not the image's {size} (H, W); complete it again")
    return row[0].image, {"label": labels}
