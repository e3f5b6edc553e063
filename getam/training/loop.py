"""The training loop that all networks share: `train` trains and saves the network of a stage, `Training` is the loop.

The loop is seeded, resumes from a saved state, shows its progress, and computes the same in any number of processes.
"""

from __future__ import annotations

import logging
import math
import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from getam.training.batches import EpochBatches, killed_workers, moved
from getam.training.folder import STATE, hash_of, training_folder
from getam.training.log import BEST, TrainingLog
from getam.training.optimization import ParameterGroup, check_groups, optimizer_of, schedule_factor
from getam.training.position import Position
from getam.training.stop_signals import StopSignals, ignore_stop_signals

STATE_FILE = "state.safetensors"
"""Name of the saved state in the folder STATE."""

METRICS = "metrics.json"

Losses = Mapping[str, Tensor]
Batch = dict[str, Any]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """Result of a training step: named losses, whose sum is minimized, and a function that draws the step."""

    losses: Losses
    picture: Callable[[], np.ndarray] | None = None
    """Draws the step, (H, W, 3), uint8; called only for the steps whose picture is written."""


Step = Callable[[nn.Module, Batch, int], StepResult]
"""A training step: (model, batch, epoch) -> its result.

The model may be wrapped in DistributedDataParallel, the batch is on the device (see `moved`), epochs count from 0. The
average of a loss over the processes must be the loss of the whole batch. A step that reads from a GPU waits for it.
"""


@dataclass(frozen=True)
class Scoring:
    """How a trained network is scored before it is saved."""

    score: Callable[[], dict[str, Any]]
    """Returns the content of metrics.json; called with the network in evaluation mode."""
    data: object
    """JSON value that identifies the data that the scores depend on; a finished training with other data runs again."""


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

    Does nothing if `out` holds a finished training with the same sources, settings, initial weights and data. See
    `Training` for how a stopped training resumes.

    Args:
        settings: all settings of the stage; they are part of the training's key.
        data: JSON values that, with the settings and the initial weights, determine the result: class names, labels,
            fingerprints of files.
        description: content of model.json, see describe_model; the origin of the initial weights and the losses of
            each epoch are added to it.
        arguments: the stage's arguments; the module that defines their class is the stage, and names the training.

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
    """Hashes everything that determines a training's result: settings, origin of the initial weights, data."""
    return hash_of(settings.model_dump(mode="json"), initialization_of(model), *data)


