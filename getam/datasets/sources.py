"""The user's files that a run reads, and their state, by which a file that was changed in place is noticed.

The state is made of names, sizes and times: 82,000 photographs take a second, and none is opened.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from getam.datasets.folder import classes_file, read_list
from getam.datasets.index import composed
from getam.datasets.named_files import Listings, existing
from getam.datasets.sbd import FOLDER, is_sbd
from getam.datasets.voc import read_ids
from getam.errors import InputError
from getam.settings.data import IndexSettings


@dataclass(frozen=True)
class Sources:
    """The files of a data set.

    Attributes:
        indexed: the files on which index.csv, and with it every stage, depends: lists, photographs and image labels.
        masks: those masks that say nothing but the ground truth. index.csv depends on their names alone.
    """

    indexed: list[str]
    masks: list[str] = field(default_factory=list)


class FilesState(NamedTuple):
    """The state of some files: equal as long as none of them is changed, added or taken away."""

    digest: str
    newest: str | None
    """The file that was changed last; None if there are none."""


def files_state(files: Iterable[str], *, names: Iterable[str] = ()) -> FilesState:
    """The state of `files` by name, size and time of change, and of further files by their names alone.

    Times count in whole seconds, which archives and every file system keep: a copy of a data set has its state.
    """
    digest = hashlib.sha256()
    newest: tuple[int, str] | None = None
    for name in sorted(files):
        try:
            status = os.stat(name)
        except OSError:
            digest.update(f"{name}\0missing\n".encode(errors="surrogateescape"))
            continue
        if stat.S_ISDIR(status.st_mode):
            continue
        changed = int(status.st_mtime)
        digest.update(f"{name}\0{status.st_size}\0{changed}\n".encode(errors="surrogateescape"))
        newest = max(newest or (changed, name), (changed, name))
    for name in sorted(names):
        digest.update(f"{name}\n".encode(errors="surrogateescape"))
    return FilesState(digest.hexdigest(), newest and newest[1])


def folder_state(*folders: Path) -> FilesState:
    """The state of all files in some folders, at any depth; hidden ones are left out."""
    return files_state({path for folder in folders for path in _files_below(folder)})


def voc_sources(settings: IndexSettings, splits: Collection[str]) -> Sources:
    """The files of a data set in VOC layout, as far as they belong to an image of `splits`.

    Other files beside them change nothing, such as photographs of a test split that is put together later.
    """
    root = settings.root
    lists = [root / "ImageSets" / "Segmentation" / f"{split}.txt" for split in splits]
    ids: set[str] = set()
    for path in lists:
        try:
            ids |= {name for id in read_ids(path) for name in (composed(id), composed(Path(id).stem))}
        except InputError:
            # index_dataset says what is wrong with it.
            continue
    indexed = [str(path) for path in (*lists, root / "classes.txt")]
    extra: list[str] = []
    if settings.augmented and "train" in splits:
        augmented = Path(settings.augmented)
        extra = list(_files_in(augmented / FOLDER if is_sbd(augmented) else augmented))
        ids |= {_stem(path) for path in extra}
    indexed += _of_ids(root / "JPEGImages", ids)
    if settings.labels == "annotations":
        indexed += _of_ids(root / "Annotations", ids)
    if settings.labels == "file":
        indexed.append(str(root / "image_labels.txt"))
    masks = _of_ids(root / "SegmentationClass", ids)
    if settings.augmented and is_sbd(Path(settings.augmented)):
        # They are converted with the index.
        indexed += extra
    else:
        masks += extra
    return Sources([*indexed, *masks]) if settings.labels == "masks" else Sources(indexed, masks)


def coco_sources(settings: IndexSettings, splits: Collection[str]) -> Sources:
    """COCO's files. Its masks are in its annotations."""
    places = [place for split, place in settings.coco.splits().items() if split in splits]
    indexed = [str(settings.root / file) for file, _ in places]
    return Sources([*indexed, *(path for _, images in places for path in _files_below(settings.root / images))])


def folder_sources(settings: IndexSettings, splits: Collection[str]) -> Sources:
    """The files that a list names for `splits`, and the list."""
    indexed, masks = [str(settings.root), str(classes_file(settings.root))], []
    try:
        entries = [entry for entry in read_list(settings.root) if entry.split in splits]
    except InputError:
        # index_dataset says what is wrong with it.
        return Sources(indexed)
    listings: Listings = {}
    indexed += [str(existing(entry.image, listings)) for entry in entries]
    masks += [str(existing(entry.mask, listings)) for entry in entries if entry.mask is not None]
    return Sources(indexed, masks)


def _of_ids(folder: Path, ids: Collection[str]) -> list[str]:
    """The files of a folder that belong to an id, by their names: <id>.jpg, or <id>_mask.png."""
    return [path for path in _files_in(folder) if any(name in ids for name in _beginnings(_stem(path)))]


def _beginnings(stem: str) -> Iterator[str]:
    """Yields a name, and what it is without the words at its end: cat_1_mask, cat_1, cat."""
    while stem:
        yield stem
        stem = stem[: max(stem.rfind(mark) for mark in "_-.")] if any(mark in stem for mark in "_-.") else ""


def _files_in(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        yield from (os.path.join(folder, name) for name in os.listdir(folder) if not name.startswith("."))


def _files_below(folder: Path) -> Iterator[str]:
    for walked, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(walked, name) for name in files if not name.startswith("."))


def _stem(path: str) -> str:
    return composed(os.path.splitext(os.path.basename(path))[0])
