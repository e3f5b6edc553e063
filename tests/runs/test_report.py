from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from getam.errors import InputError
from getam.pages.text.documents import as_html, as_markdown
from getam.pages.text.summary import scores_table, summary_document
from getam.runs.summary import score_rows, summarize
from getam.system.files import read_json, write_json

PSEUDO_LABELS = {
    "split": "train",
    "images": 1000,
    "supervision": "I+S",
    "unknown_share": 0.2,
    "coverage": 0.8,
    "protocols": {
        "excluded": {"miou": 0.71, "iou": {"background": 0.9, "cat": 0.5, "a|b": None}},
        "background": {"miou": 0.65, "iou": {"background": 0.85, "cat": 0.45, "a|b": None}},
        "wrong": {"miou": 0.6, "iou": {"background": 0.8, "cat": 0.4, "a|b": None}},
    },
    "threshold_curve": [{"threshold": 0.05, "miou": 0.3}, {"threshold": 0.2, "miou": 0.4}],
    "best_threshold": {"threshold": 0.2, "miou": 0.4},
}


def segmentation(miou: float, *, crf: bool) -> dict[str, Any]:
    return {
        "split": "val",
        "images": 200,
        "miou": miou,
        "iou": {"background": 0.9, "cat": 0.55, "a|b": 0.35},
        "pixel_accuracy": 0.875,
        "confusion": [[1]],
        "protocol": {"scales": [0.5, 1.0], "squares": [], "flip": True, "crf": crf, "supervision": "I+S"},
    }


def summary_markdown(summary: dict[str, Any], run_name: str) -> str:
    return as_markdown(summary_document(summary, run_name))


def summary_html(summary: dict[str, Any], run_name: str) -> str:
    return as_html(summary_document(summary, run_name))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    classifier = {
        "split": "val",
        "mean_average_precision": 0.98,
        "average_precision": {"cat": 0.97, "a|b": 0.99},
        "images": 200,
    }
    write_json(tmp_path / "classifier" / "metrics.json", classifier)
    saliency = {"mae": 0.05, "max_f": 0.9, "s_measure": 0.8, "max_e": 0.85, "images": 60}
    write_json(tmp_path / "saliency_model" / "metrics.json", saliency)
    write_json(tmp_path / "pseudo_labels.json", PSEUDO_LABELS)
    write_json(tmp_path / "deeplab" / "metrics.json", segmentation(0.6, crf=True))
    write_json(tmp_path / "end_to_end" / "metrics.json", segmentation(0.5, crf=False))
    return tmp_path


def test_summary_has_the_scores_that_other_programs_rely_on(run: Path) -> None:
    summary = summarize(run)
    assert summary["classifier"]["val_map"] == 0.98
    assert summary["saliency"]["val_mae"] == 0.05
    assert summary["pseudo_labels"]["train_miou"] == {"excluded": 0.71, "background": 0.65, "wrong": 0.6}
    assert summary["deeplab"]["val_miou"] == 0.6
    assert summary["end_to_end"]["val_miou"] == 0.5
    assert summary["pseudo_labels"]["miou_classes"] == {"excluded": 2, "background": 2, "wrong": 2}
    assert [summary[section]["miou_classes"] for section in ("deeplab", "end_to_end")] == [3, 3]
    assert summary["deeplab"]["val_iou"]["cat"] == 0.55


def test_scores_are_named_after_their_split(run: Path) -> None:
    write_json(run / "pseudo_labels.json", PSEUDO_LABELS | {"split": "val"})
    labels = summarize(run)["pseudo_labels"]
    assert labels["val_miou"]["excluded"] == 0.71
    assert "train_miou" not in labels


def test_a_run_of_one_path_leaves_the_other_out(run: Path) -> None:
    (run / "pseudo_labels.json").unlink()
    (run / "deeplab" / "metrics.json").unlink()
    summary = summarize(run)
    assert set(summary) == {"classifier", "saliency", "end_to_end"}
    for text in (summary_markdown(summary, "demo"), scores_table(summary)):
        assert "End to end mIoU" in text
        assert "DeepLab" not in text
        assert "Pseudo labels" not in text


