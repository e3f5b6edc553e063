"""What label makers have in common: checks of class maps, their normalization and the background's score.

Numpy alone: the processes of a pool start seconds faster without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from getam.errors import InputError
from getam.system.files import UNKNOWN

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")

BROKEN = "maps hold NaN, infinite or negative values; dump and refine them again"


def label_values(
    shape: Sequence[int], classes: Sequence[int], size: Sequence[int], *, beside: str = "saliency"
) -> list[int]:
    """The label value of each map, from its class.

    Args:
        shape: of the maps, (K, H, W).
        classes: K class indices counted from 0, ascending.
        size: (H, W) of what the maps are used with.
        beside: what that is.

    Raises:
        InputError: the shapes disagree, or the classes are not ascending from 0 to 253.
    """
    if len(shape) != 3 or shape[0] != len(classes) or tuple(shape[1:]) != tuple(size):
        raise InputError(
            f"maps {tuple(shape)}, {len(classes)} classes and {beside} {tuple(size)} disagree; "
            "give (K, H, W), K classes and (H, W)"
        )
    values = [int(index) + 1 for index in classes]
    if any(later <= earlier for earlier, later in zip([0, *values], [*values, UNKNOWN], strict=True)):
        raise InputError(f"classes {list(classes)}: give each class once, ascending, from 0 to {UNKNOWN - 2}")
    return values


def salient(saliency: Array, threshold: float) -> Array:
    """Where a saliency map (H, W), uint8 in 0..255, is strictly above a threshold in [0, 1): (H, W), bool."""
    return saliency > 255 * threshold


def over_maximum(maps: Array, highest: Array, *, epsilon: float = 0.0) -> Array:
    """Maps divided by their maxima + epsilon; a map without a positive value stays as it is.

    Args:
        maps: (..., H, W), or any shape with which that of `highest` broadcasts.
        highest: the maximum of each map.
    """
    divisor = highest + epsilon
    divisor[highest <= 0] = 1
    return maps / divisor


def divide_by_maximum(maps: np.ndarray) -> np.ndarray:
    """(K, H, W), >= 0 -> each map divided by its maximum, float32; a map of zeros stays.

    Raises:
        InputError: a value is NaN, infinite or negative.
    """
    maps = np.asarray(maps, np.float32)
    if not (np.isfinite(maps) & (maps >= 0)).all():
        raise InputError(BROKEN)
    return over_maximum(maps, maps.max((1, 2), keepdims=True))


def with_background(maps: np.ndarray, gamma: float) -> np.ndarray:
    """[(1 - max_c M_c)^gamma, M_1 .. M_K] (Eq. 4): (K, H, W) in [0, 1] -> (1 + K, H, W)."""
    return np.concatenate([(1 - maps.max(0, keepdims=True, initial=0)) ** gamma, maps])


def probabilities(maps: np.ndarray, gamma: float) -> np.ndarray:
    """The scores of `with_background`, summing to 1 over background and classes."""
    scores = with_background(maps, gamma)
    return scores / scores.sum(0)
