"""Plots of the curves of a training, and of the time and memory of a run's stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from getam.pages.plots.style import COLORS, make_logarithmic
from getam.runs.curves import Curve, smoothed, thinned
from getam.runs.timings import StageTime, duration

POINTS = 600
"""Number of points at most of a curve on a plot."""

SMOOTHING = 25
"""The running mean of a loss is taken over 1 / SMOOTHING of its points."""

DOTTED = 20
"""A curve with fewer points than this is drawn with a marker at each."""

SPREAD = 30
"""The axis of the losses is logarithmic if the largest is more than this many times the smallest."""


def curve_panels(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Sorts the curves of a training into panels: title of the panel -> name -> curve; empty panels are left out.

    Args:
        curves: {TensorBoard tag: curve}.
    """
    panels: dict[str, dict[str, Curve]] = {"loss": {}, "validation": {}, "learning rate": {}}
    for tag, curve in curves.items():
        kind, _, name = tag.partition("/")
        if kind == "loss":
            panels["loss"][name or tag] = curve
        elif kind.startswith("val"):
            panels["validation"][tag] = curve
        elif kind == "learning_rate" and not any(_same(curve, other) for other in panels["learning rate"].values()):
            panels["learning rate"][f"group {name}" if name.isdigit() else name] = curve
    return {title: panel for title, panel in panels.items() if panel}


def _same(one: Curve, other: Curve) -> bool:
    return np.array_equal(one.steps, other.steps) and np.allclose(one.values, other.values)


def draw_training(figure: Figure, panels: Mapping[str, Mapping[str, Curve]], *, title: str, unit: str) -> None:
    """Draws the panels of `curve_panels` below each other; the x axis counts steps in `unit`."""
    heights = [2 if name == "loss" else 1 for name in panels]
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (name, panel) in zip(axes, panels.items(), strict=True):
        if name == "loss":
            _draw_losses(axis, panel)
        else:
            marker = "o-" if len(next(iter(panel.values())).steps) < DOTTED else "-"
            for label, curve in panel.items():
                drawn = thinned(curve, most=POINTS)
                axis.plot(drawn.steps, drawn.values, marker, markersize=3, label=label)
        axis.set_ylabel(name)
        if len(panel) > 1 or name != "learning rate":
            axis.legend(loc="best")
    axes[-1].set_xlabel(unit)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_title(title)


def _draw_losses(axis: Axes, losses: Mapping[str, Curve]) -> None:
    """Draws each loss, pale, and its running mean."""
    for number, (name, curve) in enumerate(losses.items()):
        color = COLORS[number % len(COLORS)]
        if len(curve.steps) < DOTTED:
            axis.plot(curve.steps, curve.values, "o-", markersize=3, color=color, label=name)
            continue
        noisy = thinned(curve, most=POINTS)
        axis.plot(noisy.steps, noisy.values, color=color, alpha=0.25, linewidth=1)
        mean = thinned(smoothed(curve, window=max(1, len(curve.steps) // SMOOTHING)), most=POINTS)
        axis.plot(mean.steps, mean.values, color=color, label=name)
    values = np.concatenate([curve.values for curve in losses.values()])
    if values.min() > 0 and values.max() / values.min() > SPREAD:
        make_logarithmic(axis)


def draw_times(figure: Figure, times: Sequence[StageTime]) -> None:
    """Draws bars of each stage's time, summed over its jobs, and of the largest memory of a job."""
    time_axis, memory_axis = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    positions = np.arange(len(times))
    unit, per = ("hours", 3600) if times[0].seconds >= 2 * 3600 else ("minutes", 60)
    seconds = np.array([time.seconds for time in times])
    memory = np.array([(time.max_rss or 0) / 1000 for time in times])
    labels = [f"{duration(time.seconds)}{f' in {time.jobs} jobs' if time.jobs > 1 else ''}" for time in times]
    for axis, values, texts, color in (
        (time_axis, seconds / per, labels, COLORS[0]),
        (memory_axis, memory, [f"{gigabytes:.1f}" if gigabytes else "-" for gigabytes in memory], COLORS[1]),
    ):
        bars = axis.barh(positions, values, 0.7, color=color)
        axis.bar_label(bars, texts, padding=3, fontsize=8)
        axis.grid(visible=False, axis="y")
        # The limit leaves room for the text beside the longest bar.
        axis.set_xlim(0, 1.45 * max(values.max(), 1e-9))
    time_axis.set_yticks(positions, [time.stage for time in times])
    for axis in (time_axis, memory_axis):
        axis.tick_params("y", length=0)
    time_axis.invert_yaxis()
    time_axis.set_xlabel(f"{unit}, summed over the jobs")
    memory_axis.set_xlabel("largest resident memory of a job, GB")
