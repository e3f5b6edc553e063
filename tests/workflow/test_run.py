"""workflow/run.py: what a kill leaves is put right, and a folder where a Snakemake lives is left alone."""

from __future__ import annotations

import getpass
import os
import platform
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from support.workplace import STAND_IN, Workplace

TARGET = "results/demo/index.csv"
WORDS = ("--cores", "2", TARGET)
PATIENCE = 600
"""Seconds after which a run hangs, however busy the machine is."""
WAITS = """
import os, time
pathlib.Path("started").write_text(str(os.getpid()))
while pathlib.Path("hold").exists():
    time.sleep(0.02)
if pathlib.Path("fail").exists():
    sys.exit(3)
"""
"""Makes a stand-in wait until the test lets it go on, or fail."""


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    first, rest = STAND_IN.format(python=workplace.python).split("\n", 1)
    (workplace.folder / "bin" / "getam").write_text(first + "\nimport pathlib, sys" + WAITS + rest)
    return workplace


def entry(workplace: Workplace, *words: str) -> subprocess.CompletedProcess[str]:
    return workplace.run(*(words or WORDS))


@pytest.fixture
def running(workplace: Workplace) -> Iterator[subprocess.Popen[str]]:
    """A run in whose first stage the stand-in waits, a leader of its process group."""
    yield from _started(workplace, workplace.entry)


@pytest.fixture
def plain(workplace: Workplace) -> Iterator[subprocess.Popen[str]]:
    """The same, of Snakemake itself."""
    yield from _started(workplace, workplace.command)


