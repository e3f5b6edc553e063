"""Packs the predictions of a split for VOC's evaluation server, and checks the archive."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field

from getam.datasets.images import require_rows
from getam.datasets.index import read_index
from getam.datasets.shards import MANIFEST, check_classes, read_manifest
from getam.errors import InputError, listed
from getam.scores.voc_submission import ARCHIVE, FOLDER, check_submission, label_problem, pack_submission
from getam.system.arguments.machine import MachineArguments
from getam.system.files import atomic_folder
from getam.system.image_files import read_labels, write_labels

logger = logging.getLogger(__name__)


class Arguments(MachineArguments):
    """Write results/VOC2012/Segmentation/comp6_test_cls/<id>.png and results.tgz, checked."""

    index: Path = Field(description="index.csv")
    predictions: Path = Field(description="folder of predictions <id>.png with manifest.json")
    split: str = Field(default="test", description="split that was predicted [test]")
    out: Path = Field(description="folder for the files and the archive")


def run(arguments: Arguments) -> None:
    index = read_index(arguments.index)
    rows = require_rows(index.split(arguments.split), split=arguments.split, index=arguments.index)
    manifest = read_manifest(arguments.predictions)
    check_classes(manifest.get("classes", []), index, source=arguments.predictions / MANIFEST)
    ids = [row.id for row in rows]
    if list(manifest["ids"]) != ids:
        raise InputError(f"{arguments.predictions}: holds other images than the split {arguments.split!r}; predict it")
    with atomic_folder(arguments.out) as folder:
        problems = []
        for row in rows:
            path = arguments.predictions / f"{row.id}.png"
            values = read_labels(path)
            if problem := label_problem(values, row, len(index.classes)):
                problems.append(f"{path}: {problem}")
            # The labels are written again, in VOC's palette, whatever palette the predictions have.
            write_labels(folder / FOLDER / f"{row.id}.png", values)
        if problems:
            raise InputError(f"{listed(problems)}; predict again")
        pack_submission(folder, folder / ARCHIVE, ids)
        check_submission(folder / ARCHIVE, rows, num_classes=len(index.classes))
    logger.info("voc_submission: %d images -> %s", len(ids), arguments.out / ARCHIVE)
