"""Builds the decoder of the settings for a ViT, and checks that the ViT has what the decoder reads."""

from __future__ import annotations

from typing import Any

from getam.errors import InputError
from getam.networks.dpt import DPTDecoder
from getam.networks.linear_head import LinearHead
from getam.settings.decoder import DecoderSettings


def build_decoder(
    architecture: str,
    settings: DecoderSettings,
    backbone: Any,
    *,
    name: str,
    num_classes: int,
    given_deepest: bool = False,
) -> DPTDecoder | LinearHead:
    """Builds the decoder of the settings for a timm ViT; without a class token it reads the patch tokens alone.

    Args:
        architecture: `dpt` or `linear`.
        name: name of the ViT, for messages.
        num_classes: output channels, background included.
        given_deepest: of `dpt`, see DPTDecoder.

    Raises:
        InputError: the ViT lacks a tap, or one of its stages has other channels or another scale than given.
    """
    if architecture == "linear":
        return LinearHead(backbone.embed_dim, width=settings.width, num_classes=num_classes)
    _check_taps(settings, backbone, name=name)
    return DPTDecoder(
        taps=settings.taps,
        token_dim=backbone.embed_dim,
        channels=(*settings.channels, backbone.embed_dim),
        width=settings.width,
        scales=[
            None if isinstance(tap, str) else scale for tap, scale in zip(settings.taps, settings.scales, strict=True)
        ],
        num_classes=num_classes,
        given_deepest=given_deepest,
        readout="ignore" if getattr(backbone, "cls_token", None) is None else "project",
    )


def _check_taps(settings: DecoderSettings, backbone: Any, *, name: str) -> None:
    blocks = len(backbone.blocks)
    stages = getattr(getattr(backbone.patch_embed, "backbone", None), "stages", ())
    stride = backbone.patch_embed.feat_ratio()
    known = [f"stage{number}" for number in range(len(stages))]
    for tap, channels, scale in zip(settings.taps, settings.channels, settings.scales, strict=True):
        if isinstance(tap, int) and tap < blocks:
            continue
        if tap not in known:
            has = f"its blocks are 0 to {blocks - 1}" + (f", its stages {', '.join(known)}" if known else "")
            raise InputError(
                f"decoder.taps: {list(settings.taps)}: {name} has no {'block ' * isinstance(tap, int)}{tap}; {has}"
            )
        stage = next(i for i in backbone.patch_embed.backbone.feature_info if i["module"] == f"stages.{str(tap)[5:]}")
        if (channels, scale) != (stage["num_chs"], stride / stage["reduction"]):
            raise InputError(
                f"decoder.channels, decoder.scales: {tap} of {name} has {stage['num_chs']} channels at "
                f"{stride // stage['reduction']} times the token grid, not {channels} at {scale}"
            )
