"""All plots of a run, from the files that its stages left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from getam.curves import TRAININGS, epoch_curves, training_curves
from getam.errors import InputError
from getam.files import read_json
from getam.plots import save_plot
from getam.report import PROTOCOLS, Measured, measured_scores, summarize
from getam.run_folder import Run
from getam.score_plots import (
    confusion_size,
    draw_confusion,
    draw_ious,
    draw_threshold_curve,
    iou_size,
)
from getam.timings import stage_times
from getam.training_plots import curve_panels, draw_times, draw_training

CAPTIONS = {
    "iou": "IoU of each class, the worst first",
    "confusion_deeplab": "Confusion of DeepLab: each row a class of the ground truth",
    "confusion_end_to_end": "Confusion of the end-to-end network: each row a class of the ground truth",
    "threshold": "The maps alone, by the threshold",
    "training_classifier": "Training of the classifier",
    "training_saliency_model": "Training of the saliency network",
    "training_deeplab": "Training of DeepLab",
    "training_end_to_end": "Training end to end",
    "times": "Time and memory of the stages",
}
"""Name of a plot's file -> what it shows, in the order of pages."""


class _Plot(NamedTuple):
    name: str
    draw: Callable[[Figure], None]
    width: float
    height: float


def write_plots(run: Run, out: Path) -> dict[str, float]:
    """Writes the plots of the run in folder `run` into the existing folder `out`, as <name>.svg.

    Whatever the run doesn't have is left out. Gives the widths of the plots by their names, inches.

    Raises:
        InputError: a file is not what its stage writes; the message names it.
    """
    widths = {}
    for plot in _plots(run):
        save_plot(out / f"{plot.name}.svg", plot.draw, width=plot.width, height=plot.height)
        widths[plot.name] = plot.width
    return widths


def _plots(run: Run) -> Iterator[_Plot]:
    summary = summarize(run)
    ious = {source_name(score): score.classes for score in measured_scores(summary) if _is_shown(score)}
    if any(ious.values()):
        yield _Plot("iou", lambda figure: draw_ious(figure, ious), *iou_size(ious))
    titles = {"deeplab": "DeepLab", "end_to_end": "End to end"}
    for section, title in titles.items():
        if section in summary:
            yield _confusion(run / f"{section}/metrics.json", section, title)
    if "pseudo_labels" in summary:
        points = read_json(run / "pseudo_labels.json").get("threshold_curve")
        best = summary["pseudo_labels"]["best_threshold"]
        if points and best:
            yield _Plot("threshold", lambda figure: draw_threshold_curve(figure, points, best), 7.0, 4.0)
    for folder, title in TRAININGS.items():
        if panels := curve_panels(training_curves(run / folder)):
            yield _training(f"training_{folder}", title, panels, unit="step")
        elif panels := curve_panels(epoch_curves(run / folder)):
            # Too short for TensorBoard's scalars, or told to write none.
            yield _training(f"training_{folder}", title, panels, unit="epoch")
    if times := stage_times(run):
        yield _Plot("times", lambda figure: draw_times(figure, times), 9.0, 1.0 + 0.27 * len(times))


def _is_shown(score: Measured) -> bool:
    return "IoU" in score.row.score and score.row.unknown != PROTOCOLS["wrong"] and bool(score.classes)


def source_name(score: Measured) -> str:
    """What a score is of, with what tells it from others of the run: "Pseudo labels, train, 255 left out"."""
    parts = [score.row.score.removesuffix(" mIoU"), score.row.split]
    if score.row.unknown in PROTOCOLS.values():
        parts.append(f"255 {score.row.unknown}")
    return ", ".join(parts)


def _confusion(path: Path, section: str, title: str) -> _Plot:
    metrics = read_json(path)
    names = list(metrics["iou"])
    counts = np.array(metrics.get("confusion"))
    if counts.shape != (len(names), len(names)) or not np.issubdtype(counts.dtype, np.integer):
        raise InputError(f"{path}: confusion is not {len(names)} rows of {len(names)} numbers; run its stage again")
    title = f"{title}, {metrics['split']}: % of each row's pixels"
    width, height = confusion_size(len(names))
    return _Plot(
        f"confusion_{section}", lambda figure: draw_confusion(figure, counts, names, title=title), width, height
    )


def _training(name: str, title: str, panels: Mapping[str, Any], *, unit: str) -> _Plot:
    height = 2.2 + 1.3 * len(panels)
    return _Plot(name, lambda figure: draw_training(figure, panels, title=title, unit=unit), 7.0, height)
