from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.run_files import HEIGHT, HOSTILE, WIDTH, halves, pseudo_label_scores, segmentation, write_run

from getam.cli import STAGES, TOOLS, command
from getam.datasets.index import Index, read_index, write_index
from getam.errors import InputError
from getam.pages.text.comparison_text import comparison_text
from getam.runs.comparison import Comparison, compare_runs
from getam.runs.summary import signed
from getam.system.files import read_json, write_json
from getam.system.image_files import write_labels


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal runs, results/a and results/b."""
    a = write_run(tmp_path / "results" / "a")
    shutil.copytree(a, a.with_name("b"))
    return a, a.with_name("b")


def scores(comparison: Comparison) -> dict[str, float | None]:
    return {score.name: score.change for score in comparison.scores}


def test_equal_runs_have_no_difference(runs: tuple[Path, Path]) -> None:
    comparison = compare_runs(*runs)
    assert set(scores(comparison).values()) == {0.0}
    assert comparison.settings == ()
    assert [image.differing for image in comparison.pseudo_labels.images] == [0, 0]
    text = comparison_text(comparison)
    assert "None: what both runs record is the same." in text
    assert "2 images: 0.00 % of an image's pixels differ on average; 2 images are the same." in text
    assert "classes that differ most" not in text


def test_scores_measured_alike_are_subtracted_and_their_classes_ranked(runs: tuple[Path, Path]) -> None:
    write_json(runs[1] / "deeplab" / "metrics.json", segmentation(0.85, 0.3, 0.8))
    comparison = compare_runs(*runs)
    (deeplab,) = [score for score in comparison.scores if score.name == "DeepLab mIoU"]
    assert deeplab.change == pytest.approx(-0.05)
    assert [(each.name, round(each.change or 0, 6)) for each in deeplab.classes] == [
        ("cat", -0.3),
        (HOSTILE, 0.1),
        ("background", 0.05),
    ]
    assert re.search(r"^DeepLab mIoU +0\.700  0\.650  -0\.050$", comparison_text(comparison), re.MULTILINE)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"split": "train"}, "Split val / train"),
        ({"images": 7}, "Images 1 / 7"),
        (
            {"protocol": segmentation(1, 1, 1, crf=True)["protocol"]},
            "Inference scale 1, flip, no CRF / scale 1, flip, CRF",
        ),
        (
            {"protocol": segmentation(1, 1, 1)["protocol"] | {"supervision": "I"}},
            "Supervision I+S / I",
        ),
    ],
)
def test_scores_measured_otherwise_are_never_subtracted(
    runs: tuple[Path, Path], change: dict[str, object], note: str
) -> None:
    write_json(runs[1] / "deeplab" / "metrics.json", segmentation(0.9, 0.9, 0.9) | change)
    comparison = compare_runs(*runs)
    (deeplab,) = [score for score in comparison.scores if score.name == "DeepLab mIoU"]
    assert deeplab.change is None
    assert deeplab.classes == ()
    assert f"not comparable: {note}" in comparison_text(comparison)


def test_scores_of_other_data_or_classes_are_never_subtracted(runs: tuple[Path, Path]) -> None:
    index = read_index(runs[1] / "index.csv")
    renamed = {"cat": "cat", HOSTILE: "another"}
    rows = tuple(replace(row, labels=tuple(renamed[name] for name in row.labels)) for row in index.rows)
    write_index(runs[1] / "index.csv", Index(rows, tuple(renamed.values())))
    comparison = compare_runs(*runs)
    named = {score.name: score for score in comparison.scores}
    assert {name for name, score in named.items() if score.change is not None} == {
        name for name in named if name.startswith("Saliency")
    }
    assert "not comparable: Class <script>alert(1)</script> (2) / another (2)" in comparison_text(comparison)
    # The same ids, of other images.
    rows = tuple(replace(row, width=row.width + 1) if row.split == "val" else row for row in index.rows)
    write_index(runs[1] / "index.csv", Index(rows, index.classes))
    named = {score.name: score for score in compare_runs(*runs).scores}
    assert named["DeepLab mIoU"].differing == {"Data": ("1 images alone", "1 images alone")}
    assert named["Pseudo labels mIoU, 255 left out"].change == 0


def test_another_best_threshold_is_a_result_and_no_protocol(runs: tuple[Path, Path]) -> None:
    labels = pseudo_label_scores(0.9, 0.5, 0.4)
    write_json(runs[1] / "pseudo_labels.json", labels | {"best_threshold": {"threshold": 0.3, "miou": 0.5}})
    assert scores(compare_runs(*runs))["Maps mIoU"] == pytest.approx(0.1)


def test_a_fixed_threshold_is_protocol_and_its_score_one_of_its_own(runs: tuple[Path, Path]) -> None:
    labels = pseudo_label_scores(0.9, 0.5, 0.4)
    name = "Maps mIoU, fixed threshold"
    write_json(runs[1] / "pseudo_labels.json", labels | {"fixed_threshold": {"threshold": 0.15, "miou": 0.25}})
    found = scores(compare_runs(*runs))
    assert (found[name], found["Maps mIoU"]) == (pytest.approx(-0.1), 0)
    write_json(runs[1] / "pseudo_labels.json", labels | {"fixed_threshold": {"threshold": 0.2, "miou": 0.4}})
    named = {score.name: score for score in compare_runs(*runs).scores}
    assert named[name].differing == {"Inference": ("threshold 0.15, fixed", "threshold 0.2, fixed")}
    # The scores of an earlier version, which had no such threshold.
    write_json(runs[1] / "pseudo_labels.json", {key: labels[key] for key in labels if key != "fixed_threshold"})
    named = {score.name: score for score in compare_runs(*runs).scores}
    assert (named[name].missing, named["Maps mIoU"].change) == ("B", 0)


def test_what_one_run_has_alone_is_said(runs: tuple[Path, Path]) -> None:
    shutil.rmtree(runs[1] / "deeplab")
    write_json(runs[1] / "end_to_end" / "model.json", {"settings": {"epochs": 1}})
    comparison = compare_runs(*runs)
    text = comparison_text(comparison)
    assert re.search(r"^DeepLab mIoU +0\.700 +- +-  B has none$", text, re.MULTILINE)
    assert re.search(r"^end_to_end\.\* +not recorded +recorded$", text, re.MULTILINE)


def test_settings_that_differ_are_listed_by_dotted_keys(runs: tuple[Path, Path]) -> None:
    for shard in ("000", "001"):
        path = runs[1] / "pseudo_labels" / shard / "manifest.json"
        content = read_json(path)
        content["settings"] = {"alpha": 0.8, "crf": {"iterations": 10}}
        content["version"] = "0.2.0"
        write_json(path, content)
    assert [(each.key, each.a, each.b) for each in compare_runs(*runs).settings] == [
        ("completion.alpha", "0.9", "0.8"),
        ("completion.gamma", "32", None),
        ("completion.(version)", "0.1.0", "0.2.0"),
        ("completion.crf.iterations", None, "10"),
    ]


def test_images_are_ranked_by_the_share_of_pixels_whose_label_differs(runs: tuple[Path, Path]) -> None:
    # As good as it gets, in one shard instead of two.
    shutil.move(runs[1] / "pseudo_labels" / "001" / "two.png", runs[1] / "pseudo_labels" / "000" / "two.png")
    shutil.rmtree(runs[1] / "pseudo_labels" / "001")
    write_labels(runs[1] / "pseudo_labels" / "000" / "one.png", halves(0, 1))
    first, second = compare_runs(*runs).pseudo_labels.images
    assert (first.id, first.differing, first.iou.a, first.iou.b) == ("one", 0.5, 0.25, 1.0)
    assert (second.id, second.differing, second.iou.change) == ("two", 0.0, 0.0)
    few = compare_runs(*runs, most_images=1).pseudo_labels
    assert (len(few.images), few.total) == (1, 2)
    assert few.notes == ("1 of 2 images were compared, evenly spaced over their sorted ids",)


def test_images_that_cannot_be_compared_are_counted(runs: tuple[Path, Path]) -> None:
    write_labels(runs[1] / "pseudo_labels" / "000" / "one.png", np.zeros((HEIGHT, WIDTH + 1), np.uint8))
    (runs[0].parent / "data" / "two.truth.png").unlink()
    labels = compare_runs(*runs).pseudo_labels
    (image,) = labels.images
    assert (image.id, image.iou.a, image.iou.b) == ("two", None, None)
    assert labels.notes[0] == "1 images have pseudo labels of different sizes"
    assert labels.notes[1].startswith("the ground truth of 1 images was not found")
    (runs[1] / "classes.txt").write_text("dog\ncat\n")
    (runs[1] / "index.csv").write_text("id,split,image,mask,height,width,labels\n")
    assert compare_runs(*runs).pseudo_labels.notes == ("the runs have other classes: label values mean other things",)
    shutil.rmtree(runs[1] / "pseudo_labels")
    assert compare_runs(*runs).pseudo_labels.notes == ("B has no pseudo labels",)


def test_the_text_is_fit_for_a_terminal(runs: tuple[Path, Path]) -> None:
    values = segmentation(0.1, 0.2, 0.3)
    values["iou"] = {"a\x1b[2Jb\nc": 0.1}
    for run, number in zip(runs, (0.1, 0.9), strict=True):
        write_json(run / "deeplab" / "metrics.json", values | {"iou": {"a\x1b[2Jb\nc": number}})
    text = comparison_text(compare_runs(*runs))
    assert "a\N{REPLACEMENT CHARACTER}[2Jb c" in text
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0004, "0.000"), (-0.0004, "0.000"), (-0.05, "-0.050")])
def test_a_difference_bears_its_sign(value: float | None, text: str) -> None:
    assert signed(value) == text


def compare(*words: object) -> int:
    return command("getam", STAGES | TOOLS, ["compare", *map(str, words)])


def test_runs_are_named_by_folder_or_by_name(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compare("a", runs[1]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"A: results/a\nB: {runs[1]}\n")
    assert compare("a", "c") == 1
    assert (
        "getam compare: c: no such folder, nor results/c; name a run's folder, or a run in results/, such as a, b"
        in (capsys.readouterr().err)
    )
    (tmp_path / "empty").mkdir()
    assert compare("a", "empty") == 1
    assert "empty: holds neither scores nor recorded settings of a run; name a folder results/<run>" in (
        capsys.readouterr().err
    )


def test_a_file_that_no_stage_wrote_is_named(runs: tuple[Path, Path]) -> None:
    write_json(runs[1] / "deeplab" / "metrics.json", {})
    with pytest.raises(InputError, match=r"b/deeplab/metrics\.json"):
        compare_runs(*runs)


def test_the_page_holds_its_plots_and_links_the_audits(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for run in runs:
        (run / "audit").mkdir()
        (run / "audit" / "index.html").touch()
    write_json(runs[1] / "deeplab" / "metrics.json", segmentation(0.8, 0.6, 0.75))
    write_labels(runs[1] / "pseudo_labels" / "000" / "one.png", halves(0, 1))
    assert compare(*runs, "--out", tmp_path / "pages" / "compare.html", "--data", tmp_path / "compare.json") == 0
    page = (tmp_path / "pages" / "compare.html").read_text(encoding="utf-8")
    assert HOSTILE not in page
    assert not re.search(r"https?:|<script|<link|@import", page)
    links = re.findall(r'href="([^"#]*)#one"', page)
    assert [(tmp_path / "pages" / link).resolve() for link in links] == [
        (run / "audit" / "index.html").resolve() for run in runs
    ]
    assert page.count('src="data:image/svg+xml;base64,') == 1
    assert '<td class="number better">+0.050</td>' in page
    content = json.loads((tmp_path / "compare.json").read_text())
    assert content["pseudo_labels"]["images"][0] == {"id": "one", "differing": 0.5, "iou_a": 0.25, "iou_b": 1.0}
    assert {score["name"]: score["change"] for score in content["scores"]}["DeepLab mIoU"] == pytest.approx(1 / 60)


def test_a_page_of_runs_without_audits_has_no_links(runs: tuple[Path, Path], tmp_path: Path) -> None:
    write_labels(runs[1] / "pseudo_labels" / "000" / "one.png", halves(0, 1))
    assert compare(*runs, "--out", tmp_path / "compare.html") == 0
    assert "audit/index.html" not in (tmp_path / "compare.html").read_text()


def test_means_of_different_numbers_of_classes_are_told(runs: tuple[Path, Path]) -> None:
    assert "means of" not in comparison_text(compare_runs(*runs))
    scores = read_json(runs[1] / "deeplab" / "metrics.json")
    scores["iou"][next(iter(scores["iou"]))] = None
    write_json(runs[1] / "deeplab" / "metrics.json", scores)
    count = len(scores["iou"])
    assert f"means of {count} / {count - 1} classes" in comparison_text(compare_runs(*runs))
