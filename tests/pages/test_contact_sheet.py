from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from support.run_files import HOSTILE, halves, write_run

from getam.datasets.index import read_index
from getam.datasets.shards import files_in_shards
from getam.pages import contact_sheet
from getam.pages.contact_sheet import write_contact_sheet
from getam.scores.images import image_iou


def sheet(run: Path) -> str:
    index = read_index(run / "index.csv")
    write_contact_sheet(run, run / "contact_sheet.html", rows=index.rows, classes=index.classes, shards=2)
    return (run / "contact_sheet.html").read_text(encoding="utf-8")


def test_images_are_ranked_by_their_score(tmp_path: Path) -> None:
    page = sheet(write_run(tmp_path / "demo"))
    groups = {
        title: re.findall(r"<b>(\w+)</b>", body)
        for title, body in re.findall(r"<h2>(.*?)</h2>(.*?)(?=<h2>|$)", page, re.S)
    }
    # One of two is the worst, the other the best; the only one of val is neither.
    assert groups == {
        "Pseudo labels: lowest IoU": ["one"],
        "Pseudo labels: highest IoU": ["two"],
        "Pseudo labels: most unknown": ["one"],
    }
    assert "IoU pseudo labels 0.250, 50.0 % unknown" in page
    assert HOSTILE not in page
    assert not re.search(r"https?:|<script|<link", page)


def test_the_page_shows_few_of_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "demo")
    monkeypatch.setattr(contact_sheet, "LOOKED_AT", 1)
    assert "Chosen from 2 of 3 images" in sheet(run)


def test_a_run_without_labels_has_no_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo")
    for path in (*run.rglob("pseudo_labels/*/*.png"), *run.rglob("predictions/*.png")):
        path.unlink()
    index = read_index(run / "index.csv")
    write_contact_sheet(run, run / "sheet.html", rows=index.rows, classes=index.classes, shards=2)
    assert not (run / "sheet.html").exists()


def test_the_iou_of_an_image_counts_unknown_as_background() -> None:
    truth = halves(0, 1)
    assert image_iou(truth, truth) == 1
    # Background: 5 of 10 columns; the class: none of it.
    assert image_iou(halves(0, 255), truth) == 0.25
    truth[:, :5] = 255
    assert image_iou(halves(0, 1), truth) == 1
    assert image_iou(truth, np.full_like(truth, 255)) is None


def test_an_earlier_larger_number_of_shards_is_not_looked_at(tmp_path: Path) -> None:
    for name in ("000/a.png", "001/b.png", "002/a.png", "other/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files_in_shards(tmp_path, ".png") == {"a": tmp_path / "000" / "a.png", "b": tmp_path / "001" / "b.png"}
