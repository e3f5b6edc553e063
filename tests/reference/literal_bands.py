"""Labels by two background scores, pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def literal_bands(maps: np.ndarray, classes: Sequence[int], high: float, low: float) -> np.ndarray:
    """Pseudo label (H, W) of maps (K, H, W), classes counted from 0."""

    def argmax(scores: list[float]) -> int:
        return max(range(len(scores)), key=lambda k: scores[k])

    maps = np.stack([m / m.max() if m.max() > 0 else np.zeros_like(m) for m in maps])
    labels = np.zeros(maps.shape[1:], np.uint8)
    for y, x in np.ndindex(*labels.shape):
        scores = [float(value) for value in maps[:, y, x]]
        sure, likely = (argmax([beta, *scores]) for beta in (high, low))
        labels[y, x] = classes[sure - 1] + 1 if sure else 255 if likely else 0
    return labels
