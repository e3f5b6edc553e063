"""Reads the curves of a training, from its TensorBoard files or from its model.json, as arrays."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from getam.settings.foreign import results_of
from getam.system.files import read_json


class Curve(NamedTuple):
    """A scalar of a training: its steps (N,), int64, ascending, and its values (N,), float64, finite."""

    steps: np.ndarray
    values: np.ndarray


def training_curves(training: Path) -> dict[str, Curve]:
    """Reads the TensorBoard scalars in a training's folder: {tag: curve}, sorted by tag; {} where there are none.

    Where a resumed training wrote a step a second time, the later value counts.
    """
    folder = training / "tensorboard"
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    # Imported here since it takes seconds.
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    # It logs every file whose end it reaches.
    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    # 0 reads all scalars, the default only a sample. One picture is kept at most, to save memory.
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0, "images": 1})
    events.Reload()
    curves = {}
    for tag in sorted(events.Tags()[SCALARS]):
        by_step = {event.step: event.value for event in events.Scalars(tag) if np.isfinite(event.value)}
        if by_step:
            steps = np.array(sorted(by_step), np.int64)
            curves[tag] = Curve(steps, np.array([by_step[step] for step in steps], np.float64))
    return curves


def epoch_curves(training: Path) -> dict[str, Curve]:
    """Reads the means of each epoch in model.json, by the tags of `training_curves`; steps are epochs, from 1."""
    path = training / "model.json"
    curves: dict[str, list[tuple[int, float]]] = {}
    with results_of(path):
        history = read_json(path).get("history") if path.is_file() else None
        for epoch, means in enumerate(history or (), start=1):
            for name, value in means.items():
                if isinstance(value, int | float):
                    tag = name if name.startswith("val") else f"loss/{name}"
                    curves.setdefault(tag, []).append((epoch, value))
    return {
        tag: Curve(
            np.array([epoch for epoch, _ in points], np.int64), np.array([value for _, value in points], np.float64)
        )
        for tag, points in sorted(curves.items())
    }


def smoothed(curve: Curve, *, window: int) -> Curve:
    """The running mean over `window` neighbors, fewer at the ends, which shows the trend of a noisy loss."""
    sums = np.concatenate([[0.0], curve.values.cumsum()])
    positions = np.arange(len(curve.values))
    first, last = np.maximum(positions - window // 2, 0), np.minimum(positions + window // 2 + 1, len(positions))
    return Curve(curve.steps, (sums[last] - sums[first]) / (last - first))


def thinned(curve: Curve, *, most: int) -> Curve:
    """At most `most` points of a curve, evenly spaced, the first and the last included."""
    if len(curve.steps) <= most:
        return curve
    kept = np.linspace(0, len(curve.steps) - 1, most).round().astype(int)
    return Curve(curve.steps[kept], curve.values[kept])
