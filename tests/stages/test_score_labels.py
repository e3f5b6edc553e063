"""The stage score_labels on two hand-made images: coverage, protocols, threshold curve; supervision of scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from getam.datasets.index import Index, IndexRow, read_index, write_index
from getam.datasets.shards import new_shard
from getam.errors import InputError
from getam.labels.refined_maps import write_refined
from getam.settings.config import validate_config
from getam.settings.reading import BASE_CONFIG, read_yaml
from getam.stages.score_labels import THRESHOLDS, Arguments, run
from getam.system.files import read_array, read_json, write_array
from getam.system.image_files import write_labels

CLASSES = ("a", "b")
TRUTH = {"one": [[0, 1, 1, 255]], "two": [[2, 1], [0, 0]]}
PSEUDO = {"one": [[0, 1, 255, 255]], "two": [[2, 2], [0, 255]]}
MAPS = {
    "one": [[[0.1, 0.9, 0.5, 0.9]]],
    "two": [[[0.0, 0.3], [0.2, 0.0]], [[0.6, 0.4], [0.0, 0.0]]],
}
CONFIG = validate_config(read_yaml(BASE_CONFIG))
LABELS = {"one": ("a",), "two": ("a", "b")}


def write_shard(
    folder: Path,
    shard: str,
    ids: list[str],
    *,
    classes: tuple[str, ...] = CLASSES,
    supervision: str | None = None,
) -> None:
    how: dict[str, Any] = {"ids": ids, "classes": classes}
    how["manifest_entries"] = {"supervision": supervision} if supervision else {}
    with (
        new_shard(folder / "labels" / shard, suffix=".png", settings=CONFIG.completion, **how) as labels,
        new_shard(folder / "maps" / shard, suffix=".npy", settings=None, **how) as maps,
    ):
        for id in ids:
            labels.submit(id, write_labels, np.array(PSEUDO[id], np.uint8))
            maps.submit(id, write_array, np.array(MAPS[id], np.float16))


def write_data(folder: Path, *, masks: bool = True) -> None:
    rows = []
    for id, truth in TRUTH.items():
        mask = folder / f"{id}_mask.png"
        if masks:
            write_labels(mask, np.array(truth, np.uint8))
        rows.append(
            IndexRow(id, "train", folder / f"{id}.jpg", mask if masks else None, len(truth), len(truth[0]), LABELS[id])
        )
    write_index(folder / "index.csv", Index(tuple(rows), CLASSES))
    write_shard(folder, "000", ["one"])
    write_shard(folder, "001", ["two"])


def scores(folder: Path, *, threshold: float = 0.15) -> dict[str, Any]:
    run(
        Arguments(
            index=folder / "index.csv",
            maps=folder / "maps",
            pseudo_labels=folder / "labels",
            shards=2,
            threshold=threshold,
            out=folder / "pseudo_labels.json",
            threads=1,
        )
    )
    return read_json(folder / "pseudo_labels.json")


def test_coverage_and_protocols_by_hand(tmp_path: Path) -> None:
    write_data(tmp_path)
    result = scores(tmp_path)
    assert result["images"] == result["labelled"] == 2
    assert result["split"] == "train"
    assert result["unknown_share"] == 3 / 8  # of all pixels, also where the truth is unknown
    assert result["coverage"] == 5 / 8
    # Known truth: 0 0 0, 1 1 1, 2; predicted there: 0 0 ?, 1 ? 2, 2.
    expected = {
        "excluded": {"background": 2 / 2, "a": 1 / 2, "b": 1 / 2},
        "background": {"background": 3 / 4, "a": 1 / 3, "b": 1 / 2},
        "wrong": {"background": 2 / 3, "a": 1 / 3, "b": 1 / 2},
    }
    assert set(result["protocols"]) == set(expected)
    for protocol, iou in expected.items():
        assert result["protocols"][protocol]["iou"] == pytest.approx(iou)
        assert result["protocols"][protocol]["miou"] == pytest.approx(sum(iou.values()) / 3)


def test_scores_state_what_labels_and_maps_have_learned_from(tmp_path: Path) -> None:
    write_data(tmp_path)
    assert (scores(tmp_path)["supervision"], scores(tmp_path)["maps_supervision"]) == ("I+S", "I")
    write_shard(tmp_path, "000", ["one"], supervision="I")
    write_shard(tmp_path, "001", ["two"], supervision="I+F")
    assert (scores(tmp_path)["supervision"], scores(tmp_path)["maps_supervision"]) == ("I+F", "I+F")


def test_threshold_curve_by_hand(tmp_path: Path) -> None:
    write_data(tmp_path)
    result = scores(tmp_path)
    curve = {point["threshold"]: point["miou"] for point in result["threshold_curve"]}
    assert tuple(curve) == THRESHOLDS
    assert (THRESHOLDS[0], THRESHOLDS[-1], len(THRESHOLDS)) == (0, 0.99, 100)
    # Truth 0 1 1 | 2 1 0 0; strongest a a a | b b a (a), highest 0.1 0.9 0.5 | 0.6 0.4 0.2 0.
    assert curve[0.05] == pytest.approx((1 / 3 + 2 / 5 + 1 / 2) / 3)  # 1 1 1 | 2 2 1 0
    assert curve[0.25] == pytest.approx((3 / 3 + 2 / 3 + 1 / 2) / 3)  # 0 1 1 | 2 2 0 0
    assert curve[0.45] == pytest.approx((3 / 4 + 2 / 3 + 1 / 1) / 3)  # 0 1 1 | 2 0 0 0
    assert curve[0.95] == pytest.approx((3 / 7 + 0 + 0) / 3)  # nothing is above
    # A map value equal to the threshold is not above it: 0.5 is exact in float16.
    assert curve[0.5] == pytest.approx((3 / 5 + 1 / 3 + 1 / 1) / 3)  # 0 1 0 | 2 0 0 0
    best = result["best_threshold"]
    assert best["miou"] == max(curve.values()) == curve[best["threshold"]]
    assert best["threshold"] == 0.4


def test_quantized_maps_have_the_same_curve(tmp_path: Path) -> None:
    write_data(tmp_path)
    expected = scores(tmp_path)
    for path in sorted((tmp_path / "maps").rglob("*.npy")):
        write_refined(path.with_suffix(".npz"), read_array(path), "quantized")
        path.unlink()
    assert scores(tmp_path) == expected


def test_the_maps_are_scored_exactly_at_the_threshold_that_was_fixed(tmp_path: Path) -> None:
    write_data(tmp_path)
    # The map value 0.2 is 0.19995 in float16, which the thresholds enclose more tightly than the curve's do.
    below, above = (scores(tmp_path, threshold=threshold) for threshold in (0.19994, 0.19996))
    at = {point["threshold"]: point for point in below["threshold_curve"]}
    assert at[0.19]["miou"] != at[0.2]["miou"]
    assert below["fixed_threshold"] == at[0.19] | {"threshold": 0.19994}
    assert above["fixed_threshold"] == at[0.2] | {"threshold": 0.19996}
    # Everything else stays: the published curve, and the best of its thresholds.
    on_curve = scores(tmp_path, threshold=0.2)
    assert on_curve["fixed_threshold"] == at[0.2]
    for other in (below, above):
        assert {**other, "fixed_threshold": None} == {**on_curve, "fixed_threshold": None}
    nothing = scores(tmp_path, threshold=1)["fixed_threshold"]
    assert (nothing["threshold"], nothing["recall"]) == (1, pytest.approx(1 / 3))


def test_folders_of_an_earlier_number_of_shards_are_ignored(tmp_path: Path) -> None:
    write_data(tmp_path)
    before = scores(tmp_path)
    write_shard(tmp_path, "002", ["one", "two"], classes=("gone",))
    (tmp_path / "labels" / "notes").mkdir()
    assert scores(tmp_path) == before


def test_without_masks_the_scores_are_null_and_coverage_stays(tmp_path: Path) -> None:
    write_data(tmp_path, masks=False)
    result = scores(tmp_path)
    assert result["images"] == 0
    assert result["unknown_share"] == 3 / 8
    assert result["coverage"] == 5 / 8
    unknown = {"background": None, "a": None, "b": None}
    nothing = {"miou": None, "miou_classes": 0, "miou_reason": "no pixel has a ground truth"}
    nothing |= {"iou": unknown, "precision": unknown, "recall": unknown}
    assert result["protocols"] == {"excluded": nothing, "background": nothing, "wrong": nothing}
    assert {point["miou"] for point in result["threshold_curve"]} == {None}
    assert (result["best_threshold"], result["fixed_threshold"]) == (None, None)


def test_missing_shard_and_other_classes_are_refused(tmp_path: Path) -> None:
    write_data(tmp_path)
    write_shard(tmp_path, "001", ["two"], classes=("b", "a"))
    with pytest.raises(InputError, match="other classes"):
        scores(tmp_path)
    (tmp_path / "labels" / "001").rename(tmp_path / "labels" / "elsewhere")
    with pytest.raises(InputError, match="001: no such folder"):
        scores(tmp_path)


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    write_data(tmp_path)
    write_labels(tmp_path / "two_mask.png", np.zeros((3, 2), np.uint8))
    with pytest.raises(InputError, match="differ in size"):
        scores(tmp_path)


def test_images_that_nobody_has_labelled_are_left_out(tmp_path: Path) -> None:
    write_data(tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    write_data(alone)
    index = read_index(tmp_path / "index.csv")
    first, second = index.rows
    # The second image counts as if it had no mask, and is said.
    write_index(alone / "index.csv", Index((first, dataclasses.replace(second, mask=None)), CLASSES))
    write_index(tmp_path / "index.csv", Index((first, dataclasses.replace(second, labels=(), labelled=False)), CLASSES))
    found, expected = scores(tmp_path), scores(alone)
    assert found == expected | {"unlabelled": 1}
    assert found["images"] == 1
