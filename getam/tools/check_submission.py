"""Checks an archive for VOC's evaluation server."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from getam.datasets.images import require_rows
from getam.datasets.index import read_index
from getam.scores.voc_submission import check_submission
from getam.settings.section import POSITIONAL
from getam.system.arguments.machine import MachineArguments


class Arguments(MachineArguments):
    """Refuse an archive that the server would refuse, or score wrongly: names, palette, sizes, values."""

    archive: Path = Field(description="the .tgz file", json_schema_extra=POSITIONAL)
    index: Path = Field(description="index.csv")
    split: str = Field(default="test", description="split that was predicted [test]")


def run(arguments: Arguments) -> None:
    index = read_index(arguments.index)
    rows = require_rows(index.split(arguments.split), split=arguments.split, index=arguments.index)
    check_submission(arguments.archive, rows, num_classes=len(index.classes))
    print(f"{arguments.archive}: {len(rows)} images, as the server takes them")
