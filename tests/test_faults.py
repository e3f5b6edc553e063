"""Kills and faults at any moment: the rerun gives the files of an undisturbed run, and a message says what is wrong."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from workplace import ONE_THREAD_A_JOB, Workplace

SIGNALS = (signal.SIGKILL, signal.SIGTERM)
VICTIMS = ("all", "stage", "snakemake")
"""Who is killed: the process group, the stage alone, Snakemake alone."""

OTHERWISE = ("logs", "benchmarks", "tensorboard", ".state", "times.svg")
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


@dataclass
class Campaign:
    """A run of which every job is killed once by a signal, and which is taken up by the same words every time."""

    workplace: Workplace
    number: signal.Signals
    seconds: dict[str, float]
    kills: list[tuple[str, str, float]] = field(default_factory=list)
    """Job, victim, seconds after its start."""
    resumed: int = 0
    """Stages that went on after what they had done."""
    orphans: int = 0
    """Stages that a later run ended."""

    def run(self) -> None:
        rng = random.Random(int(self.number))
        first = SIGNALS.index(self.number)
        victims = {job: VICTIMS[i % len(VICTIMS)] for i, job in enumerate(sorted(self.seconds), start=first)}
        missed: set[str] = set()
        while victims:
            assert len(self.kills) < len(self.seconds), self._output()
            # What ended before it could be killed is made once more, and its turn comes again.
            forced = sorted({job.split("/")[0] for job in missed & victims.keys()})
            with self._started(*(["--forcerun", *forced, "--"] if forced else [])) as process:
                self._kill_one(process, victims, missed, rng)
        with self._started() as process:
            assert process.wait(timeout=300) == 0, self._output()
        self._count()

    def _kill_one(
        self, process: subprocess.Popen[bytes], victims: dict[str, str], missed: set[str], rng: random.Random
    ) -> None:
        """Kills one of the jobs that are left, or its Snakemake; notes those that ended before."""
        while process.poll() is None:
            for job, stage in self._running(process):
                if job not in victims:
                    continue
                after = self._wait(job, stage, rng)
                if not stage.is_running() or process.poll() is not None:
                    missed.add(job)
                    continue
                victim = victims.pop(job)
                self._kill(process, stage, victim)
                self.kills.append((job, victim, after))
                code = process.wait(timeout=120)
                # Asked to end, Snakemake waits for its last job; that may be the last of all.
                assert code != 0 or (victim, self.number) == ("snakemake", signal.SIGTERM), self._output()
                self._count()
                return
            time.sleep(0.005)
        assert process.returncode == 0, self._output()
        assert victims.keys() <= missed, f"{victims} never ran\n{self._output()}"

    def _wait(self, job: str, stage: psutil.Process, rng: random.Random) -> float:
        """Waits for a moment of the job; of a training, once it has something to lose."""
        started = time.monotonic()
        share = 0.8
        if job.startswith("train_"):
            words = stage.cmdline()
            state = self.workplace.folder / words[words.index("--out") + 1] / ".state" / "state.safetensors"
            while stage.is_running() and stage.status() != psutil.STATUS_ZOMBIE and not state.is_file():
                time.sleep(0.005)
            share = 0.05
        time.sleep(rng.uniform(0, share) * self.seconds[job])
        return time.monotonic() - started

    def _count(self) -> None:
        output = self._output()
        self.resumed += output.count(": goes on after ") + output.count("goes on where it was stopped")
        self.orphans += output.count("run: ends what a killed run has left")

    def _kill(self, process: subprocess.Popen[bytes], stage: psutil.Process, victim: str) -> None:
        if victim == "all":
            os.killpg(process.pid, self.number)
            return
        with suppress(psutil.NoSuchProcess):
            psutil.Process(process.pid if victim == "snakemake" else stage.pid).send_signal(self.number)

    def _running(self, process: subprocess.Popen[bytes]) -> Iterator[tuple[str, psutil.Process]]:
        for child in psutil.Process(process.pid).children():
            with suppress(psutil.Error):
                words = child.cmdline()
                if "--log" in words and "-c" not in words:
                    log = Path(words[words.index("--log") + 1])
                    yield str(log.relative_to("results/tiny/logs").with_suffix("")), child

    def _started(self, *words: str) -> subprocess.Popen[bytes]:
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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_of_which_every_job_is_killed_gives_the_same_files(
    tiny: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    seconds = seconds_of(tiny)
    campaigns = [Campaign(Workplace(tmp_path / number.name, stand_ins=False), number, seconds) for number in SIGNALS]
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
