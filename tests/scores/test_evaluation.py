"""Scores: four pixels by hand under each protocol, torchmetrics as a second opinion, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex, MulticlassPrecision, MulticlassRecall

from getam.datasets.index import Index, IndexRow, write_index
from getam.datasets.shards import new_shard
from getam.errors import InputError
from getam.runs.summary import describe_inference
from getam.scores.evaluation import (
    PROTOCOLS,
    ConfusionMatrix,
    EvaluationArguments,
    ThresholdCurve,
    average_precision,
    evaluate_predictions,
    mean_of_known,
    write_scores,
)
from getam.settings.crf import CrfSettings
from getam.settings.prediction import PredictionSettings
from getam.system.files import read_json, write_json
from getam.system.image_files import write_labels

PREDICTION = PredictionSettings(
    scales=(1.0, 0.5),
    squares=(),
    window=0,
    window_overlap=0.5,
    long_side=0,
    flip=True,
    crf=CrfSettings(
        iterations=2,
        gaussian_xy=3,
        gaussian_weight=3,
        bilateral_xy=50,
        bilateral_rgb=5,
        bilateral_weight=4,
        backend="auto",
    ),
)


def matrix_of(truth: Any, prediction: Any, *, num_classes: int) -> ConfusionMatrix:
    matrix = ConfusionMatrix(num_classes)
    matrix.add(np.array(truth, np.uint8), np.array(prediction, np.uint8))
    return matrix


@pytest.mark.parametrize(
    ("protocol", "background", "dog"),
    [
        ("excluded", 1 / 1, 1 / 1),  # the predicted 255 is left out
        ("background", 1 / 2, 1 / 2),  # one of two dog pixels is missed, and background has a false pixel
        ("wrong", 1 / 1, 1 / 2),  # one dog pixel is missed, and no class gains a false pixel
    ],
)
def test_four_pixels_with_unknown_in_both(protocol: str, background: float, dog: float) -> None:
    matrix = matrix_of([[0, 1], [1, 255]], [[0, 1], [255, 1]], num_classes=2)
    assert matrix.counts.tolist() == [[1, 0, 0], [0, 1, 1]]
    scores = matrix.scores(("background", "dog"), protocol)
    assert scores["miou"] == (background + dog) / 2
    assert scores["iou"] == {"background": background, "dog": dog}
    assert scores["precision"] == {"background": background, "dog": 1}
    assert scores["recall"] == {"background": 1, "dog": dog}
    assert matrix.pixel_accuracy() == 2 / 3
    assert matrix.unknown_share() == 1 / 3


def test_iou_of_a_confusion_by_hand() -> None:
    matrix = matrix_of([[0, 0, 0, 1], [1, 1, 2, 2]], [[0, 0, 1, 1], [1, 0, 2, 0]], num_classes=3)
    assert matrix.iou().tolist() == [2 / 5, 2 / 4, 1 / 2]
    assert matrix.scores(("background", "a", "b"))["miou"] == pytest.approx((0.4 + 0.5 + 0.5) / 3)


def test_equals_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    matrix = ConfusionMatrix(5)
    options = {"average": "none", "ignore_index": 255, "validate_args": False}
    metrics = [Metric(5, **options) for Metric in (MulticlassJaccardIndex, MulticlassPrecision, MulticlassRecall)]
    for height, width in ((20, 31), (17, 8)):
        truth = rng.integers(0, 6, (height, width)).astype(np.uint8)
        truth[truth == 5] = 255
        prediction = np.where(rng.random(truth.shape) < 0.5, truth % 5, rng.integers(0, 5, truth.shape))
        matrix.add(truth, prediction.astype(np.uint8))
        for metric in metrics:
            metric.update(torch.from_numpy(prediction.astype(np.int64)), torch.from_numpy(truth.astype(np.int64)))
    for name, metric in zip(("iou", "precision", "recall"), metrics, strict=True):
        expected = metric.compute().numpy()
        assert 0 < expected.min() < expected.max() < 1
        for protocol in PROTOCOLS:  # without a predicted 255 they agree
            np.testing.assert_allclose(getattr(matrix, name)(protocol), expected, rtol=1e-6)


def test_the_threshold_curve_is_a_confusion_matrix_a_threshold() -> None:
    rng = np.random.default_rng(0)
    thresholds = tuple(round(0.01 * step, 2) for step in range(100))
    curve = ThresholdCurve(4, thresholds)
    images = []
    for height, width in ((20, 31), (17, 8)):
        truth = rng.integers(0, 5, (height, width)).astype(np.uint8)
        truth[truth == 4] = 255
        strongest = rng.integers(0, 4, truth.shape).astype(np.uint8)
        # Whole hundredths too, which are not above their own threshold.
        highest = np.where(
            rng.random(truth.shape) < 0.5, rng.integers(0, 101, truth.shape) / 100, rng.random(truth.shape)
        )
        images.append((truth, strongest, highest.astype(np.float32)))
        curve.add(*images[-1])
    points = curve.points()
    assert [point["threshold"] for point in points] == list(thresholds)
    for point in points:
        matrix = ConfusionMatrix(4)
        for truth, strongest, highest in images:
            matrix.add(truth, np.where(highest > point["threshold"], strongest, 0).astype(np.uint8))
        means = [mean_of_known(values) for values in (matrix.iou(), matrix.precision(), matrix.recall())]
        assert [point["miou"], point["precision"], point["recall"]] == means


def test_counts_beyond_32_bits() -> None:
    matrix = matrix_of([[0, 1]], [[0, 0]], num_classes=2)
    matrix.counts[0, 0] += 2**33
    matrix.counts[1, 1] += 2**32
    matrix.add(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    assert matrix.counts[0, 0] == 2**33 + 5
    assert matrix.iou().tolist() == [(2**33 + 5) / (2**33 + 6), 2**32 / (2**32 + 1)]
    accuracy = matrix.pixel_accuracy()
    assert accuracy == pytest.approx(1 - 1 / (3 * 2**32 + 6), abs=1e-15)
    assert accuracy < 1


def test_class_in_neither_is_none_and_left_out_of_the_mean() -> None:
    matrix = matrix_of([[0, 1]], [[0, 0]], num_classes=4)
    matrix.add(np.array([[2]], np.uint8), np.array([[255]], np.uint8))
    names = ("background", "a", "b", "c")
    # "b" is in the truth, but its only pixel is predicted unknown: without that pixel it is in neither.
    scores = matrix.scores(names)
    assert scores["miou"] == 0.25
    assert scores["iou"] == {"background": 0.5, "a": 0.0, "b": None, "c": None}
    assert scores["precision"] == {"background": 0.5, "a": None, "b": None, "c": None}
    assert scores["recall"] == {"background": 1.0, "a": 0.0, "b": None, "c": None}
    assert matrix.scores(names, "wrong")["iou"] == {"background": 0.5, "a": 0.0, "b": 0.0, "c": None}


def test_nothing_to_score_is_none_throughout() -> None:
    matrix = matrix_of([[255, 255]], [[0, 1]], num_classes=2)
    unknown = {"background": None, "a": None}
    assert matrix.scores(("background", "a")) == {
        "miou": None, "miou_classes": 0, "miou_reason": "no pixel has a ground truth",
        "iou": unknown, "precision": unknown, "recall": unknown,
    }  # fmt: skip
    assert matrix.pixel_accuracy() is None
    assert matrix.unknown_share() is None


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(2, 3\) and prediction \(3, 2\) differ"):
        ConfusionMatrix(2).add(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


@pytest.mark.parametrize(
    ("truth", "prediction"),
    [(2, 0), (0, 3), (0, 2)],
)
def test_values_beyond_the_classes_are_refused(truth: int, prediction: int) -> None:
    with pytest.raises(InputError, match="beyond the 1 classes"):
        matrix_of([[truth, 0]], [[prediction, 0]], num_classes=2)


def test_unknown_protocol_is_refused() -> None:
    with pytest.raises(KeyError, match="excluded, background, wrong"):
        ConfusionMatrix(2).iou("strict")


@pytest.mark.filterwarnings("ignore:No positive samples")
def test_average_precision_by_hand() -> None:
    # Column 0, best first: hit, miss, hit, miss -> (1/1 + 2/3) / 2. Column 1 has no positive. Column 2: miss, then
    # hits -> (1/2 + 2/3 + 3/4) / 3.
    scores = torch.tensor([[3.0, 1.0, 4.0], [2.0, 0.0, 3.0], [1.0, -1.0, 2.0], [0.0, -2.0, -5.0]])
    targets = torch.tensor([[1.0, 0, 0], [0, 0, 1], [1, 0, 1], [0, 0, 1]])
    result = average_precision(scores, targets, ("a", "b", "c"))
    per_class = result["average_precision"]
    assert per_class["a"] == pytest.approx(5 / 6, rel=1e-6)
    assert per_class["b"] is None
    assert per_class["c"] == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3, rel=1e-6)
    assert result["mean_average_precision"] == pytest.approx((per_class["a"] + per_class["c"]) / 2)


@pytest.mark.filterwarnings("ignore:No positive samples")
def test_average_precision_without_any_positive_is_none() -> None:
    result = average_precision(torch.randn(3, 2), torch.zeros(3, 2), ("a", "b"))
    assert result == {"mean_average_precision": None, "average_precision": {"a": None, "b": None}}


def test_average_precision_ranks_confident_scores() -> None:
    scores = torch.tensor([[40.0, 1.0], [30.0, 0.0], [20.0, -1.0]])
    targets = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert average_precision(scores, targets, ("a", "b"))["average_precision"] == {"a": 1.0, "b": 1.0}


def test_average_precision_of_one_class() -> None:
    result = average_precision(torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0], [0.0]]), ("a",))
    assert result == {"mean_average_precision": 1.0, "average_precision": {"a": 1.0}}


def scored_index(folder: Path) -> Index:
    """Two val images with a mask, one without, and one train image."""
    rows = []
    for id, split, mask in (("v1", "val", True), ("v2", "val", True), ("v3", "val", False), ("t1", "train", True)):
        path = folder / f"mask_{id}.png"
        if mask:
            write_labels(path, np.array([[0, 1, 1, 255]], np.uint8))
        rows.append(IndexRow(id, split, folder / f"{id}.jpg", path if mask else None, 1, 4, ("dog",)))
    return Index(rows=tuple(rows), classes=("dog",))


def write_predictions(
    out: Path,
    ids: list[str],
    *,
    values: Any = ((0, 1, 0, 1),),
    classes: tuple[str, ...] = ("dog",),
    settings: PredictionSettings = PREDICTION,
) -> None:
    with new_shard(out, ids=ids, suffix=".png", classes=classes, settings=settings) as shard:
        for id in ids:
            shard.submit(id, write_labels, np.array(values, np.uint8))


def test_evaluate_predictions(tmp_path: Path) -> None:
    index = scored_index(tmp_path)
    write_predictions(tmp_path / "predictions", ["v1", "v2", "v3"])
    write_index(tmp_path / "index.csv", index)
    expected = {
        "split": "val",
        "images": 2,
        "miou": 0.5,
        "miou_classes": 2,
        "iou": {"background": 0.5, "dog": 0.5},
        "precision": {"background": 0.5, "dog": 1.0},
        "recall": {"background": 1.0, "dog": 0.5},
        "pixel_accuracy": 4 / 6,
        "confusion": [[2, 0], [2, 2]],
        "protocol": {
            "scales": [1.0, 0.5],
            "squares": [],
            "flip": True,
            "crf": True,
            "supervision": "I+S",
            "image_labels": "file",
        },
    }
    write_json(tmp_path / "index.json", {"labels": "file"})
    assert evaluate_predictions(index, tmp_path / "predictions", split="val", image_labels="file") == expected
    arguments = EvaluationArguments(
        index=tmp_path / "index.csv",
        predictions=tmp_path / "predictions",
        split="val",
        out=tmp_path / "metrics.json",
        threads=1,
    )
    write_scores(arguments, what="evaluate_test")
    assert read_json(tmp_path / "metrics.json") == expected


def test_the_protocol_says_windows_where_there_are_some(tmp_path: Path) -> None:
    index = scored_index(tmp_path)
    settings = PREDICTION.model_copy(update={"window": 480, "window_overlap": 0.25})
    write_predictions(tmp_path / "predictions", ["v1", "v2", "v3"], settings=settings)
    protocol = evaluate_predictions(index, tmp_path / "predictions", split="val")["protocol"]
    assert (protocol["window"], protocol["window_overlap"]) == (480, 0.25)
    assert describe_inference(protocol) == "scales 1 0.5, windows of 480, flip, CRF"


def test_the_protocol_says_where_images_were_scaled_down(tmp_path: Path) -> None:
    index = scored_index(tmp_path)
    for long_side, said in ((4, False), (3, True)):
        settings = PREDICTION.model_copy(update={"long_side": long_side})
        write_predictions(tmp_path / f"{long_side}", ["v1", "v2", "v3"], settings=settings)
        protocol = evaluate_predictions(index, tmp_path / f"{long_side}", split="val")["protocol"]
        assert protocol.get("long_side") == (long_side if said else None)
        assert describe_inference(protocol) == f"scales 1 0.5,{' scaled down to 3,' if said else ''} flip, CRF"
    # Earlier versions knew no such setting.
    manifest = read_json(tmp_path / "4" / "manifest.json")
    del manifest["settings"]["long_side"]
    del manifest["settings"]["crf"]["backend"]
    write_json(tmp_path / "4" / "manifest.json", manifest)
    assert "long_side" not in evaluate_predictions(index, tmp_path / "4", split="val")["protocol"]


@pytest.mark.parametrize("ids", [["t1"], ["v1", "v2"], ["v1", "v2", "v3", "t1"]])
def test_predictions_of_other_images_are_refused(tmp_path: Path, ids: list[str]) -> None:
    index = scored_index(tmp_path)
    write_predictions(tmp_path / "predictions", ids)
    with pytest.raises(InputError, match="other images than the split 'val'"):
        evaluate_predictions(index, tmp_path / "predictions", split="val")


def test_predictions_of_another_size_are_refused(tmp_path: Path) -> None:
    index = scored_index(tmp_path)
    write_predictions(tmp_path / "predictions", ["v1", "v2", "v3"], values=[[0, 1], [0, 1]])
    with pytest.raises(InputError, match=r"\(1, 4\) and prediction \(2, 2\)"):
        evaluate_predictions(index, tmp_path / "predictions", split="val")


def test_predictions_of_other_classes_are_refused(tmp_path: Path) -> None:
    index = scored_index(tmp_path)
    write_predictions(tmp_path / "predictions", ["v1", "v2", "v3"], classes=("cat",))
    with pytest.raises(InputError, match="other classes"):
        evaluate_predictions(index, tmp_path / "predictions", split="val")


def test_missing_predictions_are_named(tmp_path: Path) -> None:
    index = scored_index(tmp_path)
    with pytest.raises(InputError, match="predictions: no such folder"):
        evaluate_predictions(index, tmp_path / "predictions", split="val")
    write_predictions(tmp_path / "predictions", ["v1", "v2", "v3"])
    (tmp_path / "predictions" / "v2.png").unlink()
    with pytest.raises(InputError, match=r"v2\.png: no such image"):
        evaluate_predictions(index, tmp_path / "predictions", split="val")


def test_background_alone_is_no_miou() -> None:
    matrix = ConfusionMatrix(3)
    matrix.add(np.array([[0, 0, 255]], np.uint8), np.array([[0, 0, 1]], np.uint8))
    scores = matrix.scores(("background", "a", "b"))
    assert (scores["miou"], scores["miou_classes"], scores["iou"]["background"]) == (None, 1, 1.0)
    assert scores["miou_reason"] == "ground truth and prediction show background alone"
    matrix.add(np.array([[0]], np.uint8), np.array([[2]], np.uint8))
    scores = matrix.scores(("background", "a", "b"))
    assert (scores["miou"], scores["miou_classes"]) == (pytest.approx((2 / 3 + 0) / 2), 2)
    assert "miou_reason" not in scores
    curve = ThresholdCurve(3, [0.0, 0.5])
    curve.add(np.array([[0, 0]], np.uint8), np.array([[1, 1]], np.uint8), np.array([[0.2, 0.1]], np.float32))
    assert [(each["miou"], each["miou_classes"]) for each in curve.points()] == [(0.0, 2), (None, 1)]
