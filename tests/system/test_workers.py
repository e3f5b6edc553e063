"""Pools end with what they work for: an interrupt is the stage's to answer, a killed stage leaves no process."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

import pytest

from getam.errors import InputError
from getam.system.workers import ProcessPool, ThreadPool

Answer = TypeVar("Answer")

STAGE = """
import sys
from test_workers import announce
from getam.system.workers import ProcessPool

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


def fail(path: Path) -> None:
    raise InputError(f"{path}: is bad")


class Unsendable(Exception):
    def __reduce__(self) -> str:
        raise TypeError("not to be pickled")


def fail_unsendably() -> None:
    raise Unsendable("what happened")


def give_unsendable() -> object:
    return Unsendable()


class Unreadable(Exception):
    """Can be pickled, but not be made again: its __init__ takes more than it passes on."""

    def __init__(self, file: str, fault: str) -> None:
        super().__init__(f"{file}: {fault}")


def fail_unreadably() -> None:
    raise Unreadable("mask.png", "is torn")


class UnreadableArgument:
    """An argument whose pickle cannot be read; an OSError must not be taken for the end of the pipe."""

    def __reduce__(self) -> tuple[object, ...]:
        return refuse, ()


def refuse() -> None:
    raise OSError("no such argument")


def interrupt_itself() -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write_when(path: Path, awaited: Path) -> int:
    path.touch()
    while not awaited.exists():
        time.sleep(0.01)
    return os.getpid()


def die_when(awaited: Path) -> None:
    while not awaited.exists():
        time.sleep(0.01)
    die()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_both_pools_do_what_is_submitted(workers: int) -> None:
    for pool in (ThreadPool(workers), ProcessPool(workers)):
        with pool:
            assert [pool.submit(add, 1, n).result() for n in range(3)] == [1, 2, 3]


def test_what_a_process_raises_is_raised_with_its_traceback() -> None:
    with ProcessPool(1) as pool:
        with pytest.raises(InputError, match=r"^here: is bad$") as raised:
            pool.submit(fail, Path("here")).result()
        assert "in a worker process:\nTraceback" in str(raised.value.__cause__)
        assert "in fail\n" in str(raised.value.__cause__)


def test_what_cannot_be_pickled_fails_its_call_alone() -> None:
    with ProcessPool(1) as pool:
        first = pool.submit(os.getpid).result()
        with pytest.raises(RuntimeError, match="what happened") as raised:
            pool.submit(fail_unsendably).result()
        assert "in fail_unsendably\n" in str(raised.value.__cause__)
        with pytest.raises(RuntimeError, match="not to be pickled"):
            pool.submit(give_unsendable).result()
        with pytest.raises(TypeError, match="not to be pickled"):
            pool.submit(print, Unsendable()).result()
        with pytest.raises((AttributeError, pickle.PicklingError)):
            pool.submit(lambda: 1).result()
        assert pool.submit(os.getpid).result() == first


def test_an_error_or_an_argument_that_cannot_be_read_back_fails_its_call_alone() -> None:
    with ProcessPool(1) as pool:
        with pytest.raises(RuntimeError, match=r"^mask\.png: is torn$") as error:
            pool.submit(fail_unreadably).result()
        assert "in fail_unreadably" in str(error.value.__cause__)
        with pytest.raises(OSError, match="no such argument"):
            pool.submit(print, UnreadableArgument()).result()
        assert pool.submit(add, 2, 3).result() == 5


def test_an_interrupt_is_left_to_the_stage() -> None:
    with ProcessPool(1) as pool:
        assert pool.submit(interrupt_itself).result() == pool.submit(os.getpid).result()


def test_a_dead_process_fails_what_waits_and_lets_others_finish(tmp_path: Path) -> None:
    begun, died = tmp_path / "begun", tmp_path / "died"
    with ProcessPool(2) as pool:
        works = pool.submit(write_when, begun, died)
        dies = pool.submit(die_when, begun)
        waits = [pool.submit(add, 1, n) for n in range(3)]
        with pytest.raises(BrokenProcessPool):
            dies.result()
        for future in waits:
            with pytest.raises(BrokenProcessPool):
                future.result()
        died.touch()
        process = works.result()
        with pytest.raises(BrokenProcessPool):
            pool.submit(add, 1, 1).result()
        assert is_running(process)
    assert not is_running(process)


def test_each_process_that_dies_is_noticed_without_another(tmp_path: Path) -> None:
    for _ in range(3):
        with ProcessPool(1) as pool, pytest.raises(BrokenProcessPool):
            list(pool.map(die_when, [tmp_path] * 3))


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
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    stage = subprocess.Popen([sys.executable, str(script), str(pid)], env=os.environ | {"PYTHONPATH": path})
    try:
        worker = int(soon(lambda: pid.read_text() if pid.exists() else None, seconds=60))
        assert is_running(worker)
    finally:
        stage.kill()
        stage.wait()
    assert soon(lambda: not is_running(worker) or None, seconds=60)


def soon(ask: Callable[[], Answer | None], *, seconds: float) -> Answer:
    """What `ask` answers as soon as that is not None."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        answer = ask()
        if answer is not None:
            return answer
        time.sleep(0.05)
    raise AssertionError("nothing happened in time")
