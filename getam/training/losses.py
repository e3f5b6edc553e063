"""Losses of the end-to-end network (L_seg with its dense energy, L_sal) and of the saliency network (F3Net's)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from getam.system.distributed import mean_over_processes
from getam.system.image_files import UNKNOWN

BACKGROUND = 0

# Side of one tile of the pairwise kernel, in pixels: small enough for the CPU's cache, and large enough to keep a GPU
# busy (about 200 MiB).
CPU_TILE = 384
GPU_TILE = 4096

# Exponents are clamped to at least this: e^-80 adds nothing to a sum, while float32's subnormal numbers (below e^-87)
# slow down the CPU's products two to four times.
LEAST_EXPONENT = -80.0

SMOOTHING = 0.001
"""Share of a mask's value that is spread evenly over the two classes before the cross entropy."""

BOUNDARY_WINDOW = 31
BOUNDARY_WEIGHT = 5.0
"""F3Net's pixel weight: 1 + 5 * |mean of the mask over 31x31 - mask|, largest along the object's outline."""


def balanced_cross_entropy(logits: Tensor, labels: Tensor, *, synchronize: bool = False) -> Tensor:
    """Cross entropy averaged over the foreground, plus cross entropy averaged over the background.

    The two means keep a large background from outweighing small objects. Deviation from the authors' program:
    a mean over no pixels is zero, where theirs is NaN.

    Args:
        logits: (B, 1 + C, H, W), floating; channel 0 is the background. Half precision is computed in
            float32.
        labels: (B, H, W), int64, 0..C; pixels of 255 (unknown) are left out.
        synchronize: divide by the mean of the processes' pixel counts, so that the average of their losses is the
            loss of the whole batch.

    Returns:
        Scalar, >= 0; without any known pixel it is zero with zero gradients.
    """
    losses = F.cross_entropy(_upcast(logits), labels, ignore_index=UNKNOWN, reduction="none")
    background = labels == BACKGROUND
    foreground = ~background & (labels != UNKNOWN)
    return mean_where(losses, foreground, synchronize=synchronize) + mean_where(
        losses, background, synchronize=synchronize
    )


def saliency_loss(
    logits: Tensor,
    saliency: Tensor,
    region: Tensor | None = None,
    *,
    weight: float = 0.1,
    synchronize: bool = False,
) -> Tensor:
    """L_sal of section 4.3: weight * BCE(p_background, 1 - S), averaged over the pixels of `region`.

    This is the paper's form. It deviates from the authors' program, which uses weight 1 and overwrites S while it
    completes labels, so that every salient pixel is trained towards the background.

    Args:
        logits: (B, 1 + C, H, W), floating; channel 0 is the background. Half precision is computed in
            float32.
        saliency: (B, H, W), values 0 or 1, any dtype.
        region: (B, H, W), bool, False on a crop's padding; None for the whole crop.
        weight: factor of the loss, 0.1 in the paper.
        synchronize: see `balanced_cross_entropy`.

    Returns:
        Scalar, >= 0.
    """
    logits = _upcast(logits)
    # p_background = sigmoid(z_0 - logsumexp(z_1..z_C)): finite, with a gradient, where the softmax saturates.
    background = logits[:, 0] - logits[:, 1:].logsumexp(dim=1)
    losses = F.binary_cross_entropy_with_logits(background, 1 - saliency.to(logits.dtype), reduction="none")
    return weight * (losses.mean() if region is None else mean_where(losses, region, synchronize=synchronize))


