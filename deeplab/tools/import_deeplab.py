"""Converts a checkpoint of kazuto1011/deeplab-pytorch (DeepLabV2_ResNet101_MSC) to a DeepLabv2 of this project."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field

from deeplab.import_kazuto1011_state import from_kazuto1011_state
from deeplab.model import build_deeplab, describe_deeplab
from getam.datasets.class_names import read_classes
from getam.datasets.voc import VOC_CLASSES
from getam.errors import InputError
from getam.networks.checkpoints import DESCRIPTION, load_exactly, save_model
from getam.networks.pretrained import read_state
from getam.networks.supervision import PIXEL_LABELS
from getam.settings.config import read_config
from getam.settings.deeplab import DeepLabSettings
from getam.settings.reading import BASE_CONFIG
from getam.settings.section import POSITIONAL, section_of
from getam.system.arguments.machine import MachineArguments
from getam.system.files import sha256_of

RECIPE = BASE_CONFIG.parent / "configs" / "voc12.yaml"
REFERENCE = {
    "architecture": "deeplabv2",
    "encoder": "resnet101",
    "encoder_stages": 4,
    "output_stride": 8,
    "atrous_rates": (6, 12, 18, 24),
    "scales": (0.5, 0.75),
    "bottleneck_stride": "1x1",
    "normalization": "caffe",
    "pretrained": False,
}
"""Settings of the checkpoint's network, which override those of the recipe."""
BIAS = "aspp.branches.0.bias"

logger = logging.getLogger(__name__)


class Arguments(MachineArguments):
    """Write model.safetensors and model.json for predict-deeplab."""

    file: Path = Field(description="the .pth file", json_schema_extra=POSITIONAL)
    classes: Path | None = Field(default=None, description="classes.txt: a name a line [VOC's 20 classes]")
    supervision: str = Field(
        default=PIXEL_LABELS,
        pattern=r"^[ISF](\+[ISF])*$",
        description="what it was trained on, as scores state it, such as I+S [F: pixel labels]",
    )
    out: Path = Field(description="folder for the model")


def run(arguments: Arguments) -> None:
    arguments.set_threads()
    state = from_kazuto1011_state(read_state(arguments.file))
    classes = read_classes(arguments.classes) if arguments.classes is not None else VOC_CLASSES
    if BIAS not in state or state[BIAS].shape != (len(classes) + 1,):
        has = len(state[BIAS]) - 1 if BIAS in state and state[BIAS].ndim == 1 else "no"
        raise InputError(f"{arguments.file}: has {has} classes, --classes names {len(classes)}; name its own")
    settings = section_of(DeepLabSettings, read_config([RECIPE]).deeplab).model_copy(update=REFERENCE)
    model = build_deeplab(settings, num_classes=len(classes) + 1)
    load_exactly(model, state, source=arguments.file)
    description = describe_deeplab(settings, classes, learned_from=arguments.supervision)
    source = {"file": arguments.file.name, "sha256": sha256_of(arguments.file)}
    save_model(arguments.out, model, description | {"source": source})
    logger.info("import_deeplab: %d classes -> %s", len(classes), arguments.out / DESCRIPTION)
