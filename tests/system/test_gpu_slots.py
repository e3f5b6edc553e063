"""Which device a job takes: never one that another has, all at the same time, freed by the kernel after any death."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.workplace import PROJECT

from getam.errors import InputError
from getam.system import gpu
from getam.system.arguments.network import NetworkArguments

ONE, TWO = "GPU-11111111-aaaa", "GPU-22222222-bbbb"
LISTING = f"""GPU 0: NVIDIA H200 (UUID: {ONE})
GPU 1: NVIDIA H200 (UUID: {TWO})
"""
DIVIDED = f"""GPU 0: NVIDIA H200 (UUID: {ONE})
  MIG 3g.71gb     Device  0: (UUID: MIG-c0ffee-1)
  MIG 3g.71gb     Device  1: (UUID: MIG-c0ffee-2)
GPU 1: NVIDIA H200 (UUID: {TWO})
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No device of this machine, lock files of the test's own, nothing held afterwards."""
    monkeypatch.setattr(gpu, "LOCKS", tmp_path / "locks")
    for name in (gpu.NAMED, gpu.VISIBLE, *gpu.ALLOCATIONS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    held, gpu._held = gpu._held, {}
    yield
    gpu._let_go()
    gpu._held = held


def driver(folder: Path, listing: str, *, version: str = "unknown") -> None:
    """An nvidia-smi that lists so, of a driver of this version."""
    program = folder / "nvidia-smi"
    answer = f"{version!r} if '--query-gpu=driver_version' in sys.argv else {listing!r}"
    program.write_text(f"#!{sys.executable} -S\nimport sys\nprint({answer}, end='')\n")
    program.chmod(0o755)


def names() -> list[str]:
    return [device.name for device in gpu.devices()]


def test_a_machine_without_gpus_is_asked_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpu.VISIBLE, "0")
    assert gpu.devices() == []
    assert gpu.take(1) == gpu.take(4) == []
    assert not (tmp_path / "locks").exists()
    assert os.environ[gpu.VISIBLE] == "0"


def test_devices_are_those_of_the_driver_and_of_what_is_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tmp_path, LISTING)
    assert names() == [ONE, TWO]
    everything = gpu.devices()
    for visible, expected in {
        "1": ["1"],
        "1,0": ["1", "0"],
        "": [],
        "NoDevFiles": [],
        "0,-1,1": ["0"],
        "7": [],
        "GPU-2222": ["GPU-2222"],
    }.items():
        monkeypatch.setenv(gpu.VISIBLE, visible)
        assert names() == expected
    # By whatever name: the lock is the same.
    monkeypatch.setenv(gpu.VISIBLE, "1,GPU-1111")
    assert [device.lock for device in gpu.devices()] == [device.lock for device in reversed(everything)]


def test_parts_of_a_divided_gpu_are_devices_of_their_own(tmp_path: Path) -> None:
    driver(tmp_path, DIVIDED)
    assert names() == ["MIG-c0ffee-1", "MIG-c0ffee-2", TWO]


def test_a_scheduler_counts_in_each_of_its_jobs_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpu.NAMED, "0")
    locks = set()
    for job in ("17", "18", "../x y"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        locks |= {device.lock for device in gpu.devices()}
    assert len(locks) == 3
    assert not any("/" in lock or " " in lock for lock in locks)


def test_more_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpu.NAMED, "a, b")
    with pytest.raises(InputError, match=r"--gpus 3: there are 2 \(a, b\); ask for as many or fewer"):
        gpu.take(3)


def test_what_is_taken_is_all_that_cuda_sees_and_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpu.NAMED, "a,b,c")
    assert gpu.take(2) == ["a", "b"]
    assert os.environ[gpu.VISIBLE] == "a,b"
    assert gpu.take(1) == ["a", "b"]


def test_a_device_named_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpu.NAMED, "a,a,b")
    assert names() == ["a", "b"]


