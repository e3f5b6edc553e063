"""The linear probe: what it learns from features, what random scores have, and what is said of a classifier."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from support.dumped_maps import CLASSES, CLASSIFIER, write_data
from torch import Tensor

from getam.datasets.images import normalize_rgb
from getam.datasets.index import Index, read_index
from getam.errors import InputError
from getam.networks.classifier import build_classifier
from getam.scores.evaluation import average_precision
from getam.scores.probe import (
    PENALTIES,
    Probe,
    chance,
    frozen_features,
    linear_scores,
    probe_backbone,
    warning_of,
)
from getam.settings.classifier import ClassifierSettings
from getam.system.image_files import read_image

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def probe(index: Index, *, images: int = 0, settings: ClassifierSettings = CLASSIFIER) -> Probe:
    return probe_backbone(
        settings,
        index,
        source=Path("index.csv"),
        image_size=32,
        images=images,
        device=CPU,
        threads=1,
        what="probe",
    )


def features(count: int, *, seed: int) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


# The layer


def test_a_layer_learns_what_is_linear_at_any_scale_of_the_features() -> None:
    known, unknown = features(80, seed=0), features(40, seed=1)
    # The third feature says nothing, the last one is dead; one class hangs on a feature of small values.
    scale = torch.tensor([1.0, 1e-3, 100.0, 1.0, 1.0, 0.0])

    def labels(values: Tensor) -> Tensor:
        return torch.stack([values[:, 0] > 0.2, values[:, 1] > 0], dim=1).float()

    scores, penalty = linear_scores(known * scale, labels(known), unknown * scale)
    assert penalty in PENALTIES
    precision = average_precision(scores, labels(unknown), ["a", "b"])
    assert precision["mean_average_precision"] > 0.98
    again, _ = linear_scores(known * scale, labels(known), unknown * scale)
    assert torch.equal(scores, again)


def test_noise_gets_a_stronger_penalty_than_what_can_be_learned() -> None:
    known = features(40, seed=0)
    noise = (features(40, seed=2)[:, :1] > 0).float()
    _, of_noise = linear_scores(known, noise, known)
    _, of_sign = linear_scores(known, (known[:, :1] > 0).float(), known)
    assert of_noise > of_sign


def test_a_class_that_train_does_not_teach_has_equal_scores() -> None:
    known, unknown = features(12, seed=0), features(5, seed=1)
    targets = torch.zeros(12, 3)
    targets[:6, 0] = 1
    targets[:, 1] = 1
    scores, _ = linear_scores(known, targets, unknown)
    assert scores.isfinite().all()
    assert len(scores[:, 0].unique()) == 5
    assert scores[:, 1:].unique().tolist() == [0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_images_is_enough_to_run(count: int) -> None:
    scores, _ = linear_scores(features(count, seed=0), torch.eye(3)[:count], features(4, seed=1))
    assert scores.shape == (4, 3)
    assert scores.isfinite().all()


def test_threads_are_left_as_they_were() -> None:
    before = torch.get_num_threads()
    linear_scores(features(8, seed=0), torch.eye(2).repeat(4, 1), features(2, seed=1))
    assert torch.get_num_threads() == before


# The features


@pytest.mark.parametrize("readout", ["token", "project", "pool"])
def test_features_are_in_the_order_of_the_images(data: Path, readout: str) -> None:
    is_cnn = readout == "pool"
    changes = {"readout": readout} | ({"backbone": "resnet10t", "backbone_options": {}} if is_cnn else {})
    settings = ClassifierSettings.model_validate(CLASSIFIER.model_dump() | changes)
    torch.manual_seed(0)
    model = build_classifier(settings, num_classes=3, image_size=32).eval()
    # Images of three sizes, which share no batch.
    rows = read_index(data / "index.csv").rows
    found = frozen_features(model, rows, image_size=32, device=CPU, threads=1, what="features")
    assert found.shape == (6, 512 if is_cnn else 16)
    for row, values in zip(rows, found, strict=True):
        if (row.height, row.width) != (32, 32):
            continue
        image = normalize_rgb(torch.from_numpy(read_image(row.image).copy()).permute(2, 0, 1))[None]
        with torch.no_grad():
            if is_cnn:
                expected = model.backbone.forward_features(image).mean((2, 3))[0]
            else:
                expected = model.backbone.forward_features(image)[0, 0]
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


# Backbone and index


def test_a_probe_says_what_it_saw_and_leaves_the_random_state(data: Path) -> None:
    index = read_index(data / "index.csv")
    torch.manual_seed(4)
    before = torch.get_rng_state()
    whole = probe(index)
    assert torch.equal(torch.get_rng_state(), before)
    assert (whole.train, whole.val, whole.features, whole.image_size) == (5, ("i5",), 16, 32)
    assert whole.average_precision.keys() == set(CLASSES)
    assert probe(index) == whole
    assert probe(index, images=3).train == 3


def test_an_index_that_teaches_or_scores_nothing_is_refused(data: Path) -> None:
    index = read_index(data / "index.csv")
    train, val = index.split("train"), index.split("val")
    cases = {
        "no image of the split 'train'": val,
        "no image of the split 'val'": train,
        "no class that some images of train show": [*(dataclasses.replace(row, labels=("a",)) for row in train), *val],
        "nobody has labelled the images of val": [
            *train,
            *(dataclasses.replace(row, labels=(), labelled=False) for row in val),
        ],
        "no image of val has a label": [*train, *(dataclasses.replace(row, labels=()) for row in val)],
    }
    for message, rows in cases.items():
        with pytest.raises(InputError, match=rf"^index\.csv: {message}"):
            probe(Index(tuple(rows), CLASSES))


# What is said


def test_chance_is_the_mean_prevalence_of_the_classes_that_occur() -> None:
    targets = torch.tensor([[1.0, 0, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]])
    assert chance(targets) == pytest.approx((1 + 0.25) / 2)
    assert chance(torch.zeros(3, 2)) is None
    # Random scores of many images have it.
    targets = (torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.1, 0.3, 0.5])).float()
    scores = torch.rand(4000, 3, generator=torch.Generator().manual_seed(1))
    found = average_precision(scores, targets, ["a", "b", "c"])["mean_average_precision"]
    assert found == pytest.approx(chance(targets), abs=0.02)


@pytest.mark.parametrize(
    ("precision", "of_probe", "parts"),
    [
        (0.93, 0.94, []),
        (0.95, 0.90, []),
        (0.90, 0.94, ["mAP 0.900 on val is under that of a linear layer on its frozen backbone (0.940): lower"]),
        (
            0.12,
            0.94,
            ["mAP 0.120 on val is near chance (0.100) and under that of", "or trainable: none"],
        ),
        (0.12, 0.11, ["near chance (0.100): lower learning_rate or backbone_rate"]),
        (0.12, None, ["near chance (0.100): train for more epochs", "pretrained weights"]),
        (0.30, None, []),
    ],
)
def test_a_classifier_is_warned_of_by_chance_and_by_the_probe(
    precision: float, of_probe: float | None, parts: list[str]
) -> None:
    warning = warning_of(precision, chance=0.1, probe=of_probe)
    assert (warning is None) == (not parts)
    for part in parts:
        assert part in str(warning)