def _started(workplace: Workplace, command: list[str]) -> Iterator[subprocess.Popen[str]]:
    (workplace.folder / "hold").touch()
    process = subprocess.Popen(
        [*command, *WORDS],
        cwd=workplace.folder,
        env=workplace.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    group = process.pid
    try:
        started = workplace.folder / "started"
        while not (started.exists() and started.read_text()):
            assert process.poll() is None, process.stdout and process.stdout.read()
            time.sleep(0.02)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        process.wait()
        assert process.stdout
        process.stdout.close()


def let_go(workplace: Workplace) -> None:
    (workplace.folder / "hold").unlink()


def locks(workplace: Workplace) -> list[Path]:
    return list(workplace.folder.glob(".snakemake/locks/*"))


def test_a_run_whose_processes_were_all_killed_goes_on(workplace: Workplace, running: subprocess.Popen[str]) -> None:
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    let_go(workplace)
    assert locks(workplace)
    assert "LockException" in workplace.snakemake(TARGET).stderr
    result = entry(workplace)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("run: the last run was killed; going on\n") == 1
    assert (workplace.folder / TARGET).is_file()
    assert not locks(workplace)


def test_what_a_killed_snakemake_has_left_running_is_ended_first(
    workplace: Workplace, running: subprocess.Popen[str]
) -> None:
    orphan = psutil.Process(int((workplace.folder / "started").read_text()))
    running.kill()
    running.wait()
    assert orphan.is_running()
    again = subprocess.Popen(
        [*workplace.entry, *WORDS],
        cwd=workplace.folder,
        env=workplace.environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    psutil.wait_procs([orphan], timeout=PATIENCE)
    assert not orphan.is_running()
    let_go(workplace)
    errors = again.communicate(timeout=PATIENCE)[1]
    assert again.returncode == 0, errors
    assert f"run: ends what a killed run has left: {orphan.pid} " in errors
    assert (workplace.folder / TARGET).is_file()


@pytest.mark.parametrize("first", ["running", "plain"])
def test_a_second_run_says_who_the_first_is_and_disturbs_nothing(
    workplace: Workplace, first: str, request: pytest.FixtureRequest
) -> None:
    process = request.getfixturevalue(first)
    before = {path: path.stat().st_mtime_ns for path in locks(workplace)}
    result = entry(workplace)
    assert result.returncode == 1
    who = f"process {process.pid} of {getpass.getuser()} on {platform.node()}"
    message = f"run: {workplace.folder}: the workflow is running here already ({who}); wait for it or stop it\n"
    assert (result.stderr + result.stdout).count("run: ") == 1
    assert message in result.stderr
    assert before
    assert {path: path.stat().st_mtime_ns for path in locks(workplace)} == before
    assert entry(workplace, *WORDS, "-n").returncode == 0
    let_go(workplace)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert (workplace.folder / TARGET).is_file()


def test_the_exit_code_is_that_of_snakemake(workplace: Workplace) -> None:
    assert entry(workplace, "--no-such-flag").returncode == 2
    (workplace.folder / "fail").touch()
    failed = entry(workplace)
    assert failed.returncode == 1
    assert "Error in rule make_demo" in failed.stderr
    (workplace.folder / "fail").unlink()
    assert entry(workplace).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_run_ends_it_and_leaves_no_lock(
    workplace: Workplace, running: subprocess.Popen[str], number: signal.Signals
) -> None:
    # As a terminal and a batch system send it.
    os.killpg(running.pid, number)
    running.wait(timeout=PATIENCE)
    assert running.returncode == 1
    assert not locks(workplace)
    let_go(workplace)
    again = entry(workplace)
    assert again.returncode == 0, again.stderr
    assert "run: " not in again.stderr


@pytest.mark.parametrize("by", ["flag", "profile"])
def test_keeping_incomplete_outputs_is_refused(workplace: Workplace, by: str) -> None:
    words = ("--keep-incomplete",)
    if by == "profile":
        profile = workplace.folder / "profile"
        profile.mkdir()
        (profile / "config.yaml").write_text("keep-incomplete: true\n")
        words = ("--profile", "profile")
    result = entry(workplace, *WORDS, *words)
    assert result.returncode == 1
    assert result.stderr.count("run: --keep-incomplete: what failed stages leave would count as complete") == 1
    assert not (workplace.folder / "results").exists()


TAKEN = {
    "a configuration and a target": (
        ["--configfile", "config.yaml", "end_to_end"],
        "--configfile takes every word after it, end_to_end too; put -- before what is to be made: --configfile "
        "config.yaml -- end_to_end",
    ),
    "a file as a target": (
        ["--configfile", "config.yaml", "results/demo/plots"],
        "--configfile takes every word after it, results/demo/plots too; put -- before what is to be made",
    ),
    "a value and a target": (
        ["--config", "run=mine", "end_to_end"],
        "--config takes every word after it, end_to_end too; put -- before what is to be made: --config run=mine -- ",
    ),
    "resources and a target": (
        ["--resources", "gpu=2", "summary", "--cores", "1"],
        "--resources takes every word after it, summary too; put -- before what is to be made: --resources gpu=2 -- s",
    ),
    "no configuration": (["--configfile", "nowhere.yaml"], "--configfile nowhere.yaml: no such file; name an existing"),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_target_that_an_option_would_take_is_named(workplace: Workplace, name: str) -> None:
    words, message = TAKEN[name]
    result = entry(workplace, "-n", *words)
    assert result.returncode == 1
    assert result.stderr.startswith(f"run: {message}")
    assert "Traceback" not in result.stderr
    assert not (workplace.folder / ".snakemake").exists()


SAYS = 'pathlib.Path("caches").write_text(os.environ["XDG_CACHE_HOME"] + " " + os.environ["MPLCONFIGDIR"])'
"""Makes a stand-in write down where its caches are."""


def test_a_home_that_cannot_be_written_is_no_obstacle(workplace: Workplace, tmp_path: Path) -> None:
    # A file can't be a folder for anybody, root included.
    (tmp_path / "home").touch()
    stand_in = workplace.folder / "bin" / "getam"
    stand_in.write_text(stand_in.read_text().replace("import os, time", f"import os, time\n{SAYS}"))
    environment = {name: value for name, value in workplace.environment.items() if not name.startswith("XDG_")}
    environment.pop("MPLCONFIGDIR", None)
    result = subprocess.run(
        [*workplace.entry, "--cores", "2", "--configfile", "config.yaml", "--", TARGET],
        cwd=workplace.folder,
        env=environment | {"HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr
    caches = workplace.folder / ".snakemake" / "cache"
    assert f"run: {tmp_path / 'home' / '.cache'} cannot be written; caches go to {caches}\n" in result.stderr
    assert (workplace.folder / "caches").read_text() == f"{caches} {caches / 'matplotlib'}"


def test_a_user_whom_the_system_does_not_know_is_no_obstacle(workplace: Workplace) -> None:
    # As in `docker run --user 1234`: neither a name nor a home.
    unknown = """
import pwd, runpy, sys

def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = getpwuid
sys.argv = sys.argv[1:]
sys.path.insert(0, "workflow")
runpy.run_path("workflow/run.py", run_name="__main__")
"""
    named = ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    result = subprocess.run(
        [workplace.python, "-c", unknown, *workplace.entry[1:], "-n", "--cores", "2", "--", TARGET],
        cwd=workplace.folder,
        env={name: value for name, value in workplace.environment.items() if name not in named},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr
    assert f"User: {os.getuid()}\n" in result.stdout + result.stderr


def test_a_brace_in_the_path_of_the_workflow_is_refused(tmp_path: Path) -> None:
    result = entry(Workplace(tmp_path / "a {b}", stand_ins=True))
    assert result.returncode == 1
    assert result.stderr == (
        f"run: {tmp_path / 'a {b}' / 'workflow'}: Snakemake takes what stands in braces for a variable; "
        "rename the folder\n"
    )


@pytest.mark.parametrize("by", ["--snakefile", "--directory"])
def test_the_workflow_runs_from_any_folder(workplace: Workplace, tmp_path: Path, by: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.yaml").write_text("run: mine\n")
    words = ["--snakefile", str(workplace.folder / "workflow" / "Snakefile"), "--configfile", "mine.yaml"]
    if by == "--directory":
        words[-1:] = ["elsewhere/mine.yaml", "--directory", "elsewhere"]
    result = subprocess.run(
        [*workplace.command, "-n", "--cores", "2", *words],
        cwd=elsewhere if by == "--snakefile" else tmp_path,
        env=workplace.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr
    assert "index_dataset: mine, voc, data/demo" in result.stdout + result.stderr


def _killed_elsewhere(workplace: Workplace, *, age: float, **changed: str) -> None:
    """The traces of a Snakemake that wrote to its log `age` seconds before the folder was locked."""
    said = {"Host": platform.node(), "User": getpass.getuser()} | changed
    log = workplace.folder / ".snakemake" / "log" / "2026-01-01T000000.000000.snakemake.log"
    lock = workplace.folder / ".snakemake" / "locks" / "0.output.lock"
    for path in (log, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(f"  {name}: {value}\n" for name, value in said.items()))
    lock.write_text(f"{TARGET}\n")
    os.utime(log, (lock.stat().st_mtime - age,) * 2)


@pytest.mark.parametrize("changed", [{"Host": "elsewhere"}, {"User": "somebody"}])
def test_a_lock_of_another_host_or_user_stays(workplace: Workplace, changed: dict[str, str]) -> None:
    _killed_elsewhere(workplace, age=10, **changed)
    result = entry(workplace)
    assert result.returncode == 1
    who = {"Host": platform.node(), "User": getpass.getuser()} | changed
    assert f"locked by Snakemake of {who['User']} on {who['Host']}" in result.stderr
    assert "snakemake --unlock" in result.stderr
    assert [path.name for path in locks(workplace)] == ["0.output.lock"]


def test_an_earlier_run_on_another_host_is_no_obstacle(workplace: Workplace) -> None:
    _killed_elsewhere(workplace, age=3600, Host="elsewhere")
    assert entry(workplace).returncode == 0
    assert not locks(workplace)


RUN_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.mark.parametrize(
    ("name", "where", "left"),
    [(RUN_ID, "here", True), (f"mine_{RUN_ID}", "here", True), (RUN_ID, "elsewhere", False), ("bash", "here", False)],
)
def test_jobs_that_are_left_in_slurm_are_not_submitted_again(
    workplace: Workplace, name: str, where: str, left: bool
) -> None:
    folder = workplace.folder if where == "here" else "/elsewhere"
    squeue = workplace.folder / "bin" / "squeue"
    squeue.write_text(f"#!/bin/sh\necho '77|{name}|{folder}'\n")
    squeue.chmod(stat.S_IRWXU)
    assert entry(workplace).returncode == 0
    environment = workplace.environment
    words = ["--executor", "slurm", "--jobs", "1", "--cores", "2", "--default-resources", "slurm_account=x", "--"]
    path = f"{workplace.folder / 'bin'}{os.pathsep}{environment['PATH']}"
    result = workplace.run(*words, TARGET, environment=environment | {"PATH": path})
    message = f"run: {workplace.folder}: a killed run has left jobs in Slurm; wait for them, or scancel 77\n"
    assert (message in result.stderr) == left, result.stderr
    assert result.returncode == left
