"""Runs all that takes a CUDA device in calls of a few minutes, and writes its figures into one report.

A call ends after its minutes, with what it was at: the next call goes on there. Once all is done, or where a step has
failed, it says so. The figures stand in report.md in the folder of the visit, with the device's name.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch

from getam.experiments.label_times import cpu_name
from getam.system.files import read_json, write_json, write_text
from getam.system.gpu import driver_version
from getam.system.version import VERSION

PROJECT = Path(__file__).resolve().parents[1]
MINUTES = 9.0
"""Minutes of a call."""

GRACE = 30.0
"""Seconds before the end of a call at which its step is told to end: a training saves its state first."""

STATE, REPORT = "state.json", "report.md"
"""Files in the folder of the visit."""

TAIL = 40
"""Lines of a step's output in the report, if it has no file of figures."""

ALL_BLOCKS = [f"{section}={{trainable: all}}" for section in ("classifier", "deeplab", "end_to_end")]


@dataclass(frozen=True)
class Step:
    """A command of the visit.

    Attributes:
        title: names it in the report.
        command: is run in the project's folder, and goes on after a SIGTERM when it is run again, or begins anew.
        figures: a Markdown file that it writes; None: the end of its output is its figures.
        needs: a folder without which it cannot run; None: none.
    """

    title: str
    command: tuple[str, ...]
    figures: Path | None = None
    needs: Path | None = None


@dataclass
class Progress:
    """What is known of a step after some calls."""

    seconds: float = 0.0
    calls: int = 0
    code: int | None = None
    """Its exit code; None while it has not ended by itself."""


def workflow(run: str, *configs: str, values: Sequence[str] = ()) -> tuple[str, ...]:
    """The command of a run that the same command continues."""
    cores = str(len(os.sched_getaffinity(0)))
    files = [f"configs/{name}.yaml" for name in configs]
    return (
        sys.executable,
        "workflow/run.py",
        "--cores",
        cores,
        "--configfile",
        *files,
        "--config",
        f"run={run}",
        *values,
    )


