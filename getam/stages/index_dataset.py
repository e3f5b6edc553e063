"""Checks a data set and writes index.csv with classes.txt, index.json and converted masks beside it."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from getam.datasets.checked_files import photograph_turn, remembered
from getam.datasets.formats import FORMATS
from getam.datasets.index import CLASSES, REPORT, Index, IndexRow, write_index
from getam.datasets.repeated import repeated_files
from getam.errors import MAX_OFFENDERS, InputError, chosen
from getam.settings.data import IndexSettings
from getam.settings.section import section_of
from getam.system.arguments.machine import MachineArguments
from getam.system.files import write_json

SECTION = "data"
MASKS = "masks"
CHECKED = ".checked_files"
"""What was found in photographs and masks, beside index.csv: no file that anything depends on."""

logger = logging.getLogger(__name__)


class Arguments(IndexSettings, MachineArguments):
    """Check every image, mask and label of a data set, and write index.csv.

    Beside it: classes.txt, index.json (where the labels come from, and what was counted) and, where masks are no PNGs
    (SBD, COCO), masks/<id>.png.
    """

    splits: tuple[Literal["train", "val", "test"], ...] = Field(
        default=("train", "val", "test"),
        description="splits to list; test where there is one [train, val and test]",
        min_length=1,
    )
    out: Path = Field(description="index.csv")


def run(arguments: Arguments) -> None:
    _check_paths(arguments)
    make = chosen(FORMATS, arguments.format, name="data.format").index
    with remembered(arguments.out.parent / CHECKED):
        index = make(
            section_of(IndexSettings, arguments), arguments.splits, arguments.out.parent / MASKS, arguments.threads
        )
        repeated = repeated_rows(index)
        turned = turned_files(index)
    write_json(arguments.out.parent / REPORT, _report(arguments, index, repeated, turned))
    write_index(arguments.out, index)
    for split, ids in split_ids(index).items():
        masks = sum(row.mask is not None for row in index.split(split))
        logger.info("index_dataset: %s: %d images, %d with a mask", split, len(ids), masks)
        if split == "train" and (negatives := sum(not row.labels for row in index.split(split))):
            logger.info(
                "index_dataset: train: %d images show none of the classes: learned from as background", negatives
            )
        if split == "val" and masks < len(ids):
            logger.warning(
                "index_dataset: val: %d of %d images have no mask and are not scored", len(ids) - masks, len(ids)
            )
        if unlabelled := len(ids) - len(index.labelled(split)):
            logger.warning(
                "index_dataset: %s: nobody has labelled %d of %d images, which are left out of scores by image labels",
                split,
                unlabelled,
                len(ids),
            )
    if "val" in arguments.splits and not index.split("val"):
        logger.warning("index_dataset: no image is in val: no network is scored")
    for path in turned[:MAX_OFFENDERS]:
        logger.warning("index_dataset: %s is turned by EXIF", path)
    if turned:
        logger.warning(
            "index_dataset: %d photographs with a mask are turned by EXIF; look whether the masks are of the upright "
            "ones, as they are read",
            len(turned),
        )
    for first, second in repeated[:MAX_OFFENDERS]:
        logger.warning("index_dataset: %s and %s are the same file, byte for byte", first.image, second.image)
    if repeated:
        across = sum(first.split != second.split for first, second in repeated)
        logger.warning(
            "index_dataset: %d images are there twice, %s",
            len(repeated),
            f"{across} of them in two splits, by which a score is better than it should be"
            if across
            else "each in one split",
        )


def _check_paths(arguments: Arguments) -> None:
    """Checks that the outputs can be written, before the images are read, which may take an hour.

    Raises:
        InputError: a path is not UTF-8, an output path is a folder, or a folder above it is a file.
    """
    out = arguments.out
    for path in (str(arguments.root), arguments.augmented, str(out)):
        try:
            path.encode()
        except UnicodeEncodeError:
            raise InputError(f"{path!r}: is no UTF-8, in which index.csv is written; rename the folder") from None
    if out.is_dir():
        raise InputError(f"--out {out}: is a folder; name a file, such as {out / 'index.csv'}")
    for path_beside in (out.parent / CLASSES, out.parent / REPORT):
        if path_beside.is_dir():
            raise InputError(f"{path_beside}: is a folder; remove it, or choose another --out")
    above = next(folder for folder in out.parents if folder.exists())
    if not above.is_dir():
        raise InputError(f"{above}: is a file; name a path below a folder by --out")


def split_ids(index: Index) -> dict[str, list[str]]:
    """The ids of each split, {split: ids}, in the order of the index."""
    splits: dict[str, list[str]] = defaultdict(list)
    for row in index.rows:
        splits[row.split].append(row.id)
    return dict(splits)


def repeated_rows(index: Index) -> list[tuple[IndexRow, IndexRow]]:
    """Pairs of images that are the same file, byte for byte; pairs across splits, which distort scores, come first."""
    rows = index.rows
    pairs = [(rows[first], rows[second]) for first, second in repeated_files([row.image for row in rows])]
    return sorted(pairs, key=lambda pair: pair[0].split == pair[1].split)


def turned_files(index: Index) -> list[Path]:
    """Photographs with a mask that are turned by EXIF: their masks may fit the turned or the stored photograph."""
    return [row.image for row in index.rows if row.mask is not None and photograph_turn(row.image) != 1]


def _report(
    arguments: Arguments, index: Index, repeated: list[tuple[IndexRow, IndexRow]], turned: list[Path]
) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for split, ids in split_ids(index).items():
        rows = index.split(split)
        unlabelled = len(rows) - len(index.labelled(split))
        images = Counter(name for row in rows for name in row.labels)
        splits[split] = {
            "images": len(ids),
            "masks": sum(row.mask is not None for row in rows),
            **({"unlabelled": unlabelled} if unlabelled else {}),
            "images_of_class": {name: images[name] for name in index.classes},
        }
    return {
        "format": arguments.format,
        "root": str(arguments.root),
        "augmented": arguments.augmented,
        "labels": arguments.labels,
        "splits": splits,
        "repeated": [[str(first.image), str(second.image)] for first, second in repeated],
        "turned": [str(path) for path in turned],
    }
