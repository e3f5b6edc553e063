"""The audit page's lists and images: layers, scores, rules, sizes, and names that stay text."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.audit_page import (
    HEIGHT,
    WIDTH,
    Audit,
    half_mask,
    index_row,
    photograph,
    pixels,
    write_pseudo_labels,
    write_run,
)
from support.workplace import PROJECT

from getam.datasets.index import IndexRow
from getam.errors import InputError
from getam.labels.completion import decisions
from getam.labels.decisions import Decision
from getam.labels.refined_maps import write_refined
from getam.pages.audit import gallery
from getam.pages.audit.gallery import LABEL_SIDE, SIDE
from getam.pages.audit.page import RULES, SCRIPTS
from getam.system.files import read_array, write_array, write_json
from getam.system.image_files import write_gray, write_labels

HOSTILE = "<script>alert(1)</script>"
CLASSES = (HOSTILE, "cat")
TEMPLATES = PROJECT / "getam" / "pages" / "templates"


@pytest.fixture
def rows(tmp_path: Path) -> list[IndexRow]:
    both = half_mask(1, 2)
    both[0] = 255
    return [
        # Labels out of order: the maps are in class order.
        index_row(tmp_path, 'a&"b', "train", both, ("cat", HOSTILE)),
        index_row(tmp_path, "second", "train", half_mask(0, 2), ("cat",)),
        index_row(tmp_path, "third", "val", half_mask(0, 2), ("cat",)),
    ]


@pytest.fixture
def run(tmp_path: Path, rows: list[IndexRow]) -> Path:
    write_run(tmp_path / "demo", rows)
    return tmp_path / "demo"


def audit(run: Path, rows: list[IndexRow], *, images: int = 0, threads: int = 1) -> Audit:
    return Audit(run, rows, classes=CLASSES, images=images, threads=threads)


def test_every_stage_of_an_image_is_on_the_page(run: Path, rows: list[IndexRow]) -> None:
    page = audit(run, rows)
    assert page.count == page.facts["images"] == 3
    train = ["photograph", "raw", "refined", "saliency", "pseudo_labels", "rules", "ground_truth"]
    assert page.layers("second") == train
    assert page.layers("third") == ["photograph", "ground_truth", "deeplab", "end_to_end"]
    content = page.image("second")
    assert [*content["labels"]] == ["pseudo_labels", "ground_truth", "rules"]
    for layer in content["labels"].values():
        assert pixels(layer).shape == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(pixels(content["labels"]["pseudo_labels"]), half_mask(0, 2))
    assert (pixels(content["refined"][0]) == 73).all()
    assert (pixels(content["saliency"]) == 0).all()
    assert photograph(content).size == (WIDTH, HEIGHT)


def test_quantized_maps_are_shown(run: Path, rows: list[IndexRow]) -> None:
    file = run / "refined" / "001" / "second.npy"
    maps = read_array(file)
    maps[:, 0] = 1
    file.unlink()
    write_refined(file.with_suffix(".npz"), maps, "quantized")
    shown = pixels(audit(run, rows).image("second")["refined"][0])
    assert (shown[0] == 100).all()
    assert (shown[1:] == 73).all()


def test_maps_are_matched_to_classes_in_class_order(run: Path, rows: list[IndexRow]) -> None:
    page = audit(run, rows)
    assert page.entries['a&"b']["labels"] == [1, 2]
    first, second = page.image('a&"b')["raw"]
    assert (first["max"], second["max"]) == (3e-7, 2e-3)
    assert pixels(first).tolist() == [[100, 0, 0], [0, 0, 0]]
    assert pixels(second).tolist() == [[0, 0, 0], [0, 0, 100]]
    # A map of zeros has no maximum to divide by.
    assert pixels(page.image("second")["raw"][0]).max() == 0


def test_colors_go_to_labels_first_and_then_to_what_is_predicted(run: Path, rows: list[IndexRow]) -> None:
    page = audit(run, rows)
    assert page.image('a&"b')["classes"] == [1, 2]
    assert page.image("third")["classes"] == [2, 1]
    assert page.facts["shown"] == [1, 2]


def test_scores_and_shares_of_an_image(run: Path, rows: list[IndexRow]) -> None:
    entries = audit(run, rows).entries
    names = ("excluded", "background", "deeplab", "end_to_end", "coverage", "unknown", "mined", "conflict")
    found = {id: [entry[name] for name in names] for id, entry in entries.items()}
    assert found == {
        # Class 1 is right. Class 2 is unknown: left out, nothing of it remains to score; as background, it is 0.
        'a&"b': [1.0, 0.5, None, None, 0.5, 0.5, 0.0, 0.0],
        "second": [1.0, 1.0, None, None, 1.0, 0.0, 0.5, 0.0],
        # All background: half of the background's union, nothing of the cat. End to end has no background.
        "third": [None, None, 0.25, 0.5, None, None, None, None],
    }


def test_rules_follow_from_labels_and_saliency(run: Path, rows: list[IndexRow]) -> None:
    page = audit(run, rows)
    rules = pixels(page.image('a&"b')["labels"]["rules"])
    np.testing.assert_array_equal(rules, half_mask(Decision.SALIENT_CLASS, Decision.SALIENT_UNKNOWN))
    rules = pixels(page.image("second")["labels"]["rules"])
    np.testing.assert_array_equal(rules, half_mask(Decision.BACKGROUND, Decision.MINED))
    assert [*RULES] == [*Decision]


def test_an_image_without_a_class_is_background_by_the_rules(tmp_path: Path, run: Path, rows: list[IndexRow]) -> None:
    rows[0] = replace(rows[0], labels=())
    for folder in ("maps", "refined"):
        path = run / folder / "000" / 'a&"b.npy'
        write_array(path, read_array(path)[:0])
    write_pseudo_labels(run, "000", {'a&"b': np.zeros((HEIGHT, WIDTH), np.uint8)})
    rules = pixels(audit(run, rows).image('a&"b')["labels"]["rules"])
    np.testing.assert_array_equal(rules, np.full((HEIGHT, WIDTH), Decision.BACKGROUND))


@pytest.mark.parametrize(
    ("settings", "rule"), [({"conflict": "lowest"}, Decision.MINED), ({"opening": 3}, Decision.OPENING)]
)
def test_rules_of_other_settings_are_computed(
    run: Path, rows: list[IndexRow], settings: dict[str, Any], rule: Decision
) -> None:
    maps = np.random.default_rng(0).random((1, HEIGHT, WIDTH)).astype(np.float16)
    write_array(run / "refined" / "001" / "second.npy", maps)
    write_pseudo_labels(run, "001", {"second": half_mask(0, 2)}, settings=settings)
    rules = pixels(audit(run, rows).image("second")["labels"]["rules"])
    assert (rules == rule).any()
    kept = {"alpha": 0.9, "gamma": 128, **settings}
    expected = decisions(read_array(run / "refined/001/second.npy"), [1], np.zeros((HEIGHT, WIDTH), bool), **kept)
    np.testing.assert_array_equal(rules, expected)


@pytest.mark.parametrize("method", ["crf", "rrm"])
def test_other_methods_have_no_rules(run: Path, rows: list[IndexRow], method: str) -> None:
    write_pseudo_labels(run, "001", {"second": half_mask(0, 2)}, settings={"method": method})
    page = audit(run, rows)
    assert "rules" not in page.layers("second")
    assert page.entries["second"]["mined"] is None
    assert "rules" in page.layers('a&"b')


def test_rejected_images_say_so(run: Path, rows: list[IndexRow]) -> None:
    write_pseudo_labels(run, "000", {'a&"b': half_mask(255, 255)}, rejected=['a&"b'])
    (run / "pseudo_labels" / "001" / "second.png").unlink()
    write_pseudo_labels(run, "001", {}, rejected=["second"])
    page = audit(run, rows)
    assert {id: entry["rejected"] for id, entry in page.entries.items()} == {'a&"b': 1, "second": 1, "third": 0}
    # No rule of the equation made a label of unknown pixels.
    assert not {"rules", "pseudo_labels"} & {*page.layers("second")}
    assert "rules" not in page.layers('a&"b')


def test_shards_of_an_earlier_larger_number_are_not_looked_at(run: Path, rows: list[IndexRow]) -> None:
    (run / "pseudo_labels" / "001").rename(run / "pseudo_labels" / "002")
    assert "pseudo_labels" not in audit(run, rows).layers("second")


def test_text_of_the_data_set_is_never_markup(run: Path, rows: list[IndexRow]) -> None:
    page = audit(run, rows)
    assert HOSTILE not in page.page
    assert page.page.count("<script") == 1 + len(SCRIPTS)
    assert page.facts["classes"] == ["background", *CLASSES]
    files = [path.relative_to(page.out) for path in page.out.rglob("*") if path.is_file()]
    data = [str(path) for path in files if path.parts[0] in ("images", "lists")]
    assert all(re.fullmatch(r"images/\d+/\d+\.js|lists/\d{3}\.js", name) for name in data)
    assert len(data) == 3 + 1


def test_page_needs_no_network_and_makes_no_markup_of_text() -> None:
    own = [*(TEMPLATES / "audit").iterdir(), TEMPLATES / "audit.html"]
    for path in own:
        text = path.read_text()
        assert not re.search(r"https?:|fetch\(|XMLHttpRequest|@import|import\(|type=.module", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), path
    assert {path.name for path in own if path.suffix == ".js"} < {*SCRIPTS}


def test_vendored_libraries_are_those_of_the_lock() -> None:
    vendor = TEMPLATES / "vendor"
    sums = dict(reversed(line.split("  ")) for line in (vendor / "SHA256SUMS").read_text().splitlines())
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in vendor.iterdir()}
    # The lock's sum is among them: who changes it has to run `make vendor`.
    assert found == sums | {"SHA256SUMS": found["SHA256SUMS"]}
    wanted = json.loads((vendor / "package.json").read_text())["dependencies"]
    locked = json.loads((vendor / "package-lock.json").read_text())["packages"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert {path.suffix[1:] for path in vendor.glob("LICENSE.*")} == {*wanted}
    assert {path.name for path in vendor.glob("*.js")} < {*SCRIPTS}


def test_missing_stages_leave_their_layers_out(tmp_path: Path) -> None:
    row = index_row(tmp_path, "alone", "train", None, ("cat",))
    page = audit(tmp_path / "empty", [row])
    assert page.layers("alone") == ["photograph"]
    assert "No stage has written a score yet." in page.page


def test_scores_of_the_run_are_in_the_header(run: Path, rows: list[IndexRow]) -> None:
    metrics = {"split": "val", "mean_average_precision": 0.98, "average_precision": {}, "images": 1}
    write_json(run / "classifier" / "metrics.json", metrics)
    assert "<td>Classifier mAP</td><td>0.980</td>" in audit(run, rows).page


@pytest.mark.parametrize(("images", "ids"), [(1, "0"), (2, "06"), (3, "036"), (10, "0123456"), (0, "0123456")])
def test_images_are_evenly_spaced_over_the_sorted_ids(tmp_path: Path, images: int, ids: str) -> None:
    rows = [index_row(tmp_path, id, "train", None, ()) for id in "5016324"]
    assert "".join(audit(tmp_path / "demo", rows, images=images).entries) == ids


@pytest.mark.parametrize(("of", "lists"), [(1, 3), (2, 2), (3, 1), (4, 1)])
def test_lists_hold_every_image(
    run: Path, rows: list[IndexRow], monkeypatch: pytest.MonkeyPatch, of: int, lists: int
) -> None:
    monkeypatch.setattr(gallery, "LIST", of)
    page = audit(run, rows)
    assert (page.facts["lists"], page.facts["perList"]) == (lists, of)
    assert {*page.entries} == {row.id for row in rows}


def test_processes_write_the_same_bytes(tmp_path: Path) -> None:
    rows = [index_row(tmp_path, f"i{number:02d}", "train", half_mask(0, 1), ("cat",)) for number in range(40)]
    one, two = (audit(tmp_path / f"{threads}" / "demo", rows, threads=threads).out for threads in (1, 2))
    files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
    assert len(files) > 40
    assert all((one / path).read_bytes() == (two / path).read_bytes() for path in files)


def test_large_images_are_scaled_down_and_their_labels_less_and_to_values_that_are_there(tmp_path: Path) -> None:
    height, width = 2 * LABEL_SIDE, LABEL_SIDE
    path = tmp_path / "large.png"
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)
    run = tmp_path / "demo"
    write_array(run / "refined" / "000" / "large.npy", np.full((1, height, width), 0.5, np.float16))
    stripes = np.zeros((height, width), np.uint8)
    stripes[:, ::3] = 200
    write_labels(run / "deeplab" / "predictions" / "large.png", stripes)
    write_gray(run / "saliency" / "000" / "large.png", stripes // 200 * 255)
    page = audit(run, [IndexRow("large", "train", path, None, height, width, ("cat",))])
    content = page.image("large")
    assert photograph(content).size == (SIDE // 2, SIDE)
    assert pixels(content["refined"][0]).shape == (SIDE, SIDE // 2)
    labels, saliency = pixels(content["labels"]["deeplab"]), pixels(content["saliency"])
    assert labels.shape == saliency.shape == (LABEL_SIDE, LABEL_SIDE // 2)
    assert {*np.unique(labels)} == {0, 200}
    # The same pixels of both.
    np.testing.assert_array_equal(labels == 200, saliency == 100)


def test_mask_of_another_size_is_named(run: Path, rows: list[IndexRow]) -> None:
    write_labels(run / "deeplab" / "predictions" / "third.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(InputError, match=r"third\.png: 8x8, but .*16x20"):
        audit(run, rows)


def test_maps_of_other_classes_are_named(run: Path, rows: list[IndexRow]) -> None:
    write_array(run / "maps" / "001" / "second.npy", np.zeros((2, 2, 3), np.float32))
    with pytest.raises(InputError, match=r"second\.npy: .*\(2, 2, 3\).* 1 classes"):
        audit(run, rows)


def test_maps_that_are_no_numbers_are_named(run: Path, rows: list[IndexRow]) -> None:
    write_array(run / "maps" / "001" / "second.npy", np.full((1, 2, 3), np.nan, np.float32))
    with pytest.raises(InputError, match=r"second\.npy: maps hold NaN"):
        audit(run, rows)