def test_a_run_without_scores_says_so(tmp_path: Path) -> None:
    assert summarize(tmp_path) == {}
    assert "No stage has written a score yet." in summary_markdown({}, "demo")
    assert scores_table({}).startswith("Score")


def test_a_file_without_a_key_is_named(run: Path) -> None:
    write_json(run / "deeplab" / "metrics.json", {"split": "val", "images": 200})
    with pytest.raises(InputError, match=r"deeplab/metrics\.json: .*'protocol'"):
        summarize(run)


def test_markdown_gives_each_score_with_its_protocol(run: Path) -> None:
    lines = summary_markdown(summarize(run), "demo").splitlines()
    assert lines[0] == "# Scores of the run demo"
    assert "| Classifier mAP | 0.980 | 2 | val | 200 | - | - | I |" in lines
    assert "| Maps mIoU | 0.400 | - | train | 1000 | - | threshold 0.20, the best on train | I |" in lines
    assert "| Pseudo labels mIoU | 0.650 | 2 | train | 1000 | as background | - | I+S |" in lines
    assert "| DeepLab mIoU | 0.600 | 3 | val | 200 | - | scales 0.5 1, flip, CRF | I+S |" in lines
    assert "| End to end mIoU | 0.500 | 3 | val | 200 | - | scales 0.5 1, flip, no CRF | I+S |" in lines


def test_maps_stand_at_the_best_threshold_and_at_the_fixed_one(run: Path) -> None:
    # The scores of an earlier version have no fixed threshold.
    assert summarize(run)["pseudo_labels"]["fixed_threshold"] is None
    assert "fixed" not in summary_markdown(summarize(run), "demo")
    fixed = {"threshold": 0.15, "miou": 0.375, "miou_classes": 3, "precision": 0.5, "recall": 0.75}
    write_json(run / "pseudo_labels.json", PSEUDO_LABELS | {"fixed_threshold": fixed})
    summary = summarize(run)
    assert summary["pseudo_labels"]["fixed_threshold"] == fixed
    lines = summary_markdown(summary, "demo").splitlines()
    row = "| Maps mIoU, fixed threshold | 0.375 | 3 | train | 1000 | - | threshold 0.15, fixed | I |"
    best = "| Maps mIoU | 0.400 | - | train | 1000 | - | threshold 0.20, the best on train | I |"
    assert lines.index(row) == lines.index(best) + 1
    assert "<td>threshold 0.15, fixed</td>" in summary_html(summary, "demo")


def test_the_classifier_stands_beside_the_linear_probe_and_the_warning(run: Path) -> None:
    summary = summarize(run)
    assert [summary["classifier"][key] for key in ("chance", "probe", "warning")] == [None] * 3
    assert "Warning" not in summary_markdown(summary, "demo")
    path = run / "classifier" / "metrics.json"
    probe = {"mean_average_precision": 0.99, "average_precision": {"cat": 0.99}, "images": 150, "classifier": 0.5}
    write_json(path, read_json(path) | {"chance": 0.2, "probe": probe, "warning": "mAP <0.5>: lower learning_rate"})
    summary = summarize(run)
    assert summary["classifier"]["probe"] == probe
    assert summary["classifier"]["chance"] == 0.2
    lines = summary_markdown(summary, "demo").splitlines()
    assert lines.index("| Linear probe mAP | 0.990 | 1 | val | 150 | - | frozen backbone | I |") == 1 + lines.index(
        "| Classifier mAP | 0.980 | 2 | val | 200 | - | - | I |"
    )
    assert "Warning. Classifier: mAP &lt;0.5&gt;: lower learning_rate." in summary_html(summary, "demo")
    assert any(line.startswith("Warning. Classifier: mAP ") and "<" not in line for line in lines)


def test_what_has_no_ground_truth_is_said_and_what_needs_none_is_counted(run: Path) -> None:
    assert "Not scored" not in summary_markdown(summarize(run), "demo")
    path = run / "pseudo_labels.json"
    without = {key: {"miou": None, "iou": {"background": None}} for key in ("excluded", "background", "wrong")}
    unscored = {"images": 0, "labelled": 700, "protocols": without, "best_threshold": None}
    write_json(path, read_json(path) | unscored)
    text = summary_markdown(summarize(run), "demo")
    assert "Not scored: Pseudo labels (no image of train has a mask)." in text
    assert "| Pseudo labels coverage | 0.800 | - | train | 700 |" in text
    assert "Pseudo labels (train" not in text
    write_json(
        run / "deeplab" / "metrics.json", segmentation(0.6, crf=True) | {"miou": None, "iou": {"background": 1.0}}
    )
    text = summary_markdown(summarize(run), "demo")
    assert "DeepLab (ground truth and prediction show background alone, whose IoU is no score)." in text
    assert "| DeepLab mIoU | - | 1 | val |" in text


