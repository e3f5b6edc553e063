"""Writes the files of a small run, as its stages do, for tests of modules that read a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from getam.datasets.index import Index, IndexRow, write_index
from getam.system.files import write_json
from getam.system.image_files import write_labels

HOSTILE = "<script>alert(1)</script>"
CLASSES = ("cat", HOSTILE)
HEIGHT, WIDTH = 8, 10
BENCHMARK = "s\tmax_rss\n{seconds}\t512.5\n"


def halves(left: int, right: int) -> np.ndarray:
    """A mask (HEIGHT, WIDTH), uint8, whose left and right halves have one value each."""
    mask = np.full((HEIGHT, WIDTH), left, np.uint8)
    mask[:, WIDTH // 2 :] = right
    return mask


def segmentation(*ious: float, crf: bool = False) -> dict[str, Any]:
    """The content of a segmentation network's metrics.json, with the IoUs of background and classes."""
    names = ("background", *CLASSES)
    return {
        "split": "val",
        "images": 1,
        "miou": sum(ious) / len(ious),
        "iou": dict(zip(names, ious, strict=True)),
        "pixel_accuracy": 0.875,
        "confusion": [[90, 10, 0], [20, 60, 20], [0, 1, 99]],
        "protocol": {"scales": [1.0], "squares": [], "flip": True, "crf": crf, "supervision": "I+S"},
    }


def pseudo_label_scores(*ious: float) -> dict[str, Any]:
    """The content of pseudo_labels.json, with the same IoUs under each protocol."""
    names = ("background", *CLASSES)
    scores = {"miou": sum(ious) / len(ious), "iou": dict(zip(names, ious, strict=True))}
    points = [{"threshold": t, "miou": m, "precision": 0.5, "recall": 0.6} for t, m in ((0.1, 0.3), (0.2, 0.4))]
    return {
        "split": "train",
        "images": 2,
        "supervision": "I+S",
        "unknown_share": 0.2,
        "coverage": 0.8,
        "protocols": dict.fromkeys(("excluded", "background", "wrong"), scores),
        "threshold_curve": points,
        "best_threshold": points[1],
        "fixed_threshold": {"threshold": 0.15, "miou": 0.35, "precision": 0.5, "recall": 0.6},
    }


def write_run(run: Path) -> Path:
    """Writes a run: two training images with pseudo labels in two shards, and a val image with DeepLab's prediction."""
    labels = {"one": halves(0, 1), "two": halves(1, 2), "three": halves(0, 2)}
    rows = []
    for id, mask in labels.items():
        photograph, truth = (run.parent / "data" / f"{id}.{kind}.png" for kind in ("photograph", "truth"))
        photograph.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 100, np.uint8)).save(photograph)
        write_labels(truth, mask)
        split = "val" if id == "three" else "train"
        rows.append(IndexRow(id, split, photograph, truth, HEIGHT, WIDTH, CLASSES[int(mask.max()) - 1 :][:1]))
    write_index(run / "index.csv", Index(tuple(rows), CLASSES))
    for shard, id in (("000", "one"), ("001", "two")):
        write_labels(run / "pseudo_labels" / shard / f"{id}.png", halves(0, 255) if id == "one" else labels[id])
        manifest = {"ids": [id], "classes": CLASSES, "settings": {"alpha": 0.9, "gamma": 32}, "version": "0.1.0"}
        write_json(run / "pseudo_labels" / shard / "manifest.json", manifest)
    write_labels(run / "deeplab" / "predictions" / "three.png", halves(0, 0))
    model = {
        "kind": "classifier",
        "settings": {"epochs": 3},
        "classes": CLASSES,
        "supervision": "I",
        "version": "0.1.0",
    }
    write_json(run / "classifier" / "model.json", model)
    write_json(run / "pseudo_labels.json", pseudo_label_scores(0.9, 0.5, 0.4))
    write_json(run / "deeplab" / "metrics.json", segmentation(0.8, 0.6, 0.7))
    (run / "benchmarks" / "dump_maps").mkdir(parents=True)
    (run / "benchmarks" / "summary.tsv").write_text(BENCHMARK.format(seconds=1.5))
    for shard in ("000", "001"):
        (run / "benchmarks" / "dump_maps" / f"{shard}.tsv").write_text(BENCHMARK.format(seconds=40))
    return run
