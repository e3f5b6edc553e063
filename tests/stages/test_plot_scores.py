from __future__ import annotations

from pathlib import Path

import pytest
from support.run_files import segmentation, write_run
from torch.utils.tensorboard import SummaryWriter

from getam.errors import InputError
from getam.pages.plots.run import captions
from getam.runs.recorded import titles_of
from getam.stages.plot_scores import Arguments, run
from getam.system.files import write_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "demo")


def plot(folder: Path, out: str = "plots") -> dict[str, bytes]:
    run(Arguments(run=folder, out=folder / out, threads=1))
    return {path.stem: path.read_bytes() for path in (folder / out).glob("*.svg")}


def test_a_run_is_drawn_as_far_as_it_went(folder: Path) -> None:
    assert set(plot(folder)) == {"iou", "confusion_deeplab", "threshold", "times"}
    with SummaryWriter(str(folder / "classifier" / "tensorboard")) as writer:
        writer.add_scalar("loss/classification", 0.5, 10)
    write_json(folder / "end_to_end" / "metrics.json", segmentation(0.5, 0.5, 0.5))
    plots = plot(folder)
    assert set(plots) == {
        "iou",
        "confusion_deeplab",
        "confusion_end_to_end",
        "threshold",
        "training_classifier",
        "times",
    }
    assert plots.keys() <= captions(titles_of(folder)).keys()
    assert b"End to end, val, mean 0.500" in plots["iou"]


def test_a_run_of_nothing_has_no_plot(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert plot(tmp_path / "empty") == {}


def test_the_same_files_give_the_same_bytes(folder: Path) -> None:
    assert plot(folder, "one") == plot(folder, "two")


def test_a_bad_file_is_named_and_leaves_no_folder(folder: Path) -> None:
    write_json(folder / "deeplab" / "metrics.json", segmentation(0.8, 0.6, 0.7) | {"confusion": [[1]]})
    with pytest.raises(InputError, match=r"deeplab/metrics\.json: confusion is not 3 rows of 3 numbers; run its stage"):
        plot(folder)
    assert not (folder / "plots").exists()
