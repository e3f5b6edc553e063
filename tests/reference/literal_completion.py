"""Eq. 4-5 pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def literal_complete(
    maps: np.ndarray, classes: Sequence[int], saliency: np.ndarray, *, alpha: float, gamma: float, conflict: str
) -> np.ndarray:
    """Pseudo label (H, W) of maps (K, H, W), classes counted from 0 and saliency (H, W)."""
    height, width = saliency.shape
    maps = np.stack([m / m.max() if m.max() > 0 else np.zeros_like(m) for m in maps])
    thresholds = []
    for activation in maps:
        positive = sorted(value for value in activation.ravel() if value > 0)
        rank = int(alpha * len(positive))
        thresholds.append(positive[rank] if rank < len(positive) else np.inf)

    labels = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            scores = [float(value) for value in maps[:, y, x]]
            if saliency[y, x] > 0:
                background = (1 - max(scores)) ** gamma
                best = max(range(len(classes)), key=lambda k: scores[k])
                labels[y, x] = 255 if background >= scores[best] else classes[best] + 1
            else:
                claims = [k for k in range(len(classes)) if scores[k] > thresholds[k]]
                if len(claims) == 1 or (claims and conflict == "lowest"):
                    labels[y, x] = classes[claims[0]] + 1
                elif claims:
                    labels[y, x] = 255
    return labels


def literal_released_opening(labels: np.ndarray) -> np.ndarray:
    """The authors' opening: erosion, then dilation, of what is not background, each from -5 to +4 pixels."""

    def window(mask: np.ndarray, y: int, x: int) -> np.ndarray:
        return mask[max(0, y - 5) : y + 5, max(0, x - 5) : x + 5]

    pixels = list(np.ndindex(*labels.shape))
    eroded = np.array([window(labels > 0, y, x).all() for y, x in pixels]).reshape(labels.shape)
    opened = np.array([window(eroded, y, x).any() for y, x in pixels]).reshape(labels.shape)
    return np.where(opened, labels, 0)
