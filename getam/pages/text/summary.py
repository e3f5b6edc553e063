"""Formats the scores of a run as text: summary.md, summary.html, and the table in the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

from getam.pages.text.documents import Document, Grid, Heading
from getam.pages.text.tables import aligned_table
from getam.runs.summary import (
    HEADINGS,
    PROTOCOL_TITLES,
    notes_in,
    score_rows,
    segmenter_scores,
    source_title,
    three_decimals,
)

RIGHT = {1, 2, 4}
"""Columns of a table of scores that contain numbers and are right-aligned."""


def scores_table(summary: Mapping[str, Any]) -> str:
    """Formats the scores as an aligned plain-text table, without a newline at its end."""
    return aligned_table(HEADINGS, [astuple(row) for row in score_rows(summary)], right=RIGHT)


def summary_document(summary: Mapping[str, Any], run_name: str) -> Document:
    """Makes a document of the scores with their protocols, and of the IoU of each class.

    Args:
        summary: the result of getam.runs.summary.summarize.
    """
    title = f"Scores of the run {run_name}"
    scores = [astuple(row) for row in score_rows(summary)]
    if not scores:
        return Document(title, ["No stage has written a score yet."])
    blocks: list[str | Heading | Grid] = [
        "All scores are fractions of 1. Ground truth 255 is ignored, one confusion matrix is summed over all images at "
        "their original size, and the mIoU is the mean over the background and those classes that occur in ground "
        "truth or prediction; the column Classes says how many. Supervision: I image labels, S saliency, M class maps "
        "that were brought along, V a person's verdicts on pseudo labels or corrections of them, F pixel labels (of "
        "pretrained weights), with the origin of the image labels in brackets.",
        Grid(HEADINGS, scores, RIGHT),
        *notes_in(summary),
    ]
    if ious := _ious(summary):
        names = dict.fromkeys(name for by_class in ious.values() for name in by_class)
        rows = [(name, *(three_decimals(by_class.get(name)) for by_class in ious.values())) for name in names]
        blocks += [Heading("IoU of each class"), Grid(("Class", *ious), rows, set(range(1, len(ious) + 1)))]
    return Document(title, blocks)


def _ious(summary: Mapping[str, Any]) -> dict[str, Mapping[str, float | None]]:
    """Column heading -> {class: IoU}, for the pseudo labels and each segmentation network that is scored."""
    ious = {}
    if (labels := summary.get("pseudo_labels")) and labels["images"]:
        for protocol in ("excluded", "background"):
            source, split = source_title(summary, "pseudo_labels"), labels["split"]
            ious[f"{source} ({split}, 255 {PROTOCOL_TITLES[protocol]})"] = labels[f"{split}_iou"][protocol]
    for _, title, scores in segmenter_scores(summary):
        if scores["images"]:
            ious[f"{title} ({scores['split']})"] = scores[f"{scores['split']}_iou"]
    return ious
