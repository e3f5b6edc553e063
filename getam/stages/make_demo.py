"""Writes the embedded demo data set: images, masks and labels in VOC layout, saliency pairs in DUTS layout."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from getam.demo import write_demo
from getam.files import atomic_folder
from getam.machine import MachineArguments
from getam.settings import DemoSettings, only

SECTION = "demo"


class Arguments(DemoSettings, MachineArguments):
    """Generate the demo data set; the same settings give the same bytes."""

    out: Path = Field(description="folder for the data set; replaced if it exists")


def run(arguments: Arguments) -> None:
    settings = only(DemoSettings, arguments)
    with atomic_folder(arguments.out) as folder:
        write_demo(folder, **settings.model_dump())
