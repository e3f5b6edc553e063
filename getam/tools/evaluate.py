"""Scores a folder of predictions, from any program, against a folder of ground truth."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path, PurePath
from typing import Any

from pydantic import Field

from getam.datasets.class_names import read_classes
from getam.datasets.index import files_by_id
from getam.datasets.photographs import SUFFIXES
from getam.datasets.voc import VOC_CLASSES, id_problems, read_ids
from getam.errors import InputError, listed
from getam.pages.text.tables import aligned_table
from getam.scores.evaluation import PROTOCOLS, ConfusionMatrix
from getam.system.arguments.machine import MachineArguments
from getam.system.files import write_json
from getam.system.image_files import read_labels
from getam.system.progress import progress

MEASURES = ("iou", "precision", "recall")


class Arguments(MachineArguments):
    """Print and write IoU, precision and recall of each class, mIoU under each protocol for 255, and pixel accuracy."""

    truth: Path = Field(description="folder of ground truth <id>.png; 255 is ignored")
    predictions: Path = Field(description="folder of predictions <id>.png; 255 is unknown")
    classes: Path | None = Field(
        default=None, description="classes.txt: a name a line, without background [VOC's 20 classes]"
    )
    ids: Path | None = Field(default=None, description="list of the ids to score [every .png of the ground truth]")
    out: Path | None = Field(default=None, description="JSON file for the scores [none]")


def run(arguments: Arguments) -> None:
    classes = read_classes(arguments.classes) if arguments.classes is not None else VOC_CLASSES
    for folder in (arguments.truth, arguments.predictions):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; name one of label PNGs")
    truths, predictions = (
        files_by_id(folder, frozenset({".png"})) for folder in (arguments.truth, arguments.predictions)
    )
    ids = _listed_ids(arguments.ids, truths) if arguments.ids else list(truths)
    if not ids:
        raise InputError(f"{arguments.truth}: no .png in it; name the folder of the ground truth")
    found = ((arguments.truth, truths), (arguments.predictions, predictions))
    if missing := [f"{folder / id}.png: no such file" for id in ids for folder, files in found if id not in files]:
        raise InputError(f"{listed(missing)}; name the ids that both folders hold by --ids")
    pairs = [(truths[id], predictions[id]) for id in ids]
    matrix = ConfusionMatrix(len(classes) + 1)
    for truth, prediction in progress(pairs, total=len(pairs), unit="image", what="evaluate"):
        labels, predicted = read_labels(truth), read_labels(prediction)
        try:
            matrix.add(labels, predicted)
        except InputError as error:
            same = labels.shape == predicted.shape
            cure = "name the classes of both by --classes" if same else "predict at the ground truth's size"
            raise InputError(f"{prediction} beside {truth}: {error}; {cure}") from None
    if not matrix.counts[1:].any():
        raise InputError(
            f"{arguments.truth}: no mask shows a class, only 0 and 255 (void), so that there is nothing to score; the "
            "pixels of an object have the value of its class, 1 to the number of classes"
        )
    names = ("background", *classes)
    scores = {
        "images": len(pairs),
        "protocols": {protocol: matrix.scores(names, protocol) for protocol in PROTOCOLS},
        "pixel_accuracy": matrix.pixel_accuracy(),
        "unknown_share": matrix.unknown_share(),
        "confusion": matrix.counts.tolist(),
    }
    if arguments.out is not None:
        write_json(arguments.out, scores)
    print(_table(scores, names))


def _listed_ids(path: Path, known: Collection[str]) -> list[str]:
    """The ids of a list, which may have a photograph's suffix."""
    given = ((id, PurePath(id)) for id in read_ids(path))
    ids = [
        str(name.with_suffix("")) if name.suffix.lower() in SUFFIXES and id not in known else id for id, name in given
    ]
    if problems := id_problems(path, ids):
        raise InputError(listed(problems))
    return ids


def _table(scores: dict[str, Any], names: tuple[str, ...]) -> str:
    """Formats the scores: a row for each class under the protocol `excluded`, then the mIoU under each protocol."""
    # Names are escaped as in JSON, since those of a data set may contain control characters of a terminal.
    names_shown = [json.dumps(name)[1:-1] for name in names]
    excluded = scores["protocols"]["excluded"]
    totals = {f"mIoU, 255 {protocol}": scores["protocols"][protocol]["miou"] for protocol in PROTOCOLS}
    totals |= {"pixel accuracy": scores["pixel_accuracy"], "unknown share": scores["unknown_share"]}
    # Both tables have the same widths, so that their numbers stand below each other.
    widths = (max(map(len, (*names_shown, *totals))), *(9 for _ in MEASURES))
    classes = [
        (text, *(_number(excluded[measure][name]) for measure in MEASURES))
        for name, text in zip(names, names_shown, strict=True)
    ]
    parts = [
        aligned_table(("", *MEASURES), classes, right={1, 2, 3}, least=widths, ruled=False),
        aligned_table((), [(name, _number(value)) for name, value in totals.items()], right={1}, least=widths),
    ]
    counts = dict.fromkeys(str(scores["protocols"][protocol]["miou_classes"]) for protocol in PROTOCOLS)
    return "\n\n".join(parts) + f"\n{scores['images']} images, mIoU of {' / '.join(counts)} classes"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
