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
from getam.system.files import UNKNOWN

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
    """Pseudo label of one image.

    With each map divided by its maximum + epsilon and M_bg = (1 - max_c M_c)^gamma (Eq. 4), a pixel's label is (Eq. 5)

        S = 1:  argmax of M_bg and all M_c; unknown where the background wins;
        S = 0:  0, but c where M_c is strictly above the alpha-quantile v[int(alpha |v|)] of class c's sorted
                positive activations v; unknown where that holds for two classes or more.

    Args:
        maps: (K, H, W), >= 0, of the image's classes; numpy or torch.
        classes: K class indices counted from 0, ascending (label value = index + 1).
        saliency: (H, W), salient where > 0.
        alpha: quantile in [0, 1]; at 1 nothing is mined.
        gamma: exponent of the background score, Eq. 4.
        conflict: `lowest` gives pixels mined by several classes to the lowest index (authors' code).
        opening: size of a final morphological opening, pixels: 0 for none, odd, or `released` (authors' code); see
            `open_classes`.
        epsilon: 0, or the authors' 1e-5, which fades maps whose values are about as small.

    Returns:
        (H, W), uint8: 0 background, label values, 255 unknown. Same kind and device as `maps`.

    Raises:
        InputError: shapes disagree, the maps hold NaN, infinity or a negative value, the classes are not ascending
            from 0 to 253, alpha is no quantile, or the opening is even.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha: {alpha} is no quantile; give 0 to 1")
    if isinstance(opening, int) and opening and opening % 2 == 0:
        raise InputError(f"opening: {opening} is even and would shift labels; give 0 or an odd size")
    if isinstance(maps, np.ndarray):
        labels = _complete(_as_tensor(maps), classes, _as_tensor(saliency), alpha, gamma, conflict, epsilon)
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
    """Which rule of Eq. 5 decided each pixel of `complete_labels` with the same arguments.

    Returns:
        (H, W), uint8: values of getam.labels.decisions.Decision. `conflict` and `opening` tell where the opening
        changed a label.

    Raises:
        InputError: as complete_labels does.
    """

    def completed(conflict: Literal["unknown", "lowest"], opening: Opening) -> np.ndarray:
        return complete_labels(
            maps, classes, saliency, alpha=alpha, gamma=gamma, conflict=conflict, opening=opening, epsilon=epsilon
        )

    rules = rules_of(completed("unknown", 0), saliency > 0)
    if opening:
        rules[completed(conflict, opening) != completed(conflict, 0)] = Decision.OPENING
    return rules


def _as_tensor(array: np.ndarray) -> Tensor:
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
    # All that is asked of the maps at once: a GPU is waited for here and nowhere else.
    facts = torch.stack([sound.long(), (maps > 0).sum((1, 2))]).tolist()
    if not all(facts[0]):
        raise InputError(BROKEN)

    # The background is the first contestant: it wins where no class is above the score at which it ties with one.
    strongest = torch.full_like(saliency, background_tie(gamma, maps.dtype), dtype=maps.dtype)
    inside = torch.full_like(saliency, UNKNOWN, dtype=torch.uint8)
    outside = torch.zeros_like(inside)
    claimed = torch.zeros_like(saliency, dtype=torch.bool)
    for activation, value, positive in zip(maps, values, facts[1], strict=True):
        inside.masked_fill_(activation > strongest, value)
        strongest = torch.maximum(strongest, activation)
        rank = int(alpha * positive)
        if rank < positive:
            # v[rank] of the positive activations is this one of all, since zeros come first.
            mined = activation > _smallest(activation, activation.numel() - positive + rank)
            outside.masked_fill_(mined & ~claimed, value)
            if conflict == "unknown":
                outside.masked_fill_(mined & claimed, UNKNOWN)
            claimed |= mined
    return torch.where(saliency > 0, inside, outside)


def background_tie(gamma: float, dtype: torch.dtype) -> float:
    """The largest s of a type at which the background still wins: (1 - s)^gamma >= s.

    (1 - s)^gamma - s falls strictly, so that s says for every pixel what its power would.
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
    # As Python's number: beside one of numpy's, `low` would be rounded before it is compared.
    return float(nearest) if float(nearest) <= low else float(np.nextafter(nearest, np.float32(0)))


def _smallest(values: Tensor, rank: int) -> Tensor | float:
    """The value at a rank, counted from 0, of the sorted values."""
    if values.is_cpu:
        # torch's own selection takes a second where values descend.
        return float(np.partition(values.numpy(), rank, axis=None)[rank])
    return values.flatten().kthvalue(rank + 1).values


def open_classes(labels: Tensor, size: Opening) -> Tensor:
    """Removes the parts of each class that a size x size square doesn't fit into; they become background.

    `released` is the authors' opening, by a 10x10 square, of all classes and unknown together. Erosion and dilation
    both look from 5 pixels before to 4 behind: the opened parts shift by a pixel down and to the right, and what they
    leave becomes background.

    Args:
        labels: (H, W), uint8; unknown stays, except with `released`.
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
    """Opening of (H, W), bool, by a square that looks from size // 2 pixels before; beyond the image nothing counts."""
    before, after = size // 2, (size - 1) // 2

    def widened(x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x.float()[None], (before, after, before, after)), size, stride=1)[0] > 0

    return widened(~widened(~region))
