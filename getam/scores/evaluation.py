"""Scores at original resolution: confusion matrix, IoU under each protocol, threshold curve, average precision."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from getam.datasets.index import Index, read_index, read_label_source
from getam.datasets.shards import MANIFEST, check_classes, read_manifest
from getam.datasets.working_size import is_scaled_down
from getam.errors import InputError
from getam.networks.checkpoints import with_implied
from getam.networks.supervision import of_shards
from getam.settings.foreign import results_of
from getam.settings.prediction import PredictionSettings
from getam.system.arguments.machine import MachineArguments
from getam.system.files import write_json
from getam.system.image_files import UNKNOWN, read_labels

EARLIER = {"long_side": 0, "crf": {"backend": "pydensecrf"}}
"""Settings of predictions that came later, with the values that those before them have."""

logger = logging.getLogger(__name__)

PROTOCOLS = ("excluded", "background", "wrong")
"""How a predicted 255 counts: left out (as in the authors' program), as background, or as an error."""


class ConfusionMatrix:
    """Pixel counts by (ground truth, prediction), (C + 1, C + 2); the last column counts pixels predicted unknown.

    Ground-truth 255 is ignored. Counts are int64, since a data set such as VOC has more than 2^31 pixels.
    """

    def __init__(self, num_classes: int) -> None:
        """`num_classes`: C + 1, background included."""
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Adds one image; both arrays are label values (H, W), 0..C and 255.

        Raises:
            InputError: the sizes differ, or a value is beyond the classes.
        """
        if truth.shape != prediction.shape:
            raise InputError(f"ground truth {truth.shape} and prediction {prediction.shape} differ in size (H, W)")
        known = truth != UNKNOWN
        rows = truth[known].astype(np.int64)
        columns = prediction[known].astype(np.int64)
        beyond = (rows >= self.num_classes) | ((columns >= self.num_classes) & (columns != UNKNOWN))
        if beyond.any():
            value = int(np.concatenate([rows[rows >= self.num_classes], columns[beyond]])[0])
            raise InputError(f"label value {value} is beyond the {self.num_classes - 1} classes and background")
        columns[columns == UNKNOWN] = self.num_classes
        flat = rows * (self.num_classes + 1) + columns
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def iou(self, protocol: str = "excluded") -> np.ndarray:
        """IoU of each class: (num_classes,), float64; NaN for a class in neither truth nor prediction."""
        hits, truth, predicted = self._sums(protocol)
        return _ratio(hits, truth + predicted - hits)

    def precision(self, protocol: str = "excluded") -> np.ndarray:
        """Fraction of each class's predicted pixels that are right: (num_classes,), float64; NaN if there are none."""
        hits, _, predicted = self._sums(protocol)
        return _ratio(hits, predicted)

    def recall(self, protocol: str = "excluded") -> np.ndarray:
        """Fraction of each class's true pixels that are found: (num_classes,), float64; NaN if there are none."""
        hits, truth, _ = self._sums(protocol)
        return _ratio(hits, truth)

    def _sums(self, protocol: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Counts each class's correctly predicted, ground-truth and predicted pixels: (num_classes,), int64 each."""
        square = self.counts[:, :-1].copy()
        if protocol == "background":
            square[:, 0] += self.counts[:, -1]
        elif protocol not in PROTOCOLS:
            raise KeyError(f"protocol {protocol!r} is none of {', '.join(PROTOCOLS)}")
        truth = self.counts.sum(1) if protocol == "wrong" else square.sum(1)
        return np.diag(square), truth, square.sum(0)

    def scores(self, names: Sequence[str], protocol: str = "excluded") -> dict[str, Any]:
        """Gives {"miou", "miou_classes", "iou": {name: ...}, "precision": {...}, "recall": {...}}, fractions or None.

        mIoU is the mean over the classes that occur, in truth or prediction; see `mean_iou`. Under `excluded` a class
        whose pixels are all predicted 255 occurs in neither and is left out.
        """
        measures = {"iou": self.iou(protocol), "precision": self.precision(protocol), "recall": self.recall(protocol)}
        per_class = {
            measure: {name: _or_none(value) for name, value in zip(names, values, strict=True)}
            for measure, values in measures.items()
        }
        return {**mean_iou(measures["iou"]), **per_class}

    def pixel_accuracy(self) -> float | None:
        """Fraction of known ground-truth pixels that are right; a predicted 255 is an error."""
        total = self.counts.sum()
        return float(np.trace(self.counts[:, :-1]) / total) if total else None

    def unknown_share(self) -> float | None:
        """Share of known ground-truth pixels that are predicted unknown."""
        total = self.counts.sum()
        return float(self.counts[:, -1].sum() / total) if total else None


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


class ThresholdCurve:
    """Scores of maps without saliency at every threshold: the strongest class where its map is above, else background.

    One histogram serves all thresholds, int64: (ground truth, strongest class, number of thresholds below the value).
    """

    def __init__(self, num_classes: int, thresholds: Sequence[float]) -> None:
        """`num_classes`: C + 1, background included; `thresholds`: ascending."""
        self.num_classes = num_classes
        self.thresholds = tuple(thresholds)
        self.counts = np.zeros((num_classes, num_classes, len(self.thresholds) + 1), np.int64)

    def add(self, truth: np.ndarray, strongest: np.ndarray, highest: np.ndarray) -> None:
        """Adds one image.

        Args:
            truth: label values (H, W), 255 is ignored.
            strongest: label value of the strongest class, (H, W).
            highest: value of that class's map, (H, W), floating.
        """
        known = truth != UNKNOWN
        below = np.searchsorted(np.asarray(self.thresholds, highest.dtype), highest[known], side="left")
        pairs = truth[known].astype(np.int64) * self.num_classes + strongest[known]
        flat = pairs * self.counts.shape[2] + below
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def points(self) -> list[dict[str, Any]]:
        """Gives {"threshold", "miou", "miou_classes", "precision", "recall"} at each threshold.

        The scores are means over the classes that occur; see `mean_iou`.
        """
        points = []
        for number, threshold in enumerate(self.thresholds):
            matrix = ConfusionMatrix(self.num_classes)
            matrix.counts[:, :-1] = self.counts[:, :, number + 1 :].sum(2)
            matrix.counts[:, 0] += self.counts[:, :, : number + 1].sum((1, 2))
            means = {"precision": matrix.precision(), "recall": matrix.recall()}
            others = {name: mean_of_known(values) for name, values in means.items()}
            points.append({"threshold": threshold, **mean_iou(matrix.iou()), **others})
        return points


def mean_iou(iou: np.ndarray) -> dict[str, Any]:
    """The mean over the classes that occur, from the IoU of each (C + 1,), NaN for one that does not.

    Returns:
        {"miou", "miou_classes"}: the mean, and over how many classes it is one, the background among them. Where the
        background alone occurs, whose IoU is no score of a segmentation, or nothing does, the mean is None, and
        "miou_reason" says why.
    """
    count = int((~np.isnan(iou)).sum())
    if np.isnan(iou[1:]).all():
        reason = "ground truth and prediction show background alone" if count else "no pixel has a ground truth"
        return {"miou": None, "miou_classes": count, "miou_reason": reason}
    return {"miou": mean_of_known(iou), "miou_classes": count}


def mean_of_known(values: np.ndarray) -> float | None:
    """Mean of the values that are not NaN; None where all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def average_precision(scores: torch.Tensor, targets: torch.Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Computes the average precision of multi-label scores.

    Args:
        scores: (N, C), logits.
        targets: (N, C), {0, 1}.

    Returns:
        {"mean_average_precision", "average_precision": {name: ...}}; a class without a positive image has None
        and is left out of the mean.
    """
    # Imported here, since it takes as long as torch itself, and of the stages that score only the classifier needs it.
    from torchmetrics.functional.classification import binary_average_precision

    # Shifting keeps confident scores from saturating: the sigmoid makes all float32 logits above 17 equal.
    probabilities = (scores - scores.amax(0)).sigmoid()
    per_class = np.full(targets.shape[1], np.nan)
    for c in range(targets.shape[1]):
        if targets[:, c].any():
            per_class[c] = float(binary_average_precision(probabilities[:, c], targets[:, c].long()))
    return {
        "mean_average_precision": mean_of_known(per_class),
        "average_precision": {name: _or_none(v) for name, v in zip(names, per_class, strict=True)},
    }


def evaluate_predictions(
    index: Index, predictions: Path, *, split: str, image_labels: str | None = None
) -> dict[str, Any]:
    """Scores a folder of predictions <id>.png on a split's images that have a mask.

    Args:
        image_labels: origin of the image labels of the training, recorded in the protocol.

    Raises:
        InputError: the folder's manifest names other images than the split, or a file is missing or has another size.
    """
    manifest = read_manifest(predictions)
    check_classes(manifest.get("classes", []), index, source=predictions / MANIFEST)
    rows = index.split(split)
    if [row.id for row in rows] != list(manifest["ids"]):
        raise InputError(f"{predictions}: holds other images than the split {split!r}; predict it again")
    matrix = ConfusionMatrix(len(index.classes) + 1)
    scored = [row for row in rows if row.mask is not None]
    for row in scored:
        assert row.mask is not None
        matrix.add(read_labels(row.mask), read_labels(predictions / f"{row.id}.png"))
    with results_of(predictions / MANIFEST):
        settings = PredictionSettings.model_validate(with_implied(EARLIER, manifest["settings"]))
    return {
        "split": split,
        "images": len(scored),
        **matrix.scores(("background", *index.classes)),
        "pixel_accuracy": matrix.pixel_accuracy(),
        "confusion": matrix.counts[:, :-1].tolist(),
        "protocol": {
            "scales": [] if settings.squares else list(settings.scales),
            "squares": list(settings.squares),
            **({"window": settings.window, "window_overlap": settings.window_overlap} if settings.window else {}),
            **(
                {"long_side": settings.long_side}
                if any(is_scaled_down(row, settings.long_side) for row in scored)
                else {}
            ),
            "flip": settings.flip,
            "crf": settings.crf.iterations > 0,
            **({"architecture": manifest["architecture"]} if "architecture" in manifest else {}),
            "supervision": of_shards([predictions]),
            "image_labels": image_labels,
        },
    }


class EvaluationArguments(MachineArguments):
    """Write metrics.json: mIoU, IoU of each class, pixel accuracy, confusion matrix and the protocol."""

    index: Path = Field(description="index.csv")
    predictions: Path = Field(description="folder of predictions <id>.png with manifest.json")
    split: str = Field(description="split that was predicted")
    out: Path = Field(description="metrics.json")


def write_scores(arguments: EvaluationArguments, *, what: str) -> None:
    """Scores a folder of predictions and writes metrics.json.

    Args:
        what: name of the stage, for the log.
    """
    scores = evaluate_predictions(
        read_index(arguments.index),
        arguments.predictions,
        split=arguments.split,
        image_labels=read_label_source(arguments.index),
    )
    write_json(arguments.out, scores)
    if scores["images"]:
        shown = scores["miou"] if scores["miou"] is not None else f"not scored: {scores['miou_reason']}"
        logger.info(
            "%s: mIoU on %s %s (%d images, %d classes)",
            what,
            arguments.split,
            shown,
            scores["images"],
            scores["miou_classes"],
        )
    else:
        logger.warning("%s: no image of %s has a mask: not scored", what, arguments.split)
