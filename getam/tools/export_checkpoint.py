"""Writes an end-to-end model as a checkpoint that the authors' programs can read."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field

from getam.errors import InputError
from getam.networks.checkpoints import UNUSED, read_description, read_tensors
from getam.networks.end_to_end import load_end_to_end
from getam.networks.released import to_released
from getam.settings.end_to_end import EndToEndSettings
from getam.system.arguments.machine import MachineArguments
from getam.system.files import atomic_file


class Arguments(MachineArguments):
    """Write a .pth file: a bare dict of tensors under the authors' names. The inverse of import-checkpoint."""

    model: Path = Field(description="folder of the network's model.safetensors and model.json")
    out: Path = Field(description="the .pth file")


def run(arguments: Arguments) -> None:
    arguments.set_threads()
    settings, _ = read_description(arguments.model, kind="end_to_end", settings=EndToEndSettings)
    if settings.stem_channels:
        raise InputError(f"{arguments.model}: has a stem of its own (stem_channels), which the authors' programs lack")
    network, _ = load_end_to_end(arguments.model)
    state = to_released(network.state_dict())
    if (arguments.model / UNUSED).is_file():
        state |= read_tensors(arguments.model / UNUSED)
    with atomic_file(arguments.out) as temporary:
        torch.save(state, temporary)
