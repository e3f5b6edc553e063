"""Checks and indexes COCO 2014, and converts its instance annotations to semantic masks.

<root>/annotations/instances_{train,val}2014.json   images, categories and outlined instances
<root>/{train,val}2014/<file name>                  photographs; the id of an image is its file name's stem

Images without an annotation are left out, as in all published scores, unless they are asked for; 82,081 of 82,783 train
images and 40,137 of 40,504 val images remain. An image's labels are the categories of all its annotations. Its mask is
painted with the crowd regions first, then with the instances by descending area, so that a small object in front of a
large one stays visible; for equal areas, the larger annotation id is painted last. Uncovered pixels are background:
COCO has no void.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from getam.datasets.class_names import check_class_names
from getam.datasets.index import Index, IndexRow, composed, count_problems, evenly_spaced, is_safe_id
from getam.datasets.voc import check_in_threads
from getam.errors import InputError, listed
from getam.system.files import atomic_folder
from getam.system.image_files import check_drawn_upright, read_image, write_labels

SPLITS = ("train", "val")
YEAR = "2014"
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Annotation:
    """The annotation of an object instance or of a crowd region."""

    id: int
    category: int
    crowd: bool
    segmentation: Any
    """Polygons or run-length encoding, as in the file."""


@dataclass(frozen=True)
class Photograph:
    """An image of an instances file, with its annotations."""

    split: str
    path: Path
    height: int
    width: int
    annotations: list[Annotation] = field(default_factory=list)

    @property
    def id(self) -> str:
        return composed(self.path.stem)


def index_coco(
    root: Path,
    *,
    masks: Path,
    threads: int,
    images: int = 0,
    counts: Mapping[str, int] | None = None,
    negatives: bool = False,
) -> Index:
    """Checks COCO 2014, writes its semantic masks and returns its index.

    Args:
        masks: folder for the masks <id>.png.
        threads: images decoded at the same time.
        images: most images of a split, evenly spaced over the sorted ids; 0: all.
        counts: expected number of annotated images by split, before `images` selects some of them; 0: any.
        negatives: whether images without an annotation are taken in, as showing none of the classes.

    Raises:
        InputError: one message with the first problems and their number; no mask is left behind.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; set data.root to COCO's, with annotations, train2014 and val2014")
    problems: list[str] = []
    categories: dict[int, str] | None = None
    lists: dict[str, list[Photograph]] = {}
    for split in SPLITS:
        source = root / "annotations" / f"instances_{split}{YEAR}.json"
        photographs, found = _read(source, root / f"{split}{YEAR}", split, problems)
        if categories is not None and found != categories:
            raise InputError(f"{source}: other categories than in the file of {SPLITS[0]}; take both of one release")
        categories = found
        lists[split] = sorted((p for p in photographs if p.annotations or negatives), key=lambda p: p.id)
        if not any(p.annotations for p in lists[split]):
            problems.append(f"{source}: no image has an annotation; unpack annotations_trainval2014.zip again")
    assert categories is not None
    first, second = ({p.id for p in lists[split]} for split in SPLITS)
    problems += [
        f"image {id!r} is in train and in val; scores need images not trained on" for id in sorted(first & second)
    ]
    problems += list(count_problems(lists, counts or {}))
    if problems:
        raise InputError(listed(problems))
    values = {category: position + 1 for position, category in enumerate(sorted(categories))}
    names = tuple(categories[category] for category in sorted(categories))
    jobs = [photograph for split in SPLITS for photograph in evenly_spaced(lists[split], images)]

    with atomic_folder(masks) as written:
        rows = check_in_threads(
            lambda photograph: _check_image(photograph, values, names, written=written, masks=masks), jobs, threads
        )
    return Index(rows=rows, classes=names)


def _read(source: Path, folder: Path, split: str, problems: list[str]) -> tuple[list[Photograph], dict[int, str]]:
    """Reads the images and the categories of an instances file; faults of single entries are added to `problems`."""
    cure = "unpack annotations_trainval2014.zip again"
    try:
        content = json.loads(source.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{source}: no such file; unpack annotations_trainval2014.zip there") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: not valid JSON ({error}); {cure}") from None
    try:
        images, annotations, listed_categories = (content[key] for key in ("images", "annotations", "categories"))
        categories = {_whole(entry["id"]): _text(entry["name"]) for entry in listed_categories}
        entries = [(_whole(e["id"]), _text(e["file_name"]), _whole(e["height"]), _whole(e["width"])) for e in images]
        outlined = [
            (
                _whole(e["image_id"]),
                Annotation(_whole(e["id"]), _whole(e["category_id"]), _flag(e.get("iscrowd", 0)), e["segmentation"]),
            )
            for e in annotations
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{source}: not of COCO's layout ({type(error).__name__}: {error}); {cure}") from None
    if len(categories) != len(listed_categories):
        raise InputError(f"{source}: two categories have one id; {cure}")
    check_class_names(tuple(categories[id] for id in sorted(categories)), source)
    # The stem is the image's id: a.jpg and a.png would share one mask.
    counts: dict[str, Counter[Any]] = {
        "image id": Counter(entry[0] for entry in entries),
        "annotation id": Counter(annotation.id for _, annotation in outlined),
        "stem of a file_name": Counter(Path(entry[1]).stem for entry in entries),
    }
    problems += [
        f"{source}: {entry} {value!r} stands there twice; {cure}"
        for entry, occurrences in counts.items()
        for value, count in occurrences.items()
        if count > 1
    ]
    photographs = {}
    for id, name, height, width in entries:
        if not is_safe_id(Path(name).stem) or Path(name).name != name or Path(name).suffix.lower() not in SUFFIXES:
            problems.append(
                f"{source}: file_name {name!r} is not the plain name of a {', '.join(SUFFIXES)} file; rename the image"
            )
            continue
        photographs[id] = Photograph(split, folder / name, height, width)
    ids = {entry[0] for entry in entries}
    for image, annotation in outlined:
        if annotation.category not in categories:
            problems.append(
                f"{source}: annotation {annotation.id} is of the unknown category {annotation.category}; {cure}"
            )
        elif image in photographs:
            photographs[image].annotations.append(annotation)
        elif image not in ids:
            problems.append(f"{source}: annotation {annotation.id} is of the unknown image {image}; {cure}")
    return list(photographs.values()), categories


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{reprlib.repr(value)} is no whole number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{reprlib.repr(value)} is no text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, int) or value not in (0, 1):
        raise TypeError(f"iscrowd {reprlib.repr(value)} is neither 0 nor 1")
    return bool(value)


