"""A further round's pseudo labels, by hand: classes that compete, confidence, dense CRF."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from deeplab.stages import relabel
from getam.datasets.index import Index, IndexRow, write_index
from getam.datasets.shards import new_shard
from getam.errors import InputError
from getam.labels.crf import LabelsOf
from getam.settings.config import Config
from getam.system.files import read_json, write_json
from getam.system.image_files import UNKNOWN, read_labels, write_labels

CLASSES = ("a", "b", "c")
PROBABILITIES = np.array(
    # background, a, b, c at each of the four columns
    [[0.1, 0.4, 0.2, 0.1], [0.5, 0.1, 0.2, 0.1], [0.1, 0.4, 0.2, 0.1], [0.3, 0.1, 0.4, 0.7]]
)


def test_labels_of_the_most_probable() -> None:
    winner, probability = np.array([[0, 1, 2]], np.uint8), np.array([[0.9, 0.5, 0.7]])
    assert LabelsOf()(winner, probability).tolist() == [[0, 1, 2]]
    assert LabelsOf([2, 7], 0.6)(winner, probability).tolist() == [[0, UNKNOWN, 8]]
    assert LabelsOf([2, 7], 0.6)(winner, probability).dtype == np.uint8
    assert LabelsOf([])(np.zeros((1, 1), np.uint8), np.ones((1, 1))).tolist() == [[0]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index, a first round's shard without the image that was left out, and a network of known probabilities."""
    rows = []
    for id, labels in (("one", ("a", "b")), ("two", ()), ("left_out", ("a",))):
        path = tmp_path / f"{id}.png"
        Image.fromarray(np.full((16, 64, 3), 99, np.uint8)).save(path)
        rows.append(IndexRow(id, "train", path, None, 16, 64, labels))
    write_index(tmp_path / "index.csv", Index(tuple(rows), CLASSES))
    ids = ["one", "two"]
    with new_shard(tmp_path / "first", ids=ids, suffix=".png", classes=CLASSES, settings=None) as shard:
        for id in ids:
            shard.submit(id, write_labels, np.zeros((16, 64), np.uint8))
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model" / "model.json", {"supervision": "I"})

    class Network(torch.nn.Module):
        multiple = 16
        architecture = "linear"

        def forward(self, images: Tensor) -> Tensor:
            logits = torch.from_numpy(PROBABILITIES).float().log()
            columns = logits.repeat_interleave(images.shape[3] // 4, dim=1)
            return columns[None, :, None].expand(len(images), -1, images.shape[2], -1)

    monkeypatch.setattr(relabel, "load_deeplab", lambda folder: (Network(), CLASSES))
    monkeypatch.setattr("getam.scores.prediction.model_files", lambda folder: [])
    return tmp_path


def labelled(place: Path, config: Config, **changes: Any) -> dict[str, list[int]]:
    """The middle row of each image's labels, at the middle of its four columns."""
    relabel.run(
        relabel.Arguments(
            **(config.relabel.model_dump() | {"flip": False} | changes),
            index=place / "index.csv",
            model=place / "model",
            pseudo_labels=place / "first",
            out=place / "second",
            threads=1,
            device="cpu",
        )
    )
    return {path.stem: read_labels(path)[8, 8::16].tolist() for path in (place / "second").glob("*.png")}


def test_only_the_background_and_the_images_classes_compete(place: Path, config: Config) -> None:
    # Of background, a, b: (0.1, 0.5, 0.1), (0.4, 0.1, 0.4), (0.2, 0.2, 0.2), (0.1, 0.1, 0.1); the first of equals wins.
    assert labelled(place, config, confidence=0) == {"one": [1, 0, 0, 0], "two": [0, 0, 0, 0]}
    manifest = read_json(place / "second" / "manifest.json")
    assert manifest["ids"] == ["one", "two"]
    assert manifest["supervision"] == "I"
    assert manifest["settings"]["confidence"] == 0


def test_a_pixel_is_unknown_below_the_confidence(place: Path, config: Config) -> None:
    # Their shares: 5/7, 4/9, 1/3, 1/3.
    assert labelled(place, config, confidence=0.4)["one"] == [1, 0, UNKNOWN, UNKNOWN]
    assert labelled(place, config, confidence=0.72)["one"] == [UNKNOWN] * 4
    assert labelled(place, config, confidence=1)["two"] == [0] * 4, "where nothing else competes it is sure"


def test_the_dense_crf_sees_the_same_classes(place: Path, config: Config) -> None:
    crf = config.relabel.crf.model_dump() | {"iterations": 1, "gaussian_weight": 0, "bilateral_weight": 0}
    assert labelled(place, config, confidence=0.6, crf=crf)["one"] == [1, UNKNOWN, UNKNOWN, UNKNOWN]


def test_corrected_labels_stay(place: Path, config: Config) -> None:
    manifest = read_json(place / "first" / "manifest.json")
    write_json(place / "first" / "manifest.json", manifest | {"corrected": ["one"]})
    write_labels(place / "first" / "one.png", np.full((16, 64), 3, np.uint8))
    before = labelled(place, config)
    assert before["one"] == [3, 3, 3, 3]
    assert before["two"] != [3, 3, 3, 3]
    assert read_json(place / "second" / "manifest.json")["corrected"] == ["one"]


def test_a_model_of_other_classes_is_refused(place: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relabel, "load_deeplab", lambda folder: (SimpleNamespace(), ("a", "z", "c")))
    with pytest.raises(InputError, match="was made for other classes"):
        labelled(place, config)
    assert not (place / "second").exists()
