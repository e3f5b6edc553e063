"""The size at which large photographs are computed: below their own, to which the results are enlarged again.

The module imports numpy and OpenCV, but not torch, so that the processes of a pool start seconds faster.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import cv2
import numpy as np

from getam.datasets.index import IndexRow

logger = logging.getLogger(__name__)


def working_size(row: IndexRow, long_side: int) -> tuple[int, int]:
    """(H, W) at which an image is computed: its own, or less if its longer side is above `long_side` (0: never)."""
    longer = max(row.height, row.width)
    if not 0 < long_side < longer:
        return row.height, row.width
    height, width = (max(1, round(side * long_side / longer)) for side in (row.height, row.width))
    return height, width


def is_scaled_down(row: IndexRow, long_side: int) -> bool:
    """Whether an image is computed below its own size."""
    return working_size(row, long_side) != (row.height, row.width)


def say_scaled_down(rows: Sequence[IndexRow], long_side: int, *, what: str) -> None:
    """Says in the log of the stage `what` how many images are computed below their size."""
    if large := sum(is_scaled_down(row, long_side) for row in rows):
        logger.info(
            "%s: %d of %d images are computed at a longer side of %d pixels (long_side), which saves memory and time; "
            "their results have their own size",
            what,
            large,
            len(rows),
            long_side,
        )


def shrunk(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a photograph (H, W, 3), uint8, or a map (H, W), uint8 or float32, to a smaller `size` (h, w) by averages.

    The same array if that is its own size.
    """
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes values (h, w), float32, bilinearly to `size` (H, W); the same array if that is its own."""
    if values.shape == size:
        return values
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)


def shrunk_maps(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes maps (K, H, W) to a smaller `size` (h, w), float32; the same array if that is their own."""
    if maps.shape[1:] == size:
        return maps
    smaller = np.empty((len(maps), *size), np.float32)
    for values, each in zip(maps, smaller, strict=True):
        each[:] = shrunk(values.astype(np.float32), size)
    return smaller


def nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes values (h, w), uint8, to `size` (H, W), each pixel by its nearest: averages of labels are other labels.

    The same array if that is its own size.
    """
    if values.shape == size:
        return values
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def most_probable(probabilities: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The number of the most probable class at each pixel of `size` (H, W), and its probability.

    The classes are enlarged one after the other: all of a large photograph's together take a gigabyte.

    Args:
        probabilities: (K, h, w), float32.

    Returns:
        (H, W), uint8; (H, W), float32.
    """
    if probabilities.shape[1:] == size:
        return probabilities.argmax(0).astype(np.uint8), probabilities.max(0)
    winner, highest = np.zeros(size, np.uint8), enlarged(probabilities[0], size)
    for number, values in enumerate(probabilities[1:], start=1):
        larger = enlarged(values, size)
        above = larger > highest
        winner[above], highest[above] = number, larger[above]
    return winner, highest
