"""The profiles: what they promise, and that each plans the whole workflow. Jobs on a real Slurm: test_slurm.py."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from snakemake.profiles import ProfileConfigFileParser
from support.downstream import ALL
from support.workplace import PROJECT, Workplace

PROFILES = PROJECT / "workflow" / "profiles"
REMOTE = ("slurm", "kubernetes")


def _profile(name: str) -> dict[str, Any]:
    """A profile's keys as Snakemake reads them."""
    with (PROFILES / name / "config.yaml").open() as file:
        return dict(ProfileConfigFileParser().parse(file))


@pytest.mark.parametrize("name", REMOTE)
def test_a_cluster_decides_what_runs_and_retries_what_failed(name: str) -> None:
    profile = _profile(name)
    assert profile["executor"] == name
    # A limit would cut jobs of several GPUs down; rerun-incomplete would submit jobs that still run.
    assert {"resources", "rerun-incomplete", "keep-incomplete"}.isdisjoint(profile)
    assert int(profile["retries"]) > 0
    assert int(profile["jobs"]) > 1
    # CPUs that the rules reckon with.
    assert int(profile["cores"]) >= 8


@pytest.mark.parametrize(("names", "jobs"), [([], 1), (["a"], 1), (["a", "b", "c"], 3)])
def test_the_gpu_profile_runs_as_many_jobs_as_there_are_gpus(
    monkeypatch: pytest.MonkeyPatch, names: list[str], jobs: int
) -> None:
    monkeypatch.setitem(sys.modules, "getam.system.gpu", SimpleNamespace(devices=lambda: names))
    profile = _profile("gpu")
    assert profile["resources"] == [f"gpu={jobs}"]
    assert profile["rerun-incomplete"] == "True"


@pytest.mark.parametrize("name", [path.name for path in sorted(PROFILES.iterdir())])
def test_a_dry_run_plans_everything(tmp_path: Path, name: str) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    assert workplace.plan("--workflow-profile", f"workflow/profiles/{name}") == ALL


def test_slurm_runs_every_rule_without_an_edit_of_the_profile() -> None:
    # What a command line replaces whole: nothing but the user's partition and account is ever in it.
    assert "default-resources" not in _profile("slurm")
    partitions = yaml.safe_load((PROFILES / "slurm" / "partitions.yaml").read_text())["partitions"]
    assert [name for name, limits in partitions.items() if limits.get("max_gpu")] == ["gpu"]
