"""The size of a ViT's patches, as far as the settings tell it, and the check that inputs are made of whole patches."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from getam.errors import enumerated
from getam.settings.networks import BackboneSettings
from getam.settings.section import LARGEST_IMAGE, SMALLEST_IMAGE

PADDING = "dynamic_img_pad"
"""The option of timm's ViTs that pads images to whole patches."""


def patch_size(backbone: str, options: Mapping[str, Any], stem_channels: Sequence[int] = ()) -> int | None:
    """The side of a patch in pixels; None if the built network alone tells it.

    Args:
        backbone: timm's name; `patch14` in it is the size of the patches, unless the options have another.
        options: keyword arguments of timm.create_model.
        stem_channels: widths of a convolutional stem, whose layers and an embedding layer halve the image each.
    """
    if stem_channels:
        return 2 ** (len(stem_channels) + 1)
    named = re.search(r"patch(\d+)", backbone)
    if named is None:
        # A hybrid's option patch_size counts its CNN's features and not pixels.
        return None
    size = options.get("patch_size", int(named[1]))
    return size if isinstance(size, int) and size > 0 else None


def size_problem(size: int, patch: int, *, key: str, network: str) -> str | None:
    """What is wrong with the side of a network's inputs that has to be a multiple of a patch, and the cure, or None.

    Args:
        size: the side, pixels.
        patch: the side of a patch, pixels.
        key: the setting that gives the size.
        network: name of the network.
    """
    if size % patch == 0:
        return None
    below = size // patch * patch
    near = [str(side) for side in (below, below + patch) if SMALLEST_IMAGE <= side <= LARGEST_IMAGE]
    return f"{key}: {size} is no multiple of {patch}, the side of {network}'s patches; write {enumerated(near, 'or')}"


def check_crop(settings: BackboneSettings, size: int) -> None:
    """Raises ValueError if a crop is not made of whole patches, as far as the settings tell the size of a patch.

    Args:
        size: height and width of the crop, pixels.
    """
    patch = patch_size(settings.backbone, settings.backbone_options, settings.stem_channels)
    if patch is None or settings.readout == "pool" or settings.backbone_options.get(PADDING):
        return
    if problem := size_problem(size, patch, key="crop.size", network=settings.backbone):
        raise ValueError(problem)