def test_parts_of_a_gpu_are_taken_one_at_a_time(tmp_path: Path) -> None:
    driver(tmp_path, DIVIDED)
    with pytest.raises(InputError, match="CUDA gives a process one part of a divided GPU"):
        gpu.take(2)
    assert gpu.take(1) == ["MIG-c0ffee-1"]


def test_a_lock_file_that_was_removed_is_made_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        monkeypatch.setenv(gpu.NAMED, "a")
        opened = gpu._open

        def removed(path: Path) -> int:
            file = opened(path)
            monkeypatch.setattr(gpu, "_open", opened)
            path.unlink()
            return file

        monkeypatch.setattr(gpu, "_open", removed)
        assert gpu.take(1) == ["a"]
    finally:
        os.umask(old)
    # Another user may lock them, whatever the mask of who made them.
    assert (tmp_path / "locks").stat().st_mode & 0o7777 == 0o1777
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "locks").iterdir()} == {0o644}


def test_lock_files_that_cannot_be_opened_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(gpu.NAMED, "a")
    (tmp_path / "locks").write_text("in the way")
    with pytest.raises(InputError, match=r"locks/queue-.*: cannot be opened .*; its owner may chmod"):
        gpu.take(1)


@pytest.mark.parametrize(
    ("module", "function", "code", "message"),
    [
        (os, "mkdir", errno.EROFS, r"cannot be written \(Read-only file system\); jobs share GPUs by empty files in"),
        (
            os,
            "mkdir",
            errno.ENOSPC,
            r"cannot be written \(No space left on device\); jobs share GPUs by empty files",
        ),
        (fcntl, "flock", errno.ENOLCK, r"cannot be locked \(No locks available\); make .* a local folder"),
    ],
)
def test_lock_files_that_cannot_be_made_are_named(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, function: str, code: int, message: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setenv(gpu.NAMED, "a")
    monkeypatch.setattr(module, function, refuse)
    with pytest.raises(InputError, match=rf"locks/queue-.*: {message}"):
        gpu.take(1)


def test_a_lock_file_that_is_a_pipe_or_a_link_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(gpu.NAMED, "a")
    (tmp_path / "elsewhere").write_text("another's")
    assert gpu.take(1) == ["a"]
    gpu._let_go()
    lock = tmp_path / "locks" / "a"
    for put, words in ((os.mkfifo, "it is no file"), (lambda path: path.symlink_to("../elsewhere"), "it is a link")):
        lock.unlink()
        put(lock)
        with pytest.raises(InputError, match=rf"locks/a: cannot be opened \({words}\).* remove the one that is a link"):
            gpu.take(1)


def test_a_folder_of_locks_that_is_a_link_is_not_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(gpu.NAMED, "a")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "locks").symlink_to("elsewhere")
    with pytest.raises(InputError, match=r"locks/queue-.*: cannot be opened .* remove the one that is a link"):
        gpu.take(1)
    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(("gpus", "device"), [(1, "cpu"), (0, "auto")])
def test_a_stage_on_the_cpu_takes_none(monkeypatch: pytest.MonkeyPatch, gpus: int, device: str) -> None:
    monkeypatch.setenv(gpu.NAMED, "a")
    arguments = NetworkArguments.model_validate({"gpus": gpus, "device": device, "threads": torch.get_num_threads()})
    assert arguments.prepare().type == "cpu"
    assert gpu.VISIBLE not in os.environ


PATIENCE = 600
"""Seconds after which a job hangs, however busy the machine is."""

JOB = """
import json, logging, os, sys, time
from pathlib import Path
from getam.system import gpu
gpu.LOCKS = Path(sys.argv[1])
logging.basicConfig(level=logging.INFO, format="%(message)s")
free, late = gpu._free, []
def watched(*arguments):
    if (gpu.LOCKS / "holder is dead").exists():
        late.append(1)
    return free(*arguments)
gpu._free = watched
names = gpu.take(int(sys.argv[2]))
print(json.dumps({"devices": names, "start": time.monotonic(), "late tries": len(late)}), flush=True)
if sys.argv[3] == "fork" and os.fork():
    time.sleep(1000)
elif sys.argv[3] == "fork":
    print("forked", flush=True)
    time.sleep(1000)
elif sys.argv[3] == "meet":
    (gpu.LOCKS / ("met " + names[0])).touch()
    while len([*gpu.LOCKS.glob("met *")]) < 2:
        time.sleep(0.01)
else:
    time.sleep(float(sys.argv[3]))
print(json.dumps({"end": time.monotonic()}), flush=True)
"""


