"""`getam evaluate`: two folders of label PNGs, scored by hand under all protocols."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from getam.cli import STAGES, TOOLS, command
from getam.system.files import read_json
from getam.system.image_files import write_labels

TRUTH = {"a": [[0, 1], [1, 255]], "b": [[2, 2]]}
PREDICTIONS = {"a": [[0, 1], [255, 1]], "b": [[2, 0]]}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for folder, images in (("truth", TRUTH), ("predictions", PREDICTIONS)):
        for id, values in images.items():
            write_labels(tmp_path / folder / f"{id}.png", np.array(values, np.uint8))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


def evaluate(folders: Path, *words: str | Path, classes: bool = True) -> int:
    given: list[str | Path] = ["--truth", folders / "truth", "--predictions", folders / "predictions", *words]
    if classes:
        given += ["--classes", folders / "classes.txt"]
    return command("getam", STAGES | TOOLS, ["evaluate", *map(str, given)])


def test_scores_by_hand(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(folders, "--out", folders / "scores.json") == 0
    scores: dict[str, Any] = read_json(folders / "scores.json")
    # Background: 1 hit, the dog's miss, and under `background` the cat's unknown pixel too.
    iou = {
        "excluded": {"background": 1 / 2, "cat": 1 / 1, "dog": 1 / 2},
        "background": {"background": 1 / 3, "cat": 1 / 2, "dog": 1 / 2},
        "wrong": {"background": 1 / 2, "cat": 1 / 2, "dog": 1 / 2},
    }
    for protocol, expected in iou.items():
        found = scores["protocols"][protocol]
        assert found["iou"] == pytest.approx(expected)
        assert found["miou"] == pytest.approx(sum(expected.values()) / 3)
    assert scores["protocols"]["wrong"]["recall"]["cat"] == 1 / 2
    assert scores["protocols"]["background"]["precision"]["background"] == 1 / 3
    assert scores["pixel_accuracy"] == 3 / 5
    assert scores["unknown_share"] == 1 / 5
    assert scores["images"] == 2
    assert scores["confusion"] == [[1, 0, 0, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    output = capsys.readouterr().out.splitlines()
    assert [word for line in output for word in line.split() if line.startswith("dog")] == [
        "dog", "0.5000", "1.0000", "0.5000"
    ]  # fmt: skip
    assert any(line.split() == ["mIoU,", "255", "excluded", "0.6667"] for line in output)
    assert output[-1] == "2 images, mIoU of 3 classes"


@pytest.mark.parametrize("name", ["b", "b.jpg"])
def test_a_list_chooses_the_images(folders: Path, name: str) -> None:
    (folders / "ids.txt").write_text(f"{name}\n")
    assert evaluate(folders, "--ids", folders / "ids.txt", "--out", folders / "scores.json") == 0
    assert read_json(folders / "scores.json")["images"] == 1


def test_hidden_files_are_left_out_and_capitals_taken(folders: Path) -> None:
    (folders / "truth" / "._a.png").write_bytes(b"x")
    for folder in ("truth", "predictions"):
        (folders / folder / "b.png").rename(folders / folder / "b.PNG")
    assert evaluate(folders, "--out", folders / "scores.json") == 0
    assert read_json(folders / "scores.json")["images"] == 2


def test_without_classes_they_are_vocs(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(folders, classes=False) == 0
    assert "tvmonitor" in capsys.readouterr().out


def remove_prediction(folders: Path) -> None:
    (folders / "predictions" / "b.png").unlink()


def resize_prediction(folders: Path) -> None:
    write_labels(folders / "predictions" / "b.png", np.zeros((2, 1), np.uint8))


def color_prediction(folders: Path) -> None:
    Image.new("RGB", (2, 1)).save(folders / "predictions" / "b.png")


def class_beyond(folders: Path) -> None:
    write_labels(folders / "predictions" / "b.png", np.full((1, 2), 3, np.uint8))


def no_predictions(folders: Path) -> None:
    (folders / "predictions").rename(folders / "elsewhere")


def no_truth(folders: Path) -> None:
    for path in (folders / "truth").iterdir():
        path.unlink()


def list_of(text: str) -> Callable[[Path], object]:
    return lambda folders: (folders / "ids.txt").write_text(text)


BAD: dict[Callable[[Path], object], str] = {
    list_of("a\n../truth/b\n"): "ids.txt: id '../truth/b' is not a plain file name",
    list_of("a\nb\na\n"): "ids.txt: id 'a' stands there twice; leave one",
    remove_prediction: "predictions/b.png: no such file; name the ids that both folders hold by --ids",
    resize_prediction: "prediction (2, 1) differ in size (H, W); predict at the ground truth's size",
    color_prediction: "predictions/b.png: a mask must be a palette or gray PNG",
    class_beyond: "label value 3 is beyond the 2 classes and background; name the classes of both by --classes",
    no_predictions: "predictions: no such folder; name one of label PNGs",
    no_truth: "truth: no .png in it; name the folder of the ground truth",
}


@pytest.mark.parametrize("spoil", BAD)
def test_bad_folders_end_with_one_message(folders: Path, spoil: Any, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(folders)
    ids = ("--ids", folders / "ids.txt") if (folders / "ids.txt").exists() else ()
    assert evaluate(folders, "--out", folders / "scores.json", *ids) == 1
    error = capsys.readouterr().err
    assert BAD[spoil] in error
    assert error.count("getam evaluate: ") == 1
    assert "Traceback" not in error
    assert not (folders / "scores.json").exists()


def test_a_name_of_the_data_moves_no_cursor(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "classes.txt").write_text("ca\u202et\ndog\n")
    assert evaluate(folders) == 1
    assert "\\u202e" in capsys.readouterr().err


def test_ground_truth_without_a_class_is_no_score(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for id in TRUTH:
        size = np.shape(TRUTH[id])
        write_labels(folders / "truth" / f"{id}.png", np.resize(np.array([0, 255], np.uint8), size))
        write_labels(folders / "predictions" / f"{id}.png", np.zeros(size, np.uint8))
    assert evaluate(folders, "--out", folders / "scores.json") == 1
    assert "truth: no mask shows a class, only 0 and 255 (void), so that there is nothing to score" in (
        capsys.readouterr().err
    )
    assert not (folders / "scores.json").exists()
