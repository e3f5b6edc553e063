"""Activation-aware label completion (Eq. 4-5): pseudo labels from class maps and saliency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from getam.errors import InputError
from getam.files import UNKNOWN

Array = TypeVar("Array", np.ndarray, Tensor)


def complete_labels(
    maps: Array,
    classes: Sequence[int],
    saliency: Array,
    *,
    alpha: float,
    gamma: float,
    conflict: Literal["unknown", "lowest"] = "unknown",
    opening: int = 0,
) -> Array:
    """Pseudo label of one image.

    With each map divided by its maximum and M_bg = (1 - max_c M_c)^gamma (Eq. 4), a pixel's label is (Eq. 5)

        S = 1:  argmax of M_bg and all M_c; unknown where the background wins;
        S = 0:  0, but c where M_c is strictly above the alpha-quantile v[int(alpha |v|)] of class c's sorted
                positive activations v; unknown where that holds for two classes or more.

    Args:
        maps: (K, H, W), >= 0, of the image's classes; numpy or torch.
        classes: K class indices counted from 0, ascending (label value = index + 1).
        saliency: (H, W), salient where > 0.
        alpha: quantile in [0, 1]; at 1 nothing is mined.
        conflict: `lowest` gives pixels mined by several classes to the lowest index (authors' code).
        opening: odd size of a morphological opening of the classes, pixels; 0 for none.

    Returns:
        (H, W), uint8: 0 background, label values, 255 unknown. Same kind and device as `maps`.

    Raises:
        InputError: shapes disagree, or the maps hold NaN, infinity or a negative value.
    """
    if isinstance(maps, np.ndarray):
        labels = _complete(
            torch.from_numpy(np.require(maps, requirements=["C", "W"])),
            classes,
            torch.as_tensor(np.array(saliency)),
            alpha,
            gamma,
            conflict,
        ).numpy()
        return open_classes(labels, opening) if opening else labels
    labels = _complete(maps, classes, saliency, alpha, gamma, conflict)
    if opening:
        return torch.from_numpy(open_classes(labels.cpu().numpy(), opening)).to(labels.device)
    return labels


def _complete(
    maps: Tensor, classes: Sequence[int], saliency: Tensor, alpha: float, gamma: float, conflict: str
) -> Tensor:
    if maps.ndim != 3 or len(maps) != len(classes) or maps.shape[1:] != saliency.shape:
        raise InputError(
            f"maps {tuple(maps.shape)}, {len(classes)} classes and saliency {tuple(saliency.shape)} disagree; "
            "give (K, H, W), K classes and (H, W)"
        )
    salient = saliency > 0
    if not len(classes):
        # Nothing is known to be in the image: salient pixels could be anything.
        return torch.where(salient, UNKNOWN, 0).to(torch.uint8)
    maps = maps.to(torch.float64 if maps.dtype == torch.float64 else torch.float32)
    if not bool(((maps >= 0) & maps.isfinite()).all()):
        raise InputError("maps hold NaN, infinite or negative values; dump and refine them again")
    highest = maps.amax((1, 2), keepdim=True)
    maps = torch.where(highest > 0, maps / highest, 0.0)
    values = torch.tensor(list(classes), device=maps.device) + 1

    strongest, index = maps.max(0)
    background = (1 - strongest).pow(gamma)
    inside = torch.where(background >= strongest, UNKNOWN, values[index])

    mined = torch.stack([_above_quantile(activation, alpha) for activation in maps])
    first = values[mined.to(torch.uint8).argmax(0)]
    count = mined.sum(0)
    outside = torch.where(count > 0, first, 0)
    if conflict == "unknown":
        outside = torch.where(count > 1, UNKNOWN, outside)
    return torch.where(salient, inside, outside).to(torch.uint8)


def _above_quantile(activation: Tensor, alpha: float) -> Tensor:
    positive = activation[activation > 0]
    rank = int(alpha * len(positive))
    if rank >= len(positive):
        return torch.zeros_like(activation, dtype=torch.bool)
    # kthvalue counts from 1: this is v[rank] of the sorted positive activations.
    return activation > positive.kthvalue(rank + 1).values


def open_classes(labels: np.ndarray, size: int) -> np.ndarray:
    """Removes the parts of each class that a size x size square doesn't fit into; they become background.

    Args:
        labels: (H, W), uint8; unknown stays.
        size: odd, pixels.
    """
    opened = labels.copy()
    kernel = np.ones((size, size), np.uint8)
    for value in np.unique(labels):
        if value not in (0, UNKNOWN):
            region = (labels == value).astype(np.uint8)
            opened[(region == 1) & (cv2.morphologyEx(region, cv2.MORPH_OPEN, kernel) == 0)] = 0
    return opened
