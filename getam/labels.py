"""Pseudo labels of an image by any of the methods: the paper's completion, or the label makers it is compared with.

It imports torch for the completion alone: the processes of crf and rrm import this module, and start seconds faster
without.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from getam.crf import crf_labels
from getam.rrm import rrm_labels
from getam.settings import LabelSettings

WITHOUT_SALIENCY = frozenset({"crf", "rrm"})
"""Methods that read the photograph; the others read the saliency map."""


def make_labels(beside: np.ndarray, maps: np.ndarray, classes: Sequence[int], settings: LabelSettings) -> np.ndarray:
    """Pseudo label of one image by `settings.method`.

    Args:
        beside: for the methods WITHOUT_SALIENCY the photograph (H, W, 3), uint8 RGB; for the others the saliency map
            (H, W), uint8 in 0..255.
        maps: (K, H, W), >= 0, of the image's classes.
        classes: K class indices counted from 0, ascending (label value = index + 1).

    Returns:
        (H, W), uint8: 0 background, label values, 255 unknown.

    Raises:
        InputError: see complete_labels, crf_labels and rrm_labels.
    """
    if settings.method == "crf":
        return crf_labels(beside, maps, classes, settings.crf, gamma=settings.gamma)
    if settings.method == "rrm":
        return rrm_labels(beside, maps, classes, settings.rrm, settings.crf)
    from getam.completion import complete_labels

    return complete_labels(
        maps,
        classes,
        beside > 255 * settings.saliency_threshold,
        alpha=settings.alpha,
        gamma=settings.gamma,
        conflict=settings.conflict,
        opening=settings.opening,
    )
