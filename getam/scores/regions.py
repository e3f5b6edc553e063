"""What a label image shows: the area of each class, and its connected regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

LEAST_REGION = 1e-3
"""Share of a photograph below which a connected region is left out of the regions' list."""


def regions(labels: np.ndarray, confidence: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The classes of a label image, the largest first.

    Args:
        labels: (H, W), uint8.
        confidence: (H, W), the probability of each pixel's label.

    Returns:
        Of each class its name, its label value, its number of pixels and their share of the image, its score (the
        pixels' mean probability), and its connected regions (8 neighbors), the largest first: the box [left, top,
        right, bottom] in pixels, right and bottom exclusive, and the number of pixels. Regions of less than
        LEAST_REGION of the image are left out.
    """
    found = []
    for value in np.unique(labels).tolist():
        if not value:
            continue
        mask = labels == value
        _, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        boxes = [
            {"box": [left, top, left + width, top + height], "pixels": pixels}
            for left, top, width, height, pixels in statistics[1:].tolist()
            if pixels >= LEAST_REGION * labels.size
        ]
        found.append(
            {
                "name": classes[value - 1],
                "value": value,
                "pixels": int(mask.sum()),
                "share": float(mask.mean()),
                "score": float(confidence[mask].mean()),
                "regions": sorted(boxes, key=lambda box: (-box["pixels"], box["box"])),
            }
        )
    return sorted(found, key=lambda each: (-each["pixels"], each["value"]))
