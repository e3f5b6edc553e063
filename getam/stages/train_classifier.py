"""Trains the classifier on image labels (section 4.1) by multi-label soft-margin loss; scores its mAP on val."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

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
from getam.errors import InputError
from getam.networks.classifier import CNNClassifier, ViTClassifier, build_classifier, describe_classifier
from getam.networks.supervision import SUPERVISION
from getam.scores.evaluation import average_precision
from getam.scores.probe import IMAGES, Probe, chance, probe_backbone, warning_of
from getam.settings.classifier import ClassifierSettings
from getam.settings.section import section_of
from getam.system.arguments.training import TrainingArguments
from getam.system.files import fingerprint
from getam.system.progress import image_progress
from getam.training.loop import Scoring, StepResult, train
from getam.training.optimization import fine_tuning_groups

SECTION = "classifier"

NO_LABEL, NOBODY = "no image of val has a label", "nobody has labelled the images of val"
"""Why there is no mAP."""

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
    val = index.labelled("val")
    classes = index.classes
    image_labels = read_label_source(arguments.index)
    model = build_classifier(settings, num_classes=len(classes), image_size=settings.crop.size).to(device)
    description = describe_classifier(settings, classes)
    images = TrainingImages(
        rows,
        load=lambda row: (row.image, {}),
        targets=lambda row: {"classes": multi_hot(index.class_indices(row), len(classes))},
        transform=RandomScaleCrop(settings.crop),
        seed=settings.seed,
    )

    def step(model: nn.Module, batch: dict[str, Tensor], epoch: int) -> StepResult:
        return StepResult({"classification": F.multilabel_soft_margin_loss(model(batch["image"]), batch["classes"])})

    def score() -> dict[str, object]:
        scores = _score(model, index, settings, device, arguments)
        if "unlabelled" in scores:
            logger.warning(
                "train_classifier: %s images of val that nobody has labelled are left out of its score",
                scores["unlabelled"],
            )
        if scores["mean_average_precision"] is None:
            logger.warning("train_classifier: not scored: %s", scores["reason"])
        else:
            logger.info("train_classifier: mAP on val %s", scores["mean_average_precision"])
        if scores["warning"] is not None:
            logger.warning("WARNING train_classifier: %s", scores["warning"])
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
            data=[
                [(row.id, row.labels) for row in val],
                len(index.split("val")),
                fingerprint(row.image for row in val),
                image_labels,
            ],
        ),
    )


@torch.no_grad()
def _score(
    model: ViTClassifier | CNNClassifier,
    index: Index,
    settings: ClassifierSettings,
    device: torch.device,
    arguments: Arguments,
) -> dict[str, object]:
    """The mAP on val, what random scores and a linear probe of the backbone have there, and what that says.

    Images of val that nobody has labelled are left out; `unlabelled` counts them, if there are some. `reason` says why
    there is no mAP, if there is none.
    """
    rows: list[IndexRow] = index.labelled("val")
    unlabelled = len(index.split("val")) - len(rows)
    counts = {"split": "val", "images": len(rows), **({"unlabelled": unlabelled} if unlabelled else {})}

    def size(row: IndexRow) -> tuple[int, int]:
        return fit_long_side((row.height, row.width), settings.crop.size, multiple=model.stride)

    batches = planned_batches(rows, size=size, batch_size=settings.batch_size, pixels=BATCH_PIXELS[device.type])
    inputs = whole_images(batches, read=read_photograph, size=size, threads=arguments.threads)
    scores, targets, ids = [], [], []
    for batch, images in image_progress(inputs, batches, what="mAP on val"):
        scores.append(model(images.to(device, non_blocking=True)).cpu())
        targets += [multi_hot(index.class_indices(row), len(index.classes)) for row in batch]
        ids += [row.id for row in batch]
    if not rows:
        precision: dict[str, Any] = {"mean_average_precision": None, "average_precision": {}}
        reason = NOBODY if unlabelled else NO_LABEL
        return {**counts, **precision, "reason": reason, "chance": None, "probe": None, "warning": None}
    found, truth = torch.cat(scores), torch.stack(targets)
    probe = _probe(index, settings, device, arguments) if settings.pretrained else None
    # A large val is probed in part. The two are compared on the same images.
    seen = set(ids if probe is None else probe.val)
    part = [number for number, id in enumerate(ids) if id in seen]
    own = average_precision(found[part], truth[part], index.classes)["mean_average_precision"]
    random = chance(truth)
    warnings = [settings.frozen_at_random()]
    if random is not None and own is not None:
        probed = None if probe is None else probe.mean_average_precision
        warnings.append(warning_of(own, chance=random, probe=probed))
    precision = average_precision(found, truth, index.classes)
    return {
        **counts,
        **precision,
        **({} if truth.any() else {"reason": NO_LABEL}),
        "chance": random,
        "probe": None if probe is None else probe.record() | {"classifier": own},
        "warning": "; ".join(filter(None, warnings)) or None,
    }


def _probe(index: Index, settings: ClassifierSettings, device: torch.device, arguments: Arguments) -> Probe | None:
    """Probes the backbone with its pretrained weights; None, and a line in the log, if that cannot be done.

    The backbone is built anew, so that a training that was resumed has the same probe.
    """
    try:
        return probe_backbone(
            settings,
            index,
            source=arguments.index,
            image_size=settings.crop.size,
            images=IMAGES,
            device=device,
            threads=arguments.threads,
            what="linear probe",
        )
    except InputError as error:
        # A weights file that has been moved meanwhile should not cost the training that has just ended.
        logger.warning("train_classifier: no linear probe: %s", error)
        return None
