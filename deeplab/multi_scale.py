"""What every segmenter shares: several input scales fused by maximum, frozen batch norm, the loss over all scales."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from getam.system.files import UNKNOWN
from getam.training.losses import mean_where


class MultiScaleNetwork(nn.Module):
    """A segmentation network, its encoder pretrained, on several scales of its input.

    `architecture` is its name in the settings.

    Args:
        encoder: the part whose batch norm may be frozen.
        scales: further scales of the input beside 1; () for none.
        frozen_batch_norm: keep the encoder's batch norm as it is, statistics and affine parameters: right with
            pretrained weights only.
    """

    architecture: str

    def __init__(self, encoder: nn.Module, *, scales: Sequence[float], frozen_batch_norm: bool) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.scales = tuple(scales)
        self.frozen_batch_norm = frozen_batch_norm
        if frozen_batch_norm:
            for norm in self._batch_norms():
                norm.requires_grad_(False)

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), ImageNet-normalized -> (B, num_classes, h, w), of one scale."""

    @abstractmethod
    def parameter_groups(self, *, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups: dicts of `name`, `params`, `lr`, `weight_decay`, each trainable parameter in one."""

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Logits at the network's own resolution, from images (B, 3, H, W), float, normalized, of any size.

        In eval mode: (B, num_classes, h, w), the element-wise maximum over the scales, smaller ones upsampled. In
        training mode: the list of all outputs that the loss sums over: the logits at scale 1, at each of `scales` in
        their own smaller size, and the maximum; without `scales` the list of one.
        """
        logits = self.logits(images)
        pyramid = [
            self.logits(F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False))
            for scale in self.scales
        ]
        fused = functools.reduce(torch.maximum, (_resize(scaled, size=logits.shape[-2:]) for scaled in pyramid), logits)
        if not self.training:
            return fused
        return [logits, *pyramid, fused] if pyramid else [logits]

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; frozen batch norm stays in eval mode, so that its running statistics never move."""
        super().train(mode)
        if self.frozen_batch_norm:
            for norm in self._batch_norms():
                norm.eval()
        return self

    def _batch_norms(self) -> list[_BatchNorm]:
        return [module for module in self.encoder.modules() if isinstance(module, _BatchNorm)]


def optimizer_groups(
    groups: Sequence[tuple[str, Sequence[Any], float, float]], *, learning_rate: float
) -> list[dict[str, Any]]:
    """(name, parameters, factor of the learning rate, weight decay) -> groups of what is trained, none empty."""
    return [
        {"name": name, "params": trainable, "lr": factor * learning_rate, "weight_decay": decay}
        for name, parameters, factor, decay in groups
        if (trainable := [parameter for parameter in parameters if parameter.requires_grad])
    ]


def multi_scale_loss(
    outputs: Sequence[Tensor], labels: Tensor, *, full_resolution: bool = False, synchronize: bool = False
) -> Tensor:
    """Sum over the outputs of the mean cross entropy over labeled pixels.

    outputs: logits, each (B, C, h_i, w_i), as `DeepLabV2` returns them in training mode. labels: (B, H, W),
    int64, 0..C-1 or 255 for pixels that count nowhere. Returns a scalar; an output whose labels are all 255
    adds 0.

    By default the labels are sampled down to each output's size (nearest, at pixel centers, like PIL's
    NEAREST), as the reference recipe does. `full_resolution` instead upsamples the logits (bilinear,
    align_corners=False) to the labels' size: for images so small that a stride of 8 would leave a handful
    of labels. `synchronize`: see getam.training.losses.mean_where.
    """
    losses = []
    for logits in outputs:
        if full_resolution:
            logits, targets = _resize(logits, size=labels.shape[-2:]), labels
        else:
            targets = _sample_nearest(labels, size=logits.shape[-2:])
        entropy = F.cross_entropy(logits, targets, ignore_index=UNKNOWN, reduction="none")
        losses.append(mean_where(entropy, targets != UNKNOWN, synchronize=synchronize))
    return torch.stack(losses).sum()


def _resize(logits: Tensor, *, size: Sequence[int]) -> Tensor:
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def _sample_nearest(labels: Tensor, *, size: Sequence[int]) -> Tensor:
    """(B, H, W) labels at the centers of `size` cells, (B, h, w)."""
    # Source row floor((i + 1/2) H / h), in integers: no rounding where a center falls on a pixel's edge.
    height, width = labels.shape[-2:]
    rows = (2 * torch.arange(size[0], device=labels.device) + 1) * height // (2 * size[0])
    columns = (2 * torch.arange(size[1], device=labels.device) + 1) * width // (2 * size[1])
    return labels[:, rows[:, None], columns]
