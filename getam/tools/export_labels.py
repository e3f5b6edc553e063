"""Writes a run's pseudo labels in the forms of annotation programs, in which a person corrects them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask
from pydantic import Field

from getam.datasets.index import Index, IndexRow, read_index
from getam.datasets.shards import MANIFEST, check_classes, files_in_folders, files_in_shards, read_manifest
from getam.errors import InputError
from getam.labels.corrections import read_correction
from getam.labels.outlines import LABEL_MAP, UNKNOWN_NAME, name_of_value, outlines, painted, regions
from getam.runs.verdicts import read_verdicts
from getam.settings.section import POSITIONAL, NonNegativeFloat
from getam.system.arguments.machine import MachineArguments
from getam.system.files import atomic_folder, write_json, write_text
from getam.system.image_files import UNKNOWN, voc_palette, write_labels
from getam.system.progress import progress

LABELME_VERSION = "5.5.0"
"""The version of labelme whose form is written; later ones read it too."""

logger = logging.getLogger(__name__)


class Arguments(MachineArguments):
    """Write labels for labelme (<id>.json), as COCO (instances.json) or as VOC (SegmentationClass/<id>.png; CVAT).

    Background is `_background_`, and unknown pixels are `__ignore__`. No photograph is copied.
    """

    labels: Path = Field(
        description="folder of labels: results/<run>/pseudo_labels, or a network's predictions",
        json_schema_extra=POSITIONAL,
    )
    index: Path = Field(description="index.csv")
    format: Literal["labelme", "coco", "voc"] = Field(description="form to write")
    verdicts: Path | None = Field(
        default=None, description="file of verdicts of the audit page: only what it calls bad or unsure is written"
    )
    tolerance: NonNegativeFloat = Field(
        default=1.0, description="of labelme: pixels by which corners of outlines may be left out; 0: none"
    )
    out: Path = Field(description="folder to write")


def run(arguments: Arguments) -> None:
    arguments.set_threads()
    index = read_index(arguments.index)
    files = label_files(arguments.labels)
    for folder in {path.parent for path in files.values()}:
        check_classes(read_manifest(folder).get("classes", []), index, source=folder / MANIFEST)
    if arguments.verdicts is not None:
        doubted = {each.id for each in read_verdicts(arguments.verdicts, index.by_id.keys()) if each.word != "good"}
        files = {id: path for id, path in files.items() if id in doubted}
    if not files:
        raise InputError(f"{arguments.labels}: no labels to write; name verdicts that call some bad or unsure")
    rows = [index.row(id, source=arguments.labels) for id in sorted(files)]
    labels = (
        (row, read_correction(files[row.id], row, len(index.classes)))
        for row in progress(rows, total=len(rows), unit="image", what="export_labels")
    )
    with atomic_folder(arguments.out) as folder:
        WRITERS[arguments.format](labels, index, folder, arguments)
    logger.info("%s: labels of %d images; docs/correct_labels.md says how to bring them back", arguments.out, len(rows))


def label_files(folder: Path) -> dict[str, Path]:
    """The label PNGs of a folder of shards or of a single one, by id.

    Raises:
        InputError: there is no such folder, or it holds no label PNG.
    """
    files = files_in_shards(folder, ".png") or files_in_folders([folder], ".png")
    if not files:
        raise InputError(f"{folder}: no labels <id>.png; name a run's pseudo_labels")
    return files


Labelled = Iterator[tuple[IndexRow, np.ndarray]]


def _write_labelme(labelled: Labelled, index: Index, folder: Path, arguments: Arguments) -> None:
    pixels = kept = 0
    for row, labels in labelled:
        shapes = outlines(labels, tolerance=arguments.tolerance)
        kept += int((painted(shapes, labels.shape) == labels).sum())
        pixels += labels.size
        content: dict[str, Any] = {
            "version": LABELME_VERSION,
            "flags": {},
            "shapes": [
                {
                    "label": name_of_value(shape.value, index.classes),
                    "points": shape.points.astype(float).tolist(),
                    "group_id": None,
                    "description": "",
                    "shape_type": "polygon",
                    "flags": {},
                }
                for shape in shapes
            ],
            # labelme reads the photograph where it lies, from the folder that its file is in.
            "imagePath": os.path.relpath(row.image, arguments.out),
            "imageData": None,
            "imageHeight": row.height,
            "imageWidth": row.width,
        }
        write_json(folder / f"{row.id}.json", content)
    logger.info("outlines keep %.2f %% of the pixels' labels", 100 * kept / pixels)


def _write_coco(labelled: Labelled, index: Index, folder: Path, arguments: Arguments) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    values = [*range(1, len(index.classes) + 1), UNKNOWN]
    names = _file_names(index)
    for row, labels in labelled:
        images.append({"id": len(images) + 1, "file_name": names[row.id], "height": row.height, "width": row.width})
        for value, region in regions(labels):
            if not value:
                continue
            runs = coco_mask.encode(np.asfortranarray(region))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": values.index(value) + 1,
                    "iscrowd": 0,
                    "area": int(region.sum()),
                    "bbox": coco_mask.toBbox(runs).tolist(),
                    "segmentation": {"size": list(runs["size"]), "counts": runs["counts"].decode("ascii")},
                }
            )
    categories = [{"id": i, "name": name_of_value(value, index.classes)} for i, value in enumerate(values, start=1)]
    write_json(folder / "instances.json", {"images": images, "categories": categories, "annotations": annotations})


def _file_names(index: Index) -> dict[str, str]:
    """The name of each photograph's file by id; below the folder that all lie in, where two have one name."""
    names = {row.id: row.image.name for row in index.rows}
    if len({*names.values()}) == len(names):
        return names
    paths = {row.id: os.path.abspath(row.image) for row in index.rows}
    above = os.path.commonpath([*paths.values()])
    return {id: os.path.relpath(path, above) for id, path in paths.items()}


def _write_voc(labelled: Labelled, index: Index, folder: Path, arguments: Arguments) -> None:
    ids = []
    for row, labels in labelled:
        write_labels(folder / "SegmentationClass" / f"{row.id}.png", labels)
        ids.append(row.id)
    write_text(folder / "ImageSets" / "Segmentation" / "default.txt", "".join(f"{id}\n" for id in ids))
    write_text(folder / LABEL_MAP, label_map(index.classes))


def label_map(classes: Sequence[str]) -> str:
    """The content of labelmap.txt: name, color, and two empty columns."""
    names = ["background", *classes]
    colors = [*voc_palette()[: len(names)], voc_palette()[UNKNOWN]]
    lines = (
        f"{name}:{','.join(map(str, color.tolist()))}::\n"
        for name, color in zip([*names, UNKNOWN_NAME], colors, strict=True)
    )
    return "# label:color_rgb:parts:actions\n" + "".join(lines)


WRITERS: dict[str, Callable[[Labelled, Index, Path, Arguments], None]] = {
    "labelme": _write_labelme,
    "coco": _write_coco,
    "voc": _write_voc,
}
"""Functions that write labels into a folder, by the value of --format."""
