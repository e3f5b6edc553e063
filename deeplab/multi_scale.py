"""The base class of all segmentation networks, with multi-scale inputs and frozen batch norm, and its loss."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from getam.networks.fine_tuning import FineTunedNetwork, backbone_layers
from getam.system.image_files import UNKNOWN
from getam.training.losses import mean_where

Group = tuple[str, Sequence[Any], float, float]
"""Name, parameters, factor of the learning rate, weight decay."""


class MultiScaleNetwork(FineTunedNetwork):
    """Base of segmentation networks that run on several scales of their input and fuse the logits by maximum.

    Args:
        encoder: the module whose batch norm, or whose lower layers, may be frozen.
        scales: scales of the input in addition to 1; () for none.
        frozen_batch_norm: whether the encoder's batch norm keeps its statistics and affine parameters, which is right
            only with pretrained weights.
    """

    architecture: str
    """Name of the architecture in the settings, a key of SEGMENTERS."""
    multiple: int = 1
    """Predictions round the sides of their inputs to a multiple of this; the network takes images of any size."""

    def __init__(self, encoder: nn.Module, *, scales: Sequence[float], frozen_batch_norm: bool) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.scales = tuple(scales)
        if frozen_batch_norm:
            for norm in self._batch_norms():
                norm.requires_grad_(False)

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), ImageNet-normalized, at one scale -> logits (B, num_classes, h, w)."""

    @abstractmethod
    def parameter_groups(
        self, *, learning_rate: float, weight_decay: float, backbone_rate: float = 0.1, layer_decay: float = 1.0
    ) -> list[dict[str, Any]]:
        """Optimizer groups: dicts of `name`, `params`, `lr` and `weight_decay`; each trainable parameter is in one.

        Args:
            learning_rate: of the encoder's last layer.
            backbone_rate: the encoder's learning rate over that of the new layers.
            layer_decay: see getam.networks.fine_tuning.backbone_layers.
        """

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Computes logits, at the network's own resolution, of images (B, 3, H, W), float, normalized, of any size.

        Returns:
            In evaluation mode the element-wise maximum over the scales, (B, num_classes, h, w), the logits of other
            scales resized to those of scale 1. In training mode the list of outputs that the loss sums over: the logits
            at scale 1, the logits at each of `scales` at their own size, and the maximum; without `scales` only the
            first.
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

    def segment(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalized -> logits (B, num_classes, h, w); in evaluation mode."""
        logits: Tensor = self(images)
        return logits

    def _batch_norms(self) -> list[_BatchNorm]:
        return [module for module in self.encoder.modules() if isinstance(module, _BatchNorm)]


def encoder_groups(
    encoder: nn.Module,
    is_decayed: Callable[[str, nn.Parameter], bool],
    *,
    titles: tuple[str, str],
    weight_decay: float,
    layer_decay: float,
) -> list[Group]:
    """Groups of an encoder for `optimizer_groups`, at 1x the learning rate in its last layer.

    Args:
        is_decayed: (name, parameter) -> whether it has weight decay.
        titles: names of the groups with and without weight decay.
        layer_decay: see getam.networks.fine_tuning.backbone_layers.
    """
    groups: list[Group] = []
    for layer, named, factor in backbone_layers(encoder, layer_decay, key="encoder"):
        part = layer.removeprefix("encoder")
        decayed = [parameter for name, parameter in named if is_decayed(name, parameter)]
        others = [parameter for name, parameter in named if not is_decayed(name, parameter)]
        groups += [(titles[0] + part, decayed, factor, weight_decay), (titles[1] + part, others, factor, 0.0)]
    return groups


def decoder_groups(title: str, module: nn.Module, *, backbone_rate: float, weight_decay: float) -> list[Group]:
    """Groups of a new part for `optimizer_groups`, at 1 / backbone_rate times the learning rate.

    Args:
        title: name of the part; its groups are called <title>_weight, with weight decay, and <title>_rest.
    """
    weights = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    rest = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
    return [
        (f"{title}_weight", weights, 1 / backbone_rate, weight_decay),
        (f"{title}_rest", rest, 1 / backbone_rate, 0.0),
    ]


def optimizer_groups(groups: Sequence[Group], *, learning_rate: float) -> list[dict[str, Any]]:
    """Optimizer groups of trainable parameters; groups without any are left out."""
    return [
        {"name": name, "params": trainable, "lr": factor * learning_rate, "weight_decay": decay}
        for name, parameters, factor, decay in groups
        if (trainable := [parameter for parameter in parameters if parameter.requires_grad])
    ]


def multi_scale_loss(
    outputs: Sequence[Tensor], labels: Tensor, *, full_resolution: bool = False, synchronize: bool = False
) -> Tensor:
    """Sum over all outputs of the mean cross entropy over labeled pixels.

    Args:
        outputs: logits, each (B, C, h_i, w_i), as a MultiScaleNetwork returns them in training mode.
        labels: (B, H, W), int64, 0..C-1, or 255 for ignored pixels.
        full_resolution: whether to upsample the logits (bilinear, align_corners=False) to the size of the labels, for
            images so small that a stride of 8 would leave only a few labels. By default the labels are sampled down to
            the size of each output (nearest, at pixel centers, like PIL's NEAREST), as in kazuto1011's recipe.
        synchronize: see getam.training.losses.mean_where.

    Returns:
        A scalar; an output whose labels are all 255 adds 0.
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
    """Samples labels (B, H, W) at the centers of a grid of `size` cells: (B, h, w)."""
    # Row i is read from row floor((i + 1/2) H / h), computed in integers, so that a center that falls on a pixel's edge
    # is not subject to rounding.
    height, width = labels.shape[-2:]
    rows = (2 * torch.arange(size[0], device=labels.device) + 1) * height // (2 * size[0])
    columns = (2 * torch.arange(size[1], device=labels.device) + 1) * width // (2 * size[1])
    return labels[:, rows[:, None], columns]