def job(locks: Path, count: int, seconds: float | str) -> subprocess.Popen[str]:
    environment = {"PYTHONPATH": os.pathsep.join([str(PROJECT), *filter(None, sys.path)]), gpu.NAMED: "first,second"}
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(locks), str(count), str(seconds)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_eight_jobs_of_one_device_and_two_of_both_share_two(tmp_path: Path) -> None:
    jobs = [job(tmp_path, count, 0.4) for count in (1, 1, 2, 1, 1, 1, 2, 1, 1, 1)]
    uses = []
    for process in jobs:
        output, log = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, log
        taken, ended = map(json.loads, output.splitlines())
        assert f"takes GPU {', '.join(taken['devices'])}" in log
        uses += [(device, taken["start"], ended["end"]) for device in taken["devices"]]
    assert len(uses) == 12
    for device in ("first", "second"):
        spans = sorted((start, end) for name, start, end in uses if name == device)
        assert len(spans) >= 4
        assert all(end <= start for (_, end), (start, _) in pairwise(spans)), spans


def test_jobs_of_one_device_run_side_by_side(tmp_path: Path) -> None:
    # Each waits for the other while it holds its device.
    jobs = [job(tmp_path, 1, "meet") for _ in range(2)]
    taken = []
    for process in jobs:
        output, log = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, log
        taken += json.loads(output.splitlines()[0])["devices"]
    assert sorted(taken) == ["first", "second"]


@pytest.mark.parametrize("hold", ["1000", "fork"])
def test_the_device_of_a_killed_job_is_free_at_once(tmp_path: Path, hold: str) -> None:
    holder = job(tmp_path, 2, hold)
    assert holder.stdout is not None
    holder.stdout.readline()
    if hold == "fork":
        holder.stdout.readline()
    waiting = job(tmp_path, 1, 0)
    assert waiting.stderr is not None
    assert "waits for 1 of the GPUs first, second: other jobs have taken them" in waiting.stderr.readline()
    # It alone: what it has forked lives on.
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    (tmp_path / "holder is dead").touch()
    output, _ = waiting.communicate(timeout=PATIENCE)
    # The first try after the death takes it, and the next try is never far.
    assert json.loads(output.splitlines()[0])["late tries"] <= 1
    assert gpu.POLL_SECONDS <= 1
    assert waiting.returncode == 0
    if hold == "fork":
        os.killpg(holder.pid, signal.SIGKILL)
    holder.communicate()


def test_a_gpu_that_torch_cannot_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, LISTING, version="470.57.02")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(InputError) as caught:
        NetworkArguments(threads=1).prepare()
    assert str(caught.value) == (
        f"there is a GPU, but torch {torch.__version__} (for CUDA 13.0) sees none beside the driver 470.57.02; install "
        "a torch for that driver, or use --device cpu"
    )
    assert NetworkArguments(threads=1, device="cpu").prepare().type == "cpu"
    gpu._let_go()
    assert NetworkArguments(threads=1, gpus=0).prepare().type == "cpu"
    monkeypatch.setenv(gpu.NAMED, "one")
    assert NetworkArguments(threads=1).prepare().type == "cpu"


def test_a_driver_that_fails_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!{sys.executable} -S\nimport sys\nsys.exit('Driver/library\\n version mismatch')\n")
    program.chmod(0o755)
    assert gpu.devices() == []
    assert "nvidia-smi lists no GPU: Driver/library version mismatch" in caplog.text
    assert gpu.driver_version() == "unknown"
