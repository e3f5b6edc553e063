"""Segmenters on the tokens of a timm ViT: DPT's decoder, or a small convolutional head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from deeplab.multi_scale import MultiScaleNetwork, decoder_groups, encoder_groups, optimizer_groups
from getam.errors import InputError
from getam.networks.backbones import Normalization, create_vit
from getam.networks.decoders import build_decoder
from getam.networks.dpt import DPTDecoder
from getam.networks.fine_tuning import is_decayed
from getam.networks.linear_head import LinearHead
from getam.networks.tokens import patch_side, read_tokens
from getam.settings.deeplab import DeepLabSettings
from getam.settings.patches import size_problem


class ViTSegmenter(MultiScaleNetwork):
    """A decoder on the tokens of a timm ViT; the logits have the images' resolution.

    Images are normalized by ImageNet's mean and deviation; the network converts them to those of the encoder's
    pretrained weights. Sides that are no multiple of the patch's are padded on the right and at the bottom.

    Args:
        encoder: a timm ViT that takes images of any size; it needs no class token.
        decoder: a DPTDecoder that makes its deepest feature map of tokens, or a LinearHead.
        architecture: name of the decoder, a key of SEGMENTERS.
        final_norm: whether the decoder reads the tokens after the encoder's final norm, or before it.
        scales, frozen_batch_norm: see MultiScaleNetwork.
    """

    def __init__(
        self,
        encoder: Any,
        decoder: DPTDecoder | LinearHead,
        *,
        architecture: str,
        final_norm: bool,
        scales: Sequence[float],
        frozen_batch_norm: bool,
    ) -> None:
        super().__init__(encoder, scales=scales, frozen_batch_norm=frozen_batch_norm)
        self.decoder = decoder
        self.architecture = architecture
        self.final_norm = final_norm
        self.normalization = Normalization(encoder.pretrained_cfg["mean"], encoder.pretrained_cfg["std"])
        self.multiple = patch_side(encoder)
        self.train()

    def logits(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) of any size -> logits (B, num_classes, H, W)."""
        height, width = images.shape[-2:]
        padded = F.pad(self.normalization(images), (0, -width % self.multiple, 0, -height % self.multiple))
        tokens = read_tokens(self.encoder, padded, taps=self.decoder.taps, final_norm=self.final_norm)
        logits: Tensor = self.decoder(
            tokens.taps,
            tokens.output(final_norm=self.final_norm),
            grid=tokens.grid,
            num_prefix_tokens=tokens.num_prefix_tokens,
            size=(padded.shape[2], padded.shape[3]),
        )
        return logits[..., :height, :width]

    def parameter_groups(
        self, *, learning_rate: float, weight_decay: float, backbone_rate: float = 0.1, layer_decay: float = 1.0
    ) -> list[dict[str, Any]]:
        """Optimizer groups: by default encoder at 1x the learning rate, decoder at 10x.

        Biases, norms, prefix tokens and position tables have no weight decay. A frozen encoder has no groups.
        """
        groups = encoder_groups(
            self.encoder,
            is_decayed,
            titles=("encoder_weight", "encoder_rest"),
            weight_decay=weight_decay,
            layer_decay=layer_decay,
        )
        groups += decoder_groups("decoder", self.decoder, backbone_rate=backbone_rate, weight_decay=weight_decay)
        return optimizer_groups(groups, learning_rate=learning_rate)


def build_vit_segmenter(settings: DeepLabSettings, num_classes: int) -> ViTSegmenter:
    """Builds the segmenter of the settings; its encoder's position table has the size of the crop.

    Args:
        num_classes: number of classes, background included.

    Raises:
        InputError: the encoder is no ViT of timm that takes images of any size, or lacks one of the decoder's taps; its
            weights cannot be obtained or do not fit; the crop is no multiple of its patches.
    """
    encoder = _create_encoder(settings)
    return ViTSegmenter(
        encoder,
        build_decoder(settings.architecture, settings.decoder, encoder, name=settings.encoder, num_classes=num_classes),
        architecture=settings.architecture,
        final_norm=settings.final_norm,
        scales=settings.scales,
        frozen_batch_norm=settings.frozen_batch_norm,
    )


def _create_encoder(settings: DeepLabSettings) -> Any:
    name = settings.encoder
    no_vit = (
        f"encoder: {name} is no plain ViT of timm, whose tokens {settings.architecture} reads; choose one, such as "
        "vit_small_patch14_dinov2"
    )
    try:
        encoder = create_vit(
            name,
            image_size=settings.crop.size,
            pretrained=settings.pretrained,
            allow_pixel_labels=settings.segmentation_pretrained,
            key="encoder",
            options=settings.encoder_options,
        )
    except InputError as error:
        # timm's CNNs have no such argument.
        if "argument 'img_size'" in str(error):
            raise InputError(no_vit) from None
        raise
    if not (
        hasattr(encoder, "blocks")
        and hasattr(encoder, "num_prefix_tokens")
        and hasattr(getattr(encoder, "patch_embed", None), "dynamic_feat_size")
    ):
        raise InputError(no_vit)
    # The pooling of an image classifier would only be a part without gradients.
    if getattr(encoder, "attn_pool", None) is not None:
        encoder.attn_pool = None
    if problem := size_problem(settings.crop.size, patch_side(encoder), key="crop.size", network=name):
        raise InputError(problem)
    return encoder
