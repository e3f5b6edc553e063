"""Shows the maps of several methods side by side (the paper's Figure 2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from getam.datasets.index import Index, IndexRow, evenly_spaced, read_index, read_photograph
from getam.datasets.shards import rows_of, shard_folders
from getam.errors import InputError
from getam.labels.refined_maps import read_refined, refined_file
from getam.pages.map_sheet import SheetRow, draw_sheet
from getam.pages.text.documents import Document, Grid, write_document
from getam.runs.summary import describe_supervision, three_decimals, whole
from getam.settings.foreign import results_of
from getam.system.arguments.machine import MachineArguments
from getam.system.files import atomic_file, read_json, write_json
from getam.system.image_files import read_labels

logger = logging.getLogger(__name__)


class Method(BaseModel):
    """One method of making maps: its label, the folder of its maps, and the file with their scores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    maps: Path
    scores: Path


class Arguments(MachineArguments):
    """Write <figure>.png, and .json, .md and .html beside it: photographs, ground truth and the maps of each method."""

    index: Path = Field(description="index.csv")
    methods: tuple[Method, ...] = Field(
        description="JSON: label, maps (folder of the shards of refine-maps) and scores (pseudo_labels.json) of each",
        min_length=1,
    )
    shards: Annotated[int, Field(ge=1)] = Field(description="number of shards")
    images: Annotated[int, Field(ge=1)] = Field(description="images, evenly spaced over those of the maps")
    out: Path = Field(description="<figure>.png; <figure>.json, .md and .html are written beside it")


def run(arguments: Arguments) -> None:
    index = read_index(arguments.index)
    scores = [_best(method.scores) for method in arguments.methods]
    rows_in_shards = [
        (row, folder.name)
        for folder in shard_folders(arguments.methods[0].maps, arguments.shards)
        for row in rows_of(folder, index)
    ]
    samples = [
        (row, _shown_class(row, index), shard)
        for row, shard in evenly_spaced([(row, shard) for row, shard in rows_in_shards if row.labels], arguments.images)
    ]
    headings = [
        (method.label, f"mIoU {three_decimals(best['miou'])}")
        for method, best in zip(arguments.methods, scores, strict=True)
    ]
    sheet = draw_sheet(headings, [_sheet_row(row, name, shard, arguments.methods) for row, name, shard in samples])
    with atomic_file(arguments.out) as temporary:
        sheet.save(temporary, format="PNG")
    content = {
        "images": [{"id": row.id, "class": name} for row, name, _ in samples],
        "methods": [
            {"label": method.label, "file": str(method.scores), **best}
            for method, best in zip(arguments.methods, scores, strict=True)
        ],
    }
    markdown = write_document(_document(content), arguments.out, ending=f"\n![maps]({arguments.out.name})\n")
    write_json(arguments.out.with_suffix(".json"), content)
    logger.info("%s\n%s", arguments.out, markdown)


def _best(path: Path) -> dict[str, Any]:
    """Reads a method's best threshold, its mIoU (None without ground truth) over how many classes, images, split and
    supervision.

    Raises:
        InputError: the file lacks one of them.
    """
    with results_of(path):
        scores = read_json(path)
        best = {"miou_classes": None} | (scores["best_threshold"] or {"threshold": None, "miou": None})
        supervision = describe_supervision(scores["maps_supervision"], scores)
        shared = {key: scores[key] for key in ("split", "images")}
        return {key: best[key] for key in ("threshold", "miou", "miou_classes")} | shared | {"supervision": supervision}


def _shown_class(row: IndexRow, index: Index) -> str:
    """The class whose maps are shown: the largest in the ground truth, or the first label without ground truth."""
    if row.mask is None:
        return row.labels[0]
    sizes = np.bincount(read_labels(row.mask).ravel(), minlength=256)
    return max(row.labels, key=lambda name: sizes[index.classes.index(name) + 1])


def _sheet_row(row: IndexRow, name: str, shard: str, methods: Sequence[Method]) -> SheetRow:
    return SheetRow(
        f"{row.id}: {name}",
        read_photograph(row),
        None if row.mask is None else read_labels(row.mask),
        [_read_map(refined_file(method.maps / shard, row.id), row, row.labels.index(name)) for method in methods],
    )


def _read_map(path: Path, row: IndexRow, number: int) -> np.ndarray:
    maps = read_refined(path)
    if maps.shape != (len(row.labels), row.height, row.width):
        raise InputError(f"{path}: shape {maps.shape} is not that of the image's maps (K, H, W); refine it again")
    return maps[number].astype(np.float32)


def _document(content: dict[str, Any]) -> Document:
    headings = ("Method", "mIoU", "Classes", "Best threshold", "Split", "Images", "Supervision")
    cells = [
        (
            each["label"],
            three_decimals(each["miou"]),
            whole(each["miou_classes"]),
            three_decimals(each["threshold"]),
            each["split"],
            str(each["images"]),
            each["supervision"],
        )
        for each in content["methods"]
    ]
    return Document(
        "Maps of several methods",
        [
            "mIoU of the refined maps alone: a pixel has the strongest class where its map is above the threshold, "
            "else background. The ground truth of the same images chose the threshold: an upper bound.",
            Grid(headings, cells, {1, 2, 3, 5}),
            "The picture shows the maps of each image's largest class (without ground truth, of its first class), "
            "divided by their maximum: dark is 0, yellow 1.",
        ],
    )
