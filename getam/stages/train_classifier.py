"""Trains the classifier on image labels (section 4.1) by multi-label soft-margin loss; scores its mAP on val."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from getam.datasets.images import (
    BATCH_PIXELS,
    RandomScaleCrop,
    TrainingImages,
    fit_long_side,
    multi_hot,
    planned_batches,
    require_rows,
    whole_images,
)
from getam.datasets.index import Index, IndexRow, read_index, read_label_source, read_photograph
from getam.networks.classifier import CNNClassifier, ViTClassifier, build_classifier, describe_classifier
from getam.networks.supervision import SUPERVISION
from getam.scores.evaluation import average_precision
from getam.settings.classifier import ClassifierSettings
from getam.settings.section import section_of
from getam.system.arguments.training import TrainingArguments
from getam.system.files import fingerprint, read_image
from getam.system.progress import image_progress
from getam.training.loop import Scoring, StepResult, train
from getam.training.optimization import fine_tuning_groups

SECTION = "classifier"

logger = logging.getLogger(__name__)


class Arguments(ClassifierSettings, TrainingArguments):
    """Train the classifier on the train split's image labels and score it on val."""

    index: Path = Field(description="index.csv")
    out: Path = Field(description="folder for model.safetensors, model.json and metrics.json")


def run(arguments: Arguments) -> None:
    settings = section_of(ClassifierSettings, arguments)
    device = arguments.prepare(seed=settings.seed)
    index = read_index(arguments.index)
    rows = require_rows(index.split("train"), split="train", index=arguments.index)
    val = index.split("val")
    classes = index.classes
    image_labels = read_label_source(arguments.index)
    model = build_classifier(settings, num_classes=len(classes), image_size=settings.crop.size).to(device)
    description = describe_classifier(settings, classes)
    images = TrainingImages(
        rows,
        load=lambda row: (read_image(row.image), {}),
        targets=lambda row: {"classes": multi_hot(index.class_indices(row), len(classes))},
        transform=RandomScaleCrop(settings.crop),
        seed=settings.seed,
    )

    def step(model: nn.Module, batch: dict[str, Tensor], epoch: int) -> StepResult:
        return StepResult({"classification": F.multilabel_soft_margin_loss(model(batch["image"]), batch["classes"])})

    def score() -> dict[str, object]:
        scores = _score(model, index, settings, device, arguments.threads)
        logger.info("train_classifier: mAP on val %s", scores["mean_average_precision"])
        return scores | {SUPERVISION: description[SUPERVISION], "image_labels": image_labels}

    train(
        model,
        step,
        images,
        settings,
        groups=fine_tuning_groups(model, settings, learning_rate=settings.learning_rate),
        data=[classes, [row.labels for row in rows], fingerprint(row.image for row in rows)],
        description=description,
        arguments=arguments,
        out=arguments.out,
        name_of=lambda number: rows[number].id,
        scoring=Scoring(
            score,
            data=[[(row.id, row.labels) for row in val], fingerprint(row.image for row in val), image_labels],
        ),
    )


@torch.no_grad()
def _score(
    model: ViTClassifier | CNNClassifier,
    index: Index,
    settings: ClassifierSettings,
    device: torch.device,
    threads: int,
) -> dict[str, object]:
    rows: list[IndexRow] = index.split("val")

    def size(row: IndexRow) -> tuple[int, int]:
        return fit_long_side((row.height, row.width), settings.crop.size, multiple=model.stride)

    batches = planned_batches(rows, size=size, batch_size=settings.batch_size, pixels=BATCH_PIXELS[device.type])
    inputs = whole_images(batches, read=read_photograph, size=size, threads=threads)
    scores, targets = [], []
    for batch, images in image_progress(inputs, batches, what="mAP on val"):
        scores.append(model(images.to(device)).cpu())
        targets += [multi_hot(index.class_indices(row), len(index.classes)) for row in batch]
    if not rows:
        return {"split": "val", "images": 0, "mean_average_precision": None, "average_precision": {}}
    precision = average_precision(torch.cat(scores), torch.stack(targets), index.classes)
    return {"split": "val", "images": len(rows), **precision}
