"""Writes the embedded demo data set: images, masks and labels in VOC layout, saliency pairs in DUTS layout."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from getam.datasets.demo.scenes import write_demo
from getam.settings.demo import DemoSettings
from getam.settings.section import section_of
from getam.system.arguments.machine import MachineArguments
from getam.system.files import atomic_folder

SECTION = "demo"


class Arguments(DemoSettings, MachineArguments):
    """Generate the demo data set; the same settings give the same bytes."""

    out: Path = Field(description="folder for the data set; replaced if it exists")


def run(arguments: Arguments) -> None:
    settings = section_of(DemoSettings, arguments)
    with atomic_folder(arguments.out) as folder:
        write_demo(folder, **settings.model_dump())
