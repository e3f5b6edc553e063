"""Batches of a training: the sampler that shares them among processes, the device, and killed loader workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.data import Sampler

from getam.errors import MachineError
from getam.system.distributed import rank, world_size
from getam.system.seeds import mixed_seed

ON_CPU = ("number", "present")
"""Entries of a batch that stay on the CPU, where reading them waits for no GPU: an image's number, and its classes."""


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
def killed_workers() -> Iterator[None]:
    """Turns torch's error about a killed DataLoader worker, which any line may raise, into a MachineError.

    Raises:
        MachineError: a worker process of the DataLoader was killed.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise MachineError(
            f"a process that loads images was killed, for want of memory perhaps ({error}); use fewer threads: the "
            "same command goes on from the saved state"
        ) from None
