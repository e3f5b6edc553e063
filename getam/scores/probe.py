"""A linear probe: the mAP of a linear layer on a backbone's frozen features, and what it says of a trained classifier.

The features are computed once. The layer is a logistic regression of each class on all of them at once, whose penalty
cross-validation on train chooses, so that there is neither a learning rate nor an epoch to set. It knows image labels
alone, and val's only for the score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from getam.datasets.images import BATCH_PIXELS, fit_long_side, multi_hot, planned_batches, require_rows, whole_images
from getam.datasets.index import Index, IndexRow, evenly_spaced, read_photograph
from getam.errors import InputError
from getam.networks.classifier import CNNClassifier, ViTClassifier, build_classifier
from getam.scores.evaluation import average_precision
from getam.settings.networks import BackboneSettings
from getam.system.progress import image_progress

IMAGES = 2000
"""Most images of a split that are probed, evenly spaced: a probe of COCO should take minutes and not hours."""

BATCH_SIZE = 16

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
"""Factors of the squared weights among which cross-validation chooses, descending: each fit starts at the last one."""

FOLDS = 4
ITERATIONS = 60
"""Most iterations of L-BFGS of one fit."""

NEAR_CHANCE = 0.1
"""A mAP is near chance if it has come less than this part of the way from chance to 1: the mAP of random scores lies
above the prevalence by less in a val split of a hundred images or more."""

TOLERANCE = 0.02
"""A mAP counts as under the probe's if it is lower by more than this, which val's hundred images leave open."""


@dataclass(frozen=True)
class Probe:
    """The scores of a linear probe on val."""

    mean_average_precision: float
    average_precision: dict[str, float | None]
    train: int
    """Number of images of train that the layer learned from."""
    val: tuple[str, ...]
    """Ids of the images of val that it was scored on."""
    image_size: int
    penalty: float
    features: int
    """Number of features of an image."""

    def record(self) -> dict[str, Any]:
        """The entries of a JSON file."""
        return {
            "mean_average_precision": self.mean_average_precision,
            "average_precision": self.average_precision,
            "train_images": self.train,
            "images": len(self.val),
            "image_size": self.image_size,
            "features": self.features,
            "penalty": self.penalty,
        }


def probe_backbone(
    settings: BackboneSettings,
    index: Index,
    *,
    source: Path,
    image_size: int,
    images: int,
    device: torch.device,
    threads: int,
    what: str,
) -> Probe:
    """Builds a backbone with its pretrained or fresh weights, and probes it.

    The global random state decides fresh weights; it is left as it was.

    Args:
        source: index.csv, for messages.
        image_size: longer side of the images, pixels; a ViT's patches have to divide it.
        images: most images of a split, evenly spaced; 0: all.
        what: name of the work, for the progress.

    Raises:
        InputError: the backbone cannot be built, train or val has no image, or the images no labels to learn or score.
    """
    for split in ("train", "val"):
        if require_rows(index.split(split), split=split, index=source) and not index.labelled(split):
            raise InputError(f"{source}: nobody has labelled the images of {split}; label some")
    train, val = (evenly_spaced(index.labelled(split), images) for split in ("train", "val"))
    targets = {split: image_targets(rows, index) for split, rows in (("train", train), ("val", val))}
    if not learnable(targets["train"]).any():
        raise InputError(
            f"{source}: no class that some images of train show and others don't, so that nothing can be learned; "
            "label more images"
        )
    if not targets["val"].any():
        raise InputError(f"{source}: no image of val has a label, so that nothing can be scored; label some")
    with torch.random.fork_rng(devices=[]):
        model = build_classifier(settings, num_classes=len(index.classes), image_size=image_size)
    model.to(device).eval()
    features = frozen_features(model, [*train, *val], image_size=image_size, device=device, threads=threads, what=what)
    known, unknown = features[: len(train)], features[len(train) :]
    scores, penalty = linear_scores(known, targets["train"], unknown)
    precision = average_precision(scores, targets["val"], index.classes)
    return Probe(
        **precision,
        train=len(train),
        val=tuple(row.id for row in val),
        image_size=image_size,
        penalty=penalty,
        features=features.shape[1],
    )


def image_targets(rows: Sequence[IndexRow], index: Index) -> Tensor:
    """The labels of images: (N, C), float32, {0, 1}."""
    return torch.stack([multi_hot(index.class_indices(row), len(index.classes)) for row in rows])


@torch.no_grad()
def frozen_features(
    model: ViTClassifier | CNNClassifier,
    rows: Sequence[IndexRow],
    *,
    image_size: int,
    device: torch.device,
    threads: int,
    what: str,
) -> Tensor:
    """The features of images under a model's backbone as it is.

    Args:
        model: on the device, in evaluation mode; its read-out is not used.
        image_size: longer side of the images, pixels.
        what: name of the work, for the progress.

    Returns:
        (N, D), float32, on the CPU. Of a ViT the class token after the final norm, which the read-out `token` has too;
        of a CNN the average of its last features, which the read-out `pool` has.
    """

    def size(row: IndexRow) -> tuple[int, int]:
        return fit_long_side((row.height, row.width), image_size, multiple=model.stride)

    batches = planned_batches(rows, size=size, batch_size=BATCH_SIZE, pixels=BATCH_PIXELS[device.type])
    inputs = whole_images(batches, read=read_photograph, size=size, threads=threads)
    found: dict[str, Tensor] = {}
    for batch, images in image_progress(inputs, batches, what=what):
        found |= zip((row.id for row in batch), _features(model, images.to(device)).float().cpu(), strict=True)
    return torch.stack([found[row.id] for row in rows])


def _features(model: ViTClassifier | CNNClassifier, images: Tensor) -> Tensor:
    if isinstance(model, CNNClassifier):
        return model.backbone.forward_features(model.normalization(images)).mean((2, 3))
    return model.tokens(images).normalized[:, 0]


def learnable(targets: Tensor) -> Tensor:
    """The classes (C,), bool, that some images (N, C) show and others don't."""
    return (targets.amax(0) > 0) & (targets.amin(0) < 1)


