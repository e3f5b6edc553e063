"""Fetches and checks the pretrained weights of a network before any network is trained."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field

from getam.errors import InputError
from getam.files import write_json
from getam.machine import MachineArguments
from getam.pretrained import TIMM, encoder_weights, timm_weights
from getam.settings import NetworkWeights

ENCODERS = "deeplab"
"""The section whose network is an encoder of segmentation-models-pytorch; the others are timm's."""

logger = logging.getLogger(__name__)


class Arguments(NetworkWeights, MachineArguments):
    """Write where the weights came from, name, source and hash, as JSON; they are then in the cache."""

    section: str = Field(description="section of the network: classifier, saliency, deeplab or end_to_end")
    out: Path = Field(description="JSON file")


def run(arguments: Arguments) -> None:
    of_timm = arguments.section != ENCODERS or arguments.network.startswith(TIMM)
    find = timm_weights if of_timm else encoder_weights
    name = arguments.network.removeprefix(TIMM)
    try:
        weights = find(name, arguments.pretrained, segmentation=arguments.segmentation_pretrained)
    except InputError as error:
        raise InputError(f"{arguments.section}.{error}") from None
    if weights is None:
        raise InputError(f"--pretrained: false: {arguments.section} has nothing to fetch; write true or a file")
    write_json(arguments.out, weights.origin)
    logger.info("fetch_weights: %s: %s", arguments.section, weights.origin["source"])
