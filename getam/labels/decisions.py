"""Which part of label completion (Eq. 5) decided a pixel, as a layer of the audit page.

Numpy alone: the processes that make the page start seconds faster without torch.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from getam.system.files import UNKNOWN


class Decision(IntEnum):
    """What decided a pixel; S is its saliency."""

    BACKGROUND = 0
    """S = 0, and no class above its quantile: 0."""
    SALIENT_CLASS = 1
    """S = 1, and a class above the background: the strongest."""
    SALIENT_UNKNOWN = 2
    """S = 1, and the background above all classes: 255."""
    MINED = 3
    """S = 0, and one class above its quantile: that class."""
    CONFLICT = 4
    """S = 0, and two classes or more above theirs: 255, or the first class (`conflict: lowest`)."""
    OPENING = 5
    """The opening changed what the rules had decided."""


def rules_of(labels: np.ndarray, salient: np.ndarray) -> np.ndarray:
    """The rule of every pixel, from labels that were completed with `conflict: unknown` and no opening.

    Args:
        labels: (H, W), uint8: 0 background, label values, 255 unknown.
        salient: (H, W), bool.

    Returns:
        (H, W), uint8: values of Decision.
    """
    by_kind = np.array(
        [
            [Decision.BACKGROUND, Decision.MINED, Decision.CONFLICT],
            # Label 0 is none that a salient pixel gets.
            [Decision.SALIENT_UNKNOWN, Decision.SALIENT_CLASS, Decision.SALIENT_UNKNOWN],
        ],
        np.uint8,
    )
    kinds = np.ones(256, np.uint8)
    kinds[0], kinds[UNKNOWN] = 0, 2
    return by_kind[np.asarray(salient, np.uint8), kinds[labels]]
