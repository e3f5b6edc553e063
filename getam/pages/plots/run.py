"""Draws all plots of a run, from the files that its stages wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from getam.errors import InputError
from getam.pages.plots.scores import (
    confusion_size,
    draw_confusion,
    draw_ious,
    draw_threshold_curve,
    iou_size,
)
from getam.pages.plots.style import save_plot
from getam.pages.plots.training import curve_panels, draw_times, draw_training
from getam.runs.artifacts import PREDICTIONS, SCORE_FILES, Titles, capitalized, of_kind, path_of
from getam.runs.curves import epoch_curves, training_curves
from getam.runs.folder import Run
from getam.runs.recorded import titles_of
from getam.runs.summary import PROTOCOL_TITLES, Measured, measured_scores, summarize
from getam.runs.timings import stage_times
from getam.settings.foreign import is_score, results_of
from getam.system.files import read_json


def captions(titles: Titles) -> dict[str, str]:
    """Name of a plot's file -> its caption, in the order in which pages show them.

    Args:
        titles: names of the run's network and maps, from getam.runs.recorded.titles_of.
    """
    confusions = {f"confusion_{section}": SCORE_FILES[section].subject for section in PREDICTIONS}
    trainings = {f"training_{artifact.name}": artifact.subject for artifact in of_kind("training")}
    return {
        "iou": "IoU of each class, the worst first",
        **{
            name: f"Confusion of {titles.fill(subject)}: each row a class of the ground truth"
            for name, subject in confusions.items()
        },
        "threshold": "The maps alone, by the threshold",
        **{name: f"Training of {titles.fill(subject)}" for name, subject in trainings.items()},
        "times": "Time and memory of the stages",
    }


class _Plot(NamedTuple):
    name: str
    draw: Callable[[Figure], None]
    width: float
    height: float


def write_plots(run: Run, out: Path) -> dict[str, float]:
    """Writes the plots of the run in folder `run` into the existing folder `out`, as <name>.svg.

    Plots of results that the run doesn't have are left out.

    Returns:
        {name of a plot: its width in inches}.

    Raises:
        InputError: a file has not the content that its stage writes; the message names it.
    """
    widths = {}
    for plot in _plots(run):
        save_plot(out / f"{plot.name}.svg", plot.draw, width=plot.width, height=plot.height)
        widths[plot.name] = plot.width
    return widths


def _plots(run: Run) -> Iterator[_Plot]:
    summary, titles = summarize(run), titles_of(run)
    ious = {source_name(score): score.classes for score in measured_scores(summary) if _is_shown(score)}
    if any(ious.values()):
        yield _Plot("iou", lambda figure: draw_ious(figure, ious), *iou_size(ious))
    for section in PREDICTIONS:
        if section in summary and summary[section]["images"]:
            scores = SCORE_FILES[section]
            yield _confusion(run / scores.path, section, capitalized(titles.fill(scores.title)))
    if "pseudo_labels" in summary:
        points = _threshold_curve(run / path_of("label_scores"))
        best, fixed = (summary["pseudo_labels"][f"{which}_threshold"] for which in ("best", "fixed"))
        if points and best:
            yield _Plot("threshold", lambda figure: draw_threshold_curve(figure, points, best, fixed), 7.0, 4.0)
    for training in of_kind("training"):
        title, folder = capitalized(titles.fill(training.title)), run / training.path
        if panels := curve_panels(training_curves(folder)):
            yield _training(f"training_{training.name}", title, panels, unit="step")
        elif panels := curve_panels(epoch_curves(folder)):
            # The training was too short to write TensorBoard scalars, or they were turned off.
            yield _training(f"training_{training.name}", title, panels, unit="epoch")
    if times := stage_times(run):
        yield _Plot("times", lambda figure: draw_times(figure, times), 9.0, 1.0 + 0.27 * len(times))


def _is_shown(score: Measured) -> bool:
    return (
        score.measure == "mIoU"
        and score.number is not None
        and score.row.unknown != PROTOCOL_TITLES["wrong"]
        and bool(score.classes)
    )


def source_name(score: Measured) -> str:
    """The name of a score that is unique within the run: "Pseudo labels, train, 255 left out"."""
    parts = [score.source, score.row.split]
    if score.row.unknown in PROTOCOL_TITLES.values():
        parts.append(f"255 {score.row.unknown}")
    return ", ".join(parts)


def _threshold_curve(path: Path) -> list[dict[str, float | None]]:
    """The maps' scores by threshold; none without ground truth."""
    with results_of(path):
        points: list[dict[str, float | None]] = read_json(path).get("threshold_curve") or []
        for point in points:
            if not all(is_score(point[key]) for key in ("threshold", "miou", "precision", "recall")):
                raise ValueError("a point of the threshold curve is none")
        return points


def _confusion(path: Path, section: str, title: str) -> _Plot:
    with results_of(path):
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
