"""The training loop that every network shares: seeded, resumable, with progress."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import DataLoader, Dataset, Sampler

import getam.version
from getam.checkpoints import load_state, save_state
from getam.distributed import is_main, mean_over_processes, rank, synchronized, world_size
from getam.errors import InputError, MachineError, Stopped
from getam.files import UnwritableError, atomic_file, atomic_folder, locked_folder, write_text
from getam.progress import progress, three_digits
from getam.seeds import mixed_seed
from getam.settings import ScheduleSettings
from getam.training_arguments import TrainingArguments

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

STATE = ".state"
"""Folder in a training's output folder that holds what is needed to go on; removed once the training is finished."""
STATE_FILE = "state.safetensors"
FINISHED = ".finished"
"""Folder in a training's output folder with links to its files, until its caller has taken note of them."""
MADE_FROM = ".made_from"
"""File in it with the key of the training."""
TENSORBOARD, PICTURES, BEST = "tensorboard", "pictures", "best"
WARM_UP = 0.25
"""Share of a one-cycle schedule in which the learning rate rises."""

HALVED = 0.4
"""Share of a step schedule after which the learning rate is halved, again and again: epochs 20 and 40 of 50."""

Losses = Mapping[str, Tensor]
Step = Callable[[nn.Module, dict[str, Any], int], Losses]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Watch:
    """How a training is watched; none of it changes the weights."""

    picture: Callable[[], np.ndarray | None] = lambda: None
    """The last step as a picture (H, W, 3), uint8; None where there is nothing to see."""
    validate: Callable[[], float | None] = lambda: None
    """mIoU of the model as it is, in evaluation mode; None where there is no ground truth."""
    keep_best: Callable[[int, float], None] = lambda epoch, miou: None
    """Is given the epoch, counted from 1, and its mIoU when that is the highest so far."""


@contextmanager
def training_folder(out: Path, key: str, *, machine: TrainingArguments, scored: object = None) -> Iterator[bool]:
    """Keeps a training's output folder from other processes; gives whether the training is finished already.

    It is where its caller, a workflow, died before it took note of that and has now removed the files: they are put
    back. At the end the training's state is removed.

    Args:
        key: see `fit`.
        scored: what the files depend on beside that: the images that the trained network is scored on.

    Raises:
        InputError: another process is training in that folder.
    """
    state, kept = out / STATE, out / FINISHED
    # Not by the code before an edit of it.
    key = training_key(key, scored, getam.version.source_hash(type(machine).__module__))
    made_from = kept / MADE_FROM
    finished = made_from.is_file() and made_from.read_text(encoding="utf-8") == key
    if not is_main():
        yield finished
        return
    with locked_folder(state):
        if finished:
            for name in _outputs(kept):
                with atomic_file(out / name) as temporary:
                    _link(kept / name, temporary)
                    # As old as it is now: a workflow compares with what it was made from.
                    os.utime(temporary)
            logger.info("%s: was finished before, by the same settings and sources; without %s it trains", out, kept)
        yield finished
        if machine.keep_finished and not finished:
            with atomic_folder(kept) as folder:
                for name in _outputs(out):
                    _link(out / name, folder / name)
                write_text(folder / MADE_FROM, key)
        shutil.rmtree(state, ignore_errors=True)


def _outputs(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]


def _link(source: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    try:
        path.hardlink_to(source)
    except OSError:
        # A file system without links.
        shutil.copyfile(source, path)


class _StopSignals:
    """Notes SIGTERM and SIGINT, so that a training can save its state before it ends; a second Ctrl-C ends it."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _StopSignals:
        # Python lets no other thread do so.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: object) -> None:
        # A process of several gets it from the terminal and from who started it.
        if self.received and number == signal.SIGINT and "LOCAL_RANK" not in os.environ:
            raise KeyboardInterrupt
        logger.info("%s: saves the state after this step and ends", signal.Signals(number).name)
        self.received = number


@contextmanager
def _killed_workers() -> Iterator[None]:
    """Says in one message that a loader's worker was killed; torch raises that wherever the training is."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise MachineError(
            f"a process that loads images was killed, for want of memory perhaps ({error}); use fewer threads: the "
            "same command goes on from the saved state"
        ) from None