def structure_loss(logits: Tensor, masks: Tensor, *, weighted: bool = True) -> Tensor:
    """F3Net's structure loss (Wei et al. 2020): cross entropy plus IoU loss, both weighted at outlines.

    With w = 1 + 5 |avgpool31(m) - m| and p = sigmoid(logits), the loss is the mean over the batch of
    sum(w bce) / sum(w) + 1 - (I + 1) / (T - I + 1), where I = sum(w p m), T = sum(w (p + m)).
    The cross entropy takes m smoothed to 0.999 m + 0.0005; the weights and the IoU take m as it is.

    Args:
        logits: (B, 1, H, W), floating. Half precision is computed in float32.
        masks: m, (B, 1, H, W) in [0, 1], any dtype.
        weighted: False is what the authors' program computes: it passes reduce="none", which torch takes for a plain
            mean, so that its cross entropy ignores w.

    Returns:
        Scalar, >= 0.
    """
    # Sums over an image overflow or lose digits in half precision.
    logits = _upcast(logits)
    masks = masks.to(logits.dtype)
    mean = F.avg_pool2d(masks, BOUNDARY_WINDOW, stride=1, padding=BOUNDARY_WINDOW // 2)
    weights = 1 + BOUNDARY_WEIGHT * (mean - masks).abs()

    smoothed = (1 - SMOOTHING) * masks + SMOOTHING / 2
    bce = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
    bce_loss = (weights * bce).sum(dim=(1, 2, 3)) / weights.sum(dim=(1, 2, 3)) if weighted else bce.mean()

    probabilities = torch.sigmoid(logits)
    intersection = (weights * probabilities * masks).sum(dim=(1, 2, 3))
    total = (weights * (probabilities + masks)).sum(dim=(1, 2, 3))
    iou_loss = 1 - (intersection + 1) / (total - intersection + 1)
    return (bce_loss + iou_loss).mean()


def dense_energy_loss(
    images: Tensor,
    probabilities: Tensor,
    labels: Tensor,
    region: Tensor | None = None,
    *,
    sigma_rgb: float = 15.0,
    sigma_xy: float = 100.0,
    scale: float = 0.5,
    weight: float = 1e-7,
) -> Tensor:
    """RRM's dense energy loss (Zhang et al. 2020): pixels alike in color and position should agree in class.

        E = -weight / B * sum_b sum_ij G_i k(i, j) <p_i, p_j>
        k(i, j) = exp(-|rgb_i - rgb_j|^2 / (2 sigma_rgb^2) - |xy_i - xy_j|^2 / (2 sigma_xy^2)), i = j included
        G_i = 1 where the label is unknown, else 1 - max_c p_i(c)

    so that unknown pixels, and known ones with uncertain predictions, are drawn to similar ones. The gradient is
    RRM's own, dE/dp_i = -2 weight / B * G_i sum_j k(i, j) p_j, with G constant: how far a pixel moves depends on its
    own gate only. (The true derivative of E, with G_i + G_j in place of 2 G_i, would also move a confident pixel
    towards an uncertain one.)

    Everything is first resized by `scale`: images and labels by nearest neighbor, probabilities bilinearly;
    sigma_xy is in pixels of the full size. The kernel is exact; the permutohedral lattice of the authors'
    program yields about half of this energy and of its gradients. Time grows with the square of the number of
    pixels; memory does not, since the kernel is computed tile by tile.

    Args:
        images: (B, 3, H, W), RGB, 0..255, any dtype.
        probabilities: (B, K, H, W), floating, softmax over background and classes; gets the gradient.
        labels: (B, H, W), int64; only 255 (unknown) matters.
        region: (B, H, W), values 0 or 1, any dtype: 0 marks padding, which takes no part. None: all 1.
        sigma_rgb: width of the Gaussian in color, in gray levels.
        sigma_xy: width of the Gaussian in position, in pixels.
        scale: factor on the height and width.
        weight: factor of the loss.

    Returns:
        Scalar, <= 0, in float32 or float64 even under autocast.
    """
    probabilities = _upcast(probabilities)
    dtype = probabilities.dtype
    if region is None:
        region = torch.ones_like(labels)
    small = F.interpolate(probabilities, scale_factor=scale, mode="bilinear", align_corners=False)
    # Nearest neighbor picks the same pixels from image, labels and region, so that they stay aligned.
    image, unknown, inside = (
        F.interpolate(x.to(dtype), scale_factor=scale, mode="nearest")
        for x in (images, (labels == UNKNOWN).unsqueeze(1), region.unsqueeze(1))
    )
    gate = torch.where(unknown > 0, 1.0, (inside - small.detach().amax(dim=1, keepdim=True)).clamp(min=0))
    features = _bilateral_features(image, sigma_rgb=sigma_rgb, sigma_xy=sigma_xy * scale)
    energy: Tensor = _GatedEnergy.apply(features, (small * inside).flatten(2), gate.flatten(2))
    return weight * energy / len(images)


class _GatedEnergy(torch.autograd.Function):
    """-sum_ij G_i k(i, j) <p_i, p_j>, with RRM's gradient -2 G_i sum_j k(i, j) p_j.

    Energy and gradient come from the same filtered probabilities, so the backward pass needs no second filtering.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, probabilities: Tensor, gate: Tensor) -> Tensor:
        # Autocast is off: a bfloat16 product would leave two digits of the kernel.
        with torch.autocast(features.device.type, enabled=False):
            filtered = gate * gaussian_filter(features, probabilities)
        ctx.save_for_backward(filtered)
        return -(filtered * probabilities).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[None, Tensor, None]:
        (filtered,) = ctx.saved_tensors
        return None, -2 * grad_output * filtered, None


def gaussian_filter(features: Tensor, values: Tensor) -> Tensor:
    """Weighted sums sum_j exp(-|f_i - f_j|^2 / 2) v_j over all pixels j, exact.

    The (N, N) kernel is computed one tile at a time.

    Args:
        features: (B, N, D), floating: position of each pixel in a space where the Gaussian's width is 1.
        values: (B, K, N), floating.

    Returns:
        (B, K, N), the dtype of `values`. No gradient passes to the features.
    """
    # -|a - b|^2 / 2 = a.b - |a|^2 / 2 - |b|^2 / 2 as one product of extended vectors, in float64: the terms cancel, by
    # which float32 loses digits, and a GPU's TF32 mode nearly all of them.
    centered = (features - features.mean(dim=1, keepdim=True)).detach().double()
    half_norm = centered.square().sum(dim=2, keepdim=True) / -2
    one = torch.ones_like(half_norm)
    left = torch.cat([centered, half_norm, one], dim=2)
    right = torch.cat([centered, one, half_norm], dim=2).transpose(1, 2).contiguous()
    tile = CPU_TILE if features.device.type == "cpu" else GPU_TILE
    starts = range(0, features.shape[1], tile)
    filtered = torch.zeros_like(values)
    for source, target, a, b in zip(values, filtered, left, right, strict=True):
        for i in starts:
            for j in starts[i // tile :]:
                rows, columns = slice(i, i + tile), slice(j, j + tile)
                kernel = (a[rows] @ b[:, columns]).to(values.dtype).clamp_(LEAST_EXPONENT, 0).exp_()
                target[:, columns] += source[:, rows] @ kernel
                # The kernel is symmetric: a tile off the diagonal also gives the tile opposite it.
                if i != j:
                    target[:, rows] += source[:, columns] @ kernel.T
    return filtered


def _bilateral_features(images: Tensor, *, sigma_rgb: float, sigma_xy: float) -> Tensor:
    """Color and position of each pixel in units of their widths: (B, 3, H, W) to (B, H * W, 5)."""
    batch, _, height, width = images.shape
    rows, columns = torch.meshgrid(
        torch.arange(height, device=images.device), torch.arange(width, device=images.device), indexing="ij"
    )
    positions = torch.stack([rows, columns]).to(images.dtype).expand(batch, 2, height, width)
    return torch.cat([images / sigma_rgb, positions / sigma_xy], dim=1).flatten(2).transpose(1, 2)


def mean_where(losses: Tensor, selected: Tensor, *, synchronize: bool = False) -> Tensor:
    """Mean of the selected entries; zero where nothing is selected.

    With `synchronize`, the sum of this process's entries is divided by the mean of the processes' counts, so that the
    average of the processes' results is the mean of the entries of all processes.
    """
    count = selected.sum().to(losses.dtype)
    if synchronize:
        count = mean_over_processes(count)
    return losses.where(selected, 0).sum() / count.where(count > 0, 1)


def _upcast(x: Tensor) -> Tensor:
    """Casts to float32, unless the values' own type is more precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
