"""RRM's reliable labels pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def literal_reliable(
    maps: np.ndarray,
    foreground: np.ndarray,
    background: np.ndarray,
    values: Sequence[int],
    *,
    background_gamma: float,
    activation: float,
    quantile: float,
    confidence: float,
) -> np.ndarray:
    """Label (H, W) of maps (K, H, W), of both CRFs' probabilities (1 + K, H, W) and of the K label values."""
    height, width = maps.shape[1:]
    pixels = [(y, x) for y in range(height) for x in range(width)]
    background_score = {p: (1 - max((m[p] for m in maps), default=0)) ** background_gamma for p in pixels}

    def best(scores: list[float]) -> int:
        return scores.index(max(scores))

    winner = {p: best([background_score[p], *(m[p] for m in maps)]) for p in pixels}
    found = {p: best([scores[p] for scores in foreground]) for p in pixels}
    sure = set()
    for k in range(len(maps) + 1):
        own = [p for p in pixels if winner[p] == k]
        if k not in found.values():
            continue
        if k == 0:
            sure |= {p for p in own if background_score[p] > confidence}
            continue
        ranked = sorted(maps[k - 1][p] for p in own if maps[k - 1][p] > activation)
        rank = int(quantile * len(ranked))
        if rank < len(ranked):
            sure |= {p for p in own if maps[k - 1][p] > ranked[rank]}

    labels = np.zeros((height, width), np.uint8)
    for p in pixels:
        label = values[found[p] - 1] if found[p] > 0 else 255
        if best([scores[p] for scores in background]) == 0:
            label = 0
        certain = max([background[0][p], *(scores[p] for scores in foreground[1:])]) >= confidence
        labels[p] = label if p in sure and certain else 255
    return labels