def _check_image(
    photograph: Photograph, values: Mapping[int, int], names: tuple[str, ...], *, written: Path, masks: Path
) -> IndexRow:
    size = (photograph.height, photograph.width)
    decoded = read_image(photograph.path).shape[:2]
    # The size is checked before a mask of that size is allocated.
    if decoded != size:
        check_drawn_upright(photograph.path, decoded, size, what="the size in the annotations")
        raise InputError(f"{photograph.path}: its size is {decoded}, in the annotations {size} (H, W); replace it")
    write_labels(written / f"{photograph.id}.png", _semantic_mask(photograph, values))
    present = sorted({values[annotation.category] for annotation in photograph.annotations})
    return IndexRow(
        id=photograph.id,
        split=photograph.split,
        image=photograph.path,
        mask=masks / f"{photograph.id}.png",
        height=photograph.height,
        width=photograph.width,
        labels=tuple(names[value - 1] for value in present),
    )


def _semantic_mask(photograph: Photograph, values: Mapping[int, int]) -> np.ndarray:
    """The semantic mask of an image's annotations: (H, W), uint8 label values; the module says which one wins.

    Args:
        values: category id -> label value.
    """
    size = (photograph.height, photograph.width)
    regions = []
    for annotation in photograph.annotations:
        try:
            region = _region(annotation.segmentation, size)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{photograph.path}: annotation {annotation.id} has a malformed segmentation ({error}); "
                "unpack the annotations again"
            ) from None
        area = 0 if annotation.crowd else -int(region.sum())
        regions.append((not annotation.crowd, area, annotation.id, values[annotation.category], region))
    labels = np.zeros(size, np.uint8)
    for *_, value, region in sorted(regions, key=lambda entry: entry[:3]):
        labels[region] = value
    return labels


def _region(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Decodes polygons or run lengths: (H, W), bool. Raises ValueError, TypeError or KeyError if they are malformed."""
    if isinstance(segmentation, Mapping):
        return _decoded_runs(segmentation, size)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("neither polygons nor runs")
    height, width = size
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) % 2:
            raise ValueError("a polygon needs x and y of every point")
        for position, number in enumerate(polygon):
            side = height if position % 2 else width
            # A single edge to a point far outside the image would cost the decoder much time and memory.
            if isinstance(number, bool) or not isinstance(number, int | float) or not -side <= number <= 2 * side:
                raise ValueError(f"coordinate {reprlib.repr(number)} is far outside the image")
    # Polygons of fewer than three points occur in some data sets and enclose nothing; pycocotools would read one of
    # four numbers as a box.
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
    if not polygons:
        return np.zeros(size, bool)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(bool)


def _decoded_runs(runs: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Decodes lengths of alternating runs of 0 and 1 in column-major order: (H, W), bool.

    pycocotools is not used because it does not check that the lengths add up to the image's pixels.
    """
    if list(runs["size"]) != list(size):
        raise ValueError(f"runs are for {reprlib.repr(runs['size'])}, the image is {list(size)} (H, W)")
    counts = runs["counts"]
    lengths = list(_unpacked(counts)) if isinstance(counts, str) else [_whole(count) for count in counts]
    if any(length < 0 for length in lengths) or sum(lengths) != math.prod(size):
        raise ValueError("its runs do not add up to the image's pixels")
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(size[::-1]).T


def _unpacked(text: str) -> Iterator[int]:
    """Decodes COCO's compressed run lengths.

    A character holds 5 bits of a number, and a sixth bit that says whether the next character continues it. From the
    fourth run on, the number is the difference to the run two before.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"its runs hold the character {character!r}")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            if shift > 60:
                raise ValueError("a run is longer than any image")
            continue
        if code & 16:
            value -= 1 << shift
        if len(lengths) > 2:
            value += lengths[-2]
        lengths.append(value)
        yield value
        value = shift = 0
    if shift:
        raise ValueError("its runs end within a number")
