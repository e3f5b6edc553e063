"""The image classifier: a timm ViT with a class token and a read-out.

`readout: project` is the authors' (DPT's read-out projection, then convolutions and an average), after Eq. 6 of
the paper's appendix; `readout: token` is timm's plain head on the normalized class token.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import HybridEmbed
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor, nn

from getam.backbones import create_timm_model
from getam.checkpoints import load_weights, read_description
from getam.decoder import Reassemble
from getam.errors import InputError
from getam.settings import BackboneSettings, ClassifierSettings


def create_backbone(settings: BackboneSettings, *, image_size: int) -> Any:
    """Builds the timm ViT of the settings, for inputs of any size that its patches divide.

    Raises:
        InputError: no such model, options that it does not take, no class token, or weights that cannot be fetched.
    """
    options: dict[str, Any] = dict(settings.backbone_options)
    if settings.stem_channels:
        options["embed_layer"] = partial(_conv_embed, stem_channels=settings.stem_channels)
    if not timm.is_model(settings.backbone):
        near = ", ".join(difflib.get_close_matches(settings.backbone, timm.list_models(), n=5))
        raise InputError(f"backbone: timm has no model {settings.backbone!r}; near ones: {near or 'none'}")
    backbone = create_timm_model(
        settings.backbone,
        pretrained=settings.pretrained,
        key="backbone",
        img_size=image_size,
        dynamic_img_size=True,
        **options,
    )
    if getattr(backbone, "cls_token", None) is None:
        raise InputError(f"backbone: {settings.backbone} has no class token; GETAM needs a ViT that has one")
    return backbone


def _conv_embed(
    *, img_size: int, patch_size: int, embed_dim: int, stem_channels: tuple[int, ...], **options: Any
) -> HybridEmbed:
    channels = (*stem_channels, embed_dim)
    if 2 ** len(channels) != patch_size:
        raise InputError(
            f"stem_channels: {len(stem_channels)} widths and the embedding layer reduce by {2 ** len(channels)}, "
            f"but patch_size is {patch_size}"
        )
    options.pop("bias", None)
    stem = ConvStem(depth=len(channels), channels=channels, stride=(2,) * len(channels))
    return HybridEmbed(stem, img_size=img_size, patch_size=1, embed_dim=embed_dim, proj=False, **options)


@dataclass(frozen=True)
class Tokens:
    """What a backbone gives for images: tokens (B, N, d) with P prefix tokens before the n_h * n_w patches."""

    taps: tuple[Tensor, ...]
    """Tokens after the blocks asked for."""
    last: Tensor
    """Tokens after the last block, not normalized: what the authors' read-out takes."""
    normalized: Tensor
    """Tokens after the final norm: what a plain head takes."""
    grid: tuple[int, int]
    num_prefix_tokens: int


class TokenReadout(nn.Module):
    """The plain ViT head: final norm -> class token -> linear."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(dim, num_classes)

    def forward(self, tokens: Tokens) -> Tensor:
        return self.head(tokens.normalized[:, 0])

    def activation_map(self, tokens: Tokens) -> Tensor:
        """CAM: the head applied to each patch token, ReLU: (B, C, n_h, n_w)."""
        scores = self.head(tokens.normalized[:, tokens.num_prefix_tokens :])
        return scores.transpose(1, 2).unflatten(2, tokens.grid).relu()


class ProjectReadout(nn.Module):
    """The authors' read-out: [patch, class] -> linear + GELU -> 1x1 conv -> 3x3 conv, stride 2 -> average -> linear."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.reassemble = Reassemble(token_dim=dim, channels=dim, scale=0.5)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, tokens: Tokens) -> Tensor:
        return self.scores(self.features(tokens))

    def features(self, tokens: Tokens) -> Tensor:
        """The map before the average, (B, d, ceil(n_h / 2), ceil(n_w / 2)); the DPT decoder's deepest input."""
        return self.reassemble(tokens.last, tokens.grid, tokens.num_prefix_tokens)

    def scores(self, features: Tensor) -> Tensor:
        return self.head(features.mean((2, 3)))

    def activation_map(self, tokens: Tokens) -> Tensor:
        """CAM: the head applied before the average, ReLU, bilinear to the token grid: (B, C, n_h, n_w)."""
        scores = torch.einsum("bdhw,cd->bchw", self.features(tokens), self.head.weight).relu()
        return nn.functional.interpolate(scores, size=tokens.grid, mode="bilinear", align_corners=False)


READOUTS: dict[str, type[TokenReadout] | type[ProjectReadout]] = {"project": ProjectReadout, "token": TokenReadout}


class ViTClassifier(nn.Module):
    """Image scores from a ViT: images (B, 3, H, W), ImageNet-normalized -> logits (B, C)."""

    def __init__(self, backbone: Any, *, num_classes: int, readout: str) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.readout: TokenReadout | ProjectReadout = READOUTS[readout](backbone.embed_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.readout(read_tokens(self.backbone, images))

    def activation_map(self, images: Tensor) -> Tensor:
        """The read-out's class activation maps: (B, C, n_h, n_w), >= 0."""
        return self.readout.activation_map(read_tokens(self.backbone, images))


def read_tokens(backbone: Any, images: Tensor, *, taps: Sequence[int] = ()) -> Tokens:
    """Runs a timm ViT: images (B, 3, H, W) -> tokens after the blocks `taps` (ascending) and the last one."""
    last = len(backbone.blocks) - 1
    normalized, outputs = backbone.forward_intermediates(
        images, indices=sorted({*taps, last}), return_prefix_tokens=True, output_fmt="NLC"
    )
    by_block = {
        block: torch.cat([prefix, patches], dim=1)
        for block, (patches, prefix) in zip(sorted({*taps, last}), outputs, strict=True)
    }
    return Tokens(
        taps=tuple(by_block[block] for block in taps),
        last=by_block[last],
        normalized=normalized,
        grid=backbone.patch_embed.dynamic_feat_size(tuple(images.shape[2:])),
        num_prefix_tokens=backbone.num_prefix_tokens,
    )


def patch_size(backbone: Any) -> int:
    """Image pixels along a side of a token."""
    ratio = backbone.patch_embed.feat_ratio()
    return ratio if isinstance(ratio, int) else ratio[0]


def build_classifier(settings: BackboneSettings, *, num_classes: int, image_size: int) -> ViTClassifier:
    """Builds the classifier with fresh (or pretrained) weights; the global seed decides fresh ones."""
    backbone = create_backbone(settings, image_size=image_size)
    return ViTClassifier(backbone, num_classes=num_classes, readout=settings.readout)


def describe_classifier(settings: BackboneSettings, classes: Sequence[str]) -> dict[str, Any]:
    """What model.json says of a classifier."""
    return {"kind": "classifier", "settings": settings.model_dump(mode="json"), "classes": list(classes)}


def load_classifier(folder: Path) -> tuple[ViTClassifier, tuple[str, ...]]:
    """Rebuilds a classifier from its folder, in evaluation mode; gives it and its class names."""
    settings, classes = read_description(folder, kind="classifier", settings=ClassifierSettings)
    model = build_classifier(settings, num_classes=len(classes), image_size=settings.crop.size)
    load_weights(folder, model)
    return model.eval(), classes
