"""PAMR as it is usually written: dilated convolutions that gather all neighbors, stacked, then one weighted sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def stacked_pamr(image: Tensor, masks: Tensor, *, iterations: int, dilations: Sequence[int]) -> Tensor:
    """Masks (B, K, H, W) spread along the colors of images (B, 3, H, W), 0..255, of the same size."""
    neighbors = _gather(image, dilations, center=False)
    # Unbiased over each pixel's neighbors and itself, itself once a dilation.
    spread = _gather(image, dilations, center=True).std(2, keepdim=True)
    distance = (neighbors - image[:, :, None]).abs() / (1e-8 + 0.1 * spread)
    affinity = (-distance).mean(1, keepdim=True).softmax(2)
    for _ in range(iterations):
        masks = (_gather(masks, dilations, center=False) * affinity).sum(2)
    return masks


def _gather(x: Tensor, dilations: Sequence[int], *, center: bool) -> Tensor:
    """The 8 neighbors at each dilation, with `center` the pixel too: (B, K, H, W) -> (B, K, 8 D or 9 D, H, W)."""
    batch, channels, height, width = x.shape
    kernels = torch.eye(9, dtype=x.dtype, device=x.device).view(9, 1, 3, 3)
    if not center:
        kernels = kernels[[0, 1, 2, 3, 5, 6, 7, 8]]
    x = x.reshape(batch * channels, 1, height, width)
    gathered = [
        F.conv2d(F.pad(x, (dilation,) * 4, mode="replicate"), kernels, dilation=dilation) for dilation in dilations
    ]
    return torch.cat(gathered, 1).view(batch, channels, -1, height, width)
