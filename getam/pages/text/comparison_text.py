"""Formats a comparison of two runs as plain text for a terminal, and as JSON for other programs."""

from __future__ import annotations

from typing import Any

from getam.pages.text.tables import aligned_table
from getam.runs.comparison import Change, Comparison, ScoreChange
from getam.runs.summary import ABSENT, signed, three_decimals
from getam.system.names import shown_name

CLASSES = 10
"""Number of classes at most that are listed for a score."""

IMAGES = 20
"""Number of images at most that are listed."""

VALUE_LETTERS = 60


def comparison_text(comparison: Comparison) -> str:
    """Formats the comparison as plain-text tables, each with a heading."""
    blocks = [
        f"A: {shown_name(str(comparison.a))}\nB: {shown_name(str(comparison.b))}",
        f"Scores\n\n{_scores(comparison)}",
        f"Recorded settings that differ\n\n{_settings(comparison)}",
    ]
    for score in comparison.scores:
        changed = [each for each in score.classes if each.change]
        if changed:
            rows = [_cells(each) for each in changed[:CLASSES]]
            more = f"\nand {len(changed) - CLASSES} more" if len(changed) > CLASSES else ""
            table = aligned_table(("Class", "A", "B", "B - A"), rows, right={1, 2, 3})
            blocks.append(f"{score.name}: classes that differ most\n\n{table}{more}")
    blocks.append(f"Pseudo labels that differ most\n\n{_images(comparison)}")
    return "\n\n\n".join(blocks)


def _scores(comparison: Comparison) -> str:
    if not comparison.scores:
        return "Neither run has a score."
    rows = []
    for score in comparison.scores:
        rows.append((*_cells(score), score_note(score)))
    return aligned_table(("Score", "A", "B", "B - A", ""), rows, right={1, 2, 3})


def score_note(score: ScoreChange) -> str:
    """Why two scores have no difference, or that they are means of different numbers of classes; else empty."""
    if score.missing:
        return f"{score.missing} has none"
    notes = [f"not comparable: {heading} {_cut(a)} / {_cut(b)}" for heading, (a, b) in score.differing.items()]
    if ABSENT not in score.counts and score.counts[0] != score.counts[1]:
        notes.append(f"means of {' / '.join(score.counts)} classes")
    return "; ".join(notes)


def _settings(comparison: Comparison) -> str:
    if not comparison.settings:
        return "None: what both runs record is the same."
    rows = [
        (shown_name(each.key), *("not recorded" if text is None else _cut(text) for text in (each.a, each.b)))
        for each in comparison.settings
    ]
    return aligned_table(("Setting", "A", "B"), rows)


def _cut(text: str) -> str:
    return shown_name(text, most=VALUE_LETTERS)


def _images(comparison: Comparison) -> str:
    labels = comparison.pseudo_labels
    lines = [f"{note[:1].upper()}{note[1:]}." for note in labels.notes]
    if labels.images:
        same = sum(image.differing == 0 for image in labels.images)
        mean = sum(image.differing for image in labels.images) / len(labels.images)
        lines.append(
            f"{len(labels.images)} images: {100 * mean:.2f} % of an image's pixels differ on average; {same} images "
            "are the same."
        )
        rows = [
            (shown_name(image.id), f"{100 * image.differing:.1f} %", *_cells(image.iou)[1:])
            for image in labels.images[:IMAGES]
            if image.differing
        ]
        if rows:
            headings = ("Image", "Differing", "IoU A", "IoU B", "B - A")
            lines += ["", aligned_table(headings, rows, right={1, 2, 3, 4})]
    return "\n".join(lines)


def _cells(change: Change) -> tuple[str, str, str, str]:
    return shown_name(change.name), three_decimals(change.a), three_decimals(change.b), signed(change.change)


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Gives the whole comparison as JSON values; nothing is rounded or left out."""
    return {
        "a": str(comparison.a),
        "b": str(comparison.b),
        "scores": [
            _json(score)
            | {
                "missing": score.missing or None,
                "differing": {heading: list(values) for heading, values in score.differing.items()},
                "classes": [_json(each) for each in score.classes],
            }
            for score in comparison.scores
        ],
        "settings": [vars(each) for each in comparison.settings],
        "pseudo_labels": {
            "total": comparison.pseudo_labels.total,
            "notes": list(comparison.pseudo_labels.notes),
            "images": [
                {"id": image.id, "differing": image.differing, "iou_a": image.iou.a, "iou_b": image.iou.b}
                for image in comparison.pseudo_labels.images
            ],
        },
    }


def _json(change: Change) -> dict[str, Any]:
    return {"name": change.name, "a": change.a, "b": change.b, "change": change.change}
