"""Estimates how many hours a recipe takes on a machine, from the logs of a rehearsal there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from getam.datasets.folder import read_list
from getam.errors import InputError
from getam.pages.text.tables import aligned_table
from getam.runs.hours import Estimate, estimated_hours
from getam.settings.config import Config, read_config
from getam.settings.data import DATA_FORMATS
from getam.settings.section import PositiveInt
from getam.system.arguments.machine import MachineArguments
from getam.system.files import write_json
from getam.system.progress import three_digits

DUTS_TR = 10553
"""Number of image/mask pairs in DUTS-TR, on which saliency is trained."""

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
    train: PositiveInt | None = Field(
        default=None, description="images of train [data.counts.train, or those of the list of format folder]"
    )
    val: PositiveInt | None = Field(default=None, description="images of val [likewise]")
    pairs: PositiveInt = Field(
        default=DUTS_TR, description=f"image/mask pairs that saliency is trained on [{DUTS_TR}, DUTS-TR's]"
    )
    out: Path | None = Field(default=None, description="JSON file for the figures [none]")


def run(arguments: Arguments) -> None:
    config = read_config(arguments.configs)
    logs = arguments.run / "logs"
    if not logs.is_dir():
        raise InputError(f"{logs}: no such folder; name the folder of a run, results/<run>, by --run")
    counts = _counts(arguments, config)
    estimates = list(estimated_hours(logs, config, **counts))
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
    is_list = DATA_FORMATS[config.data.format].is_list
    listed = Counter(entry.split for entry in read_list(config.data.root)) if is_list else Counter[str]()
    splits = {
        "train": arguments.train or config.data.counts.train or listed["train"],
        "val": arguments.val or config.data.counts.val or listed["val"],
    }
    if unknown := [split for split, count in splits.items() if not count and not is_list]:
        keys = ", ".join(f"data.counts.{split}" for split in unknown)
        flags = " ".join(f"--{split} N" for split in unknown)
        raise InputError(f"{keys}: 0, which leaves the number of images open; set it in an overlay or give {flags}")
    most = {"train": config.data.images, "val": config.data.images, "pairs": config.saliency.pairs}
    counts = splits | {"pairs": arguments.pairs}
    return {name: min(count, most[name] or count) for name, count in counts.items()}


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
