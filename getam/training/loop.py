"""The training that every network shares: `train` trains and saves a stage's network, `Training` is its loop.

The loop is seeded, goes on from a saved state, shows how far it is, and computes the same in any number of processes.
"""

from __future__ import annotations

import logging
import math
import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

import getam.system.version
from getam.errors import InputError, Stopped
from getam.networks.checkpoints import load_state, save_model, save_state
from getam.networks.pretrained import initialization_of
from getam.settings.training import ScheduleSettings
from getam.system.arguments.training import TrainingArguments
from getam.system.distributed import is_main, mean_over_processes, synchronized, world_size
from getam.system.files import write_json
from getam.system.progress import progress, three_digits
from getam.training.batches import EpochBatches, killed_workers
from getam.training.folder import STATE, hash_of, training_folder
from getam.training.log import BEST, TrainingLog
from getam.training.optimization import ParameterGroup, check_groups, optimizer_of, schedule_factor
from getam.training.stop_signals import StopSignals, ignore_stop_signals

STATE_FILE = "state.safetensors"
"""File in the folder STATE with the saved state."""

METRICS = "metrics.json"

Losses = Mapping[str, Tensor]
Batch = dict[str, Any]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """What a training step gives: named losses, whose sum is minimized, and a picture of it for the log."""

    losses: Losses
    picture: Callable[[], np.ndarray] | None = None
    """Draws the step, (H, W, 3), uint8; it is called for the steps alone that are shown."""


Step = Callable[[nn.Module, Batch, int], StepResult]
"""(the model, or DistributedDataParallel around it; batch on the device; epoch, counted from 0) -> the step's result.

The average of a loss over the processes must be the loss of the whole batch.
"""


@dataclass(frozen=True)
class Scoring:
    """How a trained network is scored before it is saved."""

    score: Callable[[], dict[str, Any]]
    """Gives the content of metrics.json; the network is in evaluation mode."""
    data: object
    """What the scores depend on beside the network, as a value that JSON can hold; with other data the stage is not
    taken for finished."""


def train(
    model: nn.Module,
    step: Step,
    images: Dataset[Any],
    settings: ScheduleSettings,
    *,
    groups: list[ParameterGroup],
    data: Sequence[object],
    description: Mapping[str, Any],
    arguments: TrainingArguments,
    out: Path,
    name_of: Callable[[int], str],
    rate: Callable[[int], float] = lambda epoch: 1.0,
    validate: Callable[[], float | None] = lambda: None,
    scoring: Scoring | None = None,
) -> None:
    """Trains a stage's network and saves it: model.safetensors, model.json and, where it is scored, metrics.json.

    Nothing is trained where `out` holds what the same sources have finished from the same settings, first weights and
    data. See `Training` for how a stopped training goes on.

    Args:
        settings: all settings of the stage; they are part of the training's key.
        data: what decides the weights beside the settings and the first weights, as values that JSON can hold: class
            names, labels, fingerprints of files.
        description: what model.json says of the network, see describe_model; where its first weights came from and its
            losses are added here.
        arguments: of the stage; the module that defines their class is the stage's, and gives the training its name.

    The other arguments are those of `Training`, which also says what is raised.
    """
    key = training_key(model, settings, data)
    described = {**description, "initialization": initialization_of(model)}

    def keep_best(epoch: int, miou: float) -> None:
        save_model(out / BEST, model, described | {"epoch": epoch, "val_miou": miou})

    with training_folder(out, key, arguments=arguments, scored=scoring and scoring.data) as finished:
        if finished:
            return
        training = Training(
            model,
            step,
            images,
            settings,
            groups=groups,
            arguments=arguments,
            out=out,
            key=key,
            name=type(arguments).__module__.rpartition(".")[2],
            name_of=name_of,
            rate=rate,
            validate=validate,
            keep_best=keep_best,
        )
        history = training.run()
        if not is_main():
            return
        model.eval()
        metrics = scoring.score() if scoring else None
        save_model(out, model, described | {"history": history})
        if metrics is not None:
            write_json(out / METRICS, metrics)


def training_key(model: nn.Module, settings: ScheduleSettings, data: Sequence[object]) -> str:
    """Hash of everything that decides a training's result: settings, the origin of the first weights, data."""
    return hash_of(settings.model_dump(mode="json"), initialization_of(model), *data)


