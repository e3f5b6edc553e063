"""A data set without val and without masks: every stage ends, and what can't be scored is said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel
from support.trained import CLASSES, save_trained

from deeplab.stages import evaluate_deeplab, predict_deeplab
from getam.datasets.index import Index, IndexRow, write_index
from getam.errors import InputError
from getam.pages.overview import write_overview
from getam.settings.config import Config
from getam.stages import evaluate_end_to_end, plot_scores, predict_end_to_end, summary, train_classifier
from getam.system.files import read_json

MACHINE: dict[str, Any] = {"threads": 1, "device": "cpu"}


@pytest.fixture
def run(tmp_path: Path, config: Config) -> Path:
    """The folder of a run with an index of two images in train, and networks of random weights."""
    rows = []
    for number in range(2):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(path)
        rows.append(IndexRow(str(number), "train", path, None, 32, 40, CLASSES[:number]))
    folder = save_trained(tmp_path / "run", config)
    write_index(folder / "index.csv", Index(tuple(rows), CLASSES))
    return folder


def call(stage: ModuleType, settings: BaseModel | None = None, **given: Any) -> None:
    stage.run(stage.Arguments(**(settings.model_dump() if settings else {}) | given | MACHINE))


def test_what_is_not_scored_is_said(run: Path, config: Config, caplog: pytest.LogCaptureFixture) -> None:
    index = run / "index.csv"
    stages: dict[str, tuple[ModuleType, Callable[..., None], Any]] = {
        "deeplab": (predict_deeplab, evaluate_deeplab.run, config.deeplab_prediction),
        "end_to_end": (predict_end_to_end, evaluate_end_to_end.run, config.end_to_end_prediction),
    }
    with caplog.at_level(logging.INFO):
        call(train_classifier, config.classifier, index=index, out=run / "classifier", gpus=0)
        for name, (predict, evaluate, settings) in stages.items():
            predictions = run / name / "predictions"
            call(predict, settings, index=index, model=run / name, split="val", out=predictions)
            assert read_json(predictions / "manifest.json")["ids"] == []
            scores = evaluate_deeplab.Arguments(
                index=index, predictions=predictions, split="val", out=run / name / "metrics.json", **MACHINE
            )
            evaluate(scores)
        call(summary, run=run, out=run / "summary.json")
        call(plot_scores, run=run, out=run / "plots")
    written = read_json(run / "summary.json")
    assert [written["classifier"]["val_map"], written["deeplab"]["val_miou"]] == [None, None]
    text = (run / "summary.md").read_text()
    sentence = (
        "Not scored: Classifier (no image of val has a label); DeepLab (no image of val has a mask); End to end (no "
        "image of val has a mask)."
    )
    assert sentence in text
    assert "IoU of each class" not in text
    assert sentence in caplog.text
    for stage in ("train_classifier", "evaluate_deeplab", "evaluate_end_to_end"):
        assert any(record.levelno == logging.WARNING and stage in record.getMessage() for record in caplog.records)
    assert {path.name for path in (run / "plots").glob("*.svg")} == {"training_classifier.svg"}
    (run / "audit").mkdir()
    write_overview(run, run / "audit")
    assert sentence in (run / "audit" / "overview.html").read_text()


def test_another_split_that_is_asked_for_needs_images(run: Path, config: Config) -> None:
    with pytest.raises(InputError, match=r"index\.csv: no image of the split 'test'; add ids to its list"):
        call(
            predict_deeplab,
            config.deeplab_prediction,
            index=run / "index.csv",
            model=run / "deeplab",
            split="test",
            out=run / "predictions",
        )
