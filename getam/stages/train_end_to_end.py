"""Trains classifier and decoder together by double backward (section 4.3)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from getam.datasets.images import RandomScaleCrop, TrainingImages, multi_hot
from getam.datasets.index import Index, IndexRow, read_index
from getam.datasets.shards import rows_of, shard_folders
from getam.errors import InputError, enumerated
from getam.labels.class_maps import salient
from getam.labels.crf import with_known_backend
from getam.networks.end_to_end import EndToEndNetwork, describe_end_to_end
from getam.networks.supervision import SALIENCY, of_shards
from getam.pages.pictures import training_picture
from getam.scores.prediction import validation_miou
from getam.settings.completion import LABEL_METHODS, label_methods
from getam.settings.end_to_end import EndToEndSettings
from getam.settings.section import section_of
from getam.system.arguments.training import TrainingArguments
from getam.system.files import fingerprint
from getam.system.image_files import image_size, read_gray
from getam.training.double_backward import training_step
from getam.training.loop import StepResult, train
from getam.training.optimization import decay_groups, fine_tuning_groups

SECTION = "end_to_end"


class Arguments(EndToEndSettings, TrainingArguments):
    """Train the end-to-end network on image labels and saliency maps; no ground truth reaches the weights."""

    index: Path = Field(description="index.csv")
    saliency: Path | None = Field(
        default=None,
        description="folder of the shards of saliency maps [none: completion.method "
        f"{enumerated(label_methods(need_saliency=False), 'or')}, saliency_weight 0]",
    )
    shards: Annotated[int, Field(ge=1)] = Field(default=1, description="number of shards of saliency maps [1]")
    out: Path = Field(description="folder for model.safetensors and model.json")


def run(arguments: Arguments) -> None:
    settings = section_of(EndToEndSettings, arguments)
    completion = settings.completion
    if LABEL_METHODS[completion.method].runs_crf:
        completion = completion.model_copy(update={"crf": with_known_backend(completion.crf)})
        settings = settings.model_copy(update={"completion": completion})
    device = arguments.prepare(seed=settings.seed)
    index = read_index(arguments.index)
    rows = _rows(arguments, index)
    network = EndToEndNetwork(settings, num_classes=len(index.classes)).to(device)

    def load(row: tuple[IndexRow, Path | None]) -> tuple[Path, dict[str, np.ndarray]]:
        image, size = row[0].image, image_size(row[0].image)
        saliency = read_gray(row[1]) if row[1] else np.zeros(size, np.uint8)
        if size != saliency.shape:
            raise InputError(f"{row[1]}: size {saliency.shape} is not the image's {size} (H, W); predict again")
        return image, {"saliency": salient(saliency, settings.completion.saliency_threshold).astype(np.uint8)}

    saliency = SALIENCY
    if arguments.saliency is not None:
        saliency = of_shards(shard_folders(arguments.saliency, arguments.shards), unknown=SALIENCY)

    def step(model: nn.Module, batch: dict[str, Tensor], epoch: int) -> StepResult:
        result = training_step(model, batch, epoch, settings)
        picture = partial(training_picture, result.pictures) if result.pictures else None
        return StepResult(result.losses, picture)

    def validate() -> float | None:
        return validation_miou(
            network.segment,
            index.split("val"),
            multiple=network.multiple,
            num_classes=len(index.classes),
            device=device,
            threads=arguments.threads,
        )

    images = TrainingImages(
        rows,
        load=load,
        targets=lambda row: dict.fromkeys(
            ("classes", "present"), multi_hot(index.class_indices(row[0]), len(index.classes))
        ),
        transform=RandomScaleCrop(settings.crop),
        seed=settings.seed,
    )
    train(
        network,
        step,
        images,
        settings,
        groups=[
            *fine_tuning_groups(network.classifier, settings, learning_rate=settings.learning_rate),
            *decay_groups(network.decoder, learning_rate=settings.decoder_learning_rate, title="decoder"),
        ],
        data=[
            index.classes,
            [row.labels for row, _ in rows],
            fingerprint(file for row, path in rows for file in (row.image, path) if file),
        ],
        description=describe_end_to_end(settings, index.classes, saliency=saliency),
        arguments=arguments,
        out=arguments.out,
        name_of=lambda number: rows[number][0].id,
        rate=lambda epoch: 1.0 if epoch < settings.classifier_epochs else settings.segmentation_rate,
        validate=validate,
    )


def _rows(arguments: Arguments, index: Index) -> list[tuple[IndexRow, Path | None]]:
    """The training images, each with its saliency map; None in a training without saliency.

    Raises:
        InputError: there are no images, or the settings need saliency and no maps are given.
    """
    if arguments.saliency is None:
        if arguments.completion.needs_saliency or arguments.saliency_weight:
            raise InputError(
                "--saliency: name the folder of the saliency maps; without them set completion.method to "
                f"{enumerated(label_methods(need_saliency=False), 'or')} and saliency_weight to 0"
            )
        rows: list[tuple[IndexRow, Path | None]] = [(row, None) for row in index.split("train")]
        if not rows:
            raise InputError(f"{arguments.index}: no image of the split 'train'; add ids to its list")
        return rows
    rows = [
        (row, folder / f"{row.id}.png")
        for folder in shard_folders(arguments.saliency, arguments.shards)
        for row in rows_of(folder, index)
    ]
    if not rows:
        raise InputError(f"{arguments.saliency}: no saliency maps; run predict-saliency first")
    return rows
