"""Makes the audit page, with every stage's result beside its image, and the overview of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from getam.datasets.index import read_index
from getam.pages.audit.gallery import write_gallery
from getam.pages.contact_sheet import write_contact_sheet
from getam.pages.overview import write_overview
from getam.runs.folder import RunFolder
from getam.settings.audit import AuditSettings
from getam.system.arguments.machine import MachineArguments
from getam.system.files import atomic_folder

SECTION = "audit"


class Arguments(AuditSettings, MachineArguments):
    """Write audit/index.html and audit/overview.html, which open from disk without a server."""

    run: Path = Field(description="folder of the run, results/<run>")
    files: dict[str, Path] = Field(
        {}, description="JSON: {name in a run's folder: where it is} of a variant, which has files in several folders"
    )
    index: Path = Field(description="index.csv")
    shards: Annotated[int, Field(ge=1)] = Field(description="number of shards of the run's per-image stages")
    out: Path = Field(description="folder for index.html, its lists and images")


def run(arguments: Arguments) -> None:
    index = read_index(arguments.index)
    run_folder = RunFolder(arguments.run, arguments.files)
    with atomic_folder(arguments.out) as folder:
        # The contact sheet comes first, since the other pages link to it if it exists.
        write_contact_sheet(
            run_folder,
            folder / "contact_sheet.html",
            rows=index.rows,
            classes=index.classes,
            shards=arguments.shards,
        )
        write_gallery(
            run_folder,
            folder,
            rows=index.rows,
            classes=index.classes,
            shards=arguments.shards,
            images=arguments.images,
            threads=arguments.threads,
        )
        write_overview(run_folder, folder)
