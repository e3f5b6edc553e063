"""Checks and indexes data sets in VOC layout.

<root>/JPEGImages/<id>.jpg                  images
<root>/SegmentationClass/<id>.png           masks, which may be missing (palette PNG, 255 void)
<root>/ImageSets/Segmentation/{train,val}.txt   ids, one a line; test.txt is optional
<root>/classes.txt                          class names, one a line, without background; optional, by default VOC's 20
<root>/Annotations/<id>.xml                 image labels (labels: annotations)
<root>/image_labels.txt                     image labels: id, then class names (labels: file)

VOCdevkit/VOC2012 has this layout. `augmented` adds images with masks in another folder to the train split; with SBD,
VOC's train becomes the usual train_aug: (train + all of SBD) - val.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from getam.datasets.checked_files import NO_COLOR, MaskFacts, mask_facts, packed_colors, photograph_size, values_in
from getam.datasets.class_names import read_classes, read_lines
from getam.datasets.consistency import SeenMask, check_class_values, consistent_index, seen_mask
from getam.datasets.index import CLASSES, Index, IndexRow, count_problems, evenly_spaced, files_by_id, is_safe_id
from getam.datasets.sbd import is_sbd, read_sbd_mask, sbd_masks
from getam.datasets.voc_files import (
    DatasetFiles,
    Label,
    check_masks_have_images,
    read_annotation,
    read_label_file,
    twice,
)
from getam.errors import InputError, listed
from getam.system.files import atomic_folder
from getam.system.image_files import (
    UNKNOWN,
    check_drawn_upright,
    voc_palette,
    write_labels,
)
from getam.system.progress import progress

SPLITS = ("train", "val", "test")

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
UNSAFE_ID = "its id is not a plain file name; rename the file"
Job = TypeVar("Job")


class ExtraMasks(NamedTuple):
    """Masks in another folder than SegmentationClass, whose images are added to train."""

    files: Mapping[str, Path]
    """Mask files by id."""
    converted: bool
    """Whether the files are SBD's and must be converted to PNGs."""


