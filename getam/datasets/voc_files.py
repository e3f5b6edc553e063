"""What a data set in VOC layout has for each image: its photograph, its mask, and where its labels stand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from getam.datasets.annotations.matching import ImageNameError, NamedImages
from getam.datasets.annotations.tables import read_label_table
from getam.datasets.documents import read_xml_document
from getam.datasets.index import composed
from getam.datasets.named_files import NamedFiles
from getam.datasets.photographs import MASK_ENDINGS, SUFFIXES
from getam.errors import InputError
from getam.settings.foreign import ANNOTATION_BYTES


class DatasetFiles(NamedTuple):
    """The files of a data set by the ids of its images."""

    images: NamedFiles
    masks: NamedFiles
    annotations: NamedFiles

    @classmethod
    def of(cls, root: Path) -> DatasetFiles:
        return cls(
            images=NamedFiles(root / "JPEGImages", SUFFIXES),
            masks=NamedFiles(root / "SegmentationClass", (".png",)),
            annotations=NamedFiles(root / "Annotations", (".xml",)),
        )

    def mask(self, id: str) -> Path | None:
        """The mask of an image, <id>.png or with one of MASK_ENDINGS; None if there is none.

        Raises:
            InputError: there are two, or a file that can't be a mask lies in its place.
        """
        names = [id, *(id + ending for ending in MASK_ENDINGS if id + ending not in self.images)]
        for name in names:
            if (found := self.masks.find(name)) is not None:
                return found
        for path in (path for name in names for path in self.masks.others.get(composed(name), [])):
            if path.suffix.lower() in SUFFIXES:
                raise InputError(
                    f"{path}: a mask must be a PNG, whose pixels are label values (JPEG changes them); make it anew as "
                    "PNG, or remove it"
                )
        return None


def check_masks_have_images(files: DatasetFiles) -> None:
    """Refuses a folder of masks none of which is an image's, which would go unread without a word.

    Raises:
        InputError: SegmentationClass has files, and no PNG that has the name of an image.
    """
    masks = files.masks
    lying = [*masks.paths, *(path for paths in masks.others.values() for path in paths)]
    names = (path.stem.removesuffix(ending) for path in masks.paths for ending in ("", *MASK_ENDINGS))
    if lying and not any(name in files.images for name in names):
        raise InputError(
            f"{masks.folder}: has {len(lying)} files, such as {lying[0].name}, and no mask <id>.png of an image; name "
            "the masks by the ids and make them PNGs (a JPEG changes label values), or remove the folder"
        )


class Label(NamedTuple):
    """The labels of an image, and the line that states them; None if there is none."""

    names: Iterable[str]
    where: str | None


def read_label_file(path: Path, images: NamedFiles, classes: Sequence[str]) -> dict[str, Label]:
    """Reads image_labels.txt: the labels of each image that it names, by id.

    Raises:
        InputError: the file is no list of labels, a line can be read in two ways, or names an image a second time.
    """
    ids = {PurePosixPath(each.name): composed(each.stem) for each in images.paths}
    photographs = NamedImages(images.folder, [*ids], ids=ids)
    annotations = read_label_table(path, is_photograph=photographs.is_named, classes=classes)
    assert annotations is not None
    found: dict[str, Label] = {}
    for record in annotations.records:
        try:
            id = ids[photographs.of_record(record)]
        except ImageNameError:
            # The lists choose from a larger data set.
            continue
        if id in found and not (record.partial and record.names and found[id].names):
            raise InputError(f"{path}: {twice(id)}")
        found[id] = Label({*found[id].names, *record.names} if id in found else record.names, record.where)
    if not found and annotations.records:
        first = annotations.records[0]
        raise InputError(
            f"{first.where}: {first.photograph!r} is no image in {images.folder}, and neither is any other line's; "
            "begin each with an id, and separate its cells by spaces, commas or tabs"
        )
    return found


def twice(id: str) -> str:
    return f"id {id!r} stands there twice; leave one"


def read_annotation(path: Path) -> set[str]:
    """The class names of `object/name` in a VOC XML file; names of an object's parts are not image labels."""
    root = read_xml_document(
        path, most=ANNOTATION_BYTES, missing="add it, or set data.labels to file", cure="replace it"
    )
    names = (element.findtext("name") or "" for element in root.findall("object"))
    return {composed(name.strip()) for name in names} - {""}