def test_markdown_gives_the_iou_of_each_class_and_a_dash_for_an_absent_one(run: Path) -> None:
    lines = summary_markdown(summarize(run), "demo").splitlines()
    assert "| cat | 0.500 | 0.450 | 0.550 | 0.550 |" in lines
    assert "| a&#124;b | - | - | 0.350 | 0.350 |" in lines


def test_markdown_of_hostile_names_stays_one_table_of_plain_text(run: Path) -> None:
    name = "`x` |\n<script>alert(1)</script> [a](b) &amp; *c*"
    write_json(run / "end_to_end" / "metrics.json", segmentation(0.5, crf=False) | {"iou": {name: 0.25}})
    markdown = summary_markdown(summarize(run), "<b>\n# run")
    assert markdown.startswith("# Scores of the run &#60;b&#62; # run\n")
    (line,) = [line for line in markdown.splitlines() if "0.250" in line]
    assert line.count("|") == 6
    assert line.startswith("| &#96;x&#96; &#124; &#60;script&#62;alert(1)")
    assert "&#91;a&#93;(b) &amp;amp; &#42;c&#42;" in line
    assert "<" not in markdown


def test_html_has_the_same_rows_and_escapes_them(run: Path) -> None:
    name = "<script>alert(1)</script>"
    write_json(run / "end_to_end" / "metrics.json", segmentation(0.5, crf=False) | {"iou": {name: 0.25}})
    summary = summarize(run)
    page = summary_html(summary, "<b>")
    assert "<h1>Scores of the run &lt;b&gt;</h1>" in page
    cells = '<td class="right">0.600</td><td class="right">3</td><td>val</td><td class="right">200</td>'
    assert f"<tr><td>DeepLab mIoU</td>{cells}" in page
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td>" in page
    assert "<script" not in page
    assert page.count("<tr>") - 1 == len(score_rows(summary)) + 1 + 4


def test_terminal_table_is_aligned(run: Path) -> None:
    heading, rule, *lines = scores_table(summarize(run)).splitlines()
    assert set(rule) == {"-", " "}
    column = heading.index("Classes")
    assert {line[column - 2 : column] for line in (heading, rule, *lines)} == {"  "}
    # Right-aligned under "Value", three decimals.
    values = [line[column - 7 : column - 2] for line in lines]
    assert values[:7] == ["0.980", "0.050", "0.900", "0.800", "0.850", "0.400", "0.710"]
    assert len(lines) == 15


def test_windows_are_told_where_predictions_were_made_in_them(run: Path) -> None:
    assert "window" not in summarize(run)["deeplab"]["protocol"]
    scores = segmentation(0.6, crf=True)
    scores["protocol"] |= {"window": 480, "window_overlap": 0.25, "architecture": "linear", "long_side": 1024}
    write_json(run / "deeplab" / "metrics.json", scores)
    summary = summarize(run)
    assert summary["deeplab"]["protocol"]["window_overlap"] == 0.25
    text = summary_markdown(summary, "demo")
    assert "scales 0.5 1, windows of 480, scaled down to 1024, flip, CRF" in text
    assert "Linear head (val)" in text


def test_another_network_than_deeplabv2_is_named(run: Path) -> None:
    scores = segmentation(0.6, crf=True)
    scores["protocol"]["architecture"] = "segformer"
    write_json(run / "deeplab" / "metrics.json", scores)
    summary = summarize(run)
    assert summary["deeplab"]["protocol"]["architecture"] == "segformer"
    titles = [row.score for row in score_rows(summary)]
    assert "SegFormer mIoU" in titles
    assert "DeepLab mIoU" not in titles
    assert "SegFormer (val)" in summary_markdown(summary, "demo")
