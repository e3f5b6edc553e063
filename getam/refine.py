"""PAMR: pixel-adaptive mask refinement (Araslanov & Roth 2020), by the color affinity of neighboring pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DILATIONS = (1, 2, 4, 8, 12, 24)
"""The paper's dilations, pixels."""

ITERATIONS = 10

_NEIGHBORS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def pamr(image: Tensor, masks: Tensor, *, iterations: int = ITERATIONS, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """Spreads masks among neighbors of similar color.

    Each iteration replaces a pixel's value by the affinity-weighted mean of its 8 neighbors at every dilation:

        affinity(i, j) = softmax_j( mean_rgb( -|x_i - x_j| / (0.1 std_i + 1e-8) ) ),

    std_i unbiased over the pixel and its neighbors, the pixel counted once a dilation; edges are replicated.

    Args:
        image: (B, 3, H, W), RGB in 0..255.
        masks: (B, K, h, w), any range; upsampled to (H, W) bilinearly with aligned corners.

    Returns:
        (B, K, H, W), within the masks' range. The inputs are unchanged.
    """
    size = image.shape[2:]
    if masks.shape[1] == 0:
        # An image without classes; interpolation refuses empty tensors.
        return masks.new_zeros((*masks.shape[:2], *size))
    masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=True)
    if iterations == 0:
        return masks
    offsets = [(dy * d, dx * d) for d in dilations for dy, dx in _NEIGHBORS]
    reach = max(dilations)
    weights = _affinity(image.to(masks.dtype), offsets, reach=reach, copies=len(dilations))
    for _ in range(iterations):
        padded = _pad(masks, reach)
        masks = torch.zeros_like(masks)
        for index, offset in enumerate(offsets):
            # One multiply-add a neighbor on a shifted view: the (B, K, 48, H, W) stack is never built.
            masks.addcmul_(_shifted(padded, offset, reach, size), weights[:, index : index + 1])
    return masks


def _affinity(image: Tensor, offsets: Sequence[tuple[int, int]], *, reach: int, copies: int) -> Tensor:
    """Softmax over the neighbors of the negative color distance: (B, 3, H, W) -> (B, len(offsets), H, W)."""
    size = image.shape[2:]
    padded = _pad(image, reach)
    samples = len(offsets) + copies
    mean = image * copies
    for offset in offsets:
        mean += _shifted(padded, offset, reach, size)
    mean /= samples
    squares = copies * (image - mean).square()
    for offset in offsets:
        squares += (_shifted(padded, offset, reach, size) - mean).square()
    spread = 1e-8 + 0.1 * (squares / (samples - 1)).sqrt()
    logits = image.new_empty((image.shape[0], len(offsets), *size))
    for index, offset in enumerate(offsets):
        distance = (image - _shifted(padded, offset, reach, size)).abs_().div_(spread)
        torch.mean(distance, dim=1, out=logits[:, index])
    return logits.neg_().softmax(1)


def _pad(x: Tensor, reach: int) -> Tensor:
    return F.pad(x, (reach, reach, reach, reach), mode="replicate")


def _shifted(padded: Tensor, offset: tuple[int, int], reach: int, size: torch.Size) -> Tensor:
    top, left = reach + offset[0], reach + offset[1]
    return padded[:, :, top : top + size[0], left : left + size[1]]


def normalize(masks: Tensor) -> Tensor:
    """Divides each mask by its maximum; a mask without a positive value becomes 0: (..., H, W) in [0, 1]."""
    highest = masks.amax((-2, -1), keepdim=True)
    return torch.where(highest > 0, masks / highest, 0.0).clamp(0, 1)
