"""Activation-aware label completion (Eq. 4-5): pseudo labels from class maps and saliency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from getam.errors import InputError
from getam.labels.class_maps import BROKEN, Array, label_values, over_maximum
from getam.labels.decisions import Decision, rules_of
from getam.system.image_files import UNKNOWN

Opening = int | Literal["released"]


def complete_labels(
    maps: Array,
    classes: Sequence[int],
    saliency: Array,
    *,
    alpha: float,
    gamma: float,
    conflict: Literal["unknown", "lowest"] = "unknown",
    opening: Opening = 0,
    epsilon: float = 0.0,
) -> Array:
    """Pseudo label of one image by activation-aware label completion.

    Each map is divided by its maximum + epsilon, and M_bg = (1 - max_c M_c)^gamma (Eq. 4). A pixel's label is (Eq. 5)

        S = 1:  the argmax of M_bg and all M_c; unknown if the background wins;
        S = 0:  c if M_c is strictly above the alpha-quantile v[int(alpha |v|)] of class c's sorted positive
                activations v; unknown if this holds for several classes; 0 if it holds for none.

    Args:
        maps: (K, H, W), >= 0, of the image's classes; a numpy array or a tensor.
        classes: K class indices counted from 0, ascending (label value = index + 1).
        saliency: (H, W), any type; a pixel is salient where the value is > 0. An array or a tensor, like `maps`.
        alpha: quantile in [0, 1]; at 1 no pixel is mined.
        gamma: exponent of the background score, Eq. 4.
        conflict: label of a pixel mined by several classes: `unknown` (Eq. 5), or `lowest` for the class of the lowest
            index (authors' code).
        opening: size of a final morphological opening, pixels: 0 for none, odd, or `released` (authors' code); see
            `open_classes`.
        epsilon: 0, or 1e-5 as in the authors' code, which attenuates maps whose maximum is not much larger.

    Returns:
        (H, W), uint8: 0 background, label values, 255 unknown; an array, or a tensor on the device of `maps`.

    Raises:
        InputError: shapes disagree, the maps hold NaN, infinity or a negative value, the classes are not ascending
            from 0 to 253, alpha is outside [0, 1], or the opening is even.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha: {alpha} is no quantile; give 0 to 1")
    if isinstance(opening, int) and opening and opening % 2 == 0:
        raise InputError(f"opening: {opening} is even and would shift labels; give 0 or an odd size")
    if isinstance(maps, np.ndarray):
        labels = _complete(as_tensor(maps), classes, as_tensor(saliency), alpha, gamma, conflict, epsilon)
        return open_classes(labels, opening).numpy() if opening else labels.numpy()
    labels = _complete(maps, classes, saliency, alpha, gamma, conflict, epsilon)
    return open_classes(labels, opening) if opening else labels


def decisions(
    maps: np.ndarray,
    classes: Sequence[int],
    saliency: np.ndarray,
    *,
    alpha: float,
    gamma: float,
    epsilon: float = 0.0,
    conflict: Literal["unknown", "lowest"] = "unknown",
    opening: Opening = 0,
) -> np.ndarray:
    """The rule of Eq. 5 that decided each pixel's label in `complete_labels` with the same arguments.

    Returns:
        (H, W), uint8: values of getam.labels.decisions.Decision. `conflict` and `opening` matter only for the pixels
        whose label the opening changed.

    Raises:
        InputError: see complete_labels.
    """

    def completed(conflict: Literal["unknown", "lowest"], opening: Opening) -> np.ndarray:
        return complete_labels(
            maps, classes, saliency, alpha=alpha, gamma=gamma, conflict=conflict, opening=opening, epsilon=epsilon
        )

    rules = rules_of(completed("unknown", 0), saliency > 0)
    if opening:
        rules[completed(conflict, opening) != completed(conflict, 0)] = Decision.OPENING
    return rules


def as_tensor(array: np.ndarray) -> Tensor:
    """The array as a tensor that shares its memory, or a copy's if torch cannot take it as it lies."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


@torch.no_grad()
def _complete(
    maps: Tensor,
    classes: Sequence[int],
    saliency: Tensor,
    alpha: float,
    gamma: float,
    conflict: str,
    epsilon: float,
) -> Tensor:
    values = label_values(maps.shape, classes, saliency.shape)
    maps = maps.to(torch.float64 if maps.dtype == torch.float64 else torch.float32)
    lowest, highest = maps.amin((1, 2)), maps.amax((1, 2))
    maps = over_maximum(maps, highest[:, None, None], epsilon=epsilon)
    sound = (lowest >= 0) & (highest < math.inf)
    # Both results are fetched in one transfer, so that the GPU is synchronized only here.
    are_sound, positive_counts = torch.stack([sound.long(), (maps > 0).sum((1, 2))]).tolist()
    if not all(are_sound):
        raise InputError(BROKEN)

    # The background wins unless a class is above the score at which the two tie, so the maximum starts at this score.
    strongest = torch.full_like(saliency, background_tie(gamma, maps.dtype), dtype=maps.dtype)
    inside = torch.full_like(saliency, UNKNOWN, dtype=torch.uint8)
    outside = torch.zeros_like(inside)
    claimed = torch.zeros_like(saliency, dtype=torch.bool)
    for activation, value, positive in zip(maps, values, positive_counts, strict=True):
        inside.masked_fill_(activation > strongest, value)
        strongest = torch.maximum(strongest, activation)
        rank = int(alpha * positive)
        if rank < positive:
            # The zeros come first in the sorted map, so v[rank] of its positive activations has this rank in the map.
            mined = activation > _smallest(activation, activation.numel() - positive + rank)
            outside.masked_fill_(mined & ~claimed, value)
            if conflict == "unknown":
                outside.masked_fill_(mined & claimed, UNKNOWN)
            claimed |= mined
    return torch.where(saliency > 0, inside, outside)


def background_tie(gamma: float, dtype: torch.dtype) -> float:
    """The largest activation s of a dtype at which the background still wins: (1 - s)^gamma >= s.

    (1 - s)^gamma - s decreases strictly, so that comparing an activation with this s replaces a power for every pixel.
    """
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        if (1 - middle) ** gamma >= middle:
            low = middle
        else:
            high = middle
    if dtype == torch.float64:
        return low
    nearest = np.float32(low)
    # Both sides are Python floats, because numpy would round `low` to float32 before comparing it with `nearest`.
    return float(nearest) if float(nearest) <= low else float(np.nextafter(nearest, np.float32(0)))


def _smallest(values: Tensor, rank: int) -> Tensor | float:
    """The value at `rank`, counted from 0, in ascending order."""
    if values.is_cpu:
        # On a CPU, torch's kthvalue takes a second if the values are in descending order.
        return float(np.partition(values.numpy(), rank, axis=None)[rank])
    return values.flatten().kthvalue(rank + 1).values


def open_classes(labels: Tensor, size: Opening) -> Tensor:
    """Morphological opening of each class by a square of side `size`; the removed pixels become background.

    `released` is the opening in the authors' code, by a 10x10 square, of all classes and unknown together. Its erosion
    and its dilation both use the window from 5 pixels before to 4 pixels after a pixel: the opened regions are shifted
    by a pixel down and to the right, and all other pixels become background.

    Args:
        labels: (H, W), uint8 label values; unknown pixels stay, except with `released`.
        size: odd, pixels; or `released`.

    Returns:
        (H, W), uint8, on the labels' device.
    """
    if size == "released":
        return torch.where(_opened(labels > 0, 10), labels, 0)
    opened = labels.clone()
    for value in labels.unique().tolist():
        if value not in (0, UNKNOWN):
            region = labels == value
            opened[region & ~_opened(region, size)] = 0
    return opened


def _opened(region: Tensor, size: int) -> Tensor:
    """Opening of a region (H, W), bool, by a square window from size // 2 pixels before to (size - 1) // 2 after.

    Pixels outside the image affect neither the erosion nor the dilation.
    """
    before, after = size // 2, (size - 1) // 2

    def widened(x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x.float()[None], (before, after, before, after)), size, stride=1)[0] > 0

    return widened(~widened(~region))
