"""A variant's run, whose files lie in several folders, is read as one in which everything lies in one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.run_files import CLASSES, write_run

from getam.datasets.index import read_index
from getam.pages.contact_sheet import write_contact_sheet
from getam.pages.overview import write_overview
from getam.pages.plots.run import write_plots
from getam.runs.folder import RunFolder
from getam.runs.image_results import find_files
from getam.runs.recorded import recorded_settings
from getam.runs.summary import summarize
from getam.stages import audit, plot_scores, summary
from getam.system.files import write_json

SHARED = ("index.csv", "classes.txt", "classifier", "pseudo_labels", "pseudo_labels.json", "deeplab")
OWN = ("deeplab/predictions", "deeplab/metrics.json")


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    run = write_run(tmp_path / "whole" / "x")
    history = [{"loss": 2.0}, {"loss": 1.0}]
    write_json(run / "deeplab" / "model.json", {"kind": "deeplab", "settings": {"epochs": 2}, "history": history})
    return run


@pytest.fixture
def files(whole: Path, tmp_path: Path) -> dict[str, Path]:
    """The same run in two folders: DeepLab's predictions in the variant's own, the rest in that of the run."""
    own, shared = tmp_path / "demo" / "variants" / "x", tmp_path / "demo"
    shutil.copytree(whole, shared)
    for name in OWN:
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(shared / name, own / name)
    # Those of another variant.
    write_json(shared / "deeplab" / "metrics.json", {})
    (shared / "deeplab" / "predictions").mkdir()
    shutil.move(shared / "benchmarks", own / "benchmarks")
    return {name: shared / name for name in SHARED} | {name: own / name for name in OWN}


@pytest.fixture
def variant(files: dict[str, Path], tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "demo" / "variants" / "x", files)


def test_the_longest_name_says_where_a_file_is() -> None:
    folder = RunFolder(Path("own"), {"deeplab": Path("a/deeplab"), "deeplab/metrics.json": Path("b/m.json")})
    assert folder / "deeplab" == Path("a/deeplab")
    assert folder / "deeplab/model.json" == Path("a/deeplab/model.json")
    assert folder / "deeplab/metrics.json" == Path("b/m.json")
    # A name that only begins like one.
    assert folder / "deeplab_prediction" == Path("own/deeplab_prediction")
    assert folder / "benchmarks" == Path("own/benchmarks")
    assert (folder.name, os.fspath(folder)) == ("own", "own")


def test_a_pattern_is_looked_for_where_its_folder_is(variant: RunFolder, tmp_path: Path) -> None:
    found = sorted(variant.glob("pseudo_labels/*/manifest.json"))
    folder = tmp_path / "demo" / "pseudo_labels"
    assert found == [folder / "000" / "manifest.json", folder / "001" / "manifest.json"]
    assert [*variant.glob("classifier/model.json")] == [tmp_path / "demo" / "classifier" / "model.json"]
    assert [*variant.glob("saliency_model/model.json")] == [*variant.glob("maps/*/manifest.json")] == []


def test_scores_settings_and_images_are_found_wherever_they_lie(whole: Path, variant: RunFolder) -> None:
    assert summarize(variant) == summarize(whole)
    assert {*summarize(variant)} == {"pseudo_labels", "deeplab"}
    records = recorded_settings(variant)
    assert [(each.section, each.settings) for each in records] == [
        (each.section, each.settings) for each in recorded_settings(whole)
    ]
    assert [each.source for each in records if each.section == "deeplab"] == ["../../deeplab/model.json"]
    rows = read_index(whole / "index.csv").rows
    layers = [[*each.paths] for each in find_files(variant, rows, classes=CLASSES, shards=2)]
    assert layers == [[*each.paths] for each in find_files(whole, rows, classes=CLASSES, shards=2)]
    assert "deeplab" in layers[2]


def test_pages_and_plots_are_those_of_the_whole(whole: Path, variant: RunFolder, tmp_path: Path) -> None:
    rows = read_index(whole / "index.csv").rows
    pages = []
    for number, run in enumerate((whole, variant)):
        out = tmp_path / f"out{number}"
        (out / "scores").mkdir(parents=True)
        assert "training_deeplab" in write_plots(run, out / "scores")
        write_contact_sheet(run, out / "sheet.html", rows=rows, classes=CLASSES, shards=2)
        write_overview(run, out)
        overview = (out / "overview.html").read_text().replace("../../", "")
        pages.append([overview, (out / "sheet.html").read_text(), sorted(path.name for path in out.rglob("*"))])
    assert pages[0] == pages[1]


def test_the_stages_take_where_the_files_are(whole: Path, files: dict[str, Path], tmp_path: Path) -> None:
    own = tmp_path / "demo" / "variants" / "x"
    summary.run(summary.Arguments(run=own, files=files, out=own / "summary.json", threads=1))
    summary.run(summary.Arguments(run=whole, out=whole / "summary.json", threads=1))
    for name in ("summary.json", "summary.md", "summary.html"):
        assert (own / name).read_text() == (whole / name).read_text()
    plot_scores.run(plot_scores.Arguments(run=own, files=files, out=own / "plots", threads=1))
    assert (own / "plots" / "iou.svg").is_file()
    audit.run(
        audit.Arguments(
            run=own, files=files, index=files["index.csv"], shards=2, images=0, out=own / "audit", threads=1
        )
    )
    assert {"index.html", "overview.html"} <= {path.name for path in (own / "audit").iterdir()}
