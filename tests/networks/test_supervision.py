"""What scores say that their labels and networks have learned from, from the first weights to the last score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image

from deeplab.model import describe_deeplab
from deeplab.stages import predict_deeplab, train_deeplab
from getam.datasets.index import Index, IndexRow, read_index, write_index
from getam.datasets.shards import new_shard
from getam.networks.classifier import describe_classifier
from getam.networks.end_to_end import describe_end_to_end
from getam.networks.saliency import describe_saliency
from getam.networks.supervision import joined, of_model, of_shards
from getam.scores.evaluation import evaluate_predictions
from getam.settings.config import validate_config
from getam.settings.reading import BASE_CONFIG, read_yaml
from getam.settings.saliency import SaliencySettings
from getam.settings.section import section_of
from getam.stages import complete_labels
from getam.system.files import read_json, write_array, write_json
from getam.system.image_files import write_gray, write_labels

CONFIG = validate_config(read_yaml(BASE_CONFIG))
CLASSES = ("a",)
FULLY = {"pretrained": "coco.pth", "segmentation_pretrained": True}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [(("I",), "I"), (("S", "I"), "I+S"), (("I+F", "I+S"), "I+S+F"), (("F", "F"), "F"), ((), "")],
)
def test_joined(parts: tuple[str, ...], expected: str) -> None:
    assert joined(*parts) == expected


def test_networks_say_what_they_and_their_first_weights_have_seen() -> None:
    saliency = section_of(SaliencySettings, CONFIG.saliency)
    assert describe_classifier(CONFIG.classifier, CLASSES)["supervision"] == "I"
    assert describe_classifier(CONFIG.classifier.model_copy(update=FULLY), CLASSES)["supervision"] == "I+F"
    # Allowed, but not there.
    allowed = CONFIG.classifier.model_copy(update={"segmentation_pretrained": True})
    assert describe_classifier(allowed, CLASSES)["supervision"] == "I"
    assert describe_saliency(saliency)["supervision"] == "S"
    assert describe_saliency(saliency.model_copy(update=FULLY))["supervision"] == "S+F"
    end_to_end = CONFIG.end_to_end
    assert describe_end_to_end(end_to_end, CLASSES)["supervision"] == "I+S"
    crf = end_to_end.completion.model_copy(update={"method": "crf"})
    alone = end_to_end.model_copy(update={"completion": crf, "saliency_weight": 0})
    assert describe_end_to_end(alone, CLASSES)["supervision"] == "I"
    assert describe_end_to_end(alone.model_copy(update=FULLY), CLASSES)["supervision"] == "I+F"


def test_an_end_to_end_network_has_that_of_the_saliency_that_it_learns_from() -> None:
    end_to_end = CONFIG.end_to_end
    assert describe_end_to_end(end_to_end, CLASSES, saliency="S+F")["supervision"] == "I+S+F"
    # These settings use no saliency, whatever maps are there, and first weights don't change that.
    crf = end_to_end.completion.model_copy(update={"method": "crf"})
    alone = end_to_end.model_copy(update={"completion": crf, "saliency_weight": 0})
    assert describe_end_to_end(alone, CLASSES, saliency="S+F")["supervision"] == "I"
    assert describe_end_to_end(alone.model_copy(update=FULLY), CLASSES, saliency="S")["supervision"] == "I+F"


@pytest.mark.parametrize(("labels", "expected"), [("I", "I+F"), ("I+S", "I+S+F"), ("F", "F")])
def test_a_segmenter_has_that_of_its_labels_and_first_weights(labels: str, expected: str) -> None:
    settings = CONFIG.deeplab.model_copy(update=FULLY)
    assert describe_deeplab(settings, CLASSES, learned_from=labels)["supervision"] == expected


def test_what_does_not_say_it_is_taken_for_saliency_too(tmp_path: Path) -> None:
    write_json(tmp_path / "model.json", {})
    write_json(tmp_path / "manifest.json", {"ids": []})
    assert (of_model(tmp_path), of_shards([tmp_path])) == ("I+S", "I+S")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A training and a val image of 16x16 pixels."""
    rng = np.random.default_rng(0)
    rows = []
    for id, split in (("t", "train"), ("v", "val")):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / f"{id}.png")
        write_labels(tmp_path / f"{id}_mask.png", np.eye(16, dtype=np.uint8))
        rows.append(IndexRow(id, split, tmp_path / f"{id}.png", tmp_path / f"{id}_mask.png", 16, 16, ("a",)))
    write_index(tmp_path / "index.csv", Index(tuple(rows), CLASSES))
    return tmp_path / "index.csv"


