"""Segmentation networks of segmentation-models-pytorch by name, in the place of DeepLabv2.

To add one that the library has: its facts in getam.settings.deeplab.SEGMENTERS.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab.multi_scale import MultiScaleNetwork, optimizer_groups
from getam.datasets.images import MEAN, STD
from getam.errors import InputError
from getam.networks.backbones import Normalization, create_timm_model
from getam.networks.pretrained import TIMM, Weights, encoder_weights, load_encoder
from getam.settings.deeplab import SEGMENTERS

OPTIONS = {"output_stride": "encoder_output_stride", "atrous_rates": "decoder_atrous_rates"}
"""Settings that some architectures read, by the names that segmentation-models-pytorch has for them."""

MULTIPLE = 32
"""Sides that every encoder takes; images are padded to it on the right and at the bottom."""


class SmpSegmenter(MultiScaleNetwork):
    """A network of segmentation-models-pytorch with any of its encoders: images to logits at the images' resolution.

    `architecture` is one of settings.SEGMENTERS that are `in_smp`; `num_classes` counts the background; `output_stride`
    (8 or 16) and `atrous_rates` are of the architectures that have them among their options; for the rest see
    deeplab.model.DeepLabV2. Images come normalized by ImageNet's mean and deviation, and are brought to those that the
    encoder's pretrained weights know.

    Raises InputError for an architecture or an encoder that is not offered, an encoder or rates that the architecture
    does not take, weights that cannot be had or do not fit; and in training, for a batch of one image where the
    architecture normalizes pooled features over the batch.
    """

    def __init__(
        self,
        *,
        architecture: str,
        encoder: str,
        num_classes: int,
        output_stride: int = 16,
        atrous_rates: Sequence[int] = (12, 24, 36),
        scales: Sequence[float] = (),
        frozen_batch_norm: bool = False,
        pretrained: bool | str = False,
        segmentation_pretrained: bool = False,
    ) -> None:
        network = _create(architecture, encoder, num_classes, output_stride, atrous_rates)
        _load(network.encoder, encoder, pretrained, segmentation=segmentation_pretrained)
        super().__init__(network.encoder, scales=scales, frozen_batch_norm=frozen_batch_norm)
        self.decoder: Any = network.decoder
        self.head: Any = network.segmentation_head
        self.normalization = Normalization(*_statistics(encoder))
        self.architecture = architecture
        self.train()

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) of any size -> (B, num_classes, H, W)."""
        if SEGMENTERS[self.architecture].pools_batch and self.training and len(images) == 1:
            raise InputError(
                "batch_size: this architecture's pooling needs two images or more in each part of a batch; raise "
                "batch_size, or set accumulation to 1"
            )
        height, width = images.shape[-2:]
        padded = F.pad(self.normalization(images), (0, -width % MULTIPLE, 0, -height % MULTIPLE))
        logits = self.head(self.decoder(self.encoder(padded)))
        return logits[..., :height, :width]

    def parameter_groups(self, *, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups: encoder at 1x the learning rate, the rest at 10x; norms and biases without weight decay."""
        groups = []
        modules = {"encoder": (self.encoder, 1.0), "decoder": (self.decoder, 10.0), "head": (self.head, 10.0)}
        for name, (module, factor) in modules.items():
            weights = [parameter for parameter in module.parameters() if parameter.ndim > 1]
            rest = [parameter for parameter in module.parameters() if parameter.ndim <= 1]
            groups += [(f"{name}_weight", weights, factor, weight_decay), (f"{name}_rest", rest, factor, 0.0)]
        return optimizer_groups(groups, learning_rate=learning_rate)


def _create(architecture: str, encoder: str, num_classes: int, output_stride: int, atrous_rates: Sequence[int]) -> Any:
    if architecture not in SEGMENTERS:
        raise InputError(f"architecture: {architecture!r} is not offered; use {', '.join(SEGMENTERS)}")
    names = smp.encoders.get_encoder_names()
    if encoder not in names and not encoder.startswith(TIMM):
        near = difflib.get_close_matches(encoder, names, n=3) or ["resnet101", "mit_b2"]
        raise InputError(f"encoder: {encoder!r} is none of segmentation-models-pytorch; near: {', '.join(near)}")
    known = SEGMENTERS[architecture]
    if known.three_rates and len(atrous_rates) != 3:
        raise InputError(f"atrous_rates: {architecture} takes three, not {list(atrous_rates)}; write [12, 24, 36]")
    values = {"output_stride": output_stride, "atrous_rates": tuple(atrous_rates)}
    options: dict[str, Any] = {OPTIONS[name]: values[name] for name in known.options}
    try:
        return smp.create_model(
            architecture, encoder_name=encoder, encoder_weights=None, in_channels=3, classes=num_classes, **options
        )
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"encoder: {architecture} does not take {encoder} ({reason}); choose another") from None


def _load(module: Any, encoder: str, pretrained: bool | str, *, segmentation: bool) -> None:
    """Loads an encoder's pretrained weights, if any."""
    if not encoder.startswith(TIMM):
        weights = encoder_weights(encoder, pretrained, segmentation=segmentation)
    elif pretrained:
        # By the whole network, for which timm brings files of every kind into its own form.
        random_state = torch.get_rng_state()
        name = encoder.removeprefix(TIMM)
        whole = create_timm_model(name, pretrained=pretrained, key="encoder", segmentation=segmentation)
        torch.set_rng_state(random_state)
        module, weights = module.model, Weights(whole.state_dict(), whole.initialization)
    else:
        return
    if weights is not None:
        load_encoder(module, weights)


def _statistics(encoder: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of the images that an encoder's pretrained weights know."""
    if encoder.startswith(TIMM):
        config = timm.get_pretrained_cfg(encoder.removeprefix(TIMM))
        return (config.mean, config.std) if config else (MEAN, STD)
    known = smp.encoders.encoders[encoder].get("pretrained_settings", {}).get("imagenet", {})
    return known.get("mean") or MEAN, known.get("std") or STD
