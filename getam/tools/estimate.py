"""Estimates how many hours a recipe takes on a machine, from the logs of a rehearsal there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from getam.errors import InputError
from getam.pages.text.tables import aligned_table
from getam.runs.artifacts import ARTIFACTS
from getam.settings.config import Config, read_config
from getam.settings.end_to_end import EndToEndSettings
from getam.settings.section import PositiveInt
from getam.system.arguments.machine import MachineArguments
from getam.system.files import write_json
from getam.system.progress import three_digits

DUTS_TR = 10553
"""Number of image/mask pairs in DUTS-TR, on which saliency is trained."""

SLOWEST = 1e-9
"""Lowest rate that counts as a measurement, images a second."""

NOT_MEASURED = "not measured"
HEADINGS = ("stage", "images a second", "images", "hours")
WIDTHS = (26, 16, 10, 9)
"""Minimum widths of the columns, in letters."""


class Arguments(MachineArguments):
    """Print images a second of each stage of a rehearsal, the images of the full recipe, and the hours they take."""

    run: Path = Field(description="folder of the rehearsal, results/<run>")
    configs: tuple[Path, ...] = Field(
        default=(), description="overlays of the full recipe as a JSON list, in their order [config.yaml]"
    )
    train: PositiveInt | None = Field(default=None, description="images of train [data.counts.train]")
    val: PositiveInt | None = Field(default=None, description="images of val [data.counts.val]")
    pairs: PositiveInt = Field(
        default=DUTS_TR, description=f"image/mask pairs that saliency is trained on [{DUTS_TR}, DUTS-TR's]"
    )
    out: Path | None = Field(default=None, description="JSON file for the figures [none]")


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


def run(arguments: Arguments) -> None:
    config = read_config(arguments.configs)
    logs = arguments.run / "logs"
    if not logs.is_dir():
        raise InputError(f"{logs}: no such folder; name the folder of a run, results/<run>, by --run")
    counts = _counts(arguments, config)
    estimates = list(_estimates(logs, config, **counts))
    measured = [estimate.hours for estimate in estimates if estimate.hours is not None]
    total = sum(measured) if measured else None
    if arguments.out is not None:
        figures = {
            estimate.stage: {
                "images_per_second": estimate.rate,
                "images": estimate.images,
                "hours": estimate.hours,
            }
            for estimate in estimates
        }
        missing = [estimate.stage for estimate in estimates if estimate.rate is None]
        write_json(arguments.out, {**counts, "stages": figures, "hours": total, "not_measured": missing})
    print(_table(estimates, total))


def _counts(arguments: Arguments, config: Config) -> dict[str, int]:
    """The numbers of images of train and val, and of pairs, that the recipe uses.

    Raises:
        InputError: neither a flag nor the configuration gives a number.
    """
    splits = {
        "train": arguments.train or config.data.counts.train,
        "val": arguments.val or config.data.counts.val,
    }
    if unknown := [split for split, count in splits.items() if not count]:
        keys = ", ".join(f"data.counts.{split}" for split in unknown)
        flags = " ".join(f"--{split} N" for split in unknown)
        raise InputError(f"{keys}: 0, which leaves the number of images open; set it in an overlay or give {flags}")
    most = {"train": config.data.images, "val": config.data.images, "pairs": config.saliency.pairs}
    counts = splits | {"pairs": arguments.pairs}
    return {name: min(count, most[name] or count) for name, count in counts.items()}


def _estimates(logs: Path, config: Config, *, train: int, val: int, pairs: int) -> Iterator[Estimate]:
    """Estimates the stages that the recipe runs, in the workflow's order."""
    counts = {"train": train, "val": val, "both": train + val, "pairs": pairs}
    left_out = set() if config.saliency.source == "train" else {"train_saliency", "predict_saliency"}
    left_out |= {"train_end_to_end"} if config.checkpoint.file else set()
    for artifact in ARTIFACTS:
        stage = artifact.stage
        if not artifact.images or stage in left_out:
            continue
        images = counts[artifact.images]
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
    final = re.compile(rf"\b{stage}: (\d{{1,12}})/\1 images, (\S+) a second")
    images, seconds = 0, 0.0
    for path in (logs / f"{stage}.log", *sorted((logs / stage).glob("*.log"))):
        found = final.findall(_text(path))
        if found and (rate := _rate(found[-1][1])):
            images += int(found[-1][0])
            seconds += int(found[-1][0]) / rate
    return images / seconds if seconds else None


def _epoch_rate(logs: Path, stage: str, *, segmentation: bool | None = None) -> float | None:
    """Images a second of the last epoch of a training; None if not measured.

    Args:
        segmentation: if given, only epochs with (True) or without (False) a segmentation loss count.
    """
    line = re.compile(rf"\b{stage}: epoch \d+/\d+, (.*), \S+ s, (\S+) images a second")
    found = [
        rate
        for losses, rate in line.findall(_text(logs / f"{stage}.log"))
        if segmentation is None or ("segmentation loss" in losses) == segmentation
    ]
    return _rate(found[-1]) if found else None


def _rate(text: str) -> float | None:
    """Parses a rate; None if it is no number or too small to divide by."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if SLOWEST < value < float("inf") else None


def _text(log: Path) -> str:
    """The text of a log; empty if it does not exist."""
    try:
        return log.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InputError(f"{log}: cannot be read ({error.strerror}); name another run by --run") from None


def _table(estimates: Sequence[Estimate], total: float | None) -> str:
    missing = sum(estimate.rate is None for estimate in estimates)
    rows = []
    for estimate in estimates:
        rate = NOT_MEASURED if estimate.rate is None else three_digits(estimate.rate)
        rows.append((estimate.stage, rate, str(estimate.images), _hours(estimate.hours)))
    rows.append(("sum", "", "", _hours(total)))
    lines = [aligned_table(HEADINGS, rows, right={1, 2, 3}, least=WIDTHS, ruled=False)]
    if missing:
        lines.append(f"The sum leaves out {missing} of {len(estimates)} rows, which are not measured.")
    lines.append("Stages run one after the other here; decoding, CRF and completion scale with cores.")
    return "\n".join(lines)


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
