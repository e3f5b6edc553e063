"""Settings of backbones and of the pretrained weights that a network starts with."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from getam.settings.section import PositiveFloat, PositiveInt, Section

TIMM = "tu-"
"""Prefix of segmentation-models-pytorch's names for timm's encoders."""

LOADING = ("checkpoint_path", "cache_dir")
"""Keyword arguments of timm.create_model that load weights or say where fetched ones are, beside `pretrained...`."""

LARGEST_OPTION = 2**16


def _pretrained(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _trainable(value: Any) -> Any:
    if value in ("all", "none"):
        return value
    if not isinstance(value, bool) and re.fullmatch(r"0*[1-9][0-9]{0,5}", str(value), re.ASCII):
        return int(value)
    raise ValueError(f"{value!r} is no part of a backbone; write all, none, or a number of layers from 1 on")


def _options(options: dict[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        if name in LOADING or name.startswith("pretrained"):
            raise ValueError(
                f"{name}: loads weights past the check of what they know; name their file in the section's `pretrained`"
            )
        if any(isinstance(number, int) and abs(number) > LARGEST_OPTION for number in _flat(value)):
            raise ValueError(f"{name}: no network has more than {LARGEST_OPTION} of anything; write a smaller number")
    return options


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        yield from itertools.chain.from_iterable(map(_flat, value))
    else:
        yield value


BackboneOptions = Annotated[dict[str, Any], AfterValidator(_options)]
"""Keyword arguments of timm.create_model that shape a network, and neither load nor fetch anything."""

Pretrained = Annotated[bool | Annotated[str, Field(min_length=1)], BeforeValidator(_pretrained)]
"""Pretrained weights: whether there are any, fetched by the network's name, or a file of them."""


class PretrainedSettings(Section):
    """The weights that a network starts with."""

    pretrained: Pretrained = Field(
        description="start with pretrained weights: true (ImageNet's, fetched by the network's name), a .safetensors "
        "or .pth file, or false"
    )
    segmentation_pretrained: bool = Field(
        description="allow weights that were trained on pixel labels; scores are then no longer those of image labels"
    )


class FineTuningSettings(PretrainedSettings):
    """The weights that a backbone starts with, how much of it is trained, and how fast."""

    trainable: Annotated[Literal["all", "none"] | PositiveInt, BeforeValidator(_trainable)] = Field(
        description="layers of the backbone that are trained: all, none, or a number: the last ones (of a ViT, blocks, "
        "with the final norm); the others keep their weights and run in evaluation mode"
    )
    backbone_rate: PositiveFloat = Field(
        description="learning rate of the backbone's last layer over that of the new layers; 1: the same"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        description="factor of the learning rate from each layer of the backbone to the one below it; 1: the same"
    )

    def frozen_at_random(self) -> str | None:
        """What is wrong, with a cure, if layers of a backbone without pretrained weights are frozen; otherwise None."""
        if self.pretrained or self.trainable == "all":
            return None
        return (
            f"trainable: {self.trainable} freezes layers at their random weights, since pretrained is false; write "
            "pretrained: true or a file of weights, or trainable: all"
        )


class NetworkWeights(PretrainedSettings):
    """fetch_weights: the network of one section and the weights that it starts with."""

    network: str = Field(
        description="name of the backbone or encoder; of a ViT of timm that is an encoder, with tu- before it",
        min_length=1,
    )
    options: BackboneOptions = Field(description="keyword arguments for timm.create_model; {} for none")


PATCH_READOUTS = ("ignore", "max")
"""Read-outs of a ViT that leave out its class token."""


class BackboneSettings(FineTuningSettings):
    """A ViT backbone (or a CNN) with the read-out that classifies images."""

    backbone: str = Field(
        description="timm name of a ViT with a class token; of a CNN with the read-out pool", min_length=1
    )
    backbone_options: BackboneOptions = Field(description="keyword arguments for timm.create_model; {} for none")
    stem_channels: tuple[PositiveInt, ...] = Field(
        description="widths of a convolutional stem (stride 2 a layer) before the last, embedding layer; [] for "
        "the backbone's own patch embedding"
    )
    readout: Literal["project", "ignore", "add", "token", "max", "pool"] = Field(
        description="project (authors': each patch token with the class token, convolutions, average), ignore or add "
        "(the class token is left out, or added), token (plain head), max (maximum over the patch tokens, no class "
        "token); pool (average) for a CNN"
    )
    final_norm: bool = Field(
        description="whether project, ignore, add, max and a decoder read the tokens after the backbone's final norm, "
        "as its own head does, or before it (authors' code); token reads them after it always"
    )
    embedding: Literal["timm", "released"] = Field(
        description="timm, or the authors': position table of the backbone's own size, resized bilinearly without "
        "antialiasing; in a hybrid, filters standardized by their deviation + 1e-5"
    )
    normalization: Literal["imagenet", "backbone"] = Field(
        description="mean and deviation of the backbone's input: ImageNet's (authors' code) or those that timm names "
        "for its pretrained weights"
    )
