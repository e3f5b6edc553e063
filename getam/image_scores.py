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
    known = truth != UNKNOWN
    predicted, truth = np.where(predicted == UNKNOWN, 0, predicted)[known], truth[known]
    ious = []
    for value in np.unique(truth):
        in_prediction, in_truth = predicted == value, truth == value
        ious.append((in_prediction & in_truth).sum() / (in_prediction | in_truth).sum())
    return float(np.mean(ious)) if ious else None


def files_in_shards(folder: Path, suffix: str) -> dict[str, Path]:
    """The files of a folder's shards by their ids, whatever the number of shards."""
    found: dict[str, Path] = {}
    # Sorted: shards of an earlier, larger number come after those that hold the image now.
    for shard in sorted(folder.glob("[0-9][0-9][0-9]")):
        for path in sorted(shard.glob(f"*{suffix}")):
            found.setdefault(path.name.removesuffix(suffix), path)
    return found
