"""Plots of scores: IoU of each class, confusion matrices, the threshold curve of the maps.

Class names come from the data set: they are shown as plain text on one line, shortened where they are long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from getam.pages.plots.style import COLORS
from getam.system.names import shown_name

NAME_LETTERS = 22
"""Number of letters to which class names are shortened."""

COLUMN_CLASSES = 30
"""Number of classes at most in a column of bars; more classes are drawn in several columns."""

NUMBERED = 25
"""Number of classes at most up to which the cells of a confusion matrix contain numbers."""


Ious = Mapping[str, Mapping[str, float | None]]
"""Source of labels -> class -> IoU; None for a class without one."""


def iou_size(ious: Ious) -> tuple[float, float]:
    """Size (width, height), in inches, of the figure for draw_ious."""
    count = len(_classes(ious))
    columns = max(1, math.ceil(count / COLUMN_CLASSES))
    rows = math.ceil(count / columns)
    return 7.5 if columns == 1 else 4.6 * columns, 1.2 + rows * (0.12 + 0.1 * max(1, len(ious)))


def draw_ious(figure: Figure, ious: Ious, *, label: str = "IoU") -> None:
    """Draws bars of each class's score, a bar for each source; the class with the lowest mean comes first."""
    names = sorted(_classes(ious), key=lambda name: _mean(ious, name))
    columns = max(1, math.ceil(len(names) / COLUMN_CLASSES))
    rows = math.ceil(len(names) / columns)
    axes = figure.subplots(1, columns, squeeze=False, sharex=True)[0]
    for column, axis in enumerate(axes):
        _draw_bars(axis, ious, names[column * rows : (column + 1) * rows], rows)
        axis.set_xlabel(label)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(2, columns + 1))


def _draw_bars(axis: Axes, ious: Ious, names: Sequence[str], rows: int) -> None:
    thickness = 0.84 / len(ious)
    for number, (source, values) in enumerate(ious.items()):
        positions = np.arange(len(names)) - 0.42 + (number + 0.5) * thickness
        widths = np.array([values.get(name) if values.get(name) is not None else np.nan for name in names], float)
        known = [value for value in values.values() if value is not None]
        mean = f", mean {np.mean(known):.3f}" if known else ""
        color = COLORS[number % len(COLORS)]
        axis.barh(positions, np.nan_to_num(widths), thickness, color=color, label=f"{source}{mean}")
        for position in positions[np.isnan(widths)]:
            axis.text(0.005, position, "-", va="center", fontsize=7, color=color)
    axis.set_yticks(range(len(names)), [shown_name(name, most=NAME_LETTERS) for name in names])
    axis.tick_params("y", length=0)
    axis.grid(visible=False, axis="y")
    axis.set_xlim(0, 1)
    # All columns get the same height, although the last one may have fewer classes.
    axis.set_ylim(rows - 0.4, -0.6)


def _classes(ious: Ious) -> list[str]:
    return list(dict.fromkeys(name for values in ious.values() for name in values))


def _mean(ious: Ious, name: str) -> float:
    known = [value for values in ious.values() if (value := values.get(name)) is not None]
    return sum(known) / len(known) if known else math.inf


def confusion_size(count: int) -> tuple[float, float]:
    """Size (width, height), in inches, of the figure for draw_confusion with `count` classes."""
    side = 1.8 + count * (0.4 if count <= NUMBERED else 0.14)
    return side + 1.2, side


def draw_confusion(figure: Figure, counts: np.ndarray, names: Sequence[str], *, title: str) -> None:
    """Draws a confusion matrix, each row divided by its sum.

    Args:
        counts: (C + 1, C + 1), int64, pixels by (ground truth, prediction).
        names: names of the label values, background first.
    """
    sums = counts.sum(1, keepdims=True)
    shares = np.divide(counts, sums, out=np.full(counts.shape, np.nan), where=sums > 0)
    axis = figure.add_subplot()
    axis.grid(visible=False)
    # With interpolation="none" the SVG embeds the matrix itself rather than a picture at some resolution.
    # Colors follow the square root of the share: confusions of a few percent would otherwise look like zero.
    image = axis.imshow(shares, cmap="viridis", norm=PowerNorm(0.5, 0, 1), interpolation="none")
    bar = figure.colorbar(image, ax=axis, label="share of the row's pixels", shrink=0.6)
    bar.set_ticks([0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.minorticks_off()
    numbered = len(names) <= NUMBERED
    size = 9 if numbered else 6
    short_names = [shown_name(name, most=NAME_LETTERS) for name in names]
    axis.set_xticks(range(len(names)), short_names, rotation=90, fontsize=size)
    axis.set_yticks(range(len(names)), short_names, fontsize=size)
    axis.tick_params(length=0 if numbered else 2)
    axis.set_xlabel("prediction")
    axis.set_ylabel("ground truth")
    axis.set_title(title)
    if numbered:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                color = "black" if share > 0.4 else "white"
                axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=color)


def draw_threshold_curve(
    figure: Figure,
    points: Sequence[Mapping[str, Any]],
    best: Mapping[str, Any],
    fixed: Mapping[str, Any] | None,
) -> None:
    """Draws mIoU, precision and recall of the maps against the threshold.

    The best mIoU is marked, and that at the threshold which the configuration fixes; `fixed` is None if there is none.
    """
    axis = figure.add_subplot()
    names = {"miou": "mIoU", "precision": "precision", "recall": "recall"}
    for (key, name), style in zip(names.items(), ("-", "--", "-."), strict=True):
        known = [(point["threshold"], point[key]) for point in points if point.get(key) is not None]
        if known:
            axis.plot(*zip(*known, strict=True), style, label=name)
    axis.plot(best["threshold"], best["miou"], "o", color=COLORS[0])
    axis.annotate(
        f"best mIoU {best['miou']:.3f} at {best['threshold']:.2f}"
        + (f", {best['miou_classes']} classes" if "miou_classes" in best else ""),
        (best["threshold"], best["miou"]),
        xytext=(8, 8),
        textcoords="offset points",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )
    if fixed:
        label = f"mIoU {fixed['miou']:.3f} at {fixed['threshold']:g}, fixed"
        axis.plot(fixed["threshold"], fixed["miou"], "s", color=COLORS[0], fillstyle="none", label=label)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_xlabel("threshold on the refined maps: the strongest class above it, else background")
    axis.set_ylabel("mean over the classes")
    axis.legend(loc="best")
