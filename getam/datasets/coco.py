"""Checks and indexes COCO 2014 and others of its form, and converts their instance annotations to semantic masks.

<root>/annotations/instances_{train,val}2014.json   images, categories and outlined instances
<root>/{train,val}2014/<file name>                  photographs; the id of an image is its file name's stem

Those are COCO's own files and folders; settings may name others, and no file for val.

Images without an annotation are left out, as in all published scores, unless they are asked for; 82,081 of 82,783 train
images and 40,137 of 40,504 val images remain. An image's labels are the categories of all its annotations. Its mask is
painted with the crowd regions first, then with the instances by descending area, so that a small object in front of a
large one stays visible; for equal areas, the larger annotation id is painted last. Uncovered pixels are background:
COCO has no void. An image with an annotation that has a box alone gets labels and no mask.
"""

from __future__ import annotations

import logging
import math
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pycocotools import mask as coco_mask

from getam.datasets.checked_files import photograph_size
from getam.datasets.class_names import check_class_names
from getam.datasets.consistency import consistent_index
from getam.datasets.documents import read_json_document
from getam.datasets.index import Index, IndexRow, composed, count_problems, evenly_spaced, is_safe_id
from getam.datasets.photographs import SUFFIXES
from getam.datasets.voc import check_in_threads
from getam.errors import InputError, listed
from getam.settings.foreign import INSTANCES_BYTES, MAX_OUTLINE, MAX_PAINTED, MAX_RUNS, REGION_COST
from getam.system.files import atomic_folder
from getam.system.image_files import check_drawn_upright, room_for, write_labels

SPLITS = ("train", "val")

CURE = "correct it or export the file again (of COCO 2014: unpack annotations_trainval2014.zip again)"

logger = logging.getLogger(__name__)

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Annotation:
    """The annotation of an object instance or of a crowd region."""

    id: int
    category: int
    crowd: bool
    segmentation: Any
    """Polygons or run-length encoding, as in the file; None, [] or [[]] if there is a box alone."""

    @property
    def is_outlined(self) -> bool:
        return self.segmentation is not None and not (
            isinstance(self.segmentation, list) and not any(self.segmentation)
        )


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

    @property
    def is_outlined(self) -> bool:
        """Whether every annotation has an outline, so that the mask can be painted."""
        return all(each.is_outlined for each in self.annotations)