def _ignore_signals(worker: int) -> None:
    """A loader's worker ends with its process, which needs it for one more step."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def fit(
    model: nn.Module,
    step: Step,
    images: Dataset[Any],
    settings: ScheduleSettings,
    *,
    groups: list[dict[str, Any]],
    device: torch.device,
    machine: TrainingArguments,
    out: Path,
    key: str,
    what: str,
    name_of: Callable[[int], str],
    rate: Callable[[int], float] = lambda epoch: 1.0,
    watch: Watch = Watch(),
) -> list[dict[str, float]]:
    """Trains `model` in place and gives each epoch's mean losses.

    At the end of every epoch, and within one every `machine.checkpoint_minutes`, the whole state is written to
    `out`/.state; a later call with the same key goes on from that step, to the same weights (bit for bit on CPU) as an
    uninterrupted one. So it is when SIGTERM or SIGINT comes. `training_folder` removes the state in the end.

    Under torchrun each process takes its part of every batch; batches, batch norm and dropout are those of a single
    process, gradients are averaged, and the first process alone writes.

    Args:
        step: (the model, or DistributedDataParallel around it; batch on the device; epoch) -> named losses, whose sum
            is minimized. Their average over processes must be the loss of the whole batch.
        images: items by `epoch * len + i`, see TrainingImages.
        groups: parameter groups; `lr` in a group is its highest learning rate.
        out: gets .state, tensorboard (scalars), pictures.
        key: identifies settings and data; a state with another key is not used.
        name_of: number of an image -> its name, for messages.
        rate: epoch -> factor of all learning rates.

    Raises:
        InputError: a loss is not finite, names the batch; the processes cannot share a batch evenly.
        Stopped: a signal came, and the state is saved.
    """
    batch_size = min(settings.batch_size, len(images))  # type: ignore[arg-type]
    parts = settings.accumulation
    if batch_size % (world_size() * parts):
        shared = f"{world_size()} processes" + (f" in {parts} parts each" if parts > 1 else "")
        cure = "change one of batch_size and accumulation" if parts > 1 else "use another number"
        raise InputError(f"batch_size: {batch_size} images cannot be shared evenly by {shared}; {cure}")
    optimizer = _optimizer(settings, groups)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    batches = len(images) // batch_size  # type: ignore[arg-type]
    total = batches * settings.epochs
    peaks = [group["lr"] for group in optimizer.param_groups]
    state = out / STATE / STATE_FILE
    # Of the stage, whose module has the flags.
    code = getam.version.source_hash(type(machine).__module__)
    saved_position = load_state(state, model, optimizer, key=key, code=code, any_code=not machine.code_hash)
    position = _Position(**(saved_position or {}))
    if position.epoch or position.batch:
        done = f"{position.epoch} of {settings.epochs} epochs and {position.batch} batches"
        logger.info("%s: goes on after %s", what, done)
    log = _Log(out, machine, step=position.epoch * batches + position.batch)
    network = model
    if world_size() > 1:
        # Unused: the decoder in the first phase, the final norm that no read-out sees.
        network = DistributedDataParallel(synchronized(model, device.type), find_unused_parameters=True)
        # Of tokens and tables of one row; it costs nothing that could be measured.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    saved = time.monotonic()
    with _StopSignals() as stop, _killed_workers():
        for epoch in range(position.epoch, settings.epochs):
            model.train()
            first = position.batch
            loader = DataLoader(
                images,
                batch_sampler=EpochBatches(
                    len(images),  # type: ignore[arg-type]
                    epoch=epoch,
                    seed=settings.seed,
                    batch_size=batch_size,
                    parts=parts,
                    start=first,
                ),
                # On CPU the network itself needs the cores.
                num_workers=min(machine.threads, 8) if device.type == "cuda" else 0,
                worker_init_fn=_ignore_signals,
                pin_memory=device.type == "cuda",
                # Its own: a loader draws a number when it starts, and a resumed training starts one more.
                generator=torch.Generator(),
            )
            started = time.monotonic()
            bar = progress(
                loader,
                total=batches - first,
                unit="batch",
                what=f"{what} epoch {epoch + 1}/{settings.epochs}",
            )
            for number, batch in enumerate(bar, start=first):
                done_steps = epoch * batches + number
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * rate(epoch) * SCHEDULES[settings.schedule](done_steps / total)
                optimizer.zero_grad(set_to_none=True)
                losses: dict[str, Tensor] = {}
                for part in range(parts):
                    share = {
                        name: value.chunk(parts)[part].to(device, non_blocking=True) for name, value in batch.items()
                    }
                    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                        made = step(network, share, epoch)
                    loss = torch.stack(list(made.values())).sum()
                    # What one process finds, all act on: one that stopped or saved alone would leave the others
                    # waiting.
                    overdue = time.monotonic() - saved >= 60 * machine.checkpoint_minutes
                    facts = [loss, loss.new_tensor(overdue), loss.new_tensor(stop.received)]
                    mean, due, told = mean_over_processes(torch.stack(facts)).tolist()
                    if not math.isfinite(mean):
                        names = ", ".join(name_of(int(i)) for i in share["number"][:8])
                        values = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in made.items())
                        raise InputError(
                            f"loss is not finite ({values}) in epoch {epoch + 1} on images {names}, ...; lower the "
                            "learning rate"
                        )
                    (loss / parts).backward()
                    for name, value in made.items():
                        losses[name] = losses.get(name, 0.0) + value.detach() / parts
                scalars = {f"loss/{name}": value for name, value in losses.items()}
                if settings.gradient_clipping:
                    scalars["gradient_norm"] = nn.utils.clip_grad_norm_(trained, settings.gradient_clipping)
                optimizer.step()
                position.add(losses, batch=number + 1)
                log.scalars(scalars, optimizer, images=batch_size)
                log.picture(watch.picture)
                # With the last batch the epoch is complete, and is saved as such; what comes before may take its time.
                if told or (due and number + 1 < batches):
                    _save(state, model, optimizer, key, position, code)
                    saved = time.monotonic()
                if told:
                    done = f"epoch {epoch + 1} of {settings.epochs}, batch {number + 1} of {batches}"
                    logger.info("%s: state saved after %s", what, done)
                    raise Stopped(stop.received or signal.SIGTERM)
            means = position.means(batches)
            seconds = time.monotonic() - started
            logger.info(
                "%s: epoch %d/%d, %s, %.1f s, %s images a second",
                what,
                epoch + 1,
                settings.epochs,
                ", ".join(f"{name} loss {value:.4f}" for name, value in means.items()),
                seconds,
                # Of all processes together, as batches are.
                three_digits((batches - first) * batch_size / max(seconds, 1e-9)),
            )
            if machine.validate_every:
                # It may take its time.
                _save(state, model, optimizer, key, position, code)
            position.history.append(means | _validated(model, machine, epoch, settings.epochs, position, watch, log))
            position.epoch, position.batch, position.sums = epoch + 1, 0, {}
            _save(state, model, optimizer, key, position, code)
            saved = time.monotonic()
            if mean_over_processes(torch.tensor(float(stop.received), device=device)) > 0:
                raise Stopped(stop.received or signal.SIGTERM)
    log.close()
    return position.history


@dataclass
class _Position:
    """How far a training is, beside its weights; what its state holds as JSON."""

    epoch: int = 0
    """Epochs that are complete."""
    batch: int = 0
    """Batches of the next one that are done."""
    sums: dict[str, Any] = field(default_factory=dict)
    """Sums of the losses of those batches."""
    history: list[dict[str, float]] = field(default_factory=list)
    best: float = -1.0
    """Highest mIoU on val so far."""

    def add(self, losses: Losses, *, batch: int) -> None:
        self.batch = batch
        for name, value in losses.items():
            # Kept on the device: a GPU is not waited for.
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().double()

    def means(self, batches: int) -> dict[str, float]:
        return {name: value / batches for name, value in self._sums_of_all().items()}

    def described(self) -> dict[str, Any]:
        return {**vars(self), "sums": self._sums_of_all()}

    def _sums_of_all(self) -> dict[str, float]:
        # A number comes from a state, and is of all processes already.
        return {
            name: value if isinstance(value, float) else float(mean_over_processes(value))
            for name, value in self.sums.items()
        }


def _save(path: Path, model: nn.Module, optimizer: Optimizer, key: str, position: _Position, code: str) -> None:
    # Asked of every process: the sums are averaged.
    described = position.described()
    if is_main():
        save_state(path, model, optimizer, key=key, code=code, progress=described)


def _validated(
    model: nn.Module, machine: TrainingArguments, epoch: int, epochs: int, position: _Position, watch: Watch, log: _Log
) -> dict[str, float]:
    """{"val_miou": ...} after an epoch that is to be validated, else nothing."""
    every = machine.validate_every
    if not every or ((epoch + 1) % every and epoch + 1 < epochs) or not is_main():
        return {}
    model.eval()
    miou = watch.validate()
    model.train()
    if miou is None:
        return {}
    log.scalar("val_miou", miou)
    if miou > position.best:
        position.best = miou
        watch.keep_best(epoch + 1, miou)
    return {"val_miou": miou}


class _Log:
    """TensorBoard's scalars and pictures of a training, written by its first process."""

    def __init__(self, out: Path, machine: TrainingArguments, *, step: int) -> None:
        self.out = out
        self.machine = machine
        self.step = step
        self.since = step
        self.started = time.monotonic()
        self.writer: SummaryWriter | None = None
        if not is_main():
            return
        if not step:
            for name in (TENSORBOARD, PICTURES, BEST):
                shutil.rmtree(out / name, ignore_errors=True)
        if machine.scalars_every:
            from torch.utils.tensorboard import SummaryWriter

            with self._shown():
                self.writer = SummaryWriter(str(out / TENSORBOARD), purge_step=step + 1)

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """What only shows a training doesn't end it: where it cannot be written, one warning, and no more of it."""
        try:
            yield
        except (OSError, UnwritableError) as error:
            logger.warning("%s: the training is not shown any more (%s)", self.out, error)
            self.writer = None
            self.machine = self.machine.model_copy(update={"pictures_every": 0})

    def scalars(self, values: Mapping[str, Tensor], optimizer: Optimizer, *, images: int) -> None:
        """Counts a step, and writes its values and learning rates if it is one of those that are shown."""
        self.step += 1
        if self.writer is None or self.step % self.machine.scalars_every:
            return
        seconds = time.monotonic() - self.started
        shown = {name: float(value) for name, value in values.items()}
        shown |= {f"learning_rate/{number}": group["lr"] for number, group in enumerate(optimizer.param_groups)}
        shown["images_per_second"] = images * (self.step - self.since) / seconds
        for name, value in shown.items():
            self.scalar(name, value)
        self.since, self.started = self.step, time.monotonic()

    def scalar(self, name: str, value: float) -> None:
        if self.writer is not None:
            with self._shown():
                self.writer.add_scalar(name, value, self.step)

    def picture(self, draw: Callable[[], np.ndarray | None]) -> None:
        """Writes the step's picture, if it is one of those that are shown."""
        every = self.machine.pictures_every
        if not every or self.step % every or not is_main() or (picture := draw()) is None:
            return
        with self._shown():
            with atomic_file(self.out / PICTURES / f"{self.step:06d}.png") as temporary:
                Image.fromarray(picture).save(temporary, format="PNG")
            if self.writer is not None:
                self.writer.add_image("step", picture, self.step, dataformats="HWC")

    def close(self) -> None:
        if self.writer is not None:
            with self._shown():
                self.writer.close()