@pytest.mark.parametrize(
    ("method", "maps", "saliency", "expected"),
    [
        ("activation", "I", "S", "I+S"),
        ("activation", "I+F", "S", "I+S+F"),
        ("activation", "I", "S+F", "I+S+F"),
        ("activation", "I", None, "I+S"),
        ("crf", "I", "S+F", "I"),
        ("crf", "I+F", "S", "I+F"),
    ],
)
def test_labels_have_that_of_their_maps_and_of_the_saliency_that_is_read(
    index: Path, method: str, maps: str, saliency: str | None, expected: str
) -> None:
    folder = index.parent
    how: dict[str, Any] = {"ids": ["t"], "classes": CLASSES, "settings": None}
    with new_shard(folder / "maps", suffix=".npy", manifest_entries={"supervision": maps}, **how) as shard:
        shard.submit("t", write_array, np.eye(16, dtype=np.float16)[None])
    # Brought by hand, it has no manifest.
    write_gray(folder / "saliency" / "t.png", 255 * np.eye(16, dtype=np.uint8))
    if saliency is not None:
        write_json(folder / "saliency" / "manifest.json", {"ids": ["t"], "supervision": saliency})
    settings = CONFIG.completion.model_copy(update={"method": method})
    complete_labels.run(
        complete_labels.Arguments(
            **settings.model_dump(),
            maps=folder / "maps",
            saliency=folder / "saliency",
            index=index,
            out=folder / "labels",
            threads=1,
        )
    )
    assert read_json(folder / "labels" / "manifest.json")["supervision"] == expected


@pytest.mark.parametrize(
    ("labels", "fully", "expected"), [("I+S", False, "I+S"), ("I", False, "I"), ("I", True, "I+F")]
)
def test_a_network_has_that_of_its_labels_and_of_its_first_weights(
    index: Path, labels: str, fully: bool, expected: str
) -> None:
    folder = index.parent
    how: dict[str, Any] = {"ids": ["t"], "classes": CLASSES, "settings": CONFIG.completion}
    with new_shard(folder / "labels" / "000", suffix=".png", manifest_entries={"supervision": labels}, **how) as shard:
        shard.submit("t", write_labels, np.eye(16, dtype=np.uint8))
    crop = CONFIG.deeplab.crop.model_copy(update={"long_side": (16, 16), "size": 16})
    network = CONFIG.deeplab.model_copy(update={"epochs": 1, "crop": crop})
    if fully:
        torch.save(smp.encoders.get_encoder("resnet18", weights=None).state_dict(), folder / "coco.pth")
        network = network.model_copy(update=FULLY | {"pretrained": str(folder / "coco.pth")})
    machine: dict[str, Any] = {"index": index, "threads": 1, "device": "cpu"}
    train_deeplab.run(
        train_deeplab.Arguments(
            **network.model_dump(), pseudo_labels=folder / "labels", shards=1, out=folder / "deeplab", **machine
        )
    )
    assert read_json(folder / "deeplab" / "model.json")["supervision"] == expected
    predict_deeplab.run(
        predict_deeplab.Arguments(
            **CONFIG.deeplab_prediction.model_dump(),
            model=folder / "deeplab",
            split="val",
            out=folder / "predictions",
            **machine,
        )
    )
    result = evaluate_predictions(read_index(index), folder / "predictions", split="val")
    assert result["protocol"]["supervision"] == expected
    assert result["protocol"]["architecture"] == "deeplabv2"