def index_coco(
    root: Path,
    *,
    files: Mapping[str, tuple[str, str]],
    masks: Path,
    threads: int,
    images: int = 0,
    counts: Mapping[str, int] | None = None,
    negatives: bool = False,
) -> Index:
    """Checks a data set of COCO's form, writes its semantic masks and returns its index.

    Args:
        files: for train, and for val if there is one, the file of instances and the folder of photographs, as paths
            below `root`.
        masks: folder for the masks <id>.png.
        threads: images decoded at the same time.
        images: most images of a split, evenly spaced over the sorted ids; 0: all.
        counts: expected number of annotated images by split, before `images` selects some of them; 0: any.
        negatives: whether images without an annotation are taken in, as showing none of the classes.

    Raises:
        InputError: one message with the first problems and their number; no mask is left behind.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; set data.root to the folder that the paths of data.coco are below")
    problems: list[str] = []
    categories: dict[int, str] | None = None
    lists: dict[str, list[Photograph]] = {}
    for split, (file, folder) in files.items():
        source = root / file
        photographs, found = _read(source, root / folder, split, problems)
        if categories is not None and found != categories:
            raise InputError(f"{source}: other categories than in the file of {SPLITS[0]}; take both of one release")
        categories = found
        lists[split] = sorted((p for p in photographs if p.annotations or negatives), key=lambda p: p.id)
        if not any(p.annotations for p in lists[split]):
            problems.append(f"{source}: no image has an annotation; name another file by data.coco.{split}, or {CURE}")
    assert categories is not None
    ids = [{p.id for p in photographs} for photographs in lists.values()]
    problems += [
        f"image {id!r} is in train and in val; scores need images not trained on"
        for id in (sorted(set.intersection(*ids)) if len(ids) > 1 else [])
    ]
    problems += list(count_problems(lists, counts or {}))
    if problems:
        raise InputError(listed(problems))
    values = {category: position + 1 for position, category in enumerate(sorted(categories))}
    names = tuple(categories[category] for category in sorted(categories))
    jobs = [photograph for photographs in lists.values() for photograph in evenly_spaced(photographs, images)]
    boxed = sum(not photograph.is_outlined for photograph in jobs)
    if boxed:
        logger.warning("index_dataset: %d of %d images have boxes without outlines: no mask of them", boxed, len(jobs))

    with atomic_folder(masks) as written:
        rows = check_in_threads(
            lambda photograph: _check_image(photograph, values, names, written=written, masks=masks), jobs, threads
        )
    return consistent_index(rows, names, masks={}, source=root)


def _read(source: Path, folder: Path, split: str, problems: list[str]) -> tuple[list[Photograph], dict[int, str]]:
    """Reads the images and the categories of an instances file; faults of single entries are added to `problems`."""
    missing = f"name the file by data.coco.{split}, or unpack annotations_trainval2014.zip there"
    content = read_json_document(source, most=INSTANCES_BYTES, missing=missing, cure=CURE)
    try:
        listed_categories = list(_entries(content, "categories", lambda e: (_whole(e["id"]), _text(e["name"]))))
        entries = list(
            _entries(
                content,
                "images",
                lambda e: (_whole(e["id"]), _text(e["file_name"]), _whole(e["height"]), _whole(e["width"])),
            )
        )
        annotations = list(_entries(content, "annotations", _annotation))
    except ValueError as error:
        raise InputError(f"{source}: not of COCO's layout ({error}); {CURE}") from None
    categories = dict(listed_categories)
    if len(categories) != len(listed_categories):
        raise InputError(f"{source}: two categories have one id; {CURE}")
    check_class_names(tuple(categories[id] for id in sorted(categories)), source)
    # The stem is the image's id: a.jpg and a.png would share one mask.
    counts: dict[str, Counter[Any]] = {
        "image id": Counter(entry[0] for entry in entries),
        "annotation id": Counter(annotation.id for _, annotation in annotations),
        "stem of a file_name": Counter(Path(entry[1]).stem for entry in entries),
    }
    problems += [
        f"{source}: {entry} {_short(value)} stands there twice; {CURE}"
        for entry, occurrences in counts.items()
        for value, count in occurrences.items()
        if count > 1
    ]
    photographs = {}
    for id, name, height, width in entries:
        if not is_safe_id(Path(name).stem) or Path(name).name != name or Path(name).suffix.lower() not in SUFFIXES:
            problems.append(
                f"{source}: file_name {_short(name)} is not the plain name of a {', '.join(SUFFIXES)} file; write the "
                f"plain name, and put the photograph into {folder}"
            )
            continue
        photographs[id] = Photograph(split, folder / name, height, width)
    ids = {entry[0] for entry in entries}
    for image, annotation in annotations:
        if annotation.category not in categories:
            problems.append(
                f"{source}: annotation {annotation.id} is of the unknown category {annotation.category}; {CURE}"
            )
        elif image in photographs:
            photographs[image].annotations.append(annotation)
        elif image not in ids:
            problems.append(f"{source}: annotation {annotation.id} is of the unknown image {image}; {CURE}")
    return list(photographs.values()), categories


def _short(value: Any) -> str:
    """A number or a text of a file for a message, which may be of any length in the file."""
    return f"{value!r:.250}"


def _entries(content: Any, key: str, read: Callable[[Any], Entry]) -> Iterator[Entry]:
    """Yields what `read` makes of each entry of a list; ValueError says which one is malformed."""
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise ValueError(f"there is no list `{key}`")
    for number, entry in enumerate(content[key]):
        try:
            yield read(entry)
        except KeyError as error:
            raise ValueError(f"{key}[{number}] has no {error}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{key}[{number}]: {error}") from None


def _annotation(entry: Any) -> tuple[int, Annotation]:
    """The id of an annotation's image, and the annotation."""
    return _whole(entry["image_id"]), Annotation(
        _whole(entry["id"]), _whole(entry["category_id"]), _flag(entry.get("iscrowd", 0)), entry.get("segmentation")
    )


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
    if not photograph.path.is_file():
        raise InputError(
            f"{photograph.path}: no such image; add it, or name the folder of photographs by "
            f"data.coco.{photograph.split}_images"
        )
    decoded = photograph_size(photograph.path)
    # The size is checked before a mask of that size is allocated.
    if decoded != size:
        check_drawn_upright(photograph.path, decoded, size, what="the size in the annotations")
        raise InputError(f"{photograph.path}: its size is {decoded}, in the annotations {size} (H, W); replace it")
    if photograph.is_outlined:
        with room_for(math.prod(size)):
            mask = semantic_mask(photograph.annotations, values, size, source=photograph.path)
            write_labels(written / f"{photograph.id}.png", mask)
    present = sorted({values[annotation.category] for annotation in photograph.annotations})
    return IndexRow(
        id=photograph.id,
        split=photograph.split,
        image=photograph.path,
        mask=masks / f"{photograph.id}.png" if photograph.is_outlined else None,
        height=photograph.height,
        width=photograph.width,
        labels=tuple(names[value - 1] for value in present),
    )


