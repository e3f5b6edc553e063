"""The tokens that a timm ViT makes of images, which read-outs and decoders read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Tokens:
    """The outputs of a ViT: tokens (B, P + n_h * n_w, d), P prefix tokens before the patches."""

    taps: tuple[Tensor, ...]
    """Tokens after the tapped blocks, or feature maps (B, c, h, w) of a hybrid's tapped stages."""
    last: Tensor
    """Tokens after the last block, before the final norm; input of the authors' read-out."""
    normalized: Tensor
    """Tokens after the final norm; input of a plain head."""
    grid: tuple[int, int]
    """(n_h, n_w) of the patches."""
    num_prefix_tokens: int
    """P."""

    def output(self, *, final_norm: bool) -> Tensor:
        """The last block's tokens, after or before the final norm."""
        return self.normalized if final_norm else self.last

    def detached(self) -> Tokens:
        """The same tokens without a graph."""
        return replace(
            self,
            taps=tuple(tap.detach() for tap in self.taps),
            last=self.last.detach(),
            normalized=self.normalized.detach(),
        )


def read_tokens(backbone: Any, images: Tensor, *, taps: Sequence[int | str] = (), final_norm: bool = False) -> Tokens:
    """Runs a timm ViT and returns its tokens.

    Args:
        images: (B, 3, H, W), normalized as the backbone expects.
        taps: blocks whose tokens are returned too, ascending; before them, `stage0`, `stage1`, ... for feature maps of
            a hybrid's ResNet.
        final_norm: whether the final norm is applied to the tapped blocks' tokens too (as DINOv2's decoders do).
    """
    norm = final_norm_of(backbone)
    last = len(backbone.blocks) - 1
    blocks = sorted({tap for tap in taps if isinstance(tap, int)} | {last})
    tapped: dict[int | str, Tensor] = {}
    with ExitStack() as hooks:
        for tap in taps:
            if isinstance(tap, str):
                stage = backbone.patch_embed.backbone.stages[int(tap.removeprefix("stage"))]
                hooks.enter_context(stage.register_forward_hook(partial(_keep, tapped, tap)))
        normalized, outputs = backbone.forward_intermediates(
            images, indices=blocks, return_prefix_tokens=backbone.num_prefix_tokens > 0, output_fmt="NLC"
        )
    for block, output in zip(blocks, outputs, strict=True):
        # timm gives pairs of patch tokens and prefix tokens, or the patch tokens alone where there is no prefix.
        tapped[block] = output if isinstance(output, Tensor) else torch.cat([output[1], output[0]], dim=1)
    return Tokens(
        taps=tuple(norm(tapped[tap]) if final_norm and isinstance(tap, int) else tapped[tap] for tap in taps),
        last=tapped[last],
        normalized=normalized if norm is backbone.norm else norm(normalized),
        grid=backbone.patch_embed.dynamic_feat_size(tuple(images.shape[2:])),
        num_prefix_tokens=backbone.num_prefix_tokens,
    )


def final_norm_of(backbone: Any) -> Any:
    """The norm after a ViT's last block; one that comes after the average of its patches normalizes tokens as well."""
    return backbone.fc_norm if isinstance(backbone.norm, nn.Identity) else backbone.norm


def _keep(tapped: dict[int | str, Tensor], tap: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    tapped[tap] = output


def patch_side(backbone: Any) -> int:
    """Side of a ViT's patch in image pixels."""
    ratio = backbone.patch_embed.feat_ratio()
    return ratio if isinstance(ratio, int) else ratio[0]
