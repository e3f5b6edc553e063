"""Downloads a public data set by its official addresses and unpacks it as the recipes expect it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from pydantic import Field

from getam.datasets.archives import DATA_SETS, check_room, fetch, megabytes, size_of
from getam.settings.choices import Choice
from getam.settings.section import POSITIONAL
from getam.system.arguments.machine import MachineArguments

logger = logging.getLogger(__name__)


class Arguments(MachineArguments):
    """Unpack voc12 or sbd (for configs/voc12.yaml), coco14 (for configs/coco14.yaml) or duts (for both) into a folder.

    What is there already is left alone, and a download that was stopped goes on.
    """

    name: Annotated[str, Choice(DATA_SETS)] = Field(
        description="data set: " + ", ".join(DATA_SETS), json_schema_extra=POSITIONAL
    )
    out: Path = Field(default=Path("data"), description="folder of all data [data]")


def run(arguments: Arguments) -> None:
    data = arguments.out
    archives = [archive for archive in DATA_SETS[arguments.name] if not archive.target(data).exists()]
    sizes = [size_of(archive, data) for archive in archives if not archive.file(data).is_file()]
    known = [size for size in sizes if size is not None]
    if known:
        # An archive and what is unpacked from it lie on the disk together; photographs hardly shrink in an archive.
        needed = sum(known) + max(known)
        logger.info("%s: downloads %s; %s of room are needed", arguments.name, megabytes(sum(known)), megabytes(needed))
        check_room(data, needed)
    for archive in archives:
        fetch(archive, data)
    print(f"{arguments.name}: is in {data}")
