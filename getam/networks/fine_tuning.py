"""The layers of a backbone, counted from its stem: freezing the lower ones, and their learning rates."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from timm.models import group_parameters
from torch import nn

from getam.errors import InputError

RESNET = {"stem": r"^(?:conv1|bn1)\.", "blocks": r"^layer(\d+)\."}
"""The layers of segmentation-models-pytorch's ResNets in the form of timm's group_matcher, which they lack: stages."""


class FineTunedNetwork(nn.Module):
    """Base of networks with a backbone whose frozen layers stay in evaluation mode."""

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; modules of which no parameter is trained stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if module is self:
                # Its own mode is the caller's, and eval() would come back here.
                continue
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self


def freeze(backbone: nn.Module, trainable: int | Literal["all", "none"], *, key: str) -> None:
    """Leaves only the last `trainable` layers of a backbone trainable; see `layers_of`.

    Args:
        key: the setting that names the backbone, for messages.

    Raises:
        InputError: the backbone has fewer layers, or their order is not known.
    """
    if trainable == "all":
        return
    if trainable == "none":
        backbone.requires_grad_(False)
        return
    layers = layers_of(backbone, key=key)
    last = max(layers.values())
    if trainable > last:
        raise InputError(f"trainable: {trainable} layers, but the {key} has {last} above its stem; write all")
    for name, parameter in backbone.named_parameters():
        if layers[name] <= last - trainable:
            parameter.requires_grad_(False)


def layers_of(backbone: nn.Module, *, key: str) -> dict[str, int]:
    """The layer of each parameter of a backbone: 0 for the stem, then 1, 2, ... for the blocks.

    The final norm is part of the last block's layer. timm's networks know their layers; those of the ResNets of
    segmentation-models-pytorch are their stages.

    Args:
        key: the setting that names the backbone, for messages.

    Returns:
        Names of parameters -> numbers of layers.

    Raises:
        InputError: the order of the backbone's layers is not known.
    """
    model: Any = backbone
    if hasattr(model, "group_matcher"):
        matcher = model.group_matcher(coarse=False)
    elif hasattr(model, "layer1"):
        matcher = RESNET
    else:
        raise InputError(
            f"trainable, layer_decay: the layers of this {key} ({type(backbone).__name__}) are not known; write "
            "trainable: all or none, and layer_decay: 1"
        )
    groups = [names for _, names in sorted(group_parameters(model, matcher, reverse=False).items())]
    if len(groups) > 1 and all(re.search(r"(^|\.)(fc_)?norm\.", name) for name in groups[-1]):
        # timm counts some final norms as a layer of their own.
        groups[-2:] = [groups[-2] + groups[-1]]
    return {name: number for number, names in enumerate(groups) for name in names}


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter has weight decay: matrices and kernels do; biases, norms, tokens, position tables do not."""
    return parameter.ndim > 1 and not name.endswith(("_token", "pos_embed"))


def backbone_layers(
    backbone: nn.Module, layer_decay: float, *, key: str
) -> list[tuple[str, list[tuple[str, nn.Parameter]], float]]:
    """The parameters of a backbone by learning rate: all together, or with a layer_decay below 1 by layer.

    Args:
        key: the setting that names the backbone, for messages.

    Returns:
        (title, named parameters, layer_decay^(L - l)) of each layer l of L, the last one first; with a layer_decay of 1
        only (key, all named parameters, 1).

    Raises:
        InputError: layer_decay is not 1 and the order of the backbone's layers is not known.
    """
    named = list(backbone.named_parameters())
    if layer_decay == 1:
        return [(key, named, 1.0)]
    layers = layers_of(backbone, key=key)
    last = max(layers.values())
    return [
        (
            f"{key} layer {number}" if number else f"{key} stem",
            [(name, parameter) for name, parameter in named if layers[name] == number],
            layer_decay ** (last - number),
        )
        for number in range(last, -1, -1)
    ]
