"""Tells which rule of label completion (Eq. 5) decided each pixel, for a layer of the audit page.

The module imports numpy but not torch, so that the processes that make the page start seconds faster.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from getam.system.image_files import UNKNOWN


class Decision(IntEnum):
    """The rule that decided a pixel's label; S is the pixel's saliency."""

    BACKGROUND = 0
    """S = 0 and no class is above its quantile: the label is 0."""
    SALIENT_CLASS = 1
    """S = 1 and a class is above the background: the label is the strongest class."""
    SALIENT_UNKNOWN = 2
    """S = 1 and the background is above all classes: the label is 255."""
    MINED = 3
    """S = 0 and one class is above its quantile: the label is this class."""
    CONFLICT = 4
    """S = 0 and several classes are above their quantiles: 255, or the first class with `conflict: lowest`."""
    OPENING = 5
    """The morphological opening changed the label that the other rules gave."""


def rules_of(labels: np.ndarray, salient: np.ndarray) -> np.ndarray:
    """The rule that decided each pixel, derived from labels completed with `conflict: unknown` and no opening.

    Args:
        labels: (H, W), uint8: 0 background, label values, 255 unknown.
        salient: (H, W), bool.

    Returns:
        (H, W), uint8: values of Decision.
    """
    by_kind = np.array(
        [
            [Decision.BACKGROUND, Decision.MINED, Decision.CONFLICT],
            # A salient pixel never has the label 0, so the first entry is never read.
            [Decision.SALIENT_UNKNOWN, Decision.SALIENT_CLASS, Decision.SALIENT_UNKNOWN],
        ],
        np.uint8,
    )
    kinds = np.ones(256, np.uint8)
    kinds[0], kinds[UNKNOWN] = 0, 2
    return by_kind[np.asarray(salient, np.uint8), kinds[labels]]
