"""Batches of a training: the sampler that shares them among processes, the device, and what loader workers need."""

from __future__ import annotations

import multiprocessing
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Listener

import torch
from torch import Tensor
from torch.utils.data import Sampler

from getam.errors import MachineError, reason_of
from getam.system.distributed import rank, world_size
from getam.system.seeds import mixed_seed

ON_CPU = ("number", "present")
"""Entries of a batch that stay on the CPU, where reading them waits for no GPU: an image's number, and its classes."""

SHARED_MEMORY = re.compile(r"shared memory|file </torch_")
"""What torch says where /dev/shm has no room."""


class EpochBatches(Sampler[list[int]]):
    """Yields this process's part of each batch of an epoch: lists of item numbers `epoch * length + i`.

    The order depends on seed and epoch alone.

    Args:
        length: number of images.
        batch_size: images of a whole batch, over all processes; an incomplete last batch of an epoch is dropped.
        parts: number of parts that a batch is computed in (gradient accumulation); each part holds the same images
            whatever the number of processes.
        start: number of batches at the epoch's beginning that are done already and are skipped.
    """

    def __init__(self, length: int, *, epoch: int, seed: int, batch_size: int, parts: int = 1, start: int = 0) -> None:
        self.length = length
        self.epoch = epoch
        self.seed = seed
        self.batch_size = batch_size
        self.parts = parts
        self.start = start

    def __len__(self) -> int:
        return self.length // self.batch_size - self.start

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        order = (torch.randperm(self.length, generator=generator) + self.epoch * self.length).tolist()
        part = self.batch_size // self.parts
        share = part // world_size()
        for number in range(self.start, self.length // self.batch_size):
            starts = (number * self.batch_size + i * part + rank() * share for i in range(self.parts))
            yield [image for first in starts for image in order[first : first + share]]


def moved(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The tensors of a batch on the device, but for those of ON_CPU."""
    return {name: each if name in ON_CPU else each.to(device, non_blocking=True) for name, each in batch.items()}


@contextmanager
def killed_workers(*, there_are: bool = True) -> Iterator[None]:
    """Turns torch's errors about DataLoader workers that the machine has ended into a MachineError.

    Any line may raise one. An error of a worker's own code stays as it is.

    Args:
        there_are: whether there will be workers; if so, the machine is checked for what they need.

    Raises:
        MachineError: a worker process of the DataLoader was killed, or the machine has not what it needs.
    """
    if there_are:
        _check_machine()
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "DataLoader worker" in text and SHARED_MEMORY.search(text):
            raise MachineError(
                "/dev/shm: has no room for the images that processes load; give it more (docker run --shm-size=8g), or "
                "use fewer threads: the same command goes on from the saved state"
            ) from None
        if "DataLoader worker (pid" not in text:
            raise
        raise MachineError(
            f"a process that loads images was killed, for want of memory perhaps ({error}); use fewer threads: the "
            "same command goes on from the saved state"
        ) from None


def _check_machine() -> None:
    """Checks that DataLoader workers can send what they load; where they can't, torch waits for them for ever.

    Raises:
        MachineError: no semaphore can be made in /dev/shm, or no socket in the folder for temporary files.
    """
    try:
        multiprocessing.Lock()
        Listener(family="AF_UNIX").close()
    except OSError as error:
        raise MachineError(
            f"processes that load images need /dev/shm and sockets in {tempfile.gettempdir()} ({reason_of(error)}); "
            "make room there, or set TMPDIR to a folder with a short path"
        ) from None