def steps(shared: Path) -> list[Step]:
    """What a visit does, the shortest first.

    Args:
        shared: folder with the photographs and weights that configs/msrc.yaml and configs/photos20.yaml name.
    """
    rehearsal = ("voc12", "rehearsal", "rehearsal_gpu")
    estimate = ("estimate", "--run", "results/rehearsal_gpu", "--configs", '["configs/voc12.yaml"]')
    recipes = [
        Step(
            title=f"{name}: {what}",
            command=workflow(run, *configs, values=values),
            figures=PROJECT / "results" / run / "summary.md",
            needs=shared / "data" / name,
        )
        for name in ("msrc", "photos20")
        for what, run, configs, values in (
            ("configs/dinov2.yaml", f"{name}_gpu", (name,), ()),
            (
                "configs/beyond.yaml, all blocks trained",
                f"{name}_gpu_beyond",
                ("beyond", name),
                ("rounds=2", *ALL_BLOCKS),
            ),
        )
    ]
    return [
        Step("Tests on the device", (sys.executable, "-m", "pytest", "-m", "gpu", "-q")),
        Step("bfloat16 beside float32", (sys.executable, "-m", "benchmarks", "--only", "gpu")),
        Step("Rehearsal of VOC 2012", workflow("rehearsal_gpu", *rehearsal, values=("data={root: data/demo}",))),
        Step("Hours of VOC 2012", (sys.executable, "-m", "getam", *estimate)),
        *recipes,
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_visit", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"most minutes of this call [{MINUTES:g}]")
    parser.add_argument("--out", type=Path, default=PROJECT / "results" / "gpu_visit", help="folder of the visit")
    arguments = parser.parse_args()
    if 60 * arguments.minutes <= GRACE:
        parser.error(f"--minutes: give more than {GRACE / 60:g}, which a training may take to save its state")
    if not torch.cuda.is_available():
        print(
            "gpu_visit: torch sees no CUDA device; run it on a machine with one, and check nvidia-smi", file=sys.stderr
        )
        return 1
    os.chdir(PROJECT)
    until = time.monotonic() + 60 * arguments.minutes - GRACE
    return visit(steps(PROJECT.parent / "shared"), arguments.out, until=until, device=device_name())


def device_name() -> str:
    gpus = f"{torch.cuda.device_count()} {torch.cuda.get_device_name()}"
    return f"{gpus}, driver {driver_version()}, torch {torch.__version__}, {cpu_name()}, getam {VERSION}"


def visit(steps: Sequence[Step], out: Path, *, until: float, device: str) -> int:
    """Goes on with the steps that are not done, until a time; failed ones come last, and are run again.

    Args:
        out: folder of the state, the logs and the report.
        until: `time.monotonic()` at which the running step is told to end.
        device: name of the device, for the report.

    Returns:
        Exit code: 0 if all steps are done or only time is lacking, 1 if one has failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    known = {name: Progress(**values) for name, values in _state(out).items()}
    progress = {step.title: known.get(step.title, Progress()) for step in steps}
    todo = [step for step in steps if progress[step.title].code != 0]
    for step in sorted(todo, key=lambda step: progress[step.title].code is not None):
        if step.needs is not None and not step.needs.is_dir():
            print(f"gpu_visit: {step.title}: left out, {step.needs} does not exist", file=sys.stderr)
            continue
        if time.monotonic() >= until:
            break
        print(f"gpu_visit: {step.title}: {shown(step.command)}", file=sys.stderr)
        ended = _run(step, progress[step.title], out, until=until)
        write_json(out / STATE, {name: asdict(values) for name, values in progress.items()})
        write_text(out / REPORT, report(steps, progress, out, device))
        if not ended:
            print(f"gpu_visit: time is up within {step.title}; the same command goes on", file=sys.stderr)
            return 0
    present = [step for step in steps if step.needs is None or step.needs.is_dir()]
    failed = [step.title for step in present if progress[step.title].code not in (None, 0)]
    left = [step.title for step in present if progress[step.title].code is None]
    for title in failed:
        print(f"gpu_visit: {title}: failed, see {_log(out, title)}; it is run again", file=sys.stderr)
    if not failed:
        print(
            f"gpu_visit: left for the next call: {', '.join(left)}" if left else f"gpu_visit: all done: {out / REPORT}"
        )
    return 1 if failed else 0


def _state(out: Path) -> dict[str, Any]:
    if not (out / STATE).is_file():
        return {}
    state: dict[str, Any] = read_json(out / STATE)
    return state


def _run(step: Step, progress: Progress, out: Path, *, until: float) -> bool:
    """Runs a step until a time; returns whether it has ended by itself."""
    started = time.monotonic()
    with _log(out, step.title).open("wb") as file:
        ended = _ended(step.command, file, until=until)
    progress.seconds += time.monotonic() - started
    progress.calls += 1
    progress.code = ended
    return ended is not None


def _ended(command: Sequence[str], file: IO[bytes], *, until: float) -> int | None:
    """Runs a command in a group of processes, which end with this call; its exit code, None if time was up."""
    process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        return process.wait(timeout=max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        # Ctrl-C comes here too. What a step has started gets the signal with it.
        for number, patience in ((signal.SIGTERM, GRACE - 5), (signal.SIGKILL, None)):
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=patience)


def report(steps: Sequence[Step], progress: dict[str, Progress], out: Path, device: str) -> str:
    """The report in Markdown: the device, then each step with its command, its time and its figures."""
    parts = [f"# A visit to {device}"]
    for step in steps:
        each = progress[step.title]
        calls = f"{each.calls} call{'s' if each.calls > 1 else ''}"
        if each.code is None:
            state = f"not done, after {calls}" if each.calls else "not begun"
        else:
            state = f"{each.seconds:.0f} s in {calls}" + (f", exit code {each.code}" if each.code else "")
        parts += [f"## {step.title}", f"`{shown(step.command)}`: {state}."]
        if each.code is not None:
            parts.append(_figures(step, out))
    return "\n\n".join(parts) + "\n"


def shown(command: Sequence[str]) -> str:
    """A command as one types it, whatever this Python is called."""
    return shlex.join(["python" if word == sys.executable else word for word in command])


def _figures(step: Step, out: Path) -> str:
    if step.figures is not None and step.figures.is_file():
        # Its headings go below the step's.
        lines = step.figures.read_text(encoding="utf-8").strip().splitlines()
        return "\n".join(f"##{line}" if line.startswith("#") else line for line in lines)
    lines = _log(out, step.title).read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(["```text", *lines[-TAIL:], "```"])


def _log(out: Path, title: str) -> Path:
    return out / f"{''.join(letter if letter.isalnum() else '_' for letter in title.lower())}.log"


if __name__ == "__main__":
    sys.exit(main())