def linear_scores(known: Tensor, targets: Tensor, unknown: Tensor) -> tuple[Tensor, float]:
    """Learns a linear layer from the features of labeled images and scores other images by it.

    Args:
        known: features (N, D).
        targets: labels (N, C), {0, 1}.
        unknown: features (M, D).

    Returns:
        Logits (M, C), 0 for a class that cannot be learned, and the penalty that cross-validation on `known` chose.
    """
    deviation, mean = torch.std_mean(known.double(), dim=0, correction=0)
    # A feature that is the same for all images, such as a dead channel's, says nothing.
    deviation[deviation < 1e-6] = torch.inf
    known, unknown = ((features.double() - mean) / deviation for features in (known, unknown))
    targets = targets.double()
    with _single_thread():
        penalty = _chosen_penalty(known, targets)
        weights = _fits(known, targets, [each for each in PENALTIES if each >= penalty])[-1]
        return _logits(unknown, weights).float(), penalty


@contextmanager
def _single_thread() -> Iterator[None]:
    """Has torch compute in one thread: threads that share work this small wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _chosen_penalty(features: Tensor, targets: Tensor) -> float:
    """The penalty with the lowest loss on the folds that were left out; images take turns at being left out."""
    folds = min(FOLDS, len(features))
    losses = torch.zeros(len(PENALTIES), dtype=torch.float64)
    turn = torch.arange(len(features)) % folds
    for fold in range(folds):
        inside, outside = turn != fold, turn == fold
        # A class that the other folds don't show tells nothing of the penalty. One image alone has no other folds.
        if not inside.any() or not (judged := learnable(targets[inside])).any():
            continue
        for number, weights in enumerate(_fits(features[inside], targets[inside], PENALTIES)):
            logits = _logits(features[outside], weights)[:, judged]
            losses[number] += F.binary_cross_entropy_with_logits(logits, targets[outside][:, judged], reduction="sum")
    return PENALTIES[int(losses.argmin())]


def _fits(features: Tensor, targets: Tensor, penalties: Sequence[float]) -> list[Tensor]:
    """Fits a layer for each penalty, each from the one before: weights (D + 1, C), whose last row is the bias.

    The loss is the mean over the images of the sum over the classes, and half the penalty times the squared weights.
    """
    weights = torch.zeros(features.shape[1] + 1, targets.shape[1], dtype=features.dtype)
    fits = []
    for penalty in penalties:
        weights = _fit(features, targets, penalty, start=weights)
        fits.append(weights)
    return fits


def _fit(features: Tensor, targets: Tensor, penalty: float, *, start: Tensor) -> Tensor:
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=ITERATIONS, line_search_fn="strong_wolfe")
    known = learnable(targets)

    def loss() -> Tensor:
        optimizer.zero_grad()
        # A class that all images show, or none, would send its bias to infinity.
        logits = _logits(features, weights)[:, known]
        errors = F.binary_cross_entropy_with_logits(logits, targets[:, known], reduction="sum") / len(features)
        value = errors + penalty / 2 * weights[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return weights.detach()


def _logits(features: Tensor, weights: Tensor) -> Tensor:
    return features @ weights[:-1] + weights[-1]


def chance(targets: Tensor) -> float | None:
    """The mAP of random scores: the mean share of the images that show a class, over the classes that one shows.

    Args:
        targets: labels (N, C), {0, 1}.
    """
    shares = targets.mean(0)
    shown = shares > 0
    return float(shares[shown].mean()) if shown.any() else None


def warning_of(precision: float, *, chance: float, probe: float | None) -> str | None:
    """What is wrong with a classifier by its mAP on val, with a cure; None if nothing is.

    Args:
        precision: its mAP.
        chance: the mAP of random scores.
        probe: the mAP of a linear probe of its backbone on the same images; None without pretrained weights.
    """
    problems = []
    if precision < chance + NEAR_CHANCE * (1 - chance):
        problems.append(f"near chance ({chance:.3f})")
    if probe is not None and precision < probe - TOLERANCE:
        problems.append(f"under that of a linear layer on its frozen backbone ({probe:.3f})")
    if not problems:
        return None
    cure = (
        "train for more epochs, at another learning_rate, or start with pretrained weights"
        if probe is None
        else "lower learning_rate or backbone_rate, or set readout: token or trainable: none"
    )
    return f"mAP {precision:.3f} on val is {' and '.join(problems)}: {cure}"
