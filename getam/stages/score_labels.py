"""Scores pseudo labels under each protocol, and the maps alone at every threshold, against ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from getam.datasets.index import read_index, read_label_source
from getam.datasets.shards import rows_of, shard_folders
from getam.labels.refined_maps import read_refined, refined_file
from getam.networks.supervision import IMAGE_LABELS, of_shards
from getam.scores.evaluation import PROTOCOLS, ConfusionMatrix, ThresholdCurve
from getam.settings.score_labels import ScoreLabelsSettings
from getam.system.arguments.machine import MachineArguments
from getam.system.files import write_json
from getam.system.image_files import UNKNOWN, read_labels
from getam.system.progress import progress

SECTION = "score_labels"
THRESHOLDS = tuple(round(0.01 * step, 2) for step in range(100))
"""Thresholds of the maps' curve."""


class Arguments(ScoreLabelsSettings, MachineArguments):
    """Write pseudo_labels.json: IoU under each protocol for 255, coverage, and scores of the maps by threshold."""

    index: Path = Field(description="index.csv")
    maps: Path = Field(description="folder of the shards of refine-maps")
    pseudo_labels: Path = Field(description="folder of the shards of complete-labels")
    shards: Annotated[int, Field(ge=1)] = Field(description="number of shards")
    out: Path = Field(description="pseudo_labels.json")


def run(arguments: Arguments) -> None:
    index = read_index(arguments.index)
    count = len(index.classes) + 1
    labels = ConfusionMatrix(count)
    curve = ThresholdCurve(count, sorted({*THRESHOLDS, arguments.threshold}))
    rows = [
        (row, labels_folder, maps_folder)
        for labels_folder, maps_folder in zip(
            shard_folders(arguments.pseudo_labels, arguments.shards),
            shard_folders(arguments.maps, arguments.shards),
            strict=True,
        )
        for row in rows_of(labels_folder, index)
    ]
    unknown = pixels = scored = 0
    for row, labels_folder, maps_folder in progress(rows, total=len(rows), unit="image", what="score_labels"):
        prediction = read_labels(labels_folder / f"{row.id}.png")
        unknown += int((prediction == UNKNOWN).sum())
        pixels += prediction.size
        # What was made from labels that nobody has given says nothing of the method.
        if row.mask is None or not row.labelled:
            continue
        scored += 1
        truth = read_labels(row.mask)
        labels.add(truth, prediction)
        maps = read_refined(refined_file(maps_folder, row.id)).astype(np.float32, copy=False)
        values = np.array([0, *(c + 1 for c in index.class_indices(row))], np.uint8)
        maps = np.concatenate([np.zeros((1, *truth.shape), np.float32), maps])
        curve.add(truth, values[maps.argmax(0)], maps.max(0))
    names = ("background", *index.classes)
    at_each = {point["threshold"]: point for point in curve.points()}
    points, fixed = [at_each[threshold] for threshold in THRESHOLDS], at_each[arguments.threshold]
    known = [point for point in points if point["miou"] is not None]
    unlabelled = sum(row.mask is not None and not row.labelled for row, _, _ in rows)
    result: dict[str, Any] = {
        "split": "+".join(dict.fromkeys(row.split for row, _, _ in rows)) or "train",
        "images": scored,
        "labelled": len(rows),
        **({"unlabelled": unlabelled} if unlabelled else {}),
        "supervision": of_shards(shard_folders(arguments.pseudo_labels, arguments.shards)),
        "maps_supervision": of_shards(shard_folders(arguments.maps, arguments.shards), unknown=IMAGE_LABELS),
        "image_labels": read_label_source(arguments.index),
        "unknown_share": unknown / pixels if pixels else None,
        "coverage": 1 - unknown / pixels if pixels else None,
        "protocols": {protocol: labels.scores(names, protocol) for protocol in PROTOCOLS},
        "threshold_curve": points,
        "best_threshold": max(known, key=lambda point: point["miou"] or 0) if known else None,
        "fixed_threshold": None if fixed["miou"] is None else fixed,
    }
    write_json(arguments.out, result)
