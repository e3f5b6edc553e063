"""Checks a data set and writes index.csv with classes.txt beside it."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field

from getam.index import write_index
from getam.machine import MachineArguments
from getam.settings import IndexSettings
from getam.voc import index_voc

SECTION = "data"

logger = logging.getLogger(__name__)


class Arguments(IndexSettings, MachineArguments):
    """Check every image, mask and label of a data set in VOC layout, and write index.csv."""

    out: Path = Field(description="index.csv; classes.txt is written beside it")


def run(arguments: Arguments) -> None:
    index = index_voc(arguments.root, labels=arguments.labels, threads=arguments.threads)
    write_index(arguments.out, index)
    for split in ("train", "val"):
        rows = index.split(split)
        masks = sum(row.mask is not None for row in rows)
        logger.info("index_dataset: %s: %d images, %d with a mask", split, len(rows), masks)
