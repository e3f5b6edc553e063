"""PAMR pixel by pixel, on Python floats."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

import numpy as np


def literal_pamr(image: np.ndarray, masks: np.ndarray, *, iterations: int, dilations: Sequence[int]) -> np.ndarray:
    """Masks (K, H, W) spread along the colors of an image (3, H, W), both at the same size: (K, H, W)."""
    height, width = image.shape[1:]
    result = masks.astype(float)
    for _ in range(iterations):
        before = result.copy()
        for y in range(height):
            for x in range(width):
                neighbors = list(_neighbors(y, x, height, width, dilations))
                weights = _affinity(image, y, x, neighbors, copies=len(dilations))
                for k in range(len(masks)):
                    result[k, y, x] = sum(
                        w * before[k, row, column] for w, (row, column) in zip(weights, neighbors, strict=True)
                    )
    return result


def _neighbors(y: int, x: int, height: int, width: int, dilations: Sequence[int]) -> Iterator[tuple[int, int]]:
    for dilation in dilations:
        for dy in (-dilation, 0, dilation):
            for dx in (-dilation, 0, dilation):
                if dy or dx:
                    # Beyond the edge the edge's pixel repeats.
                    yield min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)


def _affinity(image: np.ndarray, y: int, x: int, neighbors: list[tuple[int, int]], *, copies: int) -> list[float]:
    logits = [0.0] * len(neighbors)
    for channel in image.astype(float):
        own = float(channel[y, x])
        values = [float(channel[at]) for at in neighbors]
        deviation = statistics.stdev(values + [own] * copies)
        for j, value in enumerate(values):
            logits[j] -= abs(value - own) / (1e-8 + 0.1 * deviation) / len(image)
    exponentials = [math.exp(logit - max(logits)) for logit in logits]
    return [e / sum(exponentials) for e in exponentials]
