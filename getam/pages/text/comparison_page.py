"""Writes a comparison of two runs as a self-contained HTML page with plots."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from matplotlib.figure import Figure

from getam.pages.plots.scores import draw_ious, iou_size
from getam.pages.plots.style import save_plot
from getam.pages.rendering import render
from getam.pages.text.comparison_text import IMAGES, score_note
from getam.runs.comparison import Change, Comparison, ScoreChange
from getam.runs.summary import signed, three_decimals
from getam.system.files import write_text

LOWER_IS_BETTER = ("Saliency MAE",)
NEITHER = ("unknown share", "coverage")
"""Endings of the names of scores of which neither high nor low is better."""


class _Row(NamedTuple):
    name: str
    a: str
    b: str
    change: str
    kind: str
    note: str = ""


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Writes the page `out`, which opens from disk and needs no other file.

    If both runs have an audit page, each image is linked to both, by paths relative to the page's folder.
    """
    linked = all((run / "audit" / "index.html").is_file() for run in (comparison.a, comparison.b))
    audits = [_link(run, out) for run in (comparison.a, comparison.b)] if linked else []
    labels = comparison.pseudo_labels
    listed_images = [image for image in labels.images[: 3 * IMAGES] if image.differing]
    page = render(
        "compare.html",
        a=str(comparison.a),
        b=str(comparison.b),
        scores=[_row(score, note=score_note(score)) for score in comparison.scores],
        settings=comparison.settings,
        classes={
            score.name: (_plot(score), [_row(each) for each in score.classes])
            for score in comparison.scores
            if any(each.change for each in score.classes)
        },
        notes=labels.notes,
        compared=len(labels.images),
        mean=f"{100 * sum(image.differing for image in labels.images) / max(1, len(labels.images)):.2f} %",
        images=[
            (
                _row(image.iou),
                f"{100 * image.differing:.1f} %",
                [f"{audit}#{quote(image.id, safe='')}" for audit in audits],
            )
            for image in listed_images
        ],
    )
    write_text(out, page)


def _link(run: Path, out: Path) -> str:
    # Symbolic links are resolved first: `..` in a relative path would otherwise lead elsewhere.
    return quote(Path(os.path.relpath((run / "audit" / "index.html").resolve(), out.parent.resolve())).as_posix())


def _row(change: Change, *, note: str = "") -> _Row:
    kind = ""
    if change.change is not None and abs(change.change) >= 0.0005 and not change.name.endswith(NEITHER):
        kind = "better" if (change.change > 0) != (change.name in LOWER_IS_BETTER) else "worse"
    return _Row(change.name, three_decimals(change.a), three_decimals(change.b), signed(change.change), kind, note)


def _plot(score: ScoreChange) -> str:
    """Plots the classes' scores of both runs; returns the picture as a data URL."""
    values: dict[str, Mapping[str, float | None]] = {
        "A": {each.name: each.a for each in score.classes},
        "B": {each.name: each.b for each in score.classes},
    }
    label = "average precision" if score.name.endswith("mAP") else "IoU"
    return _inline(lambda figure: draw_ious(figure, values, label=label), *iou_size(values))


def _inline(draw: Callable[[Figure], None], width: float, height: float) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plot.svg"
        save_plot(path, draw, width=width, height=height)
        return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
