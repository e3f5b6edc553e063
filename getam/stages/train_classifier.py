"""Trains the classifier on image labels (section 4.1): multi-label soft-margin loss, mAP on val."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from getam.checkpoints import save_model
from getam.classifier import CNNClassifier, ViTClassifier, build_classifier, describe_classifier
from getam.distributed import is_main
from getam.evaluation import average_precision
from getam.files import fingerprint, read_image, write_json
from getam.images import (
    BATCH_PIXELS,
    RandomScaleCrop,
    TrainingImages,
    fit_long_side,
    multi_hot,
    planned_batches,
    require_rows,
    whole_images,
)
from getam.index import Index, IndexRow, read_index, read_label_source, read_photograph
from getam.pretrained import initialization_of
from getam.progress import image_progress
from getam.settings import ClassifierSettings, only
from getam.supervision import KEY
from getam.training import decay_groups, fit, training_folder, training_key
from getam.training_arguments import TrainingArguments

SECTION = "classifier"

logger = logging.getLogger(__name__)


class Arguments(ClassifierSettings, TrainingArguments):
    """Train the classifier on the train split's image labels and score it on val."""

    index: Path = Field(description="index.csv")
    out: Path = Field(description="folder for model.safetensors, model.json and metrics.json")


def run(arguments: Arguments) -> None:
    settings = only(ClassifierSettings, arguments)
    device = arguments.prepare(seed=settings.seed)
    index = read_index(arguments.index)
    rows = require_rows(index.split("train"), split="train", index=arguments.index)
    classes = index.classes

    model = build_classifier(settings, num_classes=len(classes), image_size=settings.crop.size).to(device)
    images = TrainingImages(
        rows,
        load=lambda row: (read_image(row.image), {}),
        targets=lambda row: {"classes": multi_hot(index.class_indices(row), len(classes))},
        transform=RandomScaleCrop(settings.crop),
        seed=settings.seed,
    )

    def step(model: nn.Module, batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        return {"classification": F.multilabel_soft_margin_loss(model(batch["image"]), batch["classes"])}

    key = training_key(
        settings.model_dump(mode="json"),
        initialization_of(model),
        classes,
        [row.labels for row in rows],
        fingerprint(r.image for r in rows),
    )
    scored = [
        [(row.id, row.labels) for row in index.split("val")],
        fingerprint(row.image for row in index.split("val")),
        read_label_source(arguments.index),
    ]
    with training_folder(arguments.out, key, machine=arguments, scored=scored) as finished:
        if finished:
            return
        history = fit(
            model,
            step,
            images,
            settings,
            groups=decay_groups(model, learning_rate=settings.learning_rate),
            device=device,
            machine=arguments,
            out=arguments.out,
            key=key,
            what="train_classifier",
            name_of=lambda number: rows[number].id,
        )
        if not is_main():
            return
        scores = _score(model, index, settings, device, arguments.threads)
        description = describe_classifier(settings, classes)
        metrics = {**scores, KEY: description[KEY], "image_labels": read_label_source(arguments.index)}
        save_model(arguments.out, model, description | {"initialization": initialization_of(model), "history": history})
        write_json(arguments.out / "metrics.json", metrics)
        logger.info("train_classifier: mAP on val %s", metrics["mean_average_precision"])


@torch.no_grad()
def _score(
    model: ViTClassifier | CNNClassifier,
    index: Index,
    settings: ClassifierSettings,
    device: torch.device,
    threads: int,
) -> dict[str, object]:
    model.eval()
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
