"""The visit to a machine with a GPU: the next call goes on where one has ended; what it says and writes."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from support.workplace import PROJECT

# benchmarks/ is not installed with the package and lies beside tests/.
sys.path.append(str(PROJECT))
gpu_visit = importlib.import_module("benchmarks.gpu_visit")

LONG, DEVICE = 300.0, "1 GPU of a name"


class Visit:
    """A visit in a temporary folder: `quick` writes figures, `slow` waits until there is a file `go`, `wrong` fails."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps = {
            name: gpu_visit.Step(name, ("sh", "-c", f"echo {name} >>started.txt; {command}"))
            for name, command in {
                "quick": "echo 7 images a second",
                "slow": "while ! test -e go; do sleep 0.05; done; echo it went on",
                "wrong": "echo no such kernel; test -e mended",
            }.items()
        }

    def call(self, *names: str, seconds: float = LONG) -> int:
        steps = [self.steps[name] for name in names]
        code: int = gpu_visit.visit(steps, self.folder / "out", until=time.monotonic() + seconds, device=DEVICE)
        return code

    @property
    def started(self) -> list[str]:
        return (self.folder / "started.txt").read_text().split()

    @property
    def report(self) -> str:
        return (self.folder / "out" / gpu_visit.REPORT).read_text()


@pytest.fixture
def visit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Visit:
    monkeypatch.chdir(tmp_path)
    return Visit(tmp_path)


def test_the_next_call_goes_on(visit: Visit, capfd: pytest.CaptureFixture[str]) -> None:
    assert visit.call("quick") == 0
    # However long the machine takes to start it, it doesn't end within the limit.
    assert visit.call("quick", "slow", seconds=0.5) == 0
    assert "time is up within slow; the same command goes on" in capfd.readouterr().err
    assert "not done, after 1 call." in visit.report
    assert visit.report.count("```text") == 1, "slow has no figures yet"
    (visit.folder / "go").touch()
    assert visit.call("quick", "slow") == 0
    assert f"all done: {visit.folder / 'out' / 'report.md'}" in capfd.readouterr().out
    assert visit.started.count("quick") == 1
    assert f"# A visit to {DEVICE}\n" in visit.report
    assert "7 images a second" in visit.report
    assert "it went on" in visit.report
    assert "s in 2 calls." in visit.report
    started = visit.started
    assert visit.call("quick", "slow") == 0
    assert "all done" in capfd.readouterr().out
    assert visit.started == started, "nothing was left to do"


def test_what_a_step_has_started_ends_with_the_call(visit: Visit) -> None:
    # The shell waits for the loop that it has started, which would go on without it.
    step = gpu_visit.Step("parent", ("sh", "-c", "(while ! test -e go; do sleep 0.05; done) & wait"))
    gpu_visit.visit([step], visit.folder / "out", until=time.monotonic() + 0.5, device=DEVICE)
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.cwd() == str(visit.folder):
                left.append(process)
    # They have got their signal.
    assert not psutil.wait_procs(left, timeout=LONG)[1]


def test_a_time_that_is_up_starts_nothing(visit: Visit, capfd: pytest.CaptureFixture[str]) -> None:
    assert visit.call("quick", seconds=-1) == 0
    assert "left for the next call: quick" in capfd.readouterr().out
    assert not (visit.folder / "started.txt").exists()


def test_a_step_that_fails_is_named_and_run_again_after_the_others(
    visit: Visit, capfd: pytest.CaptureFixture[str]
) -> None:
    assert visit.call("wrong", "quick") == 1
    assert f"wrong: failed, see {visit.folder / 'out' / 'wrong.log'}; it is run again" in capfd.readouterr().err
    assert "exit code 1" in visit.report
    assert "no such kernel" in visit.report
    (visit.folder / "mended").touch()
    (visit.folder / "go").touch()
    assert visit.call("wrong", "slow") == 0
    assert visit.started == ["wrong", "quick", "slow", "wrong"]
    assert "exit code" not in visit.report


def test_what_needs_a_folder_that_is_not_there_is_left_out(visit: Visit, capfd: pytest.CaptureFixture[str]) -> None:
    step = gpu_visit.Step("photographs", ("false",), needs=visit.folder / "photographs")
    assert gpu_visit.visit([step], visit.folder / "out", until=time.monotonic() + LONG, device=DEVICE) == 0
    assert f"photographs: left out, {visit.folder / 'photographs'} does not exist" in capfd.readouterr().err


def test_a_summary_stands_below_its_steps_heading(visit: Visit) -> None:
    (visit.folder / "summary.md").write_text("# run\n\n| miou |\n\n## classes\n")
    step = gpu_visit.Step("recipe", ("true",), figures=visit.folder / "summary.md")
    gpu_visit.visit([step], visit.folder / "out", until=time.monotonic() + LONG, device=DEVICE)
    assert visit.report.splitlines()[2:] == [
        "## recipe",
        "",
        "`true`: 0 s in 1 call.",
        "",
        "### run",
        "",
        "| miou |",
        "",
        "#### classes",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_one_message_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_visit", "--out", str(tmp_path / "out")]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == (
        "gpu_visit: torch sees no CUDA device; run it on a machine with one, and check nvidia-smi\n"
    )
    assert not (tmp_path / "out").exists()


def test_the_steps_are_the_projects_commands(tmp_path: Path) -> None:
    steps = gpu_visit.steps(tmp_path)
    assert [step.title.partition(":")[0] for step in steps].count("photos20") == 2
    for step in steps:
        words = list(step.command)
        if "--configfile" not in words:
            continue
        start, end = words.index("--configfile") + 1, words.index("--config")
        files = [PROJECT / name for name in words[start:end]]
        assert all(path.is_file() for path in files)
        assert words[end + 1].startswith("run=")
        if step.figures is not None:
            assert words[end + 1] == f"run={step.figures.parent.name}"
            assert step.figures.name == "summary.md"
