"""Results of a run that somebody has changed: who shows them says which file it is, or shows what it holds."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.audit_page import write_pseudo_labels
from support.run_files import write_run

from getam.errors import InputError
from getam.pages.plots.run import _plots
from getam.runs.curves import epoch_curves
from getam.runs.image_results import find_files
from getam.runs.recorded import recorded_settings, titles_of
from getam.stages import summary
from getam.system.files import write_json

OTHERS = (None, True, -7, "x", "\x1b[2J", [], ["x"], {}, {"x": None})
"""Values of other types and shapes, in the place of each value in turn."""

FILES = ("pseudo_labels.json", "deeplab/metrics.json", "classifier/metrics.json", "classifier/model.json")


def changed(content: Any, *, depth: int = 0) -> Iterator[Any]:
    """The content with each of its values replaced in turn, and with each key taken away; the whole content too."""
    yield from OTHERS
    if not isinstance(content, dict) or depth == 3:
        return
    for key, value in content.items():
        for other in changed(value, depth=depth + 1):
            yield {**content, key: other}
        yield {name: each for name, each in content.items() if name != key}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a classifier's scores and history too."""
    run = write_run(tmp_path / "run")
    write_json(
        run / "classifier" / "metrics.json",
        {
            "split": "val",
            "images": 1,
            "mean_average_precision": 0.5,
            "average_precision": {"cat": 0.5},
            "unlabelled": 1,
            "warning": "mAP 0.5 on val is low",
            "probe": {"mean_average_precision": 0.6, "images": 1, "average_precision": {"cat": 0.6}},
        },
    )
    model = json.loads((run / "classifier" / "model.json").read_text())
    write_json(run / "classifier" / "model.json", model | {"history": [{"classification": 0.5, "val": 0.4}]})
    return run


@pytest.mark.parametrize("name", FILES)
def test_a_changed_result_is_shown_or_named(run: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    whole = json.loads((run / name).read_text())
    messages = []
    for content in changed(copy.deepcopy(whole)):
        write_json(run / name, content)
        for show in (
            lambda: summary.run(summary.Arguments(run=run, out=run / "summary.json")),
            lambda: list(_plots(run)),
            lambda: (recorded_settings(run), titles_of(run)),
            lambda: epoch_curves(run / "classifier"),
        ):
            try:
                show()
            except InputError as error:
                messages.append(str(error))
    assert len(messages) > 20
    assert [each for each in messages if name not in each or " again" not in each] == []
    write_json(run / name, whole)
    summary.run(summary.Arguments(run=run, out=run / "summary.json"))
    assert list(_plots(run))


def test_changed_settings_of_labels_are_named(tmp_path: Path) -> None:
    write_pseudo_labels(tmp_path, "000", {})
    assert find_files(tmp_path, [], classes=["cat"], shards=1) == []
    write_pseudo_labels(tmp_path, "000", {}, settings={"alpha": "x"})
    with pytest.raises(InputError, match=r"000/manifest\.json: not what its stage writes \(.+\); delete it and run"):
        find_files(tmp_path, [], classes=["cat"], shards=1)
