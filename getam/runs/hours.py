"""Estimates how long a recipe takes, from the images a second that the logs of another run state."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from getam.errors import InputError, reason_of
from getam.runs.artifacts import ARTIFACTS
from getam.runs.folder import Run
from getam.runs.recorded import dotted, recorded_settings
from getam.settings.config import Config
from getam.settings.end_to_end import EndToEndSettings
from getam.settings.foreign import LOG_BYTES, LONGEST_LINE, read_bytes

SLOWEST = 1e-9
"""Lowest rate that counts as a measurement, images a second."""

DECIDING = frozenset(
    {
        "accumulation", "architecture", "backbone", "backbone_options", "batch_size", "crop.long_side", "crop.size",
        "encoder", "encoder_options", "image_size", "method", "precision", "scales", "trainable",
    }
)  # fmt: skip
"""Settings of networks and maps that decide how long an image takes, by their dotted keys within a section."""


@dataclass(frozen=True)
class Estimate:
    """A stage, or a phase of a training."""

    stage: str
    rate: float | None
    """Images a second in the rehearsal; None if its log doesn't say."""
    images: int
    """Number of images that the full run processes, counted once for each epoch."""

    @property
    def hours(self) -> float | None:
        return None if self.rate is None else self.images / self.rate / 3600


def estimated_hours(logs: Path, config: Config, *, train: int, val: int, pairs: int) -> Iterator[Estimate]:
    """Estimates the stages that a recipe runs, in the workflow's order.

    Args:
        logs: folder of the logs of the run that was measured.
        config: the recipe.
        train, val: number of images of each split.
        pairs: number of image/mask pairs that saliency is trained on.

    Raises:
        InputError: a log can't be read.
    """
    counts = {"train": train, "val": val, "both": train + val, "pairs": pairs}
    left_out = set() if config.saliency.source == "train" else {"train_saliency", "predict_saliency"}
    left_out |= set() if config.maps.source == "classifier" else {"train_classifier", "dump_maps"}
    left_out |= {"train_end_to_end"} if config.checkpoint.file else set()
    for artifact in ARTIFACTS:
        stage = artifact.stage
        if not artifact.images or stage in left_out:
            continue
        images = counts[artifact.images]
        if not images:
            continue
        if artifact.kind != "training":
            yield Estimate(stage, _image_rate(logs, stage), images)
        elif stage == "train_end_to_end":
            yield from _phases(logs, config.end_to_end, images)
        else:
            yield Estimate(stage, _epoch_rate(logs, stage), images * getattr(config, artifact.section).epochs)


def _phases(logs: Path, settings: EndToEndSettings, images: int) -> Iterator[Estimate]:
    """Estimates the two phases of the end-to-end training: the classifier alone, then with the decoder (slower)."""
    phases = {False: settings.classifier_epochs, True: settings.epochs - settings.classifier_epochs}
    for segmentation, epochs in phases.items():
        if epochs:
            rate = _epoch_rate(logs, "train_end_to_end", segmentation=segmentation)
            yield Estimate(f"train_end_to_end, phase {1 + segmentation}", rate, images * epochs)


def _image_rate(logs: Path, stage: str) -> float | None:
    """Images a second of a per-image stage, as if its shards ran one after the other; None if not measured."""
    final = re.compile(r"(\d{1,12})/\1 images, (\S+) a second")
    images, seconds = 0, 0.0
    for path in (logs / f"{stage}.log", *sorted((logs / stage).glob("*.log"))):
        found = [match.groups() for text in _lines(path, f"{stage}: ") if (match := final.match(text))]
        if found and (rate := _rate(found[-1][1])):
            images += int(found[-1][0])
            seconds += int(found[-1][0]) / rate
    return images / seconds if seconds else None


def _epoch_rate(logs: Path, stage: str, *, segmentation: bool | None = None) -> float | None:
    """Images a second of the last epoch of a training; None if not measured.

    Args:
        segmentation: if given, only epochs with (True) or without (False) a segmentation loss count.
    """
    line = re.compile(r"\d+/\d+, (.*), \S+ s, (\S+) images a second")
    found = [
        match[2]
        for text in _lines(logs / f"{stage}.log", f"{stage}: epoch ")
        if (match := line.match(text)) and (segmentation is None or ("segmentation loss" in match[1]) == segmentation)
    ]
    return _rate(found[-1]) if found else None


def _rate(text: str) -> float | None:
    """Parses a rate; None if it is no number or too small to divide by."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if SLOWEST < value < float("inf") else None


def _lines(log: Path, begin: str) -> Iterator[str]:
    """What stands behind `begin` in the lines of a log; nothing if it does not exist."""
    try:
        text = read_bytes(log, LOG_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InputError(f"{log}: cannot be read ({reason_of(error)}); name another run by --run") from None
    for line in text.splitlines():
        # A line that getam has not written might take a pattern hours.
        if len(line) <= LONGEST_LINE:
            _, found, rest = line.partition(begin)
            if found:
                yield rest


@dataclass(frozen=True)
class Measured:
    """How long a recipe takes by the logs of an earlier run.

    Attributes:
        run: the earlier run's folder.
        hours: the sum over the stages whose rate the logs say.
        missing: the other stages.
    """

    run: Path
    hours: float
    missing: tuple[str, ...]


def measured_hours(results: Path, config: Config, *, train: int, val: int) -> Measured | None:
    """How long a recipe that trains no saliency network takes, by the first run that has trained its other networks.

    Args:
        results: the folder of all runs.
        train, val: number of images of each split.

    Returns:
        None if there is no such run.
    """
    for logs in sorted(results.glob("*/logs")):
        try:
            alike = _is_alike(logs.parent, config)
            estimates = list(estimated_hours(logs, config, train=train, val=val, pairs=0)) if alike else []
        except InputError:
            # The files of an earlier version say nothing about this one.
            continue
        hours = [estimate.hours for estimate in estimates if estimate.hours is not None]
        if hours:
            missing = tuple(estimate.stage for estimate in estimates if estimate.hours is None)
            return Measured(logs.parent, sum(hours), missing)
    return None


def _is_alike(run: Run, config: Config) -> bool:
    """Whether a run has trained all networks of a recipe, each with what decides the time that an image takes."""
    recorded = {each.section: each.settings for each in recorded_settings(run)}
    sections = {name: dict(dotted(section.model_dump(mode="json"))) for name, section in config.trainings().items()}
    sections["maps"] = dict(dotted(config.maps.model_dump(mode="json")))
    return all(name in recorded and _decide_alike(settings, recorded[name]) for name, settings in sections.items())


def _decide_alike(settings: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    def deciding(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: value for key, value in values.items() if any(f"{key}.".startswith(f"{each}.") for each in DECIDING)
        }

    return deciding(settings) == deciding(recorded)
