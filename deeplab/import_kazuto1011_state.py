"""Renames the weights of kazuto1011/deeplab-pytorch (DeepLabV2_ResNet101_MSC) for deeplab.DeepLabV2."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from getam.errors import InputError

# Part of a bottleneck in kazuto1011's network -> names of its convolution and batch norm in torchvision's.
_BLOCK_PARTS = {
    "reduce": ("conv1", "bn1"),
    "conv3x3": ("conv2", "bn2"),
    "increase": ("conv3", "bn3"),
    "shortcut": ("downsample.0", "downsample.1"),
}
_STEM_KEY = re.compile(r"base\.layer1\.conv1\.(conv|bn)\.(\w+)")
_BLOCK_KEY = re.compile(rf"base\.layer([2-5])\.block([1-9]\d{{0,2}})\.({'|'.join(_BLOCK_PARTS)})\.(conv|bn)\.(\w+)")
_ASPP_KEY = re.compile(r"base\.aspp\.c(\d+)\.(\w+)")


def from_kazuto1011_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the weights of kazuto1011's DeepLabV2_ResNet101_MSC for `DeepLabV2(encoder="resnet101")`.

    Args:
        state: state dict of kazuto1011's network, with keys such as `base.layer3.block1.conv3x3.bn.weight`.

    Returns:
        The same tensors under names such as `encoder.layer2.0.bn2.weight`, for a strict load.

    Raises:
        InputError: a key is not of that network.
    """
    return {_module_name(key): tensor for key, tensor in state.items()}


def _module_name(key: str) -> str:
    if match := _STEM_KEY.fullmatch(key):
        kind, tensor = match.groups()
        return f"encoder.{kind}1.{tensor}"
    if match := _BLOCK_KEY.fullmatch(key):
        stage, block, part, kind, tensor = match.groups()
        convolution, norm = _BLOCK_PARTS[part]
        module = convolution if kind == "conv" else norm
        # kazuto1011's network counts the stem as layer1, and counts blocks from 1.
        return f"encoder.layer{int(stage) - 1}.{int(block) - 1}.{module}.{tensor}"
    if match := _ASPP_KEY.fullmatch(key):
        branch, tensor = match.groups()
        return f"aspp.branches.{branch}.{tensor}"
    raise InputError(
        f"{key!r} is no key of kazuto1011's DeepLabV2_ResNet101_MSC, whose keys start with base.layer1 "
        "to base.layer5 or base.aspp: give its state dict alone, without optimizer state or `module.` prefix"
    )
