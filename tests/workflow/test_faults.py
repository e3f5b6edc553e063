"""Kills and faults at any moment of a stage's work: the rerun gives the files of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from support.forks import COMMANDS, put_commands
from support.workplace import ONE_THREAD_A_JOB, Workplace

SIGNALS = (signal.SIGKILL, signal.SIGTERM)
VICTIMS = ("all", "stage", "snakemake")
"""Who is killed: the process group, the stage alone, Snakemake alone."""

PATIENCE = 900
"""Seconds after which a job or a Snakemake hangs, however busy the machine is."""

OTHERWISE = ("logs", "benchmarks", "tensorboard", ".state", "times.svg", ".checked_files")
"""Folders and files of a run that tell how it went, not what it found."""

TIMES = re.compile(rb'<h2 id="times">.*?</table>', re.DOTALL)
"""The same in the overview."""


def files_of(workplace: Workplace) -> dict[str, bytes]:
    """Content of every file that a run has made, by its name."""
    paths = [path for folder in ("data", "results") for path in (workplace.folder / folder).rglob("*")]
    named = {str(path.relative_to(workplace.folder)): path for path in sorted(paths) if path.is_file()}
    kept = {name: path.read_bytes() for name, path in named.items() if not {*Path(name).parts} & {*OTHERWISE}}
    return {
        name: TIMES.sub(b"", content) if name.endswith("overview.html") else content for name, content in kept.items()
    }


def seconds_of(workplace: Workplace) -> dict[str, float]:
    """How long each job of the undisturbed run took: `dump_maps/000` -> seconds."""
    folder = workplace.folder / "results" / "tiny" / "benchmarks"
    return {
        str(path.relative_to(folder).with_suffix("")): float(path.read_text().splitlines()[1].split("\t")[0])
        for path in folder.rglob("*.tsv")
    }


GATE = """#!{python} -S
import json, os, pathlib, sys, time
job = pathlib.Path(sys.argv[0]).parents[1] / "begun" / str(os.getpid())
job.parent.mkdir(exist_ok=True)
new = job.with_suffix(".new")
new.write_text(json.dumps(sys.argv))
new.rename(job)
while job.exists():
    time.sleep(0.01)
name = os.path.basename(sys.argv[0])
if job.with_suffix(".victim").exists():
    os.execv("{python}", ["{python}", "-m", name, *sys.argv[1:]])
os.execv(os.path.join("{forked}", name), [name, *sys.argv[1:]])
"""
"""In the place of a command: says that a job has begun, and becomes the command when its note is taken away.

