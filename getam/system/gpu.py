"""GPU slots: which of a machine's devices a job takes. Snakemake counts GPUs, but never says which one.

Jobs of one machine agree by lock files, one a device. The kernel releases a lock when the process that holds it ends,
however it ends.
"""

from __future__ import annotations

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

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""What CUDA shows a process; set by a scheduler for a job, or by a user for a shell."""

NAMED = "GETAM_GPUS"
"""Names the devices, separated by commas, in place of those that nvidia-smi lists."""

ALLOCATIONS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID")
"""A scheduler's name for a job. In each of its jobs it may count devices from 0, so locks hold within one job."""

LOCKS = Path("/tmp/getam-gpus")
"""Fixed, not TMPDIR: all users' and shells' jobs of a machine have to find the same files."""

POLL_SECONDS = 0.1
REMINDER_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Device(NamedTuple):
    """A GPU, or a part of one by MIG."""

    name: str
    """As CUDA_VISIBLE_DEVICES takes it."""
    lock: str
    """Name of its lock file; the same whoever looks at the device."""


_held: dict[str, int] = {}
"""The names of the devices that this process has taken, with their open, locked files."""


def devices() -> list[Device]:
    """The GPUs that jobs of this process may take, each once; none on a machine without."""
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
            # As CUDA does: what follows a name that is no device (-1, NoDevFiles) is not seen either.
            break
        found.append(Device(name, _device(known[0], scope).lock))
    return found


def take(count: int) -> list[str]:
    """Takes so many devices, for as long as this process lives, and lets CUDA see no others; waits while none is free.

    Has to come before the first use of CUDA. Gives the devices' names, the same ones if called again; none on a machine
    without.

    Raises:
        InputError: there are not so many at all, or the lock files cannot be written.
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
    # Numbers mean what nvidia-smi means by them, whose list the locks go by.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    # One waits for devices, the others wait for it: jobs that want several are not overtaken for ever by those that
    # want one, and no two hold what the other waits for.
    queue = "queue-" + hashlib.sha256("\n".join(each.lock for each in pool).encode()).hexdigest()[:16]
    waits = _Waits(f"waits for {count} of the GPUs {_listing(pool)}: other jobs have taken them")
    while (turn := _lock(queue)) is None:
        waits.again()
    while len(taken := _free(pool, count)) < count:
        waits.again()
    os.close(turn)
    _held.update((device.name, file) for device, file in taken)
    os.environ[VISIBLE] = ",".join(_held)
    logger.info("takes GPU %s", ", ".join(_held))
    return list(_held)


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
    """The identities of every GPU of the machine: its own, or those of its parts where MIG divides it."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        return []
    except subprocess.TimeoutExpired:
        raise InputError("nvidia-smi -L: gives no answer; check the driver, or name the GPUs in GETAM_GPUS") from None
    found: list[list[str]] = []
    for line in listing.stdout.splitlines():
        if match := re.match(r"GPU \d+: .*\(UUID: ([\w-]+)\)", line):
            found.append([match[1]])
        elif (match := re.match(r"\s+MIG .*\(UUID: ([\w/-]+)\)", line)) and found:
            found[-1] = [part for part in found[-1] if part.startswith("MIG")] + [match[1]]
    return found


def _free(pool: Sequence[Device], count: int) -> list[tuple[Device, int]]:
    """So many devices with their locked files, or none where fewer are free."""
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
    """The open file of that name, locked; None where another process holds it."""
    path = LOCKS / name
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A file that was removed meanwhile is no lock: others find a new one.
        if os.path.samestat(os.fstat(file), path.stat()):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(file)
    return None


def _open(path: Path) -> int:
    """Opens a lock file for reading, which is enough to lock it: another user may have made it."""
    mask = os.umask(0)
    try:
        if not LOCKS.is_dir():
            LOCKS.mkdir(mode=0o1777, exist_ok=True)
        if not path.exists():
            with suppress(PermissionError, FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o644))
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be opened ({error.strerror}); its owner may chmod {LOCKS} to 1777 and the file to 644"
        ) from None
    finally:
        os.umask(mask)


class _Waits:
    """Sleeps, and says now and then what for."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.said = -REMINDER_SECONDS

    def again(self) -> None:
        if time.monotonic() - self.said >= REMINDER_SECONDS:
            logger.info(self.what)
            self.said = time.monotonic()
        time.sleep(POLL_SECONDS)


def _let_go() -> None:
    while _held:
        os.close(_held.popitem()[1])


# A forked worker would keep the lock of a parent that was killed.
os.register_at_fork(after_in_child=_let_go)