class Training:
    """The loop that trains a network, from its first step or from its saved state to its last.

    At the end of every epoch, and within one every `arguments.checkpoint_minutes`, the whole state is written to
    `out`/.state; a later training with the same key goes on from that step, to the same weights (bit for bit on CPU) as
    an uninterrupted one. The state is written as well when SIGTERM or SIGINT ends the training. `training_folder`
    removes the state in the end.

    Under torchrun each process takes its part of every batch; batches, batch norm and dropout are those of a single
    process, gradients are averaged, and the first process alone writes.

    Args:
        model: is trained in place, on the device that holds it.
        step: see `Step`.
        images: items by `epoch * len + i`, see TrainingImages.
        groups: each trainable parameter in one of them; `lr` is a group's highest learning rate.
        out: gets .state, tensorboard (scalars), pictures.
        key: identifies settings, first weights and data; a state with another key is not used.
        name: of the training, for the log.
        name_of: number of an image -> its name, for messages.
        rate: epoch -> factor of all learning rates, beside the schedule's.
        validate: mIoU on val of the model as it is, in evaluation mode; None where there is no ground truth. It is
            called after every `arguments.validate_every` epochs, in the first process.
        keep_best: is given the epoch, counted from 1, and its mIoU when that is the highest so far.

    Raises:
        InputError: the processes cannot share a batch evenly.
        ValueError: a trainable parameter is in no group or in several.
    """

    def __init__(
        self,
        model: nn.Module,
        step: Step,
        images: Dataset[Any],
        settings: ScheduleSettings,
        *,
        groups: list[ParameterGroup],
        arguments: TrainingArguments,
        out: Path,
        key: str,
        name: str,
        name_of: Callable[[int], str],
        rate: Callable[[int], float] = lambda epoch: 1.0,
        validate: Callable[[], float | None] = lambda: None,
        keep_best: Callable[[int, float], None] = lambda epoch, miou: None,
    ) -> None:
        self.model, self.step, self.images, self.settings = model, step, images, settings
        self.arguments, self.out, self.key, self.name, self.name_of = arguments, out, key, name, name_of
        self.rate, self.validate, self.keep_best = rate, validate, keep_best

        self.device = next(model.parameters()).device
        self.image_count = len(images)  # type: ignore[arg-type]
        self.batch_size = self.shared_batch_size()
        self.batches = self.image_count // self.batch_size
        check_groups(model, groups)
        self.optimizer = optimizer_of(settings, groups)
        self.highest_rates = [group["lr"] for group in self.optimizer.param_groups]
        # The stage is the module that defines the class of its arguments; a state belongs to the stage's sources.
        self.code = getam.system.version.source_hash(type(arguments).__module__)
        self.position = self.resume()
        self.log = TrainingLog(out, arguments, step=self.position.epoch * self.batches + self.position.batch)
        self.network = self.distributed()
        self.stop = StopSignals()
        self.saved_at = time.monotonic()

    def shared_batch_size(self) -> int:
        """Images of a step: all there are where they are fewer than the settings' batch."""
        size, parts = min(self.settings.batch_size, self.image_count), self.settings.accumulation
        if size % (world_size() * parts):
            sharers = f"{world_size()} processes" + (f" in {parts} parts each" if parts > 1 else "")
            cure = "change one of batch_size and accumulation" if parts > 1 else "use another number"
            raise InputError(f"batch_size: {size} images cannot be shared evenly by {sharers}; {cure}")
        return size

    def resume(self) -> Position:
        """Loads the saved state, if there is one of this key and code, and gives how far the training is."""
        path = self.out / STATE / STATE_FILE
        any_code = not self.arguments.code_hash
        saved = load_state(path, self.model, self.optimizer, key=self.key, code=self.code, any_code=any_code)
        position = Position(**(saved or {}))
        if position.epoch or position.batch:
            done = f"{position.epoch} of {self.settings.epochs} epochs and {position.batch} batches"
            logger.info("%s: goes on after %s", self.name, done)
        return position

    def distributed(self) -> nn.Module:
        """The model as the step calls it: under torchrun with averaged gradients and batch norms of all processes."""
        if world_size() == 1:
            return self.model
        # DDP warns about parameters with a single row, such as tokens; the copy that it warns about takes no
        # measurable time.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        # The decoder is unused in the first phase, and so is the final norm with a read-out that does not see it.
        return DistributedDataParallel(synchronized(self.model, self.device.type), find_unused_parameters=True)

    def run(self) -> list[dict[str, float]]:
        """Trains to the last step and gives each epoch's mean losses.

        Raises:
            InputError: a loss is not finite; the message names images of the batch.
            MachineError: a process that loads images was killed.
            Stopped: a signal came, and the state is saved.
        """
        with self.stop, killed_workers():
            for epoch in range(self.position.epoch, self.settings.epochs):
                self.train_epoch(epoch)
        self.log.close()
        return self.position.history

    def train_epoch(self, epoch: int) -> None:
        """Trains the batches of an epoch that are not done yet."""
        self.model.train()
        first = self.position.batch
        loader = self.loader(epoch)
        started = time.monotonic()
        title = f"{self.name} epoch {epoch + 1}/{self.settings.epochs}"
        for number, batch in enumerate(
            progress(loader, total=self.batches - first, unit="batch", what=title), start=first
        ):
            self.set_rates(epoch, number)
            self.train_batch(batch, epoch, number)
        self.end_epoch(epoch, images=(self.batches - first) * self.batch_size, seconds=time.monotonic() - started)

    def loader(self, epoch: int) -> DataLoader[Any]:
        """This process's parts of the batches of an epoch that are not done yet."""
        on_gpu = self.device.type == "cuda"
        return DataLoader(
            self.images,
            batch_sampler=EpochBatches(
                self.image_count,
                epoch=epoch,
                seed=self.settings.seed,
                batch_size=self.batch_size,
                parts=self.settings.accumulation,
                start=self.position.batch,
            ),
            # On CPU the network itself needs the cores.
            num_workers=min(self.arguments.threads, 8) if on_gpu else 0,
            worker_init_fn=ignore_stop_signals,
            pin_memory=on_gpu,
            # A loader draws a random number when it starts, and a resumed training starts one loader more: it draws
            # from a generator of its own, so that the global random state stays the same.
            generator=torch.Generator(),
        )

    def set_rates(self, epoch: int, number: int) -> None:
        """Sets every group's learning rate for a batch."""
        done = (epoch * self.batches + number) / (self.batches * self.settings.epochs)
        for group, highest in zip(self.optimizer.param_groups, self.highest_rates, strict=True):
            group["lr"] = highest * self.rate(epoch) * schedule_factor(self.settings, done)

    def train_batch(self, batch: Batch, epoch: int, number: int) -> None:
        """One step of the optimizer; then the state is saved if that is due, and a stop signal ends the training."""
        self.optimizer.zero_grad(set_to_none=True)
        result = self.forward_backward(batch, epoch)
        scalars = {f"loss/{name}": value for name, value in result.losses.items()}
        if self.settings.gradient_clipping:
            trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            scalars["gradient_norm"] = nn.utils.clip_grad_norm_(trained, self.settings.gradient_clipping)
        self.optimizer.step()
        self.position.add(result.losses, batch=number + 1)
        self.log.scalars(scalars, self.optimizer, images=self.batch_size)
        self.log.picture(result.picture)
        # After an epoch's last batch the state is saved as that of a complete epoch, by end_epoch.
        if result.stopped or (result.save_is_due and number + 1 < self.batches):
            self.save()
        if result.stopped:
            done = f"epoch {epoch + 1} of {self.settings.epochs}, batch {number + 1} of {self.batches}"
            logger.info("%s: state saved after %s", self.name, done)
            raise Stopped(self.stop.received or signal.SIGTERM)

    def forward_backward(self, batch: Batch, epoch: int) -> _BatchResult:
        """Computes a batch in the settings' number of parts; leaves its gradients on the parameters."""
        parts = self.settings.accumulation
        losses: dict[str, Tensor] = {}
        for part in range(parts):
            share = {name: value.chunk(parts)[part].to(self.device, non_blocking=True) for name, value in batch.items()}
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
                result = self.step(self.network, share, epoch)
            loss = torch.stack(list(result.losses.values())).sum()
            mean, save_is_due, stopped = self.agree(loss)
            if not math.isfinite(mean):
                names = ", ".join(self.name_of(int(i)) for i in share["number"][:8])
                values = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in result.losses.items())
                where = f"in epoch {epoch + 1} on images {names}, ..."
                raise InputError(f"loss is not finite ({values}) {where}; lower the learning rate")
            (loss / parts).backward()
            for name, value in result.losses.items():
                losses[name] = losses.get(name, 0.0) + value.detach() / parts
        return _BatchResult(losses, result.picture, save_is_due, stopped)

    def agree(self, loss: Tensor) -> tuple[float, bool, bool]:
        """The loss's mean over the processes; whether the state is to be saved; whether the training is to stop.

        All processes act on what one of them finds: one that stopped or saved alone would leave the others waiting.
        """
        save_is_due = time.monotonic() - self.saved_at >= 60 * self.arguments.checkpoint_minutes
        findings = [loss, loss.new_tensor(save_is_due), loss.new_tensor(self.stop.received)]
        mean, due, stopped = mean_over_processes(torch.stack(findings)).tolist()
        return mean, due > 0, stopped > 0

    def end_epoch(self, epoch: int, *, images: int, seconds: float) -> None:
        """Logs an epoch, validates the model if that is due, and saves the state.

        Args:
            images: trained in these seconds, by all processes together.
        """
        means = self.position.means(self.batches)
        logger.info(
            "%s: epoch %d/%d, %s, %.1f s, %s images a second",
            self.name,
            epoch + 1,
            self.settings.epochs,
            ", ".join(f"{name} loss {value:.4f}" for name, value in means.items()),
            seconds,
            three_digits(images / max(seconds, 1e-9)),
        )
        if self.arguments.validate_every:
            # The validation may take its time; a process that is killed meanwhile has not trained in vain.
            self.save()
        self.position.end_epoch(means | self.validated(epoch))
        self.save()
        received = torch.tensor(float(self.stop.received), device=self.device)
        if mean_over_processes(received) > 0:
            raise Stopped(self.stop.received or signal.SIGTERM)

    def validated(self, epoch: int) -> dict[str, float]:
        """{"val_miou": ...} after an epoch that is to be validated, which the last one always is; else nothing."""
        every = self.arguments.validate_every
        if not every or ((epoch + 1) % every and epoch + 1 < self.settings.epochs) or not is_main():
            return {}
        self.model.eval()
        miou = self.validate()
        self.model.train()
        if miou is None:
            return {}
        self.log.scalar("val_miou", miou)
        if miou > self.position.best:
            self.position.best = miou
            self.keep_best(epoch + 1, miou)
        return {"val_miou": miou}

    def save(self) -> None:
        """Writes the state. Every process must call this: the sums of the losses are averaged over them."""
        progress = self.position.described()
        if is_main():
            path = self.out / STATE / STATE_FILE
            save_state(path, self.model, self.optimizer, key=self.key, code=self.code, progress=progress)
        self.saved_at = time.monotonic()