def index_voc(
    root: Path,
    *,
    labels: str,
    threads: int,
    augmented: Path | None = None,
    masks: Path | None = None,
    images: int = 0,
    counts: Mapping[str, int] | None = None,
    splits: Collection[str] = SPLITS,
    negatives: bool = False,
) -> Index:
    """Checks a data set in VOC layout and returns its index.

    Every image and mask is decoded, so that a damaged file cannot stop a training hours later. Masks are needed only
    for scores and may be missing. Each train image must have a label, unless `negatives`. An image of val without its
    XML file, its line or its mask, whichever `labels` says, is one that nobody has labelled. The test split is included
    if its list exists, and needs neither masks nor labels.

    Args:
        labels: source of image labels: `annotations`, `file`, or `masks` (the classes that occur in an image's mask).
        threads: images decoded at the same time.
        augmented: SBD's folder `dataset`, or a folder of masks <id>.png such as SegmentationClassAug. All of its ids
            that are not in val or test are added to train. A mask in SegmentationClass takes precedence.
        masks: folder for converted masks; needed only with SBD.
        images: most images of a split, evenly spaced over its list; 0: all.
        counts: expected number of images by split, before `images` selects some of them; 0: any.
        splits: the splits to index; the lists of all splits are checked for common ids.
        negatives: whether a train image may show none of the classes. With `file` its line then has its id alone.

    Raises:
        InputError: one message with the first problems and their number.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; set data.root to a folder in VOC layout")
    classes = read_classes(root / CLASSES) if (root / CLASSES).is_file() else VOC_CLASSES
    listed_splits = [split for split in SPLITS if split != "test" or _has_test(root) or set(splits) == {split}]
    files = DatasetFiles.of(root)
    lists = {
        split: [files.images.without_suffix(id) for id in read_ids(_list_of(root, split))] for split in listed_splits
    }
    extra = _extra_masks(augmented) if augmented is not None else None
    problems = _id_problems(root, lists)
    if extra is not None:
        others = {id for split, ids in lists.items() if split != "train" for id in ids}
        lists["train"] = sorted({*lists["train"], *extra.files} - others)
        problems += [f"{extra.files[id]}: {UNSAFE_ID}" for id in extra.files if not is_safe_id(id)]
    lists = {split: ids for split, ids in lists.items() if split in splits}
    problems += list(count_problems(lists, counts or {}))
    if problems:
        raise InputError(listed(problems))
    check_masks_have_images(files)
    table = read_label_file(root / "image_labels.txt", files.images, classes) if labels == "file" else None
    jobs = [(id, split) for split in lists for id in evenly_spaced(lists[split], images)]
    seen: dict[Path, SeenMask] = {}

    def check(job: tuple[str, str], written: Path | None) -> IndexRow:
        id, split = job
        return _check_row(
            root,
            files,
            id,
            split,
            classes,
            labels=labels,
            table=table,
            augmented=extra,
            written=written,
            masks=masks,
            seen=seen,
            negatives=negatives,
        )

    def check_masks() -> None:
        # Of masks without a class, each image would be said to have no label. What else is wrong with one comes first.
        if labels != "masks":
            return
        own = {split: [files.images.find(id) for id, of in jobs if of == split] for split in ("train", "val")}
        if own["train"] and all(image in seen for image in own["train"]):
            shown = [seen[image] for images in own.values() for image in images if image in seen]
            cure = "remove the masks and set data.labels to annotations or file"
            check_class_values(shown, classes, root / "SegmentationClass", cure=cure)

    if extra is not None and extra.converted and "train" in lists:
        assert masks is not None
        with atomic_folder(masks) as written:
            rows = check_in_threads(lambda job: check(job, written), jobs, threads, check_masks)
    else:
        rows = check_in_threads(lambda job: check(job, None), jobs, threads, check_masks)
    return consistent_index(rows, classes, masks=seen, source=root / "SegmentationClass")


def check_in_threads(
    check: Callable[[Job], IndexRow],
    jobs: Sequence[Job],
    threads: int,
    check_all: Callable[[], None] = lambda: None,
) -> tuple[IndexRow, ...]:
    """The rows of all jobs, in their order.

    Args:
        check_all: called after all jobs; what it raises comes before the problems of single jobs.

    Raises:
        InputError: one message with the first problems that `check` has raised, and their number.
    """

    def checked(job: Job) -> IndexRow | str:
        try:
            return check(job)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(threads) as pool:
        results = list(progress(pool.map(checked, jobs), total=len(jobs), unit="image", what="index_dataset"))
    check_all()
    if problems := [result for result in results if isinstance(result, str)]:
        raise InputError(listed(problems))
    return tuple(result for result in results if isinstance(result, IndexRow))


def _extra_masks(folder: Path) -> ExtraMasks:
    if is_sbd(folder):
        return ExtraMasks(sbd_masks(folder), converted=True)
    files = files_by_id(folder, frozenset({".png"})) if folder.is_dir() else {}
    if not files:
        raise InputError(
            f"{folder}: neither SBD (a folder cls with .mat files) nor masks <id>.png; set data.augmented to SBD's "
            "folder `dataset` or to SegmentationClassAug, or leave it empty"
        )
    return ExtraMasks(files, converted=False)


def _check_row(
    root: Path,
    files: DatasetFiles,
    id: str,
    split: str,
    classes: tuple[str, ...],
    *,
    labels: str,
    table: Mapping[str, Label] | None,
    augmented: ExtraMasks | None,
    written: Path | None,
    masks: Path | None,
    seen: dict[Path, SeenMask],
    negatives: bool,
) -> IndexRow:
    """Checks one image with its mask and labels, and returns its row.

    Args:
        labels: source of image labels, see index_voc.
        table: labels by id, from image_labels.txt; None unless `labels` is `file`.
        augmented: the extra masks of train, if any.
        written: temporary folder to which converted masks are written; None if none are converted.
        masks: final path of that folder.
        seen: gets its mask.
        negatives: whether it may show none of the classes.
    """
    path = files.images.find(id)
    if path is None:
        instead = files.images.instead_of(id)
        raise InputError(
            f"{root / 'JPEGImages' / id}.jpg: no such image; add the file or take its id off the list{instead}"
        )
    height, width = size = photograph_size(path)
    source = mask = files.mask(id)
    values: list[int] | None = None
    if mask is not None:
        values = checked_mask(mask, path, size, classes, seen=seen)
    elif split == "train" and augmented is not None and id in augmented.files:
        source = mask = augmented.files[id]
        if augmented.converted:
            assert written is not None
            assert masks is not None
            shown = read_sbd_mask(mask)
            values = values_in(shown)
            facts = MaskFacts((shown.shape[0], shown.shape[1]), values, [NO_COLOR] * len(values))
            _check_values(mask, facts, path, size, classes, seen=seen)
            write_labels(written / f"{id}.png", shown)
            mask = masks / f"{id}.png"
        else:
            values = checked_mask(mask, path, size, classes, seen=seen)
    names: Iterable[str] = ()
    where: str | Path | None = None
    if split != "test":
        if labels == "masks":
            if values is None and split == "train":
                raise InputError(
                    f"{root / 'SegmentationClass' / id}.png: no such mask, and data.labels is masks; add it, set "
                    f"data.labels to annotations or file, or take its id off train.txt{files.masks.instead_of(id)}"
                )
            names, where = (
                ([classes[value - 1] for value in values if value not in (0, UNKNOWN)], source)
                if values is not None
                else ((), None)
            )
        elif table is not None:
            names, where = table.get(id, Label((), None))
        else:
            where = files.annotations.find(id)
            if where is None and split == "train":
                raise InputError(
                    f"{root / 'Annotations' / id}.xml: no such file; add it, or set data.labels to file"
                    f"{files.annotations.instead_of(id)}"
                )
            names = read_annotation(where) if where is not None else ()
    unknown = sorted(set(names) - set(classes))
    if unknown and not (root / CLASSES).is_file():
        raise InputError(
            f"{root / CLASSES}: no such file, and the label {unknown[0]!r} of {id} is none of VOC's 20 classes; write "
            "the class names into it, one a line"
        )
    if unknown:
        quotes = ", where a name with a space stands in double quotes" if table is not None else ""
        raise InputError(
            f"{id}: label {unknown[0]!r} is not in {root / CLASSES}; add it there or correct it in {where}{quotes}"
        )
    present = tuple(name for name in classes if name in set(names))
    # Nobody asks for the labels of test.
    labelled = where is not None or split == "test"
    if not present and split == "train" and not (negatives and labelled):
        where = {
            "annotations": root / "Annotations" / f"{id}.xml",
            "file": root / "image_labels.txt",
            "masks": source,
        }[labels]
        how = "write a line with its id alone" if negatives else "set data.negatives to background"
        raise InputError(
            f"{id}: no image label in {where}; label the image or take its id off train.txt; if it shows none of the "
            f"classes, {how}"
        )
    return IndexRow(
        id=id, split=split, image=path, mask=mask, height=height, width=width, labels=present, labelled=labelled
    )


def checked_mask(
    path: Path, image: Path, size: tuple[int, int], classes: Sequence[str], *, seen: dict[Path, SeenMask]
) -> list[int]:
    """Checks the label PNG of an image, and returns the values that occur in it.

    Args:
        size: (H, W) of the image.
        seen: gets the mask, by the image.

    Raises:
        InputError: the mask has another size than its image or a value beyond the classes, or cannot be read.
    """
    facts = mask_facts(path)
    _check_values(path, facts, image, size, classes, seen=seen)
    if classes == VOC_CLASSES:
        _check_colors(path, facts)
    return facts.values


def _check_values(
    path: Path,
    facts: MaskFacts,
    image: Path,
    size: tuple[int, int],
    classes: Sequence[str],
    *,
    seen: dict[Path, SeenMask],
) -> None:
    """Checks what a mask shows: `facts`, found in the file `path`. Otherwise as checked_mask."""
    if facts.size != size:
        check_drawn_upright(image, size, facts.size, what=f"its mask {path}")
        raise InputError(
            f"{path}: the mask is {facts.size[1]}x{facts.size[0]}, its image {size[1]}x{size[0]} pixels "
            "(width x height); make them equal"
        )
    seen[image] = seen_mask(path, facts)
    if beyond := [value for value in facts.values if len(classes) < value != UNKNOWN]:
        raise InputError(
            f"{path}: mask value {beyond[0]} is beyond the {len(classes)} classes of classes.txt; "
            f"allowed: 0 to {len(classes)}, and {UNKNOWN} for void"
        )


def _check_colors(path: Path, facts: MaskFacts) -> None:
    """Refuses a mask whose palette shows a class in the VOC color of another: its label values are not VOC's."""
    names = ("background", *VOC_CLASSES)
    numbers = {color: value for value, color in enumerate(packed_colors(voc_palette()[: len(names)]))}
    for value, color in zip(facts.values, facts.colors, strict=True):
        colored = numbers.get(color, value)
        if value != UNKNOWN and colored != value:
            raise InputError(
                f"{path}: its palette gives value {value} the color of {names[colored]} ({colored}): the values were "
                "renumbered; save it with VOC's palette"
            )


