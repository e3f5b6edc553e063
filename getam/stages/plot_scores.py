"""Draws the plots of a run: scores, confusion matrices, threshold curve, trainings, times."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field

from getam.pages.plots.run import write_plots
from getam.runs.folder import RunFolder
from getam.system.arguments.machine import MachineArguments
from getam.system.files import atomic_folder

logger = logging.getLogger(__name__)


class Arguments(MachineArguments):
    """Write the plots of a run, an SVG each; what the run doesn't have is left out."""

    run: Path = Field(description="folder of the run, results/<run>")
    files: dict[str, Path] = Field(
        {}, description="JSON: {name in a run's folder: where it is} of a variant, which has files in several folders"
    )
    out: Path = Field(description="folder for the plots")


def run(arguments: Arguments) -> None:
    with atomic_folder(arguments.out) as folder:
        names = write_plots(RunFolder(arguments.run, arguments.files), folder)
    logger.info("plots of the run %s: %s", arguments.run.name, ", ".join(names) or "none")
