"""The score of a single image, to find the bad ones by: a run's mIoU sums over all images first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from getam.files import UNKNOWN


def image_iou(predicted: np.ndarray, truth: np.ndarray) -> float | None:
    """Mean IoU over the label values that the ground truth contains, 255 of the prediction as background.

    Args:
        predicted, truth: label values (H, W), uint8; the ground truth's 255 is ignored.

    Returns:
        In [0, 1]; None where the ground truth contains no label value.
    """
    return mean_iou(joint_counts(truth, np.where(predicted == UNKNOWN, 0, predicted)))


def joint_counts(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Pixels by (ground truth, prediction), but those of unknown ground truth: (256, 256), int64."""
    joint = truth.astype(np.uint16) << 8 | predicted
    counts = np.bincount(joint.ravel(), minlength=1 << 16).reshape(256, 256)
    counts[UNKNOWN] = 0
    return counts


def mean_iou(counts: np.ndarray) -> float | None:
    """Mean IoU over the label values that the ground truth contains; None where it contains none.

    An image's own score, to find the bad ones by: the run's mIoU sums over all images first.
    """
    hits, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    there = true > 0
    if not there.any():
        return None
    return float((hits[there] / (true + predicted - hits)[there]).mean())


def files_in_shards(folder: Path, suffix: str) -> dict[str, Path]:
    """The files of a folder's shards by their ids, whatever the number of shards."""
    found: dict[str, Path] = {}
    # Sorted: shards of an earlier, larger number come after those that hold the image now.
    for shard in sorted(folder.glob("[0-9][0-9][0-9]")):
        for path in sorted(shard.glob(f"*{suffix}")):
            found.setdefault(path.name.removesuffix(suffix), path)
    return found