def read_ids(path: Path) -> list[str]:
    """Reads a list of ids, one a line; InputError if there are none."""
    ids = [line.strip() for line in read_lines(path) if line.strip()]
    if not ids:
        raise InputError(f"{path}: no ids; write one image id a line")
    return ids


def _list_of(root: Path, split: str) -> Path:
    return root / "ImageSets" / "Segmentation" / f"{split}.txt"


def _has_test(root: Path) -> bool:
    return _list_of(root, "test").is_file()


def id_problems(path: Path, ids: Sequence[str]) -> list[str]:
    """Messages about the ids of a list that are not plain file names, or occur twice.

    Args:
        path: file of the list.
    """
    unsafe = [
        f"{path}: id {id!r} is not a plain file name (a path separator, a leading dot or dash, a control character, "
        "or longer than 200 bytes); rename the image, or write its id alone"
        for id in ids
        if not is_safe_id(id)
    ]
    return unsafe + [f"{path}: {twice(id)}" for id, count in Counter(ids).items() if count > 1]


def _id_problems(root: Path, lists: Mapping[str, list[str]]) -> list[str]:
    problems = [problem for split, ids in lists.items() for problem in id_problems(_list_of(root, split), ids)]
    for first, second in itertools.combinations(lists, 2):
        problems += [
            f"id {id!r} is in {first}.txt and in {second}.txt; scores need images that were not trained on"
            for id in sorted(set(lists[first]) & set(lists[second]))
        ]
    return problems
