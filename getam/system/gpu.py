"""Assigns a machine's GPUs to jobs. Snakemake counts GPUs, but does not tell a job which one to use.

The jobs of a machine coordinate through one lock file for each device. The kernel releases a lock when the process that
holds it ends, even if it was killed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from getam.errors import InputError
from getam.system.opening import open_itself

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Variable with the devices that CUDA shows to a process; a scheduler sets it for a job, or a user for a shell."""

NAMED = "GETAM_GPUS"
"""Variable with comma-separated device names that replace those listed by nvidia-smi."""

ALLOCATIONS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID")
"""Variables with a scheduler's job id. A scheduler may number devices from 0 in every job, so locks are per job."""

LOCKS = Path("/tmp/getam-gpus")
"""Folder of the lock files. It does not follow TMPDIR, since all users' jobs on a machine must find the same files."""

POLL_SECONDS = 0.1
REMINDER_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Device(NamedTuple):
    """A GPU, or a MIG instance of one."""

    name: str
    """Name of the device in CUDA_VISIBLE_DEVICES."""
    lock: str
    """Name of the device's lock file, the same in every process."""


_held: dict[str, int] = {}
"""The devices that this process has taken: name -> file descriptor of the locked file."""


def devices() -> list[Device]:
    """The distinct GPUs that this process may take; empty on a machine without GPUs."""
    return [*{device.lock: device for device in _visible()}.values()]


def _visible() -> list[Device]:
    scope = next((f"{name}-{os.environ[name]}-" for name in ALLOCATIONS if name in os.environ), "")
    if NAMED in os.environ:
        return [_device(name, scope) for name in _names(os.environ[NAMED])]
    listed = _listed()
    if not listed:
        return []
    if VISIBLE not in os.environ:
        return [_device(part, scope) for parts in listed for part in parts]
    found = []
    for name in _names(os.environ[VISIBLE]):
        numbered = listed[int(name)] if name.isdigit() and int(name) < len(listed) else []
        known = numbered[:1] or [part for parts in listed for part in parts if part.startswith(name)]
        if not known:
            # Like CUDA, ignore everything after the first name that is no device (-1, NoDevFiles).
            break
        found.append(Device(name, _device(known[0], scope).lock))
    return found


def take(count: int) -> list[str]:
    """Takes `count` devices until this process ends, and hides all others from CUDA; waits while too few are free.

    This must be called before the first use of CUDA. Further calls return the devices of the first one.

    Returns:
        The names of the devices taken; empty on a machine without GPUs.

    Raises:
        InputError: the machine has fewer than `count` devices, or the lock files cannot be written.
    """
    if _held:
        return list(_held)
    pool = devices()
    if not pool or not count:
        return []
    if count > len(pool):
        raise InputError(f"--gpus {count}: there are {len(pool)} ({_listing(pool)}); ask for as many or fewer")
    if count > 1 and any(device.name.startswith("MIG") for device in pool):
        raise InputError(f"--gpus {count}: CUDA gives a process one part of a divided GPU (MIG); write 1")
    # Locks are named after nvidia-smi's list, so CUDA must number the devices in the same order.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    # Only the job that holds the queue's lock waits for devices; the others wait for that lock. So a job that needs
    # several devices is not overtaken for ever by jobs that need one, and no two jobs deadlock.
    queue = "queue-" + hashlib.sha256("\n".join(each.lock for each in pool).encode()).hexdigest()[:16]
    waits = _Waits(f"waits for {count} of the GPUs {_listing(pool)}: other jobs have taken them")
    while (turn := _lock(queue)) is None:
        waits.again()
    try:
        while len(taken := _free(pool, count)) < count:
            waits.again()
    finally:
        os.close(turn)
    _held.update((device.name, file) for device, file in taken)
    os.environ[VISIBLE] = ",".join(_held)
    logger.info("takes GPU %s", ", ".join(_held))
    return list(_held)