def semantic_mask(
    annotations: Iterable[Annotation], values: Mapping[int, int], size: tuple[int, int], *, source: Path
) -> np.ndarray:
    """The semantic mask of an image's annotations: (H, W), uint8 label values; the module says which one wins.

    Args:
        values: category id -> label value.
        size: (H, W).
        source: the photograph or the file of the annotations, for messages.

    Raises:
        InputError: a segmentation is malformed, or all together cost too much.
    """
    budget = _Budget()
    regions = []
    for annotation in annotations:
        try:
            spans = _spans(annotation.segmentation, size, budget)
            area = int((spans[1] - spans[0]).sum())
            budget.take("painted", area)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{source}: annotation {annotation.id} has a malformed segmentation ({error}); {CURE}"
            ) from None
        rank = (not annotation.crowd, 0 if annotation.crowd else -area, annotation.id)
        regions.append((rank, values[annotation.category], spans))
    # A region is held as the spans of pixels that it covers, and not as a mask: there may be hundreds of an image.
    flat = np.zeros(math.prod(size), np.uint8)
    for _, value, (starts, ends) in sorted(regions, key=lambda region: region[0]):
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            flat[start:end] = value
    return flat.reshape(size[::-1]).T


@dataclass
class _Budget:
    """What the annotations of an image may still cost."""

    outline: int = MAX_OUTLINE
    runs: int = MAX_RUNS
    painted: int = MAX_PAINTED

    def take(self, what: str, cost: int) -> None:
        """Raises ValueError if the image's annotations together cost more than the bound."""
        left = getattr(self, what) - cost
        if left < 0:
            texts = {"outline": "outlines of more than {} pixels", "runs": "more than {} run lengths"}
            text = texts.get(what, "an area of more than {} pixels").format(getattr(_Budget, what))
            raise ValueError(f"the annotations of the image have {text}")
        setattr(self, what, left)


Spans = tuple[np.ndarray, np.ndarray]
"""Starts and ends of ranges of pixels, counted down the columns; (N,) each, ascending and apart."""