@dataclass(frozen=True)
class _BatchResult:
    """What a batch gave: its losses, without a graph, and what all processes agreed on."""

    losses: Losses
    picture: Callable[[], np.ndarray] | None
    save_is_due: bool
    stopped: bool


@dataclass
class Position:
    """How far a training is: what its state holds beside the tensors, as JSON."""

    epoch: int = 0
    """Epochs that are complete."""
    batch: int = 0
    """Batches of the next epoch that are done."""
    sums: dict[str, Any] = field(default_factory=dict)
    """Sums of the losses of those batches."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Mean losses of each complete epoch, and its mIoU on val where it was validated."""
    best: float = -1.0
    """Highest mIoU on val so far."""

    def add(self, losses: Losses, *, batch: int) -> None:
        self.batch = batch
        for name, value in losses.items():
            # The sums stay on the device: to read one would be to wait for a GPU.
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().double()

    def means(self, batches: int) -> dict[str, float]:
        return {name: value / batches for name, value in self._sums_over_processes().items()}

    def end_epoch(self, entry: dict[str, float]) -> None:
        self.history.append(entry)
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, {}

    def described(self) -> dict[str, Any]:
        return {**vars(self), "sums": self._sums_over_processes()}

    def _sums_over_processes(self) -> dict[str, float]:
        # A float was read from a saved state and is already the mean over processes.
        return {
            name: value if isinstance(value, float) else float(mean_over_processes(value))
            for name, value in self.sums.items()
        }
