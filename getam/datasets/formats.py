"""The functions of each data set format: indexing, its list and label files, and a report for `getam doctor`.

To add a format, describe it in getam.settings.data.DATA_FORMATS and register its functions in FORMATS.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path

from getam.datasets import coco, folder, voc
from getam.datasets.class_names import read_classes
from getam.datasets.index import Index
from getam.datasets.sbd import is_sbd, sbd_masks
from getam.datasets.sources import Sources, coco_sources, folder_sources, voc_sources
from getam.errors import InputError
from getam.settings.data import IndexSettings

Finding = tuple[str, str]
"""Name of a file or folder that was looked for, and a text that says what was found."""


@dataclass(frozen=True)
class DatasetFormat:
    """The functions of a format; `settings` is the section `data` of a configuration.

    Attributes:
        index: (settings, splits, masks, threads) -> the index of these splits. Checks the data set, and writes
            converted masks, if any, as <id>.png into the folder `masks`. Raises InputError.
        input_files: settings -> the files with lists of images and labels, all of which must exist; an edit of one
            reruns index_dataset.
        sources: (settings, splits) -> all files that the index of these splits is made from, and the masks that it
            names; a change of one reruns what depends on it. No file is opened but lists.
        findings: settings -> which parts of the data set were found, for `getam doctor`.
        converts_masks: settings -> whether `index` writes converted masks.
    """

    index: Callable[[IndexSettings, Collection[str], Path, int], Index]
    input_files: Callable[[IndexSettings], list[Path]]
    sources: Callable[[IndexSettings, Collection[str]], Sources]
    findings: Callable[[IndexSettings], Iterator[Finding]]
    converts_masks: Callable[[IndexSettings], bool] = lambda settings: False


def _index_voc(settings: IndexSettings, splits: Collection[str], masks: Path, threads: int) -> Index:
    return voc.index_voc(
        settings.root,
        labels=settings.labels,
        threads=threads,
        augmented=Path(settings.augmented) if settings.augmented else None,
        masks=masks,
        images=settings.images,
        counts=settings.counts.model_dump(),
        splits=splits,
        negatives=settings.negatives == "background",
    )


def _voc_files(settings: IndexSettings) -> list[Path]:
    files = [settings.root / "ImageSets" / "Segmentation" / f"{split}.txt" for split in ("train", "val")]
    if (settings.root / "classes.txt").is_file():
        files.append(settings.root / "classes.txt")
    if settings.labels == "file":
        files.append(settings.root / "image_labels.txt")
    return files


def _voc_findings(settings: IndexSettings) -> Iterator[Finding]:
    root = settings.root
    yield "JPEGImages", files_in(root / "JPEGImages", "*")
    yield "SegmentationClass", files_in(root / "SegmentationClass", "*.png")
    if settings.labels == "annotations":
        yield "Annotations", files_in(root / "Annotations", "*.xml")
    if settings.labels == "file":
        yield "image_labels.txt", size_of(root / "image_labels.txt")
    for split in voc.SPLITS:
        path = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        yield f"{split}.txt", counted(voc.read_ids, path, "ids") if path.is_file() else "missing"
    if settings.augmented:
        folder = Path(settings.augmented)
        found = counted(sbd_masks, folder, "masks of SBD") if is_sbd(folder) else files_in(folder, "*.png")
        yield "data.augmented", f"{folder}: {found}"


def _index_coco(settings: IndexSettings, splits: Collection[str], masks: Path, threads: int) -> Index:
    if "train" not in splits:
        raise InputError("--splits: COCO is read without a test split; write train and val")
    counts = settings.counts.model_dump()
    return coco.index_coco(
        settings.root,
        files=settings.coco.splits(),
        masks=masks,
        images=settings.images,
        threads=threads,
        counts=counts,
        negatives=settings.negatives == "background",
    )


def _coco_files(settings: IndexSettings) -> list[Path]:
    return [settings.root / file for file, _ in settings.coco.splits().values()]


def _coco_findings(settings: IndexSettings) -> Iterator[Finding]:
    for file, images in settings.coco.splits().values():
        yield images, files_in(settings.root / images, "*")
        yield Path(file).name, size_of(settings.root / file)


def _index_folder(settings: IndexSettings, splits: Collection[str], masks: Path, threads: int) -> Index:
    counts = settings.counts.model_dump()
    return folder.index_folder(settings.root, threads=threads, images=settings.images, counts=counts, splits=splits)


def _folder_files(settings: IndexSettings) -> list[Path]:
    classes = folder.classes_file(settings.root)
    return [settings.root, *([classes] if classes.is_file() else [])]


def _folder_findings(settings: IndexSettings) -> Iterator[Finding]:
    yield settings.root.name, counted(folder.read_list, settings.root, "photographs")
    classes = folder.classes_file(settings.root)
    yield classes.name, counted(read_classes, classes, "classes") if classes.is_file() else "missing: those of the list"


FORMATS = {
    "voc": DatasetFormat(
        index=_index_voc,
        input_files=_voc_files,
        sources=voc_sources,
        findings=_voc_findings,
        converts_masks=lambda settings: bool(settings.augmented) and is_sbd(Path(settings.augmented)),
    ),
    "coco": DatasetFormat(
        index=_index_coco,
        input_files=_coco_files,
        sources=coco_sources,
        findings=_coco_findings,
        converts_masks=lambda settings: True,
    ),
    "folder": DatasetFormat(
        index=_index_folder,
        input_files=_folder_files,
        sources=folder_sources,
        findings=_folder_findings,
    ),
}
"""The functions of the formats in getam.settings.data.DATA_FORMATS, by the same keys."""


def counted(read: Callable[[Path], Sized], path: Path, unit: str) -> str:
    """The number of entries that `read` finds at a path, with their unit, or the reason why it cannot be read."""
    try:
        return f"{len(read(path))} {unit}"
    except InputError as error:
        return str(error).removeprefix(f"{path}: ")


def files_in(folder: Path, pattern: str) -> str:
    """The number of a folder's files that match a pattern, in words, or "missing"."""
    return f"{sum(1 for _ in folder.glob(pattern))} files" if folder.is_dir() else "missing"


def size_of(path: Path) -> str:
    """The size of a file, in words, or "missing"."""
    return f"{path.stat().st_size / 2**20:.0f} MiB" if path.is_file() else "missing"
