"""Pools end with what they work for: an interrupt is the stage's to answer, a killed stage leaves no process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from getam.workers import ProcessPool, ThreadPool

Answer = TypeVar("Answer")

STAGE = """
import sys
from test_workers import announce
from getam.workers import ProcessPool

if __name__ == "__main__":
    with ProcessPool(1) as pool:
        pool.submit(announce, sys.argv[1]).result()
"""


def announce(path: str) -> None:
    Path(f"{path}.partial").write_text(str(os.getpid()))
    Path(f"{path}.partial").rename(path)
    time.sleep(60)


def add(a: int, b: int) -> int:
    return a + b


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_both_pools_do_what_is_submitted(workers: int) -> None:
    for pool in (ThreadPool(workers), ProcessPool(workers)):
        with pool:
            assert [pool.submit(add, 1, n).result() for n in range(3)] == [1, 2, 3]


def is_running(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
def test_a_killed_stage_leaves_no_worker(tmp_path: Path) -> None:
    script, pid = tmp_path / "stage.py", tmp_path / "pid"
    script.write_text(STAGE)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    stage = subprocess.Popen([sys.executable, str(script), str(pid)], env=os.environ | {"PYTHONPATH": path})
    try:
        worker = int(soon(lambda: pid.read_text() if pid.exists() else None, seconds=60))
        assert is_running(worker)
        # Ctrl-C reaches the whole group of processes; the worker leaves the answer to the stage.
        os.kill(worker, signal.SIGINT)
        time.sleep(0.2)
        assert is_running(worker)
    finally:
        stage.kill()
        stage.wait()
    assert soon(lambda: not is_running(worker) or None, seconds=20)


def soon(ask: Callable[[], Answer | None], *, seconds: float) -> Answer:
    """What `ask` answers as soon as that is not None."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        answer = ask()
        if answer is not None:
            return answer
        time.sleep(0.05)
    raise AssertionError("nothing happened in time")
