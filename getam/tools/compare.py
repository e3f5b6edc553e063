"""Says how two runs differ: scores, recorded settings, classes, and the images whose pseudo labels differ most."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from getam.errors import InputError
from getam.pages.text.comparison_page import write_comparison
from getam.pages.text.comparison_text import comparison_json, comparison_text
from getam.runs.comparison import compare_runs
from getam.settings.section import POSITIONAL
from getam.system.arguments.machine import MachineArguments
from getam.system.files import write_json

RESULTS = Path("results")


class Arguments(MachineArguments):
    """Print how two runs differ: what was measured alike, recorded settings, classes, and images' pseudo labels."""

    run_a: Path = Field(description="a run: its folder, or its name in results/", json_schema_extra=POSITIONAL)
    run_b: Path = Field(description="another", json_schema_extra=POSITIONAL)
    images: Annotated[int, Field(ge=0)] = Field(
        default=2000, description="most images whose pseudo labels are compared, evenly spaced; 0: all [2000]"
    )
    out: Path | None = Field(default=None, description="HTML file for the same as a page [none]")
    data: Path | None = Field(default=None, description="JSON file for the same, nothing rounded or left out [none]")


def run(arguments: Arguments) -> None:
    comparison = compare_runs(
        *(_folder(run) for run in (arguments.run_a, arguments.run_b)), most_images=arguments.images
    )
    if arguments.out is not None:
        write_comparison(comparison, arguments.out)
    if arguments.data is not None:
        write_json(arguments.data, comparison_json(comparison))
    print(comparison_text(comparison))


def _folder(run: Path) -> Path:
    """The folder of a run that is given by the folder itself or by its name in results/.

    Raises:
        InputError: neither exists.
    """
    inside = RESULTS / run
    if len(run.parts) == 1 and inside.is_dir():
        return inside
    if run.is_dir():
        return run
    runs = sorted(path.name for path in RESULTS.iterdir() if path.is_dir()) if RESULTS.is_dir() else []
    known = f", such as {', '.join(runs[:10])}" if runs else ""
    raise InputError(f"{run}: no such folder, nor {inside}; name a run's folder, or a run in {RESULTS}/{known}")
