"""Reports what this machine has, and which data and weights of a configuration exist."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import torch
from huggingface_hub import try_to_load_from_cache
from pydantic import Field

from getam.datasets.duts import find_pairs
from getam.datasets.formats import FORMATS, Finding, counted, files_in, size_of
from getam.errors import InputError
from getam.networks.pretrained import FILES, encoder_location, is_library_encoder, timm_location
from getam.pages.text.tables import aligned_table
from getam.settings.config import Config, read_config
from getam.settings.networks import TIMM, NetworkWeights
from getam.system.arguments.machine import MachineArguments

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "numpy",
    "pillow",
    "pycocotools",
)
OPTIONAL = {
    "pydensecrf2": "torch computes the dense CRF; on Python 3.11 or 3.12: pip install 'getam[crf]'",
    "snakemake": "the workflow: pip install 'getam[workflow]'",
    "snakemake-executor-plugin-slurm": "jobs on Slurm: pip install 'getam[workflow]'",
}
PROGRAMS = {"nvidia-smi": "an NVIDIA driver", "sbatch": "Slurm", "conda": "environments of the rules (--sdm conda)"}

WIDTH = 33
"""Minimum width of the first column, in letters, by which the tables of all sections are aligned."""


class Arguments(MachineArguments):
    """Print versions, devices, the data sets that are found with their counts, and what is missing."""

    configs: tuple[Path, ...] = Field(default=(), description="overlays as a JSON list, in their order [config.yaml]")


def run(arguments: Arguments) -> None:
    config = read_config(arguments.configs)
    sections = {
        "Versions": _versions(),
        "Machine": _machine(),
        f"Data of the run {config.run}": _data(config),
        f"Pretrained weights of the run {config.run}": _weights(config),
    }
    for title, findings in sections.items():
        print(f"{title}\n{indent(aligned_table((), [*findings], least=(WIDTH,)), '  ')}\n")


def _versions() -> Iterator[Finding]:
    yield "python", platform.python_version()
    for package in ("getam", *PACKAGES, *OPTIONAL):
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield package, f"missing ({OPTIONAL.get(package, 'make venv')})"


def _machine() -> Iterator[Finding]:
    yield "CPU cores", str(len(os.sched_getaffinity(0)))
    yield "memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    yield "free on this disk", f"{shutil.disk_usage('.').free / 2**30:.0f} GiB"
    if not torch.cuda.is_available():
        yield "CUDA devices", "none: networks run on the CPU"
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield f"CUDA device {number}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    for program, purpose in PROGRAMS.items():
        yield program, shutil.which(program) or f"not found ({purpose})"


def _data(config: Config) -> Iterator[Finding]:
    data = config.data
    yield "data.root", f"{data.root}, {data.format}" if data.root.exists() else f"{data.root}: missing"
    yield from FORMATS[data.format].findings(data)
    if config.saliency.source == "folder":
        yield "saliency.folder", f"{config.saliency.folder}: {files_in(Path(config.saliency.folder), '*')}"
    if config.saliency.source == "train":
        for key in ("saliency_train", "saliency_val"):
            folder = getattr(data, key)
            yield f"data.{key}", f"{folder}: {counted(find_pairs, folder, 'pairs')}"


def _weights(config: Config) -> Iterator[Finding]:
    networks = config.pretrained_networks()
    if not networks:
        yield "none", "all networks start from scratch"
    for section, wanted in networks.items():
        yield section, f"{wanted.network}: {_found(section, wanted)}"
    if config.checkpoint.file:
        yield "checkpoint.file", f"{config.checkpoint.file}, {size_of(Path(config.checkpoint.file))}"


def _found(section: str, wanted: NetworkWeights) -> str:
    if wanted.pretrained is not True:
        return f"{wanted.pretrained}, {size_of(Path(str(wanted.pretrained)))}"
    try:
        if is_library_encoder(section, wanted.network):
            location = encoder_location(wanted.network)
        else:
            name = wanted.network.removeprefix(TIMM)
            location = timm_location(name, allow_pixel_labels=wanted.segmentation_pretrained)
    except InputError as error:
        return str(error)
    for file in FILES:
        if isinstance(try_to_load_from_cache(location.repository, file, revision=location.revision), str):
            return "in the cache"
    return f"fetched at run time from huggingface.co/{location.repository}"