So that no job is over before the test sees it, however short it is and however busy the machine. What is to be killed
is a process of its own; the rest are forks.
"""


@dataclass(frozen=True)
class Job:
    """A job that waits at its gate."""

    note: Path
    words: list[str]
    """Its command."""

    @property
    def name(self) -> str:
        """`dump_maps/000`, as its log is called."""
        return str(Path(self.log).relative_to("results/tiny/logs").with_suffix(""))

    @property
    def log(self) -> str:
        return self._flag("--log")

    @property
    def out(self) -> str:
        return self._flag("--out")

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(int(self.note.name))

    def _flag(self, name: str) -> str:
        return self.words[self.words.index(name) + 1]

    def let_go(self, *, victim: bool = False) -> None:
        if victim:
            self.note.with_suffix(".victim").touch()
        self.note.unlink()


@dataclass
class Campaign:
    """A run of which each stage is killed once by a signal, and which is taken up by the same words every time."""

    workplace: Workplace
    number: signal.Signals
    seconds: dict[str, float]
    kills: list[tuple[str, str, float]] = field(default_factory=list)
    """Job, victim, seconds after its start."""
    resumed: int = 0
    """Stages that went on after what they had done."""
    orphans: int = 0
    """Stages that a later run ended."""

    @property
    def begun(self) -> Path:
        """The folder of the jobs that wait at their gates."""
        return self.workplace.folder / "begun"

    def __post_init__(self) -> None:
        commands = self.workplace.folder / "bin"
        put_commands(commands / "forked", COMMANDS.client())
        put_commands(commands, GATE.format(python=sys.executable, forked=commands / "forked"))

    def run(self) -> None:
        rng = random.Random(int(self.number))
        first = SIGNALS.index(self.number)
        victims = {job: VICTIMS[i % len(VICTIMS)] for i, job in enumerate(self._one_of_each_stage(first), start=first)}
        missed: Counter[str] = Counter()
        while victims:
            # What ended before it could be killed is made once more, and its turn comes again.
            forced = sorted({job.split("/")[0] for job in missed.keys() & victims.keys()})
            with self._started(*(["--forcerun", *forced, "--"] if forced else [])) as process:
                self._kill_one(process, victims, missed, rng)
        with self._started() as process:
            while (job := self._next(process)) is not None:
                job.let_go()
            assert process.returncode == 0, self._output()
        self._count()

    def _one_of_each_stage(self, number: int) -> list[str]:
        """Of the shards of a stage, one that the other campaign leaves alone."""
        stages: dict[str, list[str]] = {}
        for job in sorted(self.seconds):
            stages.setdefault(job.split("/")[0], []).append(job)
        return [jobs[number % len(jobs)] for jobs in stages.values()]

    def _kill_one(
        self, process: subprocess.Popen[bytes], victims: dict[str, str], missed: Counter[str], rng: random.Random
    ) -> None:
        """Kills one of the jobs that are left, or its Snakemake; counts those that ended before."""
        seen = set()
        job = self._next(process)
        while job is not None:
            seen.add(job.name)
            if job.name not in victims:
                job.let_go()
                job = self._next(process)
                continue
            stage = job.process
            (self.workplace.folder / job.log).unlink(missing_ok=True)
            job.let_go(victim=True)
            # Each time that it ends before, it is killed earlier.
            after = self._wait(job, stage, rng, share=0.5 ** missed[job.name])
            victim = victims[job.name]
            killed = self._kill(process, stage, victim)
            following = self._next(process)
            # Asked to end, Snakemake waits for its last job; that may be the last of all.
            if killed and (process.returncode or (victim, self.number) == ("snakemake", signal.SIGTERM)):
                assert following is None, self._output()
                del victims[job.name]
                self.kills.append((job.name, victim, after))
                self._count()
                return
            missed[job.name] += 1
            job = following
        self._count()
        assert process.returncode == 0, self._output()
        assert seen & victims.keys(), f"{victims} never ran\n{self._output()}"

    def _next(self, process: subprocess.Popen[bytes]) -> Job | None:
        """The next job that begins; None once Snakemake has ended."""
        until = time.monotonic() + PATIENCE
        while process.poll() is None:
            for note in self.begun.glob("*[0-9]"):
                return Job(note, json.loads(note.read_text()))
            if time.monotonic() > until:
                os.killpg(process.pid, signal.SIGKILL)
                raise AssertionError(f"hangs\n{self._output()}")
            time.sleep(0.005)
        return None

    def _wait(self, job: Job, stage: psutil.Process, rng: random.Random, *, share: float) -> float:
        """Waits for a moment of a share of the job's time; of a training, once it has something to lose."""
        started = time.monotonic()
        # Its log is there once it has imported torch, which the job whose time is known had not to.
        begins = self.workplace.folder / job.log
        if job.name.startswith("train_"):
            begins = self.workplace.folder / job.out / ".state" / "state.safetensors"
            share *= 0.05
        while _is_alive(stage) and not begins.is_file():
            time.sleep(0.005)
        with suppress(psutil.NoSuchProcess):
            assert "-m" in stage.cmdline() or not _is_alive(stage), f"{job.name} is a fork"
        time.sleep(rng.uniform(0, 0.8 * share) * self.seconds[job.name])
        return time.monotonic() - started

    def _count(self) -> None:
        output = self._output()
        self.resumed += output.count(": goes on after ") + output.count("goes on where it was stopped")
        self.orphans += output.count("run: ends what a killed run has left")

    def _kill(self, process: subprocess.Popen[bytes], stage: psutil.Process, victim: str) -> bool:
        """Whether the signal found both alive."""
        with suppress(psutil.NoSuchProcess):
            if _is_alive(stage) and process.poll() is None:
                if victim == "all":
                    os.killpg(process.pid, self.number)
                else:
                    psutil.Process(process.pid if victim == "snakemake" else stage.pid).send_signal(self.number)
                return True
        return False

    def _started(self, *words: str) -> subprocess.Popen[bytes]:
        shutil.rmtree(self.begun, ignore_errors=True)
        with (self.workplace.folder / "output").open("wb") as output:
            return subprocess.Popen(
                [*self.workplace.entry, "--cores", "1", *ONE_THREAD_A_JOB, *words],
                cwd=self.workplace.folder,
                env=self.workplace.environment | {"GETAM_CHECKPOINT_MINUTES": "0"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _output(self) -> str:
        kills = "\n".join(map(str, self.kills))
        return f"{self.number.name}, after\n{kills}\n{(self.workplace.folder / 'output').read_text()}"


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_of_which_every_stage_is_killed_gives_the_same_files(
    tiny: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    seconds = seconds_of(tiny)
    campaigns = [Campaign(Workplace(tmp_path / number.name, stand_ins=True), number, seconds) for number in SIGNALS]
    with ThreadPoolExecutor(len(campaigns)) as pool:
        for future in [pool.submit(campaign.run) for campaign in campaigns]:
            future.result()
    kills = Counter((job.split("/")[0], c.number.name, victim) for c in campaigns for job, victim, _ in c.kills)
    with capsys.disabled():
        resumed, orphans = sum(c.resumed for c in campaigns), sum(c.orphans for c in campaigns)
        took = time.monotonic() - started
        print(f"\n{kills.total()} kills in {took:.0f} s, {resumed} stages gone on with, {orphans} orphans ended")
        for stage in sorted({stage for stage, _, _ in kills}):
            shown = (f"{number} of {victim}" for of, number, victim in sorted(kills) if of == stage)
            print(f"  {stage:<20} {', '.join(shown)}")
    assert kills.total() >= 30
    # Of 8 kills of trainings; one that ends as an orphan has nothing to go on with.
    assert resumed >= 2
    assert orphans
    stages = {job.split("/")[0] for job in seconds}
    assert {(stage, number) for stage, number, _ in kills} == {(s, n.name) for s in stages for n in SIGNALS}
    assert {(number, victim) for _, number, victim in kills} == {(n.name, v) for n in SIGNALS for v in VICTIMS}
    expected = files_of(tiny)
    for campaign in campaigns:
        found = files_of(campaign.workplace)
        assert found.keys() == expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == []
