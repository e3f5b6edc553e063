"""The log of a running training: TensorBoard scalars, and pictures of its steps."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.optim import Optimizer

from getam.system.arguments.training import TrainingArguments
from getam.system.distributed import is_main
from getam.system.files import UnwritableError, atomic_file
from getam.system.opening import check_no_link

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

TENSORBOARD, PICTURES, BEST = "tensorboard", "pictures", "best"
"""Folders in a training's output folder: scalars, pictures of steps, and the model with the highest mIoU on val."""

logger = logging.getLogger(__name__)


class TrainingLog:
    """Writes the scalars and pictures of a training; only the first of its processes writes.

    Args:
        out: the training's output folder.
        step: number of steps done so far; with 0, the folders of an earlier training are removed.

    Raises:
        InputError: one of these folders is a link.
    """

    def __init__(self, out: Path, arguments: TrainingArguments, *, step: int) -> None:
        self.out = out
        self.scalars_every, self.pictures_every = arguments.scalars_every, arguments.pictures_every
        self.step = step
        self._writer: SummaryWriter | None = None
        # Step and time of the last scalars, from which the rate of images is computed.
        self._last_step, self._last_time = step, time.monotonic()
        if not is_main():
            return
        for name in (TENSORBOARD, PICTURES, BEST):
            check_no_link(out / name)
            if not step:
                shutil.rmtree(out / name, ignore_errors=True)
        if self.scalars_every:
            from torch.utils.tensorboard import SummaryWriter

            with self._giving_up():
                self._writer = SummaryWriter(str(out / TENSORBOARD), purge_step=step + 1)

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Logs a warning if writing fails and stops writing: a full disk must not end the training."""
        try:
            yield
        except (OSError, UnwritableError) as error:
            logger.warning("%s: the training is not shown any more (%s)", self.out, error)
            self._writer = None
            self.pictures_every = 0

    def scalars(self, values: Mapping[str, Tensor], optimizer: Optimizer, *, images: int) -> None:
        """Counts a step; every `scalars_every` steps, writes its values, learning rates and images a second.

        Args:
            images: number of images of the step, over all processes.
        """
        self.step += 1
        if self._writer is None or self.step % self.scalars_every:
            return
        seconds = time.monotonic() - self._last_time
        # All are read in one transfer, since each waits for the GPU.
        read = torch.stack([value.detach().double() for value in values.values()]).tolist()
        numbers = dict(zip(values, read, strict=True))
        # Groups of one name, with and without weight decay, have one learning rate.
        numbers |= {
            f"learning_rate/{group.get('name', number)}": group["lr"]
            for number, group in enumerate(optimizer.param_groups)
        }
        numbers["images_per_second"] = images * (self.step - self._last_step) / seconds
        for name, value in numbers.items():
            self.scalar(name, value)
        self._last_step, self._last_time = self.step, time.monotonic()

    def scalar(self, name: str, value: float) -> None:
        """Writes one value at the current step."""
        if self._writer is not None:
            with self._giving_up():
                self._writer.add_scalar(name, value, self.step)

    def picture(self, draw: Callable[[], np.ndarray] | None) -> None:
        """Draws and writes a picture of the current step, every `pictures_every` steps; None has no picture."""
        if draw is None or not self.pictures_every or self.step % self.pictures_every or not is_main():
            return
        picture = draw()
        with self._giving_up():
            with atomic_file(self.out / PICTURES / f"{self.step:06d}.png") as temporary:
                Image.fromarray(picture).save(temporary, format="PNG")
            if self._writer is not None:
                self._writer.add_image("step", picture, self.step, dataformats="HWC")

    def close(self) -> None:
        if self._writer is not None:
            with self._giving_up():
                self._writer.close()
