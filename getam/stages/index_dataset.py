"""Checks a data set and writes index.csv with classes.txt, index.json and converted masks beside it."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from pydantic import Field

from getam.coco import index_coco
from getam.errors import MAX_OFFENDERS
from getam.files import write_json
from getam.index import REPORT, Index, write_index
from getam.machine import MachineArguments
from getam.settings import IndexSettings
from getam.voc import index_voc

SECTION = "data"
MASKS = "masks"

logger = logging.getLogger(__name__)


class Arguments(IndexSettings, MachineArguments):
    """Check every image, mask and label of a data set, and write index.csv.

    Beside it: classes.txt, index.json (where the labels come from, and what was counted) and, where masks are no PNGs
    (SBD, COCO), masks/<id>.png.
    """

    out: Path = Field(description="index.csv")


def run(arguments: Arguments) -> None:
    index = _index(arguments)
    repeated = repeated_files(index)
    write_json(arguments.out.parent / REPORT, _report(arguments, index, repeated))
    write_index(arguments.out, index)
    for split, ids in split_ids(index).items():
        masks = sum(row.mask is not None for row in index.split(split))
        logger.info("index_dataset: %s: %d images, %d with a mask", split, len(ids), masks)
    for first, second in repeated[:MAX_OFFENDERS]:
        logger.warning("index_dataset: %s and %s are the same file, byte for byte", first, second)
    if repeated:
        logger.warning("index_dataset: %d images are there twice; a score is better than it should be", len(repeated))


def _index(arguments: Arguments) -> Index:
    counts = arguments.counts.model_dump()
    masks = arguments.out.parent / MASKS
    if arguments.format == "coco":
        return index_coco(
            arguments.root, masks=masks, images=arguments.images, threads=arguments.threads, counts=counts
        )
    return index_voc(
        arguments.root,
        labels=arguments.labels,
        threads=arguments.threads,
        augmented=Path(arguments.augmented) if arguments.augmented else None,
        masks=masks,
        images=arguments.images,
        counts=counts,
    )


def split_ids(index: Index) -> dict[str, list[str]]:
    """{split: ids}, in the index's order."""
    splits: dict[str, list[str]] = defaultdict(list)
    for row in index.rows:
        splits[row.split].append(row.id)
    return dict(splits)


def repeated_files(index: Index) -> list[tuple[Path, Path]]:
    """Pairs of images of different splits that are one file, byte for byte."""
    # Files of another length are other files, so that few are read.
    by_length: dict[int, list[tuple[str, Path]]] = defaultdict(list)
    for row in index.rows:
        by_length[row.image.stat().st_size].append((row.split, row.image))
    pairs = []
    for files in by_length.values():
        if len({split for split, _ in files}) < 2:
            continue
        seen: dict[str, tuple[str, Path]] = {}
        for split, path in files:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            first = seen.setdefault(digest, (split, path))
            if first[0] != split:
                pairs.append((first[1], path))
    return pairs


def _report(arguments: Arguments, index: Index, repeated: list[tuple[Path, Path]]) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for split, ids in split_ids(index).items():
        rows = index.split(split)
        images = Counter(name for row in rows for name in row.labels)
        splits[split] = {
            "images": len(ids),
            "masks": sum(row.mask is not None for row in rows),
            "images_of_class": {name: images[name] for name in index.classes},
        }
    return {
        "format": arguments.format,
        "root": str(arguments.root),
        "augmented": arguments.augmented,
        "labels": arguments.labels,
        "splits": splits,
        "repeated": [[str(first), str(second)] for first, second in repeated],
    }
