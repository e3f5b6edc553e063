"""Converts one of the authors' checkpoints to an end-to-end model."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from getam.datasets.class_names import read_classes
from getam.datasets.voc import VOC_CLASSES
from getam.errors import InputError
from getam.networks.checkpoints import DESCRIPTION, UNUSED, misfits, save_model, write_tensors
from getam.networks.end_to_end import EndToEndNetwork, describe_end_to_end
from getam.networks.pretrained import read_state
from getam.networks.released import from_released, to_released
from getam.settings.end_to_end import EndToEndSettings
from getam.settings.networks import BackboneOptions
from getam.settings.reading import BASE_CONFIG, describe, merge, read_yaml
from getam.settings.section import POSITIONAL
from getam.system.arguments.machine import MachineArguments
from getam.system.files import sha256_of

RECIPE = BASE_CONFIG.parent / "configs" / "released.yaml"

AUTHORS_NAMES = {
    "vitb": "vit_base_patch16_384",
    "deit": "deit_base_patch16_384",
    "deit_distilled": "deit_base_distilled_patch16_384",
    "vitb_hybrid": "vit_base_r50_s16_384",
}
TAPS = {"vit_base_r50_s16_384": ("stage0", "stage1", 8)}
"""What the authors' decoder reads in addition to the last block; for all other backbones, blocks 2, 5 and 8."""
STAGE_CHANNELS: dict[int | str, int] = {"stage0": 256, "stage1": 512}
DEPTH = 12
BLOCK = re.compile(r"classifier\.backbone\.blocks\.(\d{1,3})\.")

logger = logging.getLogger(__name__)


class Arguments(MachineArguments):
    """Write model.safetensors and model.json for predict-end-to-end; what the authors never use, beside them."""

    file: Path = Field(description="the authors' .pth file", json_schema_extra=POSITIONAL)
    backbone: str = Field(
        description="timm name of its backbone, or the authors': vitb, deit, deit_distilled, vitb_hybrid"
    )
    backbone_options: BackboneOptions = Field(
        default_factory=dict, description="keyword arguments for timm.create_model; {} for the authors' own [{}]"
    )
    taps: tuple[int | str, ...] = Field(
        default=(), description="what the decoder reads beside the last block [the authors' of that backbone]"
    )
    classes: Path | None = Field(default=None, description="classes.txt: a name a line [VOC's where there are 20]")
    out: Path = Field(description="folder for the model")


def run(arguments: Arguments) -> None:
    arguments.set_threads()
    state = read_state(arguments.file)
    ours, unused = from_released(state)
    settings = _settings(arguments, ours)
    classes = _classes(arguments, len(ours["classifier.readout.head.bias"]))
    # Widths come from the file: that they fit is seen before a network of such widths takes memory.
    with torch.device("meta"):
        _check_fit(EndToEndNetwork(settings, num_classes=len(classes)), ours, arguments)
    network = EndToEndNetwork(settings, num_classes=len(classes))
    network.load_state_dict(ours)
    source = {"source": {"file": arguments.file.name, "sha256": sha256_of(arguments.file)}}
    write_tensors(arguments.out / UNUSED, unused)
    save_model(arguments.out, network, describe_end_to_end(settings, classes) | source)
    logger.info(
        "import_checkpoint: %s, %d classes, %d tensors -> %s",
        settings.backbone,
        len(classes),
        len(state),
        arguments.out / DESCRIPTION,
    )


def _settings(arguments: Arguments, ours: dict[str, Tensor]) -> EndToEndSettings:
    """The settings of the authors' recipe, with the given backbone and the widths found in the file.

    Raises:
        InputError: the file is no checkpoint of the authors', or does not fit the given taps.
    """
    needed = [
        "classifier.backbone.blocks.0.norm1.weight",
        "classifier.readout.head.bias",
        *(f"decoder.reduce.{level}.weight" for level in range(3)),
    ]
    if missing := [name for name in needed if name not in ours]:
        raise InputError(
            f"{arguments.file}: is no checkpoint of the authors': it lacks what is {missing[0]} here; "
            "give the .pth file that they released"
        )
    ranks = {name: ours[name].ndim for name in needed}
    if odd := [name for name, rank in ranks.items() if rank != (4 if name.startswith("decoder.reduce") else 1)]:
        raise InputError(
            f"{arguments.file}: is no checkpoint of the authors': what is {odd[0]} here has {ranks[odd[0]]} axes; give "
            "the .pth file that they released"
        )
    name, _, tag = arguments.backbone.partition(".")
    name = AUTHORS_NAMES.get(name, name)
    depth = 1 + max(int(found[1]) for key in ours if (found := BLOCK.match(key)))
    if not arguments.taps and depth != DEPTH:
        raise InputError(f"--taps: {arguments.file} has {depth} blocks; name the three that its decoder reads")
    reduce = [ours[f"decoder.reduce.{level}.weight"] for level in range(3)]
    recipe = merge(read_yaml(BASE_CONFIG), read_yaml(RECIPE))["end_to_end"]
    recipe |= {
        "backbone": f"{name}.{tag}" if tag else name,
        "backbone_options": arguments.backbone_options,
        "pretrained": False,
    }
    recipe["maps"] |= {"start_block": min(recipe["maps"]["start_block"], depth - 1)}
    taps = arguments.taps or TAPS.get(name, (2, 5, 8))
    if len(taps) != len(reduce):
        raise InputError(
            f"--taps: {list(taps)} names {len(taps)}, the decoder reads {len(reduce)} beside the last block"
        )
    recipe["decoder"] |= {
        "taps": list(taps),
        "channels": [STAGE_CHANNELS.get(tap, weight.shape[1]) for tap, weight in zip(taps, reduce, strict=True)],
        "width": len(reduce[0]),
    }
    try:
        return EndToEndSettings.model_validate(recipe)
    except ValidationError as error:
        raise InputError(f"{arguments.file}: {describe(error, EndToEndSettings)}") from None


def _classes(arguments: Arguments, count: int) -> tuple[str, ...]:
    if arguments.classes is not None:
        classes = read_classes(arguments.classes)
        if len(classes) != count:
            raise InputError(f"--classes: {arguments.classes} names {len(classes)} classes, the checkpoint has {count}")
        if set(classes) == set(VOC_CLASSES) and classes != VOC_CLASSES:
            raise InputError(f"--classes: {arguments.classes} has VOC's classes in another order than the checkpoint")
        return classes
    if count != len(VOC_CLASSES):
        raise InputError(f"--classes: the checkpoint has {count} classes, VOC {len(VOC_CLASSES)}; name a classes.txt")
    return VOC_CLASSES


def _check_fit(network: EndToEndNetwork, ours: dict[str, Tensor], arguments: Arguments) -> None:
    # Names in messages are those of the file.
    expected, found = to_released(network.state_dict()), to_released(ours)
    if misfit := misfits(expected, found):
        raise InputError(
            f"{arguments.file}: does not fit the backbone {arguments.backbone}: {misfit}; name the checkpoint's own "
            "backbone"
        )
