"""IoU of single images, to find bad ones. A run's mIoU is another measure: it sums the counts of all images first."""

from __future__ import annotations

import numpy as np

from getam.system.image_files import UNKNOWN


def image_iou(predicted: np.ndarray, truth: np.ndarray) -> float | None:
    """Mean IoU over the label values in the ground truth; a predicted 255 counts as background.

    Args:
        predicted, truth: label values (H, W), uint8; the ground truth's 255 is ignored.

    Returns:
        In [0, 1]; None where the ground truth contains no label value.
    """
    return mean_iou(with_unknown_as_background(joint_counts(truth, predicted)))


def joint_counts(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Counts pixels by (ground truth, prediction), without those of unknown ground truth: (256, 256), int64."""
    joint = truth.astype(np.uint16) << 8 | predicted
    counts = np.bincount(joint.ravel(), minlength=1 << 16).reshape(256, 256)
    counts[UNKNOWN] = 0
    return counts


def with_unknown_as_background(counts: np.ndarray) -> np.ndarray:
    """Gives the counts (256, 256) as if 0 had been predicted in place of 255."""
    moved = counts.copy()
    moved[:, 0] += moved[:, UNKNOWN]
    moved[:, UNKNOWN] = 0
    return moved


def mean_iou(counts: np.ndarray) -> float | None:
    """Mean IoU, in [0, 1], over the label values in the ground truth, from counts (256, 256); None if it has none."""
    hits, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    present = true > 0
    if not present.any():
        return None
    return float((hits[present] / (true + predicted - hits)[present]).mean())
