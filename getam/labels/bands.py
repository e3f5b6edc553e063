"""Pseudo labels by two fixed scores of the background, without saliency; what lies between them is unknown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from getam.errors import InputError
from getam.labels.class_maps import BROKEN, Array, label_values, over_maximum
from getam.labels.completion import are_sound, as_tensor
from getam.system.image_files import UNKNOWN


def band_labels(maps: Array, classes: Sequence[int], *, high: float, low: float, check: bool = True) -> Array:
    """Pseudo label of one image by two background scores (ToCo, Ru et al. 2023, `refine_cams_with_bkg_v2`).

    Each map M_c is divided by its maximum. With y_beta = argmax [beta, M_1 .. M_K], the background first, a pixel's
    label is

        y_high  where it is a class (max M > high),
        0       where y_low is the background (max M <= low),
        unknown between.

    ToCo refines the stack [beta, M] by PAR. An affinity whose rows sum to 1 keeps the constant beta, so that maps that
    PAMR has refined before give the same argmax.

    Args:
        maps: (K, H, W), >= 0, of the image's classes; a numpy array or a tensor.
        classes: K class indices counted from 0, ascending (label value = index + 1).
        high: background score above which a class is sure, in [0, 1].
        low: background score up to which no class is likely, in [0, high].
        check: see complete_labels.

    Returns:
        (H, W), uint8: 0 background, label values, 255 unknown; an array, or a tensor on the device of `maps`. Without
        classes it is background everywhere.

    Raises:
        InputError: the maps hold NaN, infinity or a negative value, the classes are not ascending from 0 to 253, or low
            is above high.
    """
    if low > high:
        raise InputError(f"bands: low {low} is above high {high}; give a lower one")
    if isinstance(maps, np.ndarray):
        return _labelled(as_tensor(maps), classes, high, low, check).numpy()
    return _labelled(maps, classes, high, low, check)


@torch.no_grad()
def _labelled(maps: Tensor, classes: Sequence[int], high: float, low: float, check: bool) -> Tensor:
    values = label_values(maps.shape, classes, maps.shape[1:], partner="maps")
    if not values:
        return maps.new_zeros(maps.shape[1:], dtype=torch.uint8)
    maps = maps.to(torch.float64 if maps.dtype == torch.float64 else torch.float32)
    if check and not are_sound(maps):
        raise InputError(BROKEN)
    # Of two classes alike the first wins, as in argmax over the stack.
    strongest, winner = over_maximum(maps, maps.amax((1, 2), keepdim=True)).max(0)
    labels = torch.tensor(values, dtype=torch.uint8).to(maps.device, non_blocking=True)[winner]
    labels = labels.masked_fill(strongest <= high, UNKNOWN)
    return labels.masked_fill(strongest <= low, 0)
