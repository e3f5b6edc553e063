"""RRM's dense energy by its definition: every pair of pixels, in double precision."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def literal_energy(
    images: Tensor,
    probabilities: Tensor,
    labels: Tensor,
    region: Tensor,
    *,
    sigma_rgb: float,
    sigma_xy: float,
    scale: float,
    weight: float,
) -> tuple[float, Tensor]:
    """The energy of getam.training.losses.dense_energy_loss and its gradient at the probabilities.

    Args: as there; region (B, H, W) in {0, 1}.

    Returns:
        the energy; (B, K, H, W), float64.
    """
    full = probabilities.detach().double().requires_grad_()
    small = F.interpolate(full, scale_factor=scale, mode="bilinear", align_corners=False)
    sampled = [
        F.interpolate(x.double(), scale_factor=scale, mode="nearest").numpy()
        for x in (images, (labels == 255)[:, None], region[:, None])
    ]
    energy, slopes = 0.0, []
    for p, image, unknown, inside in zip(small.detach().numpy(), *sampled, strict=True):
        classes, height, width = p.shape
        rows, columns = np.divmod(np.arange(height * width), width)
        colors, p = image.reshape(3, -1).T, p.reshape(classes, -1).T
        unknown, inside = unknown.ravel(), inside.ravel()
        pulled = p * inside[:, None]
        filtered = np.empty_like(p)
        for i in range(len(p)):
            distance = ((colors - colors[i]) ** 2).sum(1) / sigma_rgb**2
            distance += ((rows - rows[i]) ** 2 + (columns - columns[i]) ** 2) / (sigma_xy * scale) ** 2
            filtered[i] = np.exp(-distance / 2) @ pulled
        gate = np.where(unknown == 1, 1.0, np.maximum(0, inside - p.max(1)))
        filtered *= gate[:, None]
        energy -= weight / len(images) * float((filtered * pulled).sum())
        slope = -2 * weight / len(images) * filtered * inside[:, None]
        slopes.append(slope.T.reshape(classes, height, width))
    small.backward(torch.from_numpy(np.stack(slopes)))
    assert full.grad is not None
    return energy, full.grad
