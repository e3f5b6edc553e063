"""Functions that all label methods share: checks and normalization of class maps, and the background score.

The module imports numpy but not torch, so that the processes of a pool start seconds faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from getam.errors import InputError
from getam.system.image_files import UNKNOWN

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")

BROKEN = "maps hold NaN, infinite or negative values; dump and refine them again"


def background_tie_of(gamma: float) -> float:
    """The largest activation s at which the background of Eq. 4 still wins, (1 - s)^gamma >= s, by bisection."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        if (1 - middle) ** gamma >= middle:
            low = middle
        else:
            high = middle
    return low


def label_values(
    shape: Sequence[int], classes: Sequence[int], size: Sequence[int], *, partner: str = "saliency"
) -> list[int]:
    """Checks that maps fit their classes and their image, and returns the label value of each map.

    Args:
        shape: shape of the maps, (K, H, W).
        classes: K class indices counted from 0, ascending.
        size: (H, W) of the array that the maps are combined with.
        partner: name of that array, for the message.

    Returns:
        K label values, class index + 1.

    Raises:
        InputError: the shapes disagree, or the classes are not ascending from 0 to 253.
    """
    if len(shape) != 3 or shape[0] != len(classes) or tuple(shape[1:]) != tuple(size):
        raise InputError(
            f"maps {tuple(shape)}, {len(classes)} classes and {partner} {tuple(size)} disagree; "
            "give (K, H, W), K classes and (H, W)"
        )
    values = [int(index) + 1 for index in classes]
    if any(later <= earlier for earlier, later in zip([0, *values], [*values, UNKNOWN], strict=True)):
        raise InputError(f"classes {list(classes)}: give each class once, ascending, from 0 to {UNKNOWN - 2}")
    return values


def salient(saliency: Array, threshold: float) -> Array:
    """The salient pixels (H, W), bool: those whose saliency (H, W), uint8 in 0..255, is above 255 * `threshold`.

    Args:
        threshold: in [0, 1).
    """
    return saliency > 255 * threshold


def over_maximum(maps: Array, highest: Array, *, epsilon: float = 0.0) -> Array:
    """Divides maps by their maxima + epsilon; a map without a positive value stays unchanged.

    Args:
        maps: (..., H, W), or any other shape.
        highest: the maximum of each map, of a shape that broadcasts to that of `maps`.
        epsilon: added to each maximum.
    """
    divisor = highest + epsilon
    divisor[highest <= 0] = 1
    return maps / divisor


def divide_by_maximum(maps: np.ndarray) -> np.ndarray:
    """Divides each map of (K, H, W), >= 0, by its maximum, in float32; a map of zeros stays zero.

    Raises:
        InputError: a value is NaN, infinite or negative.
    """
    maps = np.asarray(maps, np.float32)
    if not (np.isfinite(maps) & (maps >= 0)).all():
        raise InputError(BROKEN)
    return over_maximum(maps, maps.max((1, 2), keepdims=True))


def with_background(maps: np.ndarray, gamma: float) -> np.ndarray:
    """Prepends the background score of Eq. 4: maps (K, H, W) in [0, 1] -> [(1 - max_c M_c)^gamma, M_1 .. M_K]."""
    return np.concatenate([(1 - maps.max(0, keepdims=True, initial=0)) ** gamma, maps])


def probabilities(maps: np.ndarray, gamma: float) -> np.ndarray:
    """The scores (1 + K, H, W) of `with_background`, divided by their sum over background and classes."""
    scores = with_background(maps, gamma)
    return scores / scores.sum(0)
