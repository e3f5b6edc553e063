"""Photographs that show none of the classes: networks learn from them that there is background."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deeplab.stages import predict_deeplab, train_deeplab
from getam.cli import STAGES, command
from getam.datasets.images import normalized_input
from getam.datasets.index import read_index, read_photograph
from getam.datasets.shards import new_shard
from getam.networks.classifier import load_classifier
from getam.settings.config import Config
from getam.stages import train_classifier
from getam.system.image_files import read_labels, write_labels

SIZE = (32, 32)
IDS = {"train": range(8), "val": range(8, 12)}
RED, BLUE = (200, 30, 30), (30, 30, 200)


def is_cat(id: str) -> bool:
    return int(id) % 2 == 0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """index.csv of noisy photographs: red ones with a cat, blue ones with nothing."""
    rng = np.random.default_rng(0)
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for split, ids in IDS.items():
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{id}\n" for id in ids))
        for id in ids:
            pixels = rng.normal(RED if is_cat(str(id)) else BLUE, 20, (*SIZE, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "JPEGImages" / f"{id}.png")
    (root / "classes.txt").write_text("cat\n")
    lines = [f"{id} cat" if is_cat(str(id)) else f"{id}" for ids in IDS.values() for id in ids]
    (root / "image_labels.txt").write_text("\n".join(lines) + "\n")
    words = ["--root", str(root), "--labels", "file", "--negatives", "background"]
    assert command("getam", STAGES, ["index-dataset", *words, "--out", str(tmp_path / "index.csv")]) == 0
    return tmp_path


def machine(data: Path) -> dict[str, Any]:
    return {"index": data / "index.csv", "threads": 1, "device": "cpu"}


def test_a_classifier_learns_that_they_show_nothing(data: Path, config: Config) -> None:
    changes = {"epochs": 12, "batch_size": 4, "learning_rate": 3e-3, "gpus": 0}
    settings = config.classifier.model_copy(update=changes)
    train_classifier.run(train_classifier.Arguments(**settings.model_dump(), out=data / "classifier", **machine(data)))
    model, classes = load_classifier(data / "classifier")
    assert classes == ("cat",)
    for row in read_index(data / "index.csv").rows:
        with torch.inference_mode():
            (probability,) = model.eval()(normalized_input(read_photograph(row), SIZE)[None]).sigmoid()[0].tolist()
        assert (probability > 0.5) == is_cat(row.id), (row.id, probability)


def test_a_segmenter_learns_that_they_are_background(data: Path, config: Config) -> None:
    index = read_index(data / "index.csv")
    how: dict[str, Any] = {"suffix": ".png", "classes": index.classes, "settings": None}
    with new_shard(data / "labels" / "000", ids=[row.id for row in index.split("train")], **how) as shard:
        for row in index.split("train"):
            shard.submit(row.id, write_labels, np.full(SIZE, len(row.labels), np.uint8))
    changes = {"epochs": 12, "batch_size": 4, "learning_rate": 1e-3, "gpus": 0}
    settings = config.deeplab.model_copy(update=changes)
    train_deeplab.run(
        train_deeplab.Arguments(
            **settings.model_dump(), pseudo_labels=data / "labels", shards=1, out=data / "deeplab", **machine(data)
        )
    )
    predict_deeplab.run(
        predict_deeplab.Arguments(
            **config.deeplab_prediction.model_dump(),
            model=data / "deeplab",
            split="val",
            out=data / "predictions",
            **machine(data),
        )
    )
    for row in index.split("val"):
        share = (read_labels(data / "predictions" / f"{row.id}.png") == len(row.labels)).mean()
        assert share > 0.9, (row.id, share)
