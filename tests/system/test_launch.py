"""A training's processes as one command: it ends when all have, with the first failure's message, or as it is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support.workplace import PROJECT

from getam.errors import InputError, Stopped
from getam.system.distributed import FAILURE_FILE, launch, report_failure

PROCESS = """
import os, signal, sys, time
from pathlib import Path

mode, folder = sys.argv[1], Path(sys.argv[2])
rank, count = (os.environ[name] for name in ("RANK", "WORLD_SIZE"))
(folder / f"{rank} of {count}").write_text(str(os.getpid()))
# A process that ends before another has begun would leave no trace of that one.
while len(list(folder.glob(f"? of {count}"))) < int(count):
    time.sleep(0.01)
if mode == "fails" and rank == "1":
    from getam.system.distributed import report_failure
    assert report_failure("1.png: no such image; add it")
    sys.exit(1)
if mode == "silent" and rank == "1":
    sys.exit(3)
if mode == "killed" and rank == "0":
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "waits":
    def saved(number, frame):
        (folder / f"saved {rank}").touch()
        sys.exit(143)
    signal.signal(signal.SIGTERM, saved)
if mode != "ends":
    (folder / f"ready {rank}").touch()
    time.sleep(1000)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Launches two processes of the module above."""
    (tmp_path / "toy_process.py").write_text(PROCESS)
    packages = [str(tmp_path), str(PROJECT), *filter(None, sys.path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(packages))
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "")
    return lambda mode: launch("toy_process", [mode, str(tmp_path)], processes=2)


def alive(folder: Path) -> list[int]:
    pids = [int(path.read_text()) for path in folder.glob("? of 2")]
    assert len(pids) == 2
    return [pid for pid in pids if lives(pid)]


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_it_ends_when_all_have(run: Callable[[str], None], tmp_path: Path) -> None:
    run("ends")
    assert alive(tmp_path) == []


def test_it_fails_with_the_message_of_the_first(
    run: Callable[[str], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"^1\.png: no such image; add it$"):
        run("fails")
    assert alive(tmp_path) == []
    # And nobody else says anything.
    assert capfd.readouterr().err == ""


def test_it_says_who_was_killed(run: Callable[[str], None], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="process 0 of 2 was killed by SIGKILL; make sure of memory"):
        run("killed")
    assert alive(tmp_path) == []


def test_it_says_who_ended_without_a_word(run: Callable[[str], None], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="process 1 of 2 ended with exit code 3; see above"):
        run("silent")
    assert alive(tmp_path) == []


@pytest.mark.parametrize("nohup", [False, True])
def test_it_stops_when_all_have_saved(run: Callable[[str], None], tmp_path: Path, nohup: bool) -> None:
    def stop() -> None:
        while len([*tmp_path.glob("ready ?")]) < 2:
            time.sleep(0.01)
        if nohup:
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    thread = threading.Thread(target=stop)
    thread.start()
    try:
        with pytest.raises(Stopped) as stopped:
            run("waits")
        assert not nohup or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    thread.join()
    assert stopped.value.signal == signal.SIGTERM
    assert len([*tmp_path.glob("saved ?")]) == 2
    assert alive(tmp_path) == []


ORPHAN = """
import os, threading, time
from getam.system.distributed import _end_with_parent

threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
print(os.getpid(), flush=True)
time.sleep(1000)
"""


def test_a_process_does_not_outlive_who_started_it() -> None:
    # Who started it holds the lock of its device.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, sys.path)])}
    command = [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ORPHAN!r}])"]
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    # Well before it ends by itself.
    deadline = time.monotonic() + 300
    while lives(orphan):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_process_of_its_own_reports_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FAILURE_FILE, raising=False)
    assert not report_failure("message")