def _optimizer(settings: ScheduleSettings, groups: list[dict[str, Any]]) -> Optimizer:
    if settings.optimizer == "adamw":
        betas = (settings.momentum, 0.999)
        return AdamW(groups, lr=settings.learning_rate, betas=betas, weight_decay=settings.weight_decay)
    return SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay)


def _one_cycle(t: float) -> float:
    if t < WARM_UP:
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * t / WARM_UP))
    return 0.5 * (1 + math.cos(math.pi * (t - WARM_UP) / (1 - WARM_UP)))


def _poly(t: float) -> float:
    return (1 - t) ** 0.9


def _step(t: float) -> float:
    return 0.5 ** int(t / HALVED)


SCHEDULES: dict[str, Callable[[float], float]] = {"one_cycle": _one_cycle, "poly": _poly, "step": _step}
"""Share of training done, in [0, 1) -> factor of the highest learning rate."""


class EpochBatches(Sampler[list[int]]):
    """This process's part of each batch of an epoch: numbers `epoch * len + i` in an order that seed and epoch decide.

    Args:
        length: number of images.
        batch_size: of the whole batch, over all processes; what is left over at an epoch's end is not used.
        parts: that a batch is computed in; each holds the same images for any number of processes.
        start: batches to leave out, since they are done.
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


def decay_groups(model: nn.Module, *, learning_rate: float) -> list[dict[str, Any]]:
    """All weights at one learning rate; the optimizer's weight decay on matrices and kernels alone.

    Biases, norms, prefix tokens and position tables are not decayed.
    """
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    kept = [p for name, p in trained if p.ndim <= 1 or name.endswith(("_token", "pos_embed"))]
    kept_ids = {id(p) for p in kept}
    return [
        {"params": [p for _, p in trained if id(p) not in kept_ids], "lr": learning_rate},
        {"params": kept, "lr": learning_rate, "weight_decay": 0.0},
    ]


def training_key(*parts: Any) -> str:
    """Hash of everything that decides a training's result: settings, data, classes."""
    text = json.dumps([getam.version.VERSION, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
