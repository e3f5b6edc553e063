"""The stage make_table on hand-made scores: numbers, differences, protocols and what it says of the paper's order."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from getam.errors import InputError
from getam.stages.make_table import Arguments, run
from getam.system.files import read_json, write_json

HEADING = "DeepLab, val"


def write_score(path: Path, miou: float | None, *, crf: bool = False, supervision: str = "I+S") -> None:
    protocol = {"scales": [1.0], "squares": [], "flip": True, "crf": crf, "supervision": supervision}
    write_json(path, {"split": "val", "images": 20, "miou": miou, "protocol": protocol})


def row(label: str, file: Path, *, own: bool = False, value: float | None = None, **paper: float) -> dict[str, Any]:
    score = {"file": file, "path": ["miou"]}
    return {"label": label, "own": own, "value": value, "paper": paper, "given": {}, "scores": {HEADING: score}}


def make(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> tuple[dict[str, Any], str]:
    values = {"title": "A title", "caption": "", "axis": "", "ordered": True} | settings
    run(Arguments.model_validate({**values, "rows": rows, "out": folder / "t.json", "threads": 1}))
    return read_json(folder / "t.json"), (folder / "t.md").read_text()


def three(folder: Path, first: float | None, second: float | None, third: float | None) -> list[dict[str, Any]]:
    """Rows that the paper orders a > b > c."""
    for name, miou in {"a": first, "b": second, "c": third}.items():
        write_score(folder / f"{name}.json", miou)
    return [
        row("b", folder / "b.json", Paper=0.6),
        row("a", folder / "a.json", own=True, Paper=0.7),
        row("c", folder / "c.json", Paper=0.5),
    ]


def test_numbers_and_differences_by_hand(tmp_path: Path) -> None:
    content, text = make(tmp_path, three(tmp_path, 0.75, 0.5, 0.625), caption="The paper's are of VOC.")
    assert content["reference"] == "a"
    scores = {each["label"]: each["scores"][HEADING] for each in content["rows"]}
    assert [(scores[name]["value"], scores[name]["difference"]) for name in "abc"] == [
        (0.75, 0), (0.5, -0.25), (0.625, -0.125)
    ]  # fmt: skip
    assert scores["a"]["file"] == str(tmp_path / "a.json")
    assert scores["a"]["protocol"] == "20 images of val, scale 1, flip, no CRF, supervision I+S"
    assert "The paper's are of VOC." in text
    assert "| b | 0.600 (-0.100) | 0.500 (-0.250) |" in text
    assert "| a | 0.700 | 0.750 |" in text
    assert f"- {HEADING}: 20 images of val, scale 1, flip, no CRF, supervision I+S" in text


def test_a_mean_says_of_how_many_classes_it_is(tmp_path: Path) -> None:
    rows = three(tmp_path, 0.75, 0.5, 0.625)
    for name in "abc":
        write_json(tmp_path / f"{name}.json", read_json(tmp_path / f"{name}.json") | {"miou_classes": 7})
    _, text = make(tmp_path, rows)
    assert f"- {HEADING}: 20 images of val, 7 classes, scale 1, flip, no CRF, supervision I+S" in text


def test_the_order_is_said_as_the_numbers_are(tmp_path: Path) -> None:
    content, text = make(tmp_path, three(tmp_path, 0.75, 0.5, 0.25))
    assert [step["holds"] for step in content["order"][HEADING]] == [True, True]
    assert f"Order as in the paper, by {HEADING}: 2 of 2" in text
    assert "- a > b: yes (0.750 > 0.500)" in text
    assert "<li>a &gt; b: yes (0.750 &gt; 0.500)</li>" in (tmp_path / "t.html").read_text()
    assert "- best as in the paper, a: yes (0.750)" in text

    content, text = make(tmp_path, three(tmp_path, 0.5, 0.5, 0.75))
    assert [step["holds"] for step in content["order"][HEADING]] == [False, False]
    assert f"Order as in the paper, by {HEADING}: 0 of 2" in text
    assert "- a > b: no (0.500 = 0.500)" in text
    assert "- b > c: no (0.500 < 0.750)" in text
    assert "- best as in the paper, a: no, c (0.750)" in text

    # Two that are equally good are no best.
    _, text = make(tmp_path, three(tmp_path, 0.5, 0.5, 0.25))
    assert "- best as in the paper, a: no, a and b (0.500)" in text


def test_rounding_decides_no_order(tmp_path: Path) -> None:
    _, text = make(tmp_path, three(tmp_path, 0.5001, 0.50005, 0.1))
    assert "- a > b: yes (0.500 > 0.500)" in text


def test_a_missing_score_is_shown_and_decides_nothing(tmp_path: Path) -> None:
    content, text = make(tmp_path, three(tmp_path, 0.75, None, 0.25))
    assert "| b | 0.600 (-0.100) | - |" in text
    assert [step["holds"] for step in content["order"][HEADING]] == [None, None]
    assert "- a > b: not known, a score is missing" in text
    assert "- best as in the paper, a: not known, a score is missing" in text


@pytest.mark.parametrize("which", ["best_threshold", "fixed_threshold"])
def test_without_ground_truth_there_is_no_threshold(tmp_path: Path, which: str) -> None:
    write_json(tmp_path / "labels.json", {"split": "train", "images": 0, "supervision": "I+S", which: None})
    rows = [row("a", tmp_path / "labels.json")]
    rows[0]["scores"] = {"Maps": {"file": tmp_path / "labels.json", "path": [which, "miou"]}}
    content, text = make(tmp_path, rows)
    assert content["rows"][0]["scores"]["Maps"]["value"] is None
    assert "| a | - |" in text


def test_a_score_at_a_fixed_threshold_says_so(tmp_path: Path) -> None:
    rows = []
    for name, threshold in (("a", 0.15), ("b", 0.2)):
        content = {"split": "train", "images": 9, "maps_supervision": "I", "supervision": "I+S"}
        write_json(tmp_path / name, content | {"fixed_threshold": {"threshold": threshold, "miou": 0.5}})
        rows.append(row(name, tmp_path / name))
        rows[-1]["scores"] = {"Maps": {"file": tmp_path / name, "path": ["fixed_threshold", "miou"]}}
    _, text = make(tmp_path, rows, ordered=False)
    assert "9 images of train, threshold 0.15, fixed, supervision I (a)" in text
    assert "9 images of train, threshold 0.2, fixed, supervision I (b)" in text


def test_rows_that_were_measured_otherwise_are_named(tmp_path: Path) -> None:
    write_score(tmp_path / "a.json", 0.5)
    write_score(tmp_path / "b.json", 0.5, crf=True, supervision="I")
    _, text = make(tmp_path, [row("a", tmp_path / "a.json"), row("b", tmp_path / "b.json")], ordered=False)
    assert (
        f"- {HEADING}: 20 images of val, scale 1, flip, no CRF, supervision I+S (a) / "
        "20 images of val, scale 1, flip, CRF, supervision I (b)"
    ) in text
    assert "Order" not in text


def test_another_network_and_where_labels_come_from_are_named(tmp_path: Path) -> None:
    write_score(tmp_path / "a.json", 0.5)
    scores = read_json(tmp_path / "a.json")
    scores["protocol"] |= {"architecture": "segformer", "image_labels": "masks"}
    write_json(tmp_path / "a.json", scores)
    _, text = make(tmp_path, [row("a", tmp_path / "a.json")], ordered=False)
    assert f"- {HEADING}: SegFormer, 20 images of val, scale 1, flip, no CRF, supervision I+S (masks)" in text


def test_what_was_measured_elsewhere_stands_beside(tmp_path: Path) -> None:
    write_score(tmp_path / "a.json", 0.5)
    rows = [{**row("a", tmp_path / "a.json", own=True), "given": {"test": 0.7}}, row("b", tmp_path / "a.json")]
    content, text = make(tmp_path, rows, ordered=False)
    test = content["rows"][0]["scores"]["test"]
    assert (test["value"], test["difference"], test["file"]) == (0.7, 0, None)
    assert "- test: as it was measured elsewhere, named in the configuration" in text
    assert "| a | 0.500 | 0.700 |" in text
    assert "| b | 0.500 (0.000) | - |" in text


# Seeds


def over_seeds(folder: Path, label: str, *mious: float | None, **settings: Any) -> dict[str, Any]:
    """A row whose score was measured with several seeds."""
    files = [folder / f"{label}_{seed}.json" for seed in range(len(mious))]
    for file, miou in zip(files, mious, strict=True):
        write_score(file, miou)
    given = row(label, files[0], **settings)
    given["scores"][HEADING]["others"] = files[1:]
    return given


def test_rows_over_seeds_are_means_with_deviations(tmp_path: Path) -> None:
    rows = [
        over_seeds(tmp_path, "a", 0.75, 0.25, 0.5, own=True, Paper=0.7),
        over_seeds(tmp_path, "b", 0.25, 0.25, 0.25, Paper=0.6),
    ]
    content, text = make(tmp_path, rows)
    score = content["rows"][0]["scores"][HEADING]
    assert (score["value"], score["deviation"], score["min"], score["max"]) == (0.5, 0.25, 0.25, 0.75)
    assert score["values"] == [0.75, 0.25, 0.5]
    assert score["files"] == [str(tmp_path / f"a_{seed}.json") for seed in range(3)]
    assert score["file"] == score["files"][0]
    (step,) = content["order"][HEADING]
    assert (step["values"], step["deviations"], step["holds"]) == ([0.5, 0.25], [0.25, 0], True)
    assert "| a | 0.700 | 0.500 ± 0.250 |" in text
    assert "| b | 0.600 (-0.100) | 0.250 ± 0.000 (-0.250) |" in text
    assert "A score with ± is the mean of 3 seeds, and their standard deviation" in text
    assert "- a > b: yes (0.500 ± 0.250 > 0.250 ± 0.000)" in text


@pytest.mark.parametrize("axis", ["", "completion.alpha"])
def test_deviations_are_bars_of_errors_in_a_plot(tmp_path: Path, axis: str) -> None:
    def groups(rows: list[dict[str, Any]]) -> int:
        make(tmp_path, rows, axis=axis)
        return (tmp_path / "t.svg").read_text().count('<g id="LineCollection')

    one = [over_seeds(tmp_path, label, 0.75, value=n) for n, label in enumerate("ab")]
    several = [over_seeds(tmp_path, label, 0.75, 0.25, value=n) for n, label in enumerate("ab")]
    assert (groups(one), groups(several)) == (0, 1)


def test_a_line_for_each_score_over_seeds(tmp_path: Path) -> None:
    given = over_seeds(tmp_path, "demo", 0.75, 0.25, 0.5, own=True)
    write_score(tmp_path / "imported.json", 0.625)
    for seed in range(3):
        write_score(tmp_path / f"none_{seed}.json", None)
    given["scores"] |= {
        "End to end": {"file": tmp_path / "imported.json", "path": ["miou"]},
        "Maps": {"file": tmp_path / "none_0.json", "path": ["miou"], "others": [tmp_path / "none_1.json"]},
    }
    content, text = make(tmp_path, [given], caption="What it is.", ordered=False, lines="scores")
    assert (content["seeds"], content["run"], [*content["scores"]]) == (3, "demo", [HEADING, "End to end", "Maps"])
    score = content["scores"][HEADING]
    assert (score["mean"], score["deviation"], score["min"], score["max"]) == (0.5, 0.25, 0.25, 0.75)
    assert score["values"] == [0.75, 0.25, 0.5]
    assert score["protocol"] == "20 images of val, scale 1, flip, no CRF, supervision I+S"
    assert [len(score["files"]) for score in content["scores"].values()] == [3, 1, 2]
    once = content["scores"]["End to end"]
    assert (once["mean"], once["deviation"], once["values"]) == (0.625, None, [0.625])
    assert (content["scores"]["Maps"]["mean"], content["scores"]["Maps"]["values"]) == (None, [None, None])
    assert "| Score | Mean ± deviation | Least | Most | Seed | Seed + 1 | Seed + 2 |" in text
    assert f"| {HEADING} | 0.500 ± 0.250 | 0.250 | 0.750 | 0.750 | 0.250 | 0.500 |" in text
    assert "| End to end | 0.625 | - | - | 0.625 | - | - |" in text
    assert "- End to end: no seed touches it" in text
    assert "- Maps: no score, since the data set has no ground truth for it" in text
    assert "What it is." in text
    assert f"<td>{HEADING}</td>" in (tmp_path / "t.html").read_text()
    svg = (tmp_path / "t.svg").read_text()
    assert "0.500 ± 0.250" in svg
    assert "no score" in svg
    make(tmp_path, [given], caption="What it is.", ordered=False, lines="scores")
    assert (tmp_path / "t.svg").read_text() == svg


def test_scores_as_lines_are_of_one_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--lines: scores shows one run, but --rows has 3; write runs$"):
        make(tmp_path, three(tmp_path, 0.75, 0.5, 0.25), lines="scores")


def test_a_file_of_a_further_seed_without_its_score_is_named(tmp_path: Path) -> None:
    given = over_seeds(tmp_path, "a", 0.5, 0.75)
    write_json(tmp_path / "a_1.json", {"images": 1})
    with pytest.raises(InputError, match=r"a_1\.json: lacks miou; delete it"):
        make(tmp_path, [given])


HOSTILE = ["<script>alert(1)</script>|x", "a`b\nc", "$\\frac{1}{0}$ & _x_", "\N{BELL}日本"]


def test_hostile_labels_add_no_markup(tmp_path: Path) -> None:
    write_score(tmp_path / "a.json", 0.5)
    rows = [row(label, tmp_path / "a.json", own=False, Paper=0.5 + 0.1 * n) for n, label in enumerate(HOSTILE)]
    _, text = make(tmp_path, rows, title="<b>|")
    assert "<script>" not in text
    assert "<b>" not in text
    page = (tmp_path / "t.html").read_text()
    assert "<script" not in page
    assert "<b>" not in page
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(HOSTILE)
    assert {line.count("|") for line in table} == {4}
    root = ET.parse(tmp_path / "t.svg").getroot()
    assert root.tag.endswith("svg")
    assert "script" not in {element.tag.rpartition("}")[2] for element in root.iter()}


@pytest.mark.parametrize(("axis", "lines"), [("", False), ("completion.alpha", True)])
def test_numbers_on_an_axis_are_lines_and_names_are_bars(tmp_path: Path, axis: str, lines: bool) -> None:
    rows = []
    for number, alpha in enumerate((0.9, 0.8)):
        write_score(tmp_path / f"{number}.json", 0.5)
        rows.append(row(f"alpha {alpha}", tmp_path / f"{number}.json", value=alpha))
    make(tmp_path, rows, axis=axis)
    svg = (tmp_path / "t.svg").read_text()
    assert ("completion.alpha" in svg) == lines
    assert ("alpha 0.9" in svg) != lines
    # The same bytes every time.
    make(tmp_path, rows, axis=axis)
    assert (tmp_path / "t.svg").read_text() == svg


def test_files_without_their_score_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json: no such file"):
        make(tmp_path, [row("a", tmp_path / "a.json")])
    write_json(tmp_path / "a.json", {"images": 1})
    with pytest.raises(InputError, match=r"a\.json: lacks miou; delete it"):
        make(tmp_path, [row("a", tmp_path / "a.json")])
    write_json(tmp_path / "a.json", {"images": 1, "miou": "half"})
    with pytest.raises(InputError, match=r"a\.json: miou is no number; delete it"):
        make(tmp_path, [row("a", tmp_path / "a.json")])
    write_json(tmp_path / "a.json", {"miou": 0.5})
    with pytest.raises(InputError, match=r"a\.json: says not how it was measured \('images'\); delete it"):
        make(tmp_path, [row("a", tmp_path / "a.json")])
