"""`getam estimate`: rates read from hand-made logs, hours by hand, what is missing or unreadable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from getam.cli import STAGES, TOOLS, command
from getam.system.files import read_json

COUNTS = {"train": 7200, "val": 3600, "test": 0}
RECIPE: dict[str, Any] = {
    "data": {"counts": COUNTS},
    "classifier": {"epochs": 10},
    "saliency": {"epochs": 2},
    "deeplab": {"epochs": 5},
    "end_to_end": {"epochs": 30, "classifier_epochs": 20},
}
E2E = "train_end_to_end: epoch"
CLASSIFICATION = "classification loss 0.6986"
ALL_LOSSES = f"{CLASSIFICATION}, segmentation loss 5.8162, saliency loss 0.1123, energy loss -0.0516"
LOGS = {
    "index_dataset": [
        "index_dataset: 5/8 images, 1.00 a second, 3 s left",
        "index_dataset: 8/8 images, 300 a second, 0 s left",
        "index_dataset: train: 4 images, 4 with a mask",
    ],
    "train_classifier": [
        "train_classifier epoch 1/2: 2/2 batches, 0.300 a second, 0 s left",
        "train_classifier: epoch 1/2, classification loss 0.6752, 6.2 s, 1.00 images a second",
        "train_classifier: epoch 2/2, classification loss 0.6752, 2.0 s, 4.00 images a second",
        "mAP on val: 4/4 images, 2.90 a second, 0 s left",
    ],
    # 2 images in 4 s and 6 images in 4 s: 1 a second, not the mean of the rates.
    "dump_maps/000": ["dump_maps: 2/2 images, 0.500 a second, 0 s left"],
    "dump_maps/001": ["dump_maps: 6/6 images, 1.50 a second, 0 s left"],
    "refine_maps/000": ["refine_maps: 2/2 images, 8.00 a second, 0 s left"],
    "train_saliency": ["train_saliency: epoch 1/1, structure loss 1.5027, 14.9 s, 0.500 images a second"],
    "predict_saliency/000": ["predict_saliency: 2/2 images, 2.00 a second, 0 s left"],
    "complete_labels/000": ["complete_labels: 2/2 images, 20.0 a second, 0 s left"],
    "score_labels": ["score_labels: 4/4 images, 100 a second, 0 s left"],
    "train_deeplab": ["train_deeplab: epoch 1/1, segmentation loss 226.0776, 59.1 s, 0.200 images a second"],
    "predict_deeplab": ["predict_deeplab: 4/4 images, 0.0500 a second, 0 s left"],
    "train_end_to_end": [
        f"{E2E} 1/4, {CLASSIFICATION}, 39.0 s, 0.100 images a second",
        f"{E2E} 2/4, {CLASSIFICATION}, 10.0 s, 0.400 images a second",
        f"{E2E} 3/4, {ALL_LOSSES}, 83.5 s, 0.0500 images a second",
        f"{E2E} 4/4, {ALL_LOSSES}, 80.0 s, 0.0800 images a second",
    ],
    "predict_end_to_end": ["predict_end_to_end: 4/4 images, 0.100 a second, 0 s left"],
}
HOURS = {
    "index_dataset": 10800 / 300 / 3600,
    "train_classifier": 5.0,  # 72,000 images, 4 a second
    "dump_maps": 2.0,
    "refine_maps": 0.25,
    "train_saliency": 20.0,  # 2 epochs of 18,000 pairs, one in 2 s
    "predict_saliency": 1.0,
    "complete_labels": 0.1,
    "score_labels": 0.02,
    "train_deeplab": 50.0,  # 36,000 images, one in 5 s
    "predict_deeplab": 20.0,
    "train_end_to_end, phase 1": 100.0,  # 144,000 images, one in 2.5 s
    "train_end_to_end, phase 2": 250.0,  # 72,000 images, one in 12.5 s
    "predict_end_to_end": 10.0,
}


def rehearsal(folder: Path, **changes: list[str] | None) -> Path:
    """A run folder with LOGS; `changes` gives a log other lines, or none at all."""
    for name, lines in (LOGS | changes).items():
        if lines is not None:
            path = folder / "logs" / f"{name}.log"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"22:04:22 {line}\n" for line in lines))
    return folder


def estimate(run: Path, recipe: dict[str, Any], *flags: str) -> int:
    overlay = run.parent / "recipe.yaml"
    overlay.write_text(yaml.safe_dump(recipe))
    words = ["estimate", "--run", str(run), "--configs", json.dumps([str(overlay)]), "--pairs", "18000", *flags]
    return command("getam", STAGES | TOOLS, words)


def table(capsys: pytest.CaptureFixture[str], run: Path, recipe: dict[str, Any], *flags: str) -> dict[str, list[str]]:
    """{stage: [images a second, images, hours]}"""
    assert estimate(run, recipe, *flags) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line[:28].strip(): [line[28:44].strip(), *line[44:].split()] for line in lines}


def test_hours_of_every_stage_and_their_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = table(capsys, rehearsal(tmp_path / "run"), RECIPE)
    assert {stage: found[stage][2] for stage in HOURS} == {stage: f"{hours:.2f}" for stage, hours in HOURS.items()}
    assert found["dump_maps"] == ["1.00", "7200", "2.00"]
    assert found["index_dataset"] == ["300", "10800", "0.01"]
    assert found["train_end_to_end, phase 2"] == ["0.0800", "72000", "250.00"]
    assert found["sum"][-1] == "458.38"


def test_the_table_is_aligned_and_says_how_to_read_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert estimate(rehearsal(tmp_path / "run"), RECIPE) == 0
    *rows, last = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["stage", "images", "a", "second", "images", "hours"]
    assert {len(row) for row in rows} == {67}
    assert last == "Stages run one after the other here; decoding, CRF and completion scale with cores."


def test_the_same_figures_as_json(tmp_path: Path) -> None:
    run = rehearsal(tmp_path / "run", predict_deeplab=None)
    assert estimate(run, RECIPE, "--out", str(tmp_path / "hours.json")) == 0
    found = read_json(tmp_path / "hours.json")
    assert {name: found[name] for name in ("train", "val", "pairs")} == {"train": 7200, "val": 3600, "pairs": 18000}
    assert found["not_measured"] == ["predict_deeplab"]
    assert found["stages"]["predict_deeplab"] == {"images_per_second": None, "images": 3600, "hours": None}
    assert found["stages"]["train_classifier"] == {"images_per_second": 4.0, "images": 72000, "hours": 5.0}
    measured = {stage: figures["hours"] for stage, figures in found["stages"].items() if figures["hours"]}
    assert measured == pytest.approx({stage: hours for stage, hours in HOURS.items() if stage != "predict_deeplab"})
    assert found["hours"] == pytest.approx(438.38)


@pytest.mark.parametrize(
    "lines",
    [
        None,
        [],
        ["train_deeplab: epoch 1/1, segmentation loss 226.0776, 59.1 s"],  # of an earlier version
        ["train_deeplab: epoch 1/1, segmentation loss 1.0, 59.1 s, 0.00 images a second"],
        ["train_deeplab: epoch 1/1, segmentation loss 1.0, 59.1 s, fast images a second"],
        ["train_deeplab: epoch 1/1, segmentation loss 1.0, 59.1 s, nan images a second"],
        ["train_deeplab: epoch 1/1, segmentation loss 1.0, 59.1 s, -1 images a second"],
    ],
)
def test_a_training_without_a_rate_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[str] | None
) -> None:
    found = table(capsys, rehearsal(tmp_path / "run", train_deeplab=lines), RECIPE)
    assert found["train_deeplab"] == ["not measured", "36000", "-"]
    assert found["sum"][-1] == "408.38"
    assert any(line.startswith("The sum leaves out 1 of 13") for line in found)


@pytest.mark.parametrize(
    "line",
    [
        "predict_deeplab: 4/4 images, 0.0 a second, 0 s left",
        "predict_deeplab: 4/4 images, inf a second, 0 s left",
        "predict_deeplab: 3/4 images, 0.0500 a second, 21 s left",
    ],
)
def test_images_without_a_rate_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    found = table(capsys, rehearsal(tmp_path / "run", predict_deeplab=[line]), RECIPE)
    assert found["predict_deeplab"] == ["not measured", "3600", "-"]
    assert found["sum"][-1] == "438.38"


def test_a_rehearsal_that_was_stopped_in_the_first_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = rehearsal(tmp_path / "run", train_end_to_end=LOGS["train_end_to_end"][:2])
    found = table(capsys, run, RECIPE)
    assert found["train_end_to_end, phase 1"][0] == "0.400"
    assert found["train_end_to_end, phase 2"][0] == "not measured"


def test_nothing_measured_has_no_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "logs").mkdir(parents=True)
    assert table(capsys, tmp_path / "run", RECIPE)["sum"][-1] == "-"


def test_only_the_stages_that_the_recipe_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = RECIPE | {"saliency": {"source": "folder", "folder": "maps"}, "checkpoint": {"file": "vitb.pth"}}
    found = table(capsys, rehearsal(tmp_path / "run"), recipe)
    left_out = {name for name in HOURS if "saliency" in name or name.startswith("train_end_to_end")}
    assert set(HOURS) - set(found) == left_out
    recipe = RECIPE | {"end_to_end": {"epochs": 30, "classifier_epochs": 0}}
    found = table(capsys, rehearsal(tmp_path / "run"), recipe)
    assert "train_end_to_end, phase 1" not in found
    assert found["train_end_to_end, phase 2"][1] == "216000"


def test_counts_of_flags_and_of_a_recipe_that_takes_fewer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = rehearsal(tmp_path / "run")
    recipe = RECIPE | {"data": {"counts": {"train": 0, "val": 0, "test": 0}}}
    found = table(capsys, run, recipe, "--train", "100", "--val", "50")
    assert (found["train_classifier"][1], found["predict_deeplab"][1]) == ("1000", "50")
    recipe = RECIPE | {"data": {"counts": COUNTS, "images": 10}, "saliency": {"epochs": 2, "pairs": 6}}
    found = table(capsys, run, recipe)
    assert (found["train_classifier"][1], found["index_dataset"][1], found["train_saliency"][1]) == ("100", "20", "12")


def test_unknown_counts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = RECIPE | {"data": {"counts": {"train": 0, "val": 0, "test": 0}}}
    run = rehearsal(tmp_path / "run")
    assert estimate(run, recipe) == 1
    message = capsys.readouterr().err
    assert "data.counts.train, data.counts.val: 0" in message
    assert "set it in an overlay or give --train N --val N" in message
    assert estimate(run, recipe, "--train", "5") == 1
    assert "data.counts.val: 0, which leaves the number of images open" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    for folder in ("run", "none"):
        assert estimate(tmp_path / folder, RECIPE) == 1
        assert f"{tmp_path / folder / 'logs'}: no such folder; name the folder of a run" in capsys.readouterr().err