def _spans(segmentation: Any, size: tuple[int, int], budget: _Budget) -> Spans:
    """The pixels of polygons or run lengths. Raises ValueError, TypeError or KeyError if they are malformed."""
    if isinstance(segmentation, Mapping):
        if list(segmentation["size"]) != list(size):
            runs_size = reprlib.repr(segmentation["size"])
            raise ValueError(f"runs are for {runs_size}, the image is {list(size)} (H, W)")
        counts = segmentation["counts"]
        if not isinstance(counts, str | list):
            raise ValueError("its runs are neither a text nor a list")
        budget.take("runs", len(counts) + REGION_COST)
        return _covered(_unpacked(counts.encode()) if isinstance(counts, str) else _listed(counts, size), size)
    if not isinstance(segmentation, list):
        raise ValueError("neither polygons nor runs")
    for polygon in segmentation:
        budget.take("outline", _length(polygon, size) + REGION_COST)
    # Polygons of fewer than three points occur in some data sets and enclose nothing; pycocotools would read one of
    # four numbers as a box.
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
    if not polygons:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    codes = coco_mask.frPyObjects(polygons, *size)
    return _united([_covered(_unpacked(code["counts"]), size) for code in codes])


def _length(polygon: Any, size: tuple[int, int]) -> int:
    """The length of a polygon's outline in pixels, diagonal steps counted as one; ValueError if it is malformed."""
    if not isinstance(polygon, list) or len(polygon) % 2:
        raise ValueError("a polygon needs x and y of every point")
    height, width = size
    for position, number in enumerate(polygon):
        side = height if position % 2 else width
        # A single edge to a point far outside the image would cost the decoder much time and memory.
        if isinstance(number, bool) or not isinstance(number, int | float) or not -side <= number <= 2 * side:
            raise ValueError(f"coordinate {reprlib.repr(number)} is far outside the image")
    points = np.array(polygon, float).reshape(-1, 2)
    return int(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1, initial=0).sum()) + len(points)


def _united(regions: list[Spans]) -> Spans:
    """The union of regions. pycocotools' takes time that is quadratic in their number."""
    if len(regions) == 1:
        return regions[0]
    starts, ends = (np.concatenate(each) for each in zip(*regions, strict=True))
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    first = np.ones(len(starts), bool)
    first[1:] = starts[1:] > ends[:-1]
    return starts[first], ends[np.append(first[1:], True)[: len(ends)]]


def _covered(lengths: np.ndarray, size: tuple[int, int]) -> Spans:
    """The pixels of lengths of alternating runs of 0 and 1: (R,), int64.

    pycocotools is not used because it does not check that the lengths add up to the image's pixels.
    """
    pixels = math.prod(size)
    # No sum of lengths of an image's size each, at most MAX_RUNS, is beyond an int64.
    if (lengths < 0).any() or (lengths > pixels).any() or lengths.sum() != pixels:
        raise ValueError("its runs do not add up to the image's pixels")
    ends = np.cumsum(lengths)[1::2]
    starts = ends - lengths[1::2]
    kept = ends > starts
    return starts[kept], ends[kept]


def _listed(counts: list[Any], size: tuple[int, int]) -> np.ndarray:
    """Run lengths that stand in the file as a list: (R,), int64."""
    most = math.prod(size)
    if any(not 0 <= _whole(count) <= most for count in counts):
        raise ValueError("its runs do not add up to the image's pixels")
    return np.array(counts, np.int64)


def _unpacked(text: bytes) -> np.ndarray:
    """Decodes COCO's compressed run lengths: (R,), int64.

    A character holds 5 bits of a number, and a sixth bit that says whether the next character continues it. The last
    character's fifth bit is the number's sign. From the fourth run on, the number is the difference to the run two
    before.
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if ((codes < 0) | (codes > 63)).any():
        raise ValueError("its runs hold a character that is no code")
    if not len(codes):
        return codes
    last = codes & 32 == 0
    if not last[-1]:
        raise ValueError("its runs end within a number")
    ends = np.flatnonzero(last)
    starts = np.append(0, ends[:-1] + 1)
    characters = ends - starts + 1
    if characters.max() > 12:
        raise ValueError("a run is longer than any image")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, characters))
    values = np.add.reduceat((codes & 31) << shifts, starts)
    values -= np.where(codes[ends] & 16 != 0, np.int64(1) << (5 * characters), 0)
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return values
