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
from getam.labels.class_maps import BROKEN, Array, background_tie_of, label_values, over_maximum
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
    check: bool = True,
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
        check: whether broken maps are an error; otherwise their labels mean nothing, and no GPU is waited for.

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
        arrays = as_tensor(maps), classes, as_tensor(saliency)
        return _complete(*arrays, alpha, gamma, conflict, opening, epsilon, check).numpy()
    return _complete(maps, classes, saliency, alpha, gamma, conflict, opening, epsilon, check)


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
    opening: Opening,
    epsilon: float,
    check: bool,
) -> Tensor:
    values = label_values(maps.shape, classes, saliency.shape)
    maps = maps.to(torch.float64 if maps.dtype == torch.float64 else torch.float32)
    if check and not are_sound(maps):
        raise InputError(BROKEN)
    maps = over_maximum(maps, maps.amax((1, 2), keepdim=True), epsilon=epsilon)

    # The background wins unless a class is above the score at which the two tie, so the maximum starts at this score.
    strongest = torch.full_like(saliency, background_tie(gamma, maps.dtype), dtype=maps.dtype)
    inside = torch.full_like(saliency, UNKNOWN, dtype=torch.uint8)
    outside = torch.zeros_like(inside)
    claimed = torch.zeros_like(saliency, dtype=torch.bool)
    for activation, value in zip(maps, values, strict=True):
        inside.masked_fill_(activation > strongest, value)
        strongest = torch.maximum(strongest, activation)
        mined = activation > _quantile(activation, alpha)
        outside.masked_fill_(mined & ~claimed, value)
        if conflict == "unknown":
            outside.masked_fill_(mined & claimed, UNKNOWN)
        claimed |= mined
    labels = torch.where(saliency > 0, inside, outside)
    return open_classes(labels, opening, values) if opening else labels


def are_sound(maps: Tensor) -> Tensor:
    """Whether maps of any shape hold neither NaN, infinity nor a negative value; bool, on their device."""
    return ((maps >= 0) & (maps < math.inf)).all()


def background_tie(gamma: float, dtype: torch.dtype) -> float:
    """The largest activation s of a dtype at which the background still wins: (1 - s)^gamma >= s.

    (1 - s)^gamma - s decreases strictly, so that comparing an activation with this s replaces a power for every pixel.
    """
    low = background_tie_of(gamma)
    if dtype == torch.float64:
        return low
    nearest = np.float32(low)
    # Both sides are Python floats, because numpy would round `low` to float32 before comparing it with `nearest`.
    return float(nearest) if float(nearest) <= low else float(np.nextafter(nearest, np.float32(0)))


def _quantile(activation: Tensor, alpha: float) -> Tensor | float:
    """v[int(alpha |v|)] of the sorted positive activations v; infinity beyond the last."""
    positive = (activation > 0).sum()
    # The zeros come first in the sorted map, so that v[rank] has this place in the map.
    zeros = activation.numel() - positive
    if activation.is_cpu:
        rank = int(alpha * int(positive))
        # On a CPU, sorting takes several times as long.
        place = int(zeros) + rank
        return float(np.partition(activation.numpy(), place, axis=None)[place]) if rank < positive else math.inf
    # The place stays on the GPU: reading it would wait.
    ranks = (alpha * positive.double()).long()
    places = (zeros + ranks).clamp(max=activation.numel() - 1)
    return activation.flatten().sort().values.gather(0, places[None]).where(ranks < positive, math.inf)


def open_classes(labels: Tensor, size: Opening, values: Sequence[int] | None = None) -> Tensor:
    """Morphological opening of each class by a square of side `size`; the removed pixels become background.

    `released` is the opening in the authors' code, by a 10x10 square, of all classes and unknown together. Its erosion
    and its dilation both use the window from 5 pixels before to 4 pixels after a pixel: the opened regions are shifted
    by a pixel down and to the right, and all other pixels become background.

    Args:
        labels: (H, W), uint8 label values; unknown pixels stay, except with `released`.
        size: odd, pixels; or `released`.
        values: the label values of classes that there may be; None: those of the labels, which waits for a GPU.

    Returns:
        (H, W), uint8, on the labels' device.
    """
    if size == "released":
        return torch.where(_opened(labels > 0, 10), labels, 0)
    opened = labels.clone()
    for value in labels.unique().tolist() if values is None else values:
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
