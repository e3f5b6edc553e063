"""Gathers the scores of a run into summary.json, summary.md and summary.html."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field

from getam.pages.text.documents import write_document
from getam.pages.text.summary import scores_table, summary_document
from getam.runs.folder import RunFolder
from getam.runs.summary import notes_in, summarize
from getam.system.arguments.machine import MachineArguments
from getam.system.files import write_json

logger = logging.getLogger(__name__)


class Arguments(MachineArguments):
    """Write summary.json, and summary.md and summary.html beside it: every score of the run, with its protocol."""

    run: Path = Field(description="folder of the run, results/<run>")
    files: dict[str, Path] = Field(
        {}, description="JSON: {name in a run's folder: where it is} of a variant, which has files in several folders"
    )
    rounds: list[dict[str, Path]] = Field(
        [], description="JSON: for each further round {section: file with its scores}, of pseudo_labels and deeplab"
    )
    out: Path = Field(description="summary.json; summary.md and summary.html are written beside it")


def run(arguments: Arguments) -> None:
    summary = summarize(RunFolder(arguments.run, arguments.files), rounds=arguments.rounds)
    write_document(summary_document(summary, arguments.run.name), arguments.out)
    write_json(arguments.out, summary)
    logger.info("scores of the run %s:\n%s", arguments.run.name, "\n".join([scores_table(summary), *notes_in(summary)]))