class Training:
    """The loop that trains a network to its last step, from the first one or from a saved state.

    The whole state is written to `out`/.state at the end of every epoch, every `arguments.checkpoint_minutes` within
    one, and when one of STOP_SIGNALS ends the training. A later training with the same key resumes from that step and
    reaches the same weights (bit for bit on CPU) as an uninterrupted one. `training_folder` removes the state in the
    end.

    Under torchrun each process computes its part of every batch: batches, batch norm and dropout are the same as in a
    single process, gradients are averaged, and only the first process writes files.

    Args:
        model: is trained in place, on the device that holds it.
        step: see `Step`.
        images: items by the number `epoch * len + i`, see TrainingImages.
        groups: parameter groups, each trainable parameter in exactly one; `lr` is a group's highest learning rate.
        out: folder in which .state, tensorboard (scalars) and pictures are written.
        key: identifies settings, initial weights and data; a state with another key is ignored.
        name: name of the training in the log.
        name_of: number of an image -> its name, for messages.
        rate: epoch -> factor on all learning rates, in addition to the schedule's.
        validate: computes the current model's mIoU on val, in [0, 1]; None where there is no ground truth. Called in
            the first process, with the model in evaluation mode, every `arguments.validate_every` epochs.
        keep_best: called with the epoch, counted from 1, and its mIoU if that is the highest so far.

    Raises:
        InputError: a batch cannot be shared evenly by the processes.
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
        # The stage is the module that defines the arguments' class; a state is valid for the stage's sources only.
        self.code = getam.system.version.source_hash(type(arguments).__module__)
        self.position = self.resume()
        self.log = TrainingLog(out, arguments, step=self.position.epoch * self.batches + self.position.batch)
        self.network = self.distributed()
        self.stop = StopSignals()
        self.saved_at = time.monotonic()

    def shared_batch_size(self) -> int:
        """Number of images of a step: the settings' batch size, or all images if there are fewer.

        Raises:
            InputError: the processes and parts cannot share them evenly.
        """
        size, parts = min(self.settings.batch_size, self.image_count), self.settings.accumulation
        if size % (world_size() * parts):
            sharers = f"{world_size()} processes" + (f" in {parts} parts each" if parts > 1 else "")
            cure = "change one of batch_size and accumulation" if parts > 1 else "use another number"
            raise InputError(f"batch_size: {size} images cannot be shared evenly by {sharers}; {cure}")
        return size

    def resume(self) -> Position:
        """Loads the saved state, if there is one with this key and code; returns the position to train from."""
        path = self.out / STATE / STATE_FILE
        any_code = not self.arguments.code_hash
        saved = load_state(
            path,
            self.model,
            self.optimizer,
            Position,
            key=self.key,
            code=self.code,
            any_code=any_code,
            fits=lambda found: found.is_within(self.settings.epochs, self.batches),
        )
        position = saved or Position()
        if position.epoch or position.batch:
            done = f"{position.epoch} of {self.settings.epochs} epochs and {position.batch} batches"
            logger.info("%s: goes on after %s", self.name, done)
        return position

    def distributed(self) -> nn.Module:
        """The model that the step calls: under torchrun, with averaged gradients and synchronized batch norm."""
        if world_size() == 1:
            return self.model
        # DDP warns about parameters with a single row, such as tokens; the copy that it warns about takes no
        # measurable time.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        # Unused parameters occur: the decoder in the first phase, the final norm under a read-out that bypasses it.
        return DistributedDataParallel(synchronized(self.model, self.device.type), find_unused_parameters=True)

    def run(self) -> list[dict[str, float]]:
        """Trains to the last step; returns the mean losses of each epoch.

        Raises:
            InputError: a loss is not finite; the message names images of the batch.
            MachineError: a process that loads images was killed.
            Stopped: one of STOP_SIGNALS was received; the state is saved.
        """
        with self.stop, killed_workers(there_are=self.device.type == "cuda"):
            for epoch in range(self.position.epoch, self.settings.epochs):
                self.train_epoch(epoch)
        self.log.close()
        return self.position.history

    def train_epoch(self, epoch: int) -> None:
        """Trains the remaining batches of an epoch."""
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
        """Loads this process's parts of the remaining batches of an epoch."""
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
            # On a CPU the network needs all cores: loader processes would slow it down.
            num_workers=min(self.arguments.threads, 8) if on_gpu else 0,
            worker_init_fn=ignore_stop_signals,
            pin_memory=on_gpu,
            # A loader draws a random number when it starts, and a resumed training starts one more loader. With its own
            # generator it leaves the global random state as an uninterrupted training has it.
            generator=torch.Generator(),
        )

    def set_rates(self, epoch: int, number: int) -> None:
        """Sets the learning rate of every group for one batch of an epoch."""
        steps = self.batches * self.settings.epochs
        factor = schedule_factor(self.settings, epoch * self.batches + number, steps)
        for group, highest in zip(self.optimizer.param_groups, self.highest_rates, strict=True):
            group["lr"] = highest * self.rate(epoch) * factor

    def train_batch(self, batch: Batch, epoch: int, number: int) -> None:
        """Takes one optimizer step; then saves the state if due, and ends the training after a stop signal."""
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
        # After the last batch of an epoch, end_epoch saves the state.
        if result.stopped or (result.save_is_due and number + 1 < self.batches):
            self.save()
        if result.stopped:
            done = f"epoch {epoch + 1} of {self.settings.epochs}, batch {number + 1} of {self.batches}"
            logger.info("%s: state saved after %s", self.name, done)
            raise Stopped(self.stop.received or signal.SIGTERM)

    def forward_backward(self, batch: Batch, epoch: int) -> _BatchResult:
        """Runs the forward and backward passes of a batch, part by part; gradients accumulate on the parameters."""
        parts = self.settings.accumulation
        losses: dict[str, Tensor] = {}
        for part in range(parts):
            share = moved({name: value.chunk(parts)[part] for name, value in batch.items()}, self.device)
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
        """Agrees with the other processes on: the mean loss, whether to save the state, whether to stop.

        If one process has to save or stop, all do: one that did so alone would leave the others waiting for it.
        """
        save_is_due = time.monotonic() - self.saved_at >= 60 * self.arguments.checkpoint_minutes
        findings = [loss, *(loss.new_full((), float(value)) for value in (save_is_due, self.stop.received))]
        mean, due, stopped = mean_over_processes(torch.stack(findings)).tolist()
        return mean, due > 0, stopped > 0

    def end_epoch(self, epoch: int, *, images: int, seconds: float) -> None:
        """Logs an epoch, validates the model if due, and saves the state.

        Args:
            images: number of images trained in these seconds, by all processes together.
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
            # Validation may take long; if the process is killed meanwhile, the epoch is not lost.
            self.save()
        self.position.end_epoch(means | self.validated(epoch))
        self.save()
        received = torch.tensor(float(self.stop.received), device=self.device)
        if mean_over_processes(received) > 0:
            raise Stopped(self.stop.received or signal.SIGTERM)

    def validated(self, epoch: int) -> dict[str, float]:
        """Validates after every `validate_every` epochs and the last one: {"val_miou": ...}; {} after other epochs."""
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
        """Writes the state. Every process must call this, since the sums of losses are averaged over the processes."""
        progress = self.position.described()
        if is_main():
            path = self.out / STATE / STATE_FILE
            save_state(path, self.model, self.optimizer, key=self.key, code=self.code, progress=progress)
        self.saved_at = time.monotonic()


@dataclass(frozen=True)
class _BatchResult:
    """Result of a batch: its losses, without a graph, and what all processes agreed on (see `Training.agree`)."""

    losses: Losses
    picture: Callable[[], np.ndarray] | None
    save_is_due: bool
    stopped: bool
