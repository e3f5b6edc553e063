"""Converts the authors' checkpoint (fupiao1998/TrasformerSOD, Swin-B) to a saliency network."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field

from getam.networks.checkpoints import DESCRIPTION, load_exactly, save_model
from getam.networks.imports.saliency import from_authors_state
from getam.networks.pretrained import read_state
from getam.networks.saliency import build_saliency, describe_saliency
from getam.settings.config import read_config
from getam.settings.reading import BASE_CONFIG
from getam.settings.saliency import SaliencySettings
from getam.settings.section import POSITIONAL, section_of
from getam.system.arguments.machine import MachineArguments
from getam.system.files import sha256_of

RECIPE = BASE_CONFIG.parent / "configs" / "voc12.yaml"

logger = logging.getLogger(__name__)


class Arguments(MachineArguments):
    """Write model.safetensors and model.json for predict-saliency."""

    file: Path = Field(description="the authors' .pth file", json_schema_extra=POSITIONAL)
    out: Path = Field(description="folder for the model")


def run(arguments: Arguments) -> None:
    arguments.set_threads()
    state = from_authors_state(read_state(arguments.file))
    settings = section_of(SaliencySettings, read_config([RECIPE]).saliency).model_copy(update={"pretrained": False})
    model = build_saliency(settings)
    load_exactly(model, state, source=arguments.file)
    origin = {"source": {"file": arguments.file.name, "sha256": sha256_of(arguments.file)}}
    save_model(arguments.out, model, describe_saliency(settings) | origin)
    logger.info("import_saliency: %d tensors -> %s", len(state), arguments.out / DESCRIPTION)
