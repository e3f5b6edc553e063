"""Segmentation networks of segmentation-models-pytorch that can replace DeepLabv2.

To add an architecture of the library, describe it in getam.settings.deeplab.SEGMENTERS.
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

from deeplab.multi_scale import MultiScaleNetwork, decoder_groups, encoder_groups, optimizer_groups
from getam.datasets.images import MEAN, STD
from getam.errors import InputError
from getam.networks.backbones import Normalization, create_timm_model
from getam.networks.pretrained import Weights, encoder_weights, load_encoder
from getam.settings.deeplab import SEGMENTERS
from getam.settings.networks import TIMM

OPTIONS = {"output_stride": "encoder_output_stride", "atrous_rates": "decoder_atrous_rates"}
"""Architecture-specific settings -> their names in segmentation-models-pytorch."""

MULTIPLE = 32
"""Every encoder accepts images whose sides are a multiple of this; others are padded on the right and at the bottom."""


class SmpSegmenter(MultiScaleNetwork):
    """A network of segmentation-models-pytorch with any of its encoders; its logits have the images' resolution.

    Images are normalized by ImageNet's mean and deviation; the network converts them to those of the encoder's
    pretrained weights.

    Args:
        architecture: one of SEGMENTERS that is `in_smp`.
        encoder: name of the encoder in segmentation-models-pytorch.
        num_classes: number of classes, background included.
        output_stride: 8 or 16; read by the architectures that have it among their options.
        atrous_rates: three dilations; read by the architectures that have them among their options.
        scales, frozen_batch_norm, pretrained, segmentation_pretrained: see deeplab.model.DeepLabV2.

    Raises:
        InputError: there is no such architecture or encoder, the architecture does not accept the encoder or the rates,
            or the weights cannot be obtained or do not fit; in training, a batch is a single image although the
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
        _load(network.encoder, encoder, pretrained, allow_pixel_labels=segmentation_pretrained)
        super().__init__(network.encoder, scales=scales, frozen_batch_norm=frozen_batch_norm)
        self.decoder: Any = network.decoder
        self.head: Any = network.segmentation_head
        self.normalization = Normalization(*_statistics(encoder))
        self.architecture = architecture
        self.train()

    def logits(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) of any size -> logits (B, num_classes, H, W)."""
        if SEGMENTERS[self.architecture].pools_batch and self.training and len(images) == 1:
            raise InputError(
                "batch_size: this architecture's pooling needs two images or more in each part of a batch; raise "
                "batch_size, or set accumulation to 1"
            )
        height, width = images.shape[-2:]
        padded = F.pad(self.normalization(images), (0, -width % MULTIPLE, 0, -height % MULTIPLE))
        logits = self.head(self.decoder(self.encoder(padded)))
        return logits[..., :height, :width]

    def parameter_groups(
        self, *, learning_rate: float, weight_decay: float, backbone_rate: float = 0.1, layer_decay: float = 1.0
    ) -> list[dict[str, Any]]:
        """Optimizer groups: by default encoder at 1x the learning rate, others at 10x; no decay of norms and biases."""
        groups = encoder_groups(
            self.encoder,
            lambda name, parameter: parameter.ndim > 1,
            titles=("encoder_weight", "encoder_rest"),
            weight_decay=weight_decay,
            layer_decay=layer_decay,
        )
        for title, module in (("decoder", self.decoder), ("head", self.head)):
            groups += decoder_groups(title, module, backbone_rate=backbone_rate, weight_decay=weight_decay)
        return optimizer_groups(groups, learning_rate=learning_rate)


def _create(architecture: str, encoder: str, num_classes: int, output_stride: int, atrous_rates: Sequence[int]) -> Any:
    if architecture not in SEGMENTERS:
        raise InputError(f"architecture: {architecture!r} is not offered; use {', '.join(SEGMENTERS)}")
    names = smp.encoders.get_encoder_names()
    if encoder not in names and not encoder.startswith(TIMM):
        near = difflib.get_close_matches(encoder, names, n=3) or ["resnet101", "mit_b2"]
        raise InputError(f"encoder: {encoder!r} is none of segmentation-models-pytorch; near: {', '.join(near)}")
    # timm would fetch a name such as hf-hub:..., which no list has.
    if encoder.startswith(TIMM) and not timm.is_model(encoder.removeprefix(TIMM)):
        raise InputError(f"encoder: {architecture} does not take {encoder} (timm has no such model); choose another")
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


def _load(module: Any, encoder: str, pretrained: bool | str, *, allow_pixel_labels: bool) -> None:
    """Loads pretrained weights into an encoder, unless `pretrained` is False."""
    if not encoder.startswith(TIMM):
        weights = encoder_weights(encoder, pretrained, allow_pixel_labels=allow_pixel_labels)
    elif pretrained:
        # The weights are loaded into timm's whole network first, because timm converts foreign checkpoints only there.
        random_state = torch.get_rng_state()
        name = encoder.removeprefix(TIMM)
        whole = create_timm_model(name, pretrained=pretrained, key="encoder", allow_pixel_labels=allow_pixel_labels)
        torch.set_rng_state(random_state)
        module, weights = module.model, Weights(whole.state_dict(), whole.initialization)
    else:
        return
    if weights is not None:
        load_encoder(module, weights)


def _statistics(encoder: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation by which the inputs of an encoder's pretrained weights are normalized."""
    if encoder.startswith(TIMM):
        config = timm.get_pretrained_cfg(encoder.removeprefix(TIMM))
        return (config.mean, config.std) if config else (MEAN, STD)
    known = smp.encoders.encoders[encoder].get("pretrained_settings", {}).get("imagenet", {})
    return known.get("mean") or MEAN, known.get("std") or STD
