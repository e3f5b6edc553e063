"""The stage train_classifier: its scores beside chance and a linear probe of its backbone, and what it says of them."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from support.dumped_maps import CLASSIFIER, write_data

import getam.stages.train_classifier
from getam.datasets.index import Index, IndexRow, read_index, write_index
from getam.errors import InputError
from getam.runs.summary import notes_in, summarize
from getam.scores.probe import Probe
from getam.stages.train_classifier import Arguments, run
from getam.system.files import read_json

KEYS = {
    "split",
    "images",
    "mean_average_precision",
    "average_precision",
    "supervision",
    "image_labels",
    "chance",
    "probe",
    "warning",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_data(tmp_path_factory.mktemp("data"))
    torch.manual_seed(7)
    vit = timm.create_model(CLASSIFIER.backbone, num_classes=0, img_size=32, **CLASSIFIER.backbone_options)
    save_file(vit.state_dict(), folder / "vit.safetensors")
    return folder


def trained(data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Trains the classifier and gives its metrics."""
    settings = CLASSIFIER.model_dump() | {"gpus": 0} | changes
    run(Arguments(**settings, index=data / "index.csv", out=out, threads=1, device="cpu"))
    return read_json(out / "metrics.json")


def test_fresh_weights_are_compared_with_chance_alone(data: Path, tmp_path: Path) -> None:
    metrics = trained(data, tmp_path / "classifier")
    assert metrics.keys() == KEYS
    assert metrics["probe"] is None
    # The only image of val shows one class, so that random scores have 1 and a network can't have less.
    assert metrics["chance"] == metrics["mean_average_precision"] == 1


def test_pretrained_weights_are_probed_and_the_training_is_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrained = str(data / "vit.safetensors")
    metrics = trained(data, tmp_path / "probed", pretrained=pretrained)
    assert metrics.keys() == KEYS
    probe = metrics["probe"]
    assert (probe["train_images"], probe["images"], probe["image_size"]) == (5, 1, 32)
    assert probe["mean_average_precision"] == probe["classifier"] == 1

    def refuse(*_: object, **__: object) -> Probe:
        raise InputError("pretrained: vit.safetensors: no such file")

    monkeypatch.setattr(getam.stages.train_classifier, "probe_backbone", refuse)
    without = trained(data, tmp_path / "not_probed", pretrained=pretrained)
    assert without["probe"] is None
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("probed", "not_probed")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_score_under_the_probes_is_said_in_the_log_and_the_metrics(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    best = Probe(1.5, {}, train=5, val=("i5",), image_size=32, penalty=1.0, features=16)
    monkeypatch.setattr(getam.stages.train_classifier, "probe_backbone", lambda *_, **__: best)
    with caplog.at_level(logging.INFO):
        metrics = trained(data, tmp_path / "classifier", pretrained=str(data / "vit.safetensors"))
    assert "under that of a linear layer on its frozen backbone (1.500): lower learning_rate" in metrics["warning"]
    (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert line.getMessage() == f"WARNING train_classifier: {metrics['warning']}"


@pytest.mark.parametrize("pretrained", [False, True])
def test_without_images_or_labels_of_val_there_is_nothing_to_say(data: Path, tmp_path: Path, pretrained: bool) -> None:
    index = read_index(data / "index.csv")
    train = index.split("train")
    unlabeled = [dataclasses.replace(row, labels=()) for row in index.split("val")]
    for number, rows in enumerate(([], unlabeled)):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_index(folder / "index.csv", Index((*train, *rows), index.classes))
        weights = str(data / "vit.safetensors") if pretrained else False
        metrics = trained(folder, folder / "classifier", pretrained=weights)
        assert metrics["images"] == len(rows)
        assert [metrics[key] for key in ("mean_average_precision", "chance", "probe", "warning")] == [None] * 4


def test_images_of_val_that_nobody_has_labelled_are_left_out(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = read_index(data / "index.csv")
    (labelled,) = index.split("val")
    other = dataclasses.replace(labelled, id="other", labels=())

    def scores(*rows: IndexRow) -> dict[str, Any]:
        folder = tmp_path / str(len([*tmp_path.iterdir()]))
        folder.mkdir()
        write_index(folder / "index.csv", Index((*index.split("train"), *rows), index.classes))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            metrics = trained(folder, folder / "classifier", pretrained=str(data / "vit.safetensors"))
        summary = summarize(folder)
        said = "; ".join(notes_in(summary))
        if "unlabelled" in metrics:
            assert f"Classifier: {metrics['unlabelled']} images of val that nobody has labelled are left out" in said
            assert f"{metrics['unlabelled']} images of val that nobody has labelled are left out" in caplog.text
        if "reason" in metrics:
            assert f"Not scored: Classifier ({metrics['reason']})." in said
            assert f"not scored: {metrics['reason']}" in caplog.text
        return metrics

    alone = scores(labelled)
    assert not {"unlabelled", "reason"} & alone.keys()
    # Next to one that shows no class, random scores are worse; one that nobody has labelled changes nothing.
    assert scores(labelled, other)["chance"] == 0.5
    left_out = scores(labelled, dataclasses.replace(other, labelled=False))
    assert left_out == alone | {"unlabelled": 1}
    none = scores(dataclasses.replace(other, labelled=False))
    assert (none["images"], none["mean_average_precision"]) == (0, None)
    assert none["reason"] == "nobody has labelled the images of val"
    assert scores(other)["reason"] == "no image of val has a label"
