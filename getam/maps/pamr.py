"""PAMR, pixel-adaptive mask refinement (Araslanov & Roth 2020), by the color affinity of neighboring pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from getam.labels.class_maps import over_maximum

DILATIONS = (1, 2, 4, 8, 12, 24)
"""The paper's dilations, pixels."""

ITERATIONS = 10

STRIP_PIXELS = 64 * 512
"""Number of pixels that a CPU processes at a time."""

NEIGHBORS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def pamr(image: Tensor, masks: Tensor, *, iterations: int = ITERATIONS, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """Refines masks by spreading their values to neighbors of similar color.

    Each iteration replaces a pixel's value by the affinity-weighted mean of its 8 neighbors at every dilation:

        affinity(i, j) = softmax_j( mean_rgb( -|x_i - x_j| / (0.1 std_i + 1e-8) ) ),

    where std_i is the unbiased deviation over the pixel, counted once for each dilation, and its neighbors. Edges are
    replicated.

    Args:
        image: (B, 3, H, W), RGB in 0..255.
        masks: (B, K, h, w), any range; upsampled to (H, W) bilinearly with aligned corners.
        iterations: number of iterations; 0 only upsamples.
        dilations: distances of the neighbors, pixels.

    Returns:
        (B, K, H, W), within the range of the masks and of their dtype; computed in float32 at least. The inputs are
        unchanged.
    """
    size = image.shape[2:]
    if masks.dtype in (torch.float16, torch.bfloat16):
        # In half precision, the squares of color differences would overflow or lose their digits.
        return pamr(image, masks.float(), iterations=iterations, dilations=dilations).to(masks.dtype)
    if masks.shape[1] == 0:
        # An image without classes has no masks, and F.interpolate refuses empty tensors.
        return masks.new_zeros((*masks.shape[:2], *size))
    masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=True)
    if iterations == 0:
        return masks
    offsets = [(dy * d, dx * d) for d in dilations for dy, dx in NEIGHBORS]
    reach = max(dilations)
    weights = _affinity(image.to(masks.dtype), offsets, reach=reach, copies=len(dilations))
    for _ in range(iterations):
        padded = _pad(masks, reach)
        masks = torch.zeros_like(masks)
        for index, offset in enumerate(offsets):
            # One multiply-add on a shifted view for each neighbor avoids building the (B, K, 48, H, W) stack.
            masks.addcmul_(_shifted(padded, offset, reach, slice(0, size[0])), weights[:, index : index + 1])
    return masks


def _affinity(image: Tensor, offsets: Sequence[tuple[int, int]], *, reach: int, copies: int) -> Tensor:
    """The affinity to each neighbor, see pamr: image (B, 3, H, W) -> (B, len(offsets), H, W), sums to 1 over offsets.

    Args:
        offsets: (y, x) of the neighbors, pixels.
        reach: largest absolute offset.
        copies: how often the pixel itself counts in its deviation.
    """
    batch, channels, height, width = image.shape
    padded = _pad(image, reach)
    samples = len(offsets) + copies
    affinity = image.new_empty((batch, len(offsets), height, width))
    for rows in _strips(image):
        center = image[:, :, rows]
        # The deviation is computed from the moments of the differences to the center. The center itself is a sample of
        # difference 0, `copies` times.
        difference, total, squares = torch.empty_like(center), torch.zeros_like(center), torch.zeros_like(center)
        for offset in offsets:
            torch.sub(_shifted(padded, offset, reach, rows), center, out=difference)
            total += difference
            squares.addcmul_(difference, difference)
        variance = squares.addcmul_(total, total, value=-1 / samples).clamp_(min=0).div_(samples - 1)
        scale = variance.sqrt_().mul_(0.1).add_(1e-8).mul_(-channels).reciprocal_()
        strip = image.new_empty((batch, len(offsets), *center.shape[2:]))
        for index, offset in enumerate(offsets):
            torch.sub(_shifted(padded, offset, reach, rows), center, out=difference)
            torch.sum(difference.abs_().mul_(scale), dim=1, out=strip[:, index])
        # The softmax does not need to subtract the maximum: since the deviation bounds the distances, the highest
        # logit of a pixel is above -10 sqrt(81 / 8) = -32, and the sum of exponentials is never 0.
        strip.exp_()
        torch.div(strip, strip.sum(1, keepdim=True), out=affinity[:, :, rows])
    return affinity


def _strips(x: Tensor) -> Iterator[slice]:
    """Slices of the rows of (B, C, H, W): strips that fit into a CPU's cache, or all rows on a GPU.

    Many small kernels would slow down a GPU.
    """
    height = x.shape[2]
    step = height if x.is_cuda else max(1, STRIP_PIXELS // (len(x) * x.shape[3]))
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def _pad(x: Tensor, reach: int) -> Tensor:
    return F.pad(x, (reach, reach, reach, reach), mode="replicate")


def _shifted(padded: Tensor, offset: tuple[int, int], reach: int, rows: slice) -> Tensor:
    """The view of a padded image that holds, for the pixels of some rows, the neighbors at an offset."""
    dy, left = offset[0] + reach, offset[1] + reach
    return padded[:, :, rows.start + dy : rows.stop + dy, left : left + padded.shape[3] - 2 * reach]


def normalize(masks: Tensor) -> Tensor:
    """Divides each mask (..., H, W) by its maximum and clamps to [0, 1]; without a positive value, 0. NaN stays NaN."""
    return over_maximum(masks, masks.amax((-2, -1), keepdim=True)).clamp(0, 1)
