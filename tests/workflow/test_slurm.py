"""The workflow as jobs of a Slurm: what runs where, on which GPUs, and how a cancelled training goes on.

A real Slurm on this machine, started for these tests (slurm_cluster.py); its GPUs are counted only, so networks run on
the CPU. `make test-slurm` installs what is missing and prints the table of jobs.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.slurm_cluster import CPU_NODE, GPU_NODE, Cluster, command, jobs, obstacle
from support.workplace import TINY, Workplace, pseudo_labels

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]

PROFILE = "workflow/profiles/slurm"
# What a cluster without accounting needs; polls that suit jobs of seconds; GPUs in a partition of their own.
HERE = (
    *("--workflow-profile", PROFILE, "--default-resources", "slurm_account=none"),
    *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1"),
    *("--slurm-partition-config", f"{PROFILE}/partitions.yaml"),
)
# Long enough to be cancelled in the middle.
RUN = ("--max-threads", "1", "--configfile", str(TINY), "--config", "classifier={epochs: 8}", "data={shards: 1}")
PATIENCE = 1500
"""Seconds; a lost poll makes Snakemake wait forever."""


@dataclass
class Seen:
    """A stage's process as it was seen in a job."""

    stage: str
    job: str
    devices: str
    first: float
    last: float


@dataclass
class Run:
    """A run of Snakemake that sends jobs, and what was seen of them."""

    workplace: Workplace
    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    cancel: str = ""
    """A stage to cancel once, in the middle: when it has saved its state."""
    saved: Path = Path()
    """The file that says so."""

    output: str = ""
    seen: dict[str, Seen] = field(default_factory=dict)
    cancelled: str = ""
    """The job that was cancelled."""

    def __post_init__(self) -> None:
        log = self.workplace.folder / "snakemake.log"
        with log.open("wb") as file:
            running = subprocess.Popen(
                # Ends with this process, however that ends, and is out of reach of its terminal's Ctrl-C.
                ["setpriv", "--pdeathsig", "KILL", *self.workplace.command, *HERE, *self.words],
                cwd=self.workplace.folder,
                env=self.workplace.environment | self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        end = time.monotonic() + PATIENCE
        try:
            while running.poll() is None and time.monotonic() < end:
                self._look()
                if self.cancel and not self.cancelled and (self.workplace.folder / self.saved).is_file():
                    self.cancelled = next(seen.job for seen in self.seen.values() if seen.stage == self.cancel)
                    command("scancel", self.cancelled)
                time.sleep(0.1)
        finally:
            if running.poll() is None:
                # Cancels its jobs.
                running.send_signal(signal.SIGINT)
                try:
                    running.wait(60)
                except subprocess.TimeoutExpired:
                    os.killpg(running.pid, signal.SIGKILL)
                    running.wait()
        self.output = log.read_text()
        self.jobs = jobs()
        assert running.returncode == 0, self.output[-5000:]

    def _look(self) -> None:
        """Notes the processes of stages, each with its job's number and devices."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                names = [Path(word).name for word in words[:3]]
                at = next((index for index, name in enumerate(names) if name in ("getam", "deeplab")), None)
                if at is None:
                    continue
                if process.name not in self.seen:
                    variables = dict(
                        line.split("=", 1)
                        for line in (process / "environ").read_bytes().decode(errors="replace").split("\0")
                        if "=" in line
                    )
                    if variables.get("PWD") != str(self.workplace.folder) or "SLURM_JOB_ID" not in variables:
                        continue
                    now = time.monotonic()
                    devices = variables.get("CUDA_VISIBLE_DEVICES", "")
                    self.seen[process.name] = Seen(words[at + 1], variables["SLURM_JOB_ID"], devices, now, now)
                self.seen[process.name].last = time.monotonic()
            except OSError:  # It ended meanwhile.
                continue

    def devices(self, job: str) -> str:
        return next((seen.devices for seen in self.seen.values() if seen.job == job), "")

    def table(self) -> str:
        head = ["rule", "job", "node", "start", "end", "CPUs", "MB", "GPUs", "CUDA_VISIBLE_DEVICES", "state"]
        rows = [
            [
                job["Comment"].removeprefix("rule_").replace("_wildcards", ""),
                job["JobId"],
                job["NodeList"],
                job["StartTime"][-8:],
                job["EndTime"][-8:],
                job["NumCPUs"],
                job["Mem"],
                job.get("TresPerJob", "-").rpartition(":")[2],
                self.devices(job["JobId"]) or "-",
                job["JobState"],
            ]
            for job in self.jobs
        ]
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in [head, *rows])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    reason = obstacle()
    if reason:
        pytest.skip(reason)
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def run(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The whole workflow on the tiny demo; the classifier's training was cancelled in the middle."""
    workplace = Workplace(tmp_path_factory.mktemp("slurm") / "work", stand_ins=False)
    run = Run(
        workplace,
        RUN,
        {"GETAM_CHECKPOINT_MINUTES": "0"},
        cancel="train-classifier",
        saved=Path("results/tiny/classifier/.state/state.safetensors"),
    )
    print(f"\n{run.table()}\n")
    return run


def test_every_rule_ran_as_a_job(run: Run) -> None:
    planned = re.search(r"^job +count\n[- ]+\n(.*?)^total ", run.output, re.MULTILINE | re.DOTALL)
    assert planned, run.output
    counts = {rule: int(count) for rule, count in map(str.split, planned[1].splitlines()) if rule != "all"}
    done = [job["Comment"].split("_wildcards")[0].removeprefix("rule_") for job in run.jobs if _succeeded(job)]
    assert {rule: done.count(rule) for rule in set(done)} == counts


def test_jobs_go_where_their_gpus_are(run: Run) -> None:
    for job in run.jobs:
        networks = re.match("rule_(train|predict|dump|refine)", job["Comment"])
        assert job["NodeList"] == (GPU_NODE if networks else CPU_NODE), job
        assert job.get("TresPerJob") == ("gres:gpu:1" if networks else None), job
        assert run.devices(job["JobId"]) in (("0", "1") if networks else ("",)), job


def test_two_jobs_at_the_same_time_have_a_gpu_each(run: Run) -> None:
    on_gpus = [seen for seen in run.seen.values() if seen.devices]
    pairs = [
        (one, other)
        for one in on_gpus
        for other in on_gpus
        if one.job < other.job and max(one.first, other.first) < min(one.last, other.last)
    ]
    for one, other in pairs:
        seconds = min(one.last, other.last) - max(one.first, other.first)
        print(f"{seconds:.1f} s together: {one.stage} (job {one.job}) on {one.devices}, ", end="")
        print(f"{other.stage} (job {other.job}) on {other.devices}")
    assert pairs
    assert all({one.devices, other.devices} == {"0", "1"} for one, other in pairs)


def test_a_cancelled_training_goes_on_in_its_retry(run: Run) -> None:
    # The plugin writes the rule into the comment, and its wildcards.
    trainings = [job for job in run.jobs if job["Comment"].split("_wildcards")[0] == "rule_train_classifier"]
    states = {job["JobId"]: job["JobState"] for job in trainings}
    assert states.pop(run.cancelled) == "CANCELLED"
    assert list(states.values()) == ["COMPLETED"]
    log = (run.workplace.folder / "results" / "tiny" / "logs" / "train_classifier.log").read_text()
    lines = re.findall(r".*goes on after .*", log)
    print(*lines, sep="\n")
    assert len(lines) == 1


def test_pseudo_labels_are_those_of_the_local_executor(run: Run, tmp_path: Path) -> None:
    local = Workplace(tmp_path / "work", stand_ins=False)
    result = local.snakemake("results/tiny/pseudo_labels/000", "--resources", "gpu=2", *RUN)
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    labels = pseudo_labels(local)
    assert len(labels) == 24
    assert pseudo_labels(run.workplace) == labels


def test_a_job_gets_as_many_gpus_as_its_rule_asks_for(cluster: Cluster, tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    assert workplace.snakemake("results/demo/index.csv").returncode == 0
    before = len(jobs())
    target = "results/demo/classifier/model.safetensors"
    stand_in = workplace.folder / "bin" / "getam"
    stand_in.write_text(stand_in.read_text() + "import time; time.sleep(1)\n")
    run = Run(workplace, (target, "--set-resources", "train_classifier:gpu=2"))
    (job,) = run.jobs[before:]
    print(f"\ntrain_classifier, job {job['JobId']}: {job['TresPerJob']} on {run.devices(job['JobId'])}")
    assert (job["TresPerJob"], run.devices(job["JobId"])) == ("gres:gpu:2", "0,1")


def _succeeded(job: dict[str, str]) -> bool:
    return job["JobState"] == "COMPLETED"
