"""Renames the weights of the authors' saliency network (fupiao1998/TrasformerSOD) for SaliencyNetwork."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from getam.errors import InputError

_UNUSED_KEYS = re.compile(r"noise_model\..*|.*\.(relative_position_index|attn_mask)")

_AUTHORS_NAMES = (
    (r"backbone\.(patch_embed|layers\.\d{1,3}\.(blocks|downsample))\.", r"backbone.\1."),
    (r"neck\.conv_list\.(\d+)\.reduce\.(\d+)\.", r"neck.\1.\2."),
    (r"decoder\.rcab_conv\.body\.0\.", "decoder.refine.conv1."),
    (r"decoder\.rcab_conv\.body\.2\.", "decoder.refine.conv2."),
    (r"decoder\.rcab_conv\.body\.3\.conv_du\.0\.", "decoder.refine.squeeze."),
    (r"decoder\.rcab_conv\.body\.3\.conv_du\.2\.", "decoder.refine.expand."),
    (r"decoder\.aspp_head\.conv2d_list\.(\d+)\.conv\.", r"decoder.head.\1."),
)


def from_authors_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the authors' weights to those of SaliencyNetwork, for a strict load.

    The last stage's blocks and the noise model are dropped because the maps do not depend on them, Swin's index and
    mask buffers because timm computes them.

    Args:
        state: state dict of the authors' network.

    Raises:
        InputError: a key is not of the authors' network.
    """
    stages = [int(found[1]) for key in state if (found := re.match(r"backbone\.layers\.(\d{1,3})\.", key))]
    if not stages:
        raise InputError("saliency weights: no key backbone.layers.*; pass the authors' state_dict unchanged")
    last_stage = f"backbone.layers.{max(stages)}."
    return {
        _module_name(key): value
        for key, value in state.items()
        if not key.startswith(last_stage) and not _UNUSED_KEYS.fullmatch(key)
    }


def _module_name(key: str) -> str:
    for pattern, replacement in _AUTHORS_NAMES:
        if match := re.match(pattern, key):
            name = match.expand(replacement) + key[match.end() :]
            # Patch merging ends a stage in the authors' Swin and begins the next one in timm's.
            return re.sub(r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name)
    raise InputError(f"saliency weights: {key} is not of the authors' network; pass its state_dict unchanged")
