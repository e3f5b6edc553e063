"""Data sets in VOC layout: reading, checking and indexing before any training.

<root>/JPEGImages/<id>.jpg                  photographs
<root>/SegmentationClass/<id>.png           masks, where there are some (palette PNG, 255 void)
<root>/ImageSets/Segmentation/{train,val}.txt   ids, one a line
<root>/classes.txt                          class names, one a line, without background
<root>/Annotations/<id>.xml                 image labels (labels: annotations)
<root>/image_labels.txt                     image labels: id, then class names (labels: file)
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from getam.errors import InputError, listed
from getam.files import UNKNOWN, read_image, read_labels
from getam.index import Index, IndexRow, is_safe_id
from getam.progress import progress

SPLITS = ("train", "val")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")

logger = logging.getLogger(__name__)


def index_voc(root: Path, *, labels: str, threads: int) -> Index:
    """Checks a data set in VOC layout and lists its images.

    Every image and mask is decoded, so that nothing in the data can stop a training hours later. Masks serve
    scores alone and may be missing; labels may not be missing in train.

    Args:
        labels: `annotations` or `file`.
        threads: images decoded at the same time.

    Raises:
        InputError: one message with the first offenders and the number of all problems.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; set data.root to a folder in VOC layout")
    classes = read_classes(root / "classes.txt")
    lists = {split: _read_ids(root / "ImageSets" / "Segmentation" / f"{split}.txt") for split in SPLITS}
    problems = _id_problems(root, lists)
    if problems:
        raise InputError(listed(problems))
    table = _read_label_file(root / "image_labels.txt") if labels == "file" else None
    jobs = [(id, split) for split in SPLITS for id in lists[split]]

    def check(job: tuple[str, str]) -> IndexRow | str:
        id, split = job
        try:
            names = table.get(id, ()) if table is not None else _read_annotation(root / "Annotations" / f"{id}.xml")
            return _check_row(root, id, split, names, classes, source=labels)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(threads) as pool:
        results = list(progress(pool.map(check, jobs), total=len(jobs), unit="image", what="index_dataset"))
    problems = [result for result in results if isinstance(result, str)]
    if problems:
        raise InputError(listed(problems))
    rows = tuple(result for result in results if isinstance(result, IndexRow))
    return Index(rows=rows, classes=classes)


def _check_row(
    root: Path, id: str, split: str, names: Iterable[str], classes: tuple[str, ...], *, source: str
) -> IndexRow:
    path = _find_image(root / "JPEGImages", id)
    height, width = read_image(path).shape[:2]
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise InputError(f"{id}: label {unknown[0]!r} is not in {root / 'classes.txt'}; add it there or correct it")
    labels = tuple(name for name in classes if name in set(names))
    if not labels and split == "train":
        where = f"Annotations/{id}.xml" if source == "annotations" else "image_labels.txt"
        raise InputError(f"{id}: no image label in {root / where}; label the image or take its id off train.txt")
    mask: Path | None = root / "SegmentationClass" / f"{id}.png"
    if mask is not None and mask.is_file():
        _check_mask(mask, (height, width), len(classes))
    else:
        mask = None
    return IndexRow(id=id, split=split, image=path, mask=mask, height=height, width=width, labels=labels)


def _check_mask(path: Path, size: tuple[int, int], num_classes: int) -> None:
    values = read_labels(path)
    if values.shape != size:
        raise InputError(
            f"{path}: the mask is {values.shape[1]}x{values.shape[0]}, its image {size[1]}x{size[0]} pixels "
            "(width x height); make them equal"
        )
    known = np.isin(values, [*range(num_classes + 1), UNKNOWN])
    if not known.all():
        raise InputError(
            f"{path}: mask value {values[~known][0]} is beyond the {num_classes} classes of classes.txt; "
            f"allowed: 0 to {num_classes}, and {UNKNOWN} for void"
        )


def _find_image(folder: Path, id: str) -> Path:
    for suffix in IMAGE_SUFFIXES:
        path = folder / f"{id}{suffix}"
        if path.is_file():
            return path
    raise InputError(f"{folder / id}.jpg: no such image; add the file or take its id off the list")


def read_classes(path: Path) -> tuple[str, ...]:
    """The names in classes.txt, a line each, without background.

    Raises:
        InputError: no names, one twice, too many, or one that cannot be a class name.
    """
    names = tuple(line.strip() for line in _lines(path) if line.strip())
    if not names:
        raise InputError(f"{path}: no class names; write one a line, without background")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: class {repeated[0]!r} stands there twice; names must differ")
    if len(names) >= UNKNOWN:
        raise InputError(f"{path}: {len(names)} classes; label PNGs hold at most {UNKNOWN - 1}")
    if "background" in names:
        raise InputError(f"{path}: 'background' is no class but label value 0; take it off the list")
    for name in names:
        if ";" in name or not name.isprintable():
            raise InputError(f"{path}: class name {name!r} holds ';' or a control character; rename the class")
    return names


def _read_ids(path: Path) -> list[str]:
    ids = [line.strip() for line in _lines(path) if line.strip()]
    if not ids:
        raise InputError(f"{path}: no ids; write one image id a line")
    return ids


def _read_label_file(path: Path) -> dict[str, tuple[str, ...]]:
    table = {}
    for line in _lines(path):
        words = line.split()
        if words:
            table[words[0]] = tuple(words[1:])
    return table


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a data set in VOC layout needs it") from None
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from None


def _read_annotation(path: Path) -> set[str]:
    """Class names of `object/name` in a VOC XML file; the parts inside an object are not image labels."""
    try:
        tree = ElementTree.fromstring(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; add it, or set data.labels to file") from None
    except (ElementTree.ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise InputError(f"{path}: not a harmless, well-formed XML file ({error!r}); replace it") from None
    return {(element.findtext("name") or "").strip() for element in tree.findall("object")} - {""}


def _id_problems(root: Path, lists: dict[str, list[str]]) -> list[str]:
    problems = []
    for split, ids in lists.items():
        path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        problems += [
            f"{path}: id {id!r} is not a plain file name (a path separator, a leading dot or a control character); "
            "rename the image"
            for id in ids
            if not is_safe_id(id)
        ]
        problems += [f"{path}: id {id!r} stands there twice" for id, count in Counter(ids).items() if count > 1]
    common = sorted(set(lists["train"]) & set(lists["val"]))
    problems += [
        f"id {id!r} is in train.txt and in val.txt; scores need images that were not trained on" for id in common
    ]
    return problems
