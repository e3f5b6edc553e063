"""Compatibility with the authors' checkpoints: deviations of their networks from timm's, and names of their weights.

Their `.pth` files hold a plain dict of tensors; `to_released` and `from_released` rename the tensors without loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import StdConv2dSame
from timm.layers.padding import pad_same
from torch import Tensor

from getam.errors import InputError

DEVIATION_EPSILON = 1e-5


def compute_as_released(backbone: Any) -> None:
    """Changes a timm ViT in place to compute like the authors' modified copy; weights and their names stay.

    The position embeddings are resized bilinearly without antialiasing (timm: bicubically with antialiasing), and the
    filters of a hybrid are standardized by their deviation + 1e-5 (timm: by the root of their variance + 1e-8).

    Raises:
        InputError: the position embeddings do not include the class token, as they do in all of the authors' networks.
    """
    if getattr(backbone, "no_embed_class", False) or backbone.pos_embed is None:
        raise InputError(
            f"embedding: released knows position tables with a place for the class token, {type(backbone).__name__} "
            "has another; write timm"
        )
    # timm calls _pos_embed on the instance, so the instance gets a subclass that overrides it. Unlike a replaced
    # attribute or a wrapper, this survives copies and keeps the names in the state dict.
    kind = type(backbone)
    backbone.__class__ = type(kind.__name__, (_ReleasedPositions, kind), {})
    for module in backbone.modules():
        if type(module) is StdConv2dSame:
            module.__class__ = _ReleasedStdConv


class _ReleasedPositions:
    def _pos_embed(self: Any, x: Tensor) -> Tensor:
        """Patches (B, n_h, n_w, d) -> tokens (B, P + n_h * n_w, d) with their positions."""
        grid = x.shape[1:3]
        prefix = [getattr(self, name, None) for name in ("cls_token", "dist_token", "reg_token")]
        tokens = [token.expand(len(x), -1, -1) for token in prefix if token is not None]
        count = self.num_prefix_tokens
        table = self.pos_embed[:, count:].transpose(1, 2).unflatten(2, self.patch_embed.grid_size)
        table = F.interpolate(table, size=grid, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
        positions = torch.cat([self.pos_embed[:, :count], table], dim=1)
        embedded: Tensor = self.pos_drop(torch.cat([*tokens, x.flatten(1, 2)], dim=1) + positions)
        return embedded


class _ReleasedStdConv(StdConv2dSame):
    def forward(self, x: Tensor) -> Tensor:
        """Weight-standardized convolution with TensorFlow's padding."""
        if self.same_pad:
            x = pad_same(x, self.kernel_size, self.stride, self.dilation)  # type: ignore[arg-type]
        deviation, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) / (deviation + DEVIATION_EPSILON)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


# Prefixes of the authors' tensor names -> prefixes of ours. The authors count taps from 1, we count from 0.
NAMES = {
    "pretrained.model.": "classifier.backbone.",
    "cls_head.": "classifier.readout.head.",
    "pretrained.act_postprocess4.0.project.": "classifier.readout.reassemble.project.",
    "pretrained.act_postprocess4.3.": "classifier.readout.reassemble.embed.",
    "pretrained.act_postprocess4.4.": "classifier.readout.reassemble.resample.",
    "scratch.output_conv.": "decoder.head.",
    "cam_module.body.": "decoder.attention.body.",
    "cam_module.fc.": "decoder.attention.excite.",
}
for _tap in range(4):
    if _tap < 3:
        NAMES |= {
            f"pretrained.act_postprocess{_tap + 1}.0.project.": f"decoder.reassemble.{_tap}.project.",
            f"pretrained.act_postprocess{_tap + 1}.3.": f"decoder.reassemble.{_tap}.embed.",
            f"pretrained.act_postprocess{_tap + 1}.4.": f"decoder.reassemble.{_tap}.resample.",
        }
    NAMES |= {
        f"scratch.layer{_tap + 1}_rn.": f"decoder.reduce.{_tap}.",
        f"scratch.refinenet{_tap + 1}.resConfUnit1.": f"decoder.fuse.{_tap}.refine_skip.",
        f"scratch.refinenet{_tap + 1}.resConfUnit2.": f"decoder.fuse.{_tap}.refine.",
        f"scratch.refinenet{_tap + 1}.out_conv.": f"decoder.fuse.{_tap}.project.",
    }

UNUSED = ("pretrained.model.head.", "pretrained.model.head_dist.", "scratch.refinenet4.resConfUnit1.")
"""Prefixes of the authors' tensors that no forward pass reads: ImageNet heads, the deepest block's skip unit."""


def from_released(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Renames the authors' tensors to the names of EndToEndNetwork.

    Returns:
        The tensors under our names, where a tensor with an unknown name keeps it; the UNUSED tensors under the
        authors' names.
    """
    unused = {name: tensor for name, tensor in state.items() if name.startswith(UNUSED)}
    ours = {_renamed(name, NAMES): tensor for name, tensor in state.items() if name not in unused}
    return ours, unused


def to_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_released`, without the UNUSED tensors."""
    theirs = {ours: name for name, ours in NAMES.items()}
    return {_renamed(name, theirs): tensor for name, tensor in state.items()}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for beginning, other in names.items():
        if name.startswith(beginning):
            return other + name.removeprefix(beginning)
    return name
