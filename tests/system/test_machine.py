"""What a stage may use of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import getam.system.arguments.machine
from getam.system.arguments.machine import MachineArguments


@pytest.mark.parametrize(
    ("limit", "cores"),
    [(None, 6), ("max 100000", 6), ("400000 100000", 4), ("50000 100000", 1), ("6400000 100000", 6)],
)
def test_threads_are_the_cores_of_the_job_and_not_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, cores: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setattr(getam.system.arguments.machine, "CPU_LIMIT", tmp_path / "cpu.max")
    if limit is not None:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert MachineArguments().threads == cores
