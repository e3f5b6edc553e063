"""A training's batches: which images are in them, and what is said where a process that loads them was killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import Sampler

from getam.errors import MachineError
from getam.system.distributed import rank, world_size
from getam.system.seeds import mixed_seed


class EpochBatches(Sampler[list[int]]):
    """This process's part of each batch of an epoch: numbers `epoch * len + i` in an order that seed and epoch decide.

    Args:
        length: number of images.
        batch_size: of the whole batch, over all processes; the images left over at an epoch's end are not used.
        parts: parts that a batch is computed in; each holds the same images for any number of processes.
        start: batches at the epoch's beginning that are done and left out.
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


@contextmanager
def killed_workers() -> Iterator[None]:
    """Says in one message that a loader's worker was killed; torch raises that at any line of the training."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise MachineError(
            f"a process that loads images was killed, for want of memory perhaps ({error}); use fewer threads: the "
            "same command goes on from the saved state"
        ) from None