def driver_version() -> str:
    """The version of the NVIDIA driver as nvidia-smi has it; `unknown` where it does not say."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return (answer.stdout.split() or ["unknown"])[0] if not answer.returncode else "unknown"


def held() -> bool:
    """Whether this process has taken a device."""
    return bool(_held)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _listing(pool: Sequence[Device]) -> str:
    return ", ".join(device.name for device in pool)


def _device(name: str, scope: str) -> Device:
    return Device(name, re.sub(r"[^\w.-]", "_", scope + name))


def _listed() -> list[list[str]]:
    """For each GPU of the machine, its UUID, or the UUIDs of its instances if MIG divides it."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        return []
    except subprocess.TimeoutExpired:
        raise InputError("nvidia-smi -L: gives no answer; check the driver, or name the GPUs in GETAM_GPUS") from None
    if listing.returncode:
        words = " ".join((listing.stderr or listing.stdout).split()) or f"exit code {listing.returncode}"
        logger.warning("nvidia-smi lists no GPU: %s", words)
    found: list[list[str]] = []
    for line in listing.stdout.splitlines():
        if match := re.match(r"GPU \d+: .*\(UUID: ([\w-]+)\)", line):
            found.append([match[1]])
        elif (match := re.match(r"\s+MIG .*\(UUID: ([\w/-]+)\)", line)) and found:
            found[-1] = [part for part in found[-1] if part.startswith("MIG")] + [match[1]]
    return found


def _free(pool: Sequence[Device], count: int) -> list[tuple[Device, int]]:
    """Locks `count` free devices and returns them with their file descriptors; locks none if fewer are free."""
    taken: list[tuple[Device, int]] = []
    for device in pool:
        if (file := _lock(device.lock)) is not None:
            taken.append((device, file))
        if len(taken) == count:
            return taken
    for _, file in taken:
        os.close(file)
    return []


def _lock(name: str) -> int | None:
    """Locks the file of that name and returns its file descriptor; None if another process holds the lock."""
    path = LOCKS / name
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # If the file was removed meanwhile, its lock is worthless: other processes lock a new file of that name.
        if os.path.samestat(os.fstat(file), path.lstat()):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        raise InputError(f"{path}: cannot be locked ({error.strerror}); make {LOCKS.parent} a local folder") from None
    os.close(file)
    return None


def _open(path: Path) -> int:
    """Opens a lock file for reading, which suffices to lock a file that belongs to another user.

    Any user of the machine may write into its folder and into the one above, so a link is not followed in either.
    """
    mask = os.umask(0)
    try:
        with suppress(FileExistsError):
            LOCKS.mkdir(mode=0o1777)
        folder = os.open(LOCKS, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            with suppress(PermissionError, FileExistsError):
                os.close(os.open(path.name, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o644, dir_fd=folder))
            return open_itself(path.name, os.O_RDONLY, folder=folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            cure = f"jobs share GPUs by empty files in {LOCKS}: let them be written"
            raise InputError(f"{path}: cannot be written ({error.strerror}); {cure}") from None
        raise InputError(
            f"{path}: cannot be opened ({error.strerror}); its owner may chmod {LOCKS} to 1777 and the file to 644, or "
            "remove the one that is a link or no file"
        ) from None
    finally:
        os.umask(mask)


class _Waits:
    """Sleeps between two polls, and logs a reminder of what the process waits for now and then."""

    def __init__(self, reminder: str) -> None:
        self.reminder = reminder
        self.logged_at = -REMINDER_SECONDS

    def again(self) -> None:
        if time.monotonic() - self.logged_at >= REMINDER_SECONDS:
            logger.info(self.reminder)
            self.logged_at = time.monotonic()
        time.sleep(POLL_SECONDS)


def _let_go() -> None:
    while _held:
        os.close(_held.popitem()[1])


# Without this, a forked worker that outlives its killed parent would keep the parent's locks.
os.register_at_fork(after_in_child=_let_go)
