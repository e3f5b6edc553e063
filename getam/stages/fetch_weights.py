"""Fetches the pretrained weights of a network, and checks that they fit it, before any network is trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
from pydantic import Field

from getam.errors import InputError
from getam.networks.backbones import create_timm_model
from getam.networks.pretrained import ENCODERS, encoder_weights, initialization_of, is_library_encoder, load_encoder
from getam.settings.networks import TIMM, NetworkWeights
from getam.system.arguments.machine import MachineArguments
from getam.system.files import write_json

logger = logging.getLogger(__name__)


class Arguments(NetworkWeights, MachineArguments):
    """Write where the weights came from, name, source and hash, as JSON; they are then in the cache."""

    section: str = Field(description="section of the network: classifier, saliency, deeplab or end_to_end")
    out: Path = Field(description="JSON file")


def run(arguments: Arguments) -> None:
    section = arguments.section
    if not arguments.pretrained:
        raise InputError(f"--pretrained: false: {section} has nothing to fetch; write true or a file")
    try:
        origin = initialization_of(_loaded(arguments))
    except InputError as error:
        # A message about a file starts with its name; others start with a key of the section.
        key = "pretrained: " if str(error).startswith(str(arguments.pretrained)) else ""
        raise InputError(f"{section}.{key}{error}") from None
    assert origin is not None
    write_json(arguments.out, origin)
    logger.info("fetch_weights: %s: %s", section, origin["source"])


def _loaded(arguments: Arguments) -> Any:
    """Builds the network with its weights, only to check that they fit; the caller does not keep it."""
    name, allowed = arguments.network, arguments.segmentation_pretrained
    if not is_library_encoder(arguments.section, name):
        return create_timm_model(
            name.removeprefix(TIMM),
            pretrained=arguments.pretrained,
            allow_pixel_labels=allowed,
            key="encoder" if arguments.section == ENCODERS else "backbone",
            **arguments.options,
        )
    weights = encoder_weights(name, arguments.pretrained, allow_pixel_labels=allowed)
    assert weights is not None
    if name not in smp.encoders.encoders:
        raise InputError(f"encoder: {name!r} is none of segmentation-models-pytorch; choose one of its own, or tu-...")
    encoder = smp.encoders.get_encoder(name, weights=None)
    load_encoder(encoder, weights)
    return encoder
