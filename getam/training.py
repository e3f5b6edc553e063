"""The training loop that every network shares: seeded, resumable, with progress."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import DataLoader, Dataset, Sampler

import getam.version
from getam.checkpoints import load_state, save_state
from getam.errors import InputError
from getam.images import mixed_seed
from getam.progress import progress
from getam.settings import ScheduleSettings

STATE = "state.safetensors"
WARM_UP = 0.25
"""Share of a one-cycle schedule in which the learning rate rises."""

Losses = Mapping[str, Tensor]
Step = Callable[[dict[str, Any], int], Losses]

logger = logging.getLogger(__name__)


def fit(
    model: nn.Module,
    step: Step,
    images: Dataset[Any],
    settings: ScheduleSettings,
    *,
    groups: list[dict[str, Any]],
    device: torch.device,
    threads: int,
    state: Path,
    key: str,
    what: str,
    name_of: Callable[[int], str],
) -> list[dict[str, float]]:
    """Trains `model` in place and gives each epoch's mean losses.

    After every epoch the whole state is written to `state`/state.safetensors; a later call with the same key goes
    on from it, to the same weights (bit for bit on CPU) as an uninterrupted one. The caller removes the folder once
    the model is saved.

    Args:
        step: (batch on the device, epoch) -> named losses; their sum is minimized.
        images: items by `epoch * len + i`, see TrainingImages.
        groups: parameter groups; `lr` in a group is its highest learning rate.
        key: identifies settings and data; a state with another key is not used.
        name_of: number of an image -> its name, for messages.

    Raises:
        InputError: a loss is not finite; names the batch.
    """
    optimizer = _optimizer(settings, groups)
    batches = max(1, len(images) // settings.batch_size)  # type: ignore[arg-type]
    total = batches * settings.epochs
    peaks = [group["lr"] for group in optimizer.param_groups]
    restored = load_state(state / STATE, model, optimizer, key=key) or {"epoch": 0, "history": []}
    history: list[dict[str, float]] = restored["history"]
    if restored["epoch"]:
        logger.info("%s: goes on after epoch %d of %d", what, restored["epoch"], settings.epochs)
    for epoch in range(restored["epoch"], settings.epochs):
        model.train()
        loader = DataLoader(
            images,
            batch_size=min(settings.batch_size, len(images)),  # type: ignore[arg-type]
            sampler=EpochSampler(len(images), epoch=epoch, seed=settings.seed),  # type: ignore[arg-type]
            num_workers=min(threads, 8) if device.type == "cuda" else 0,  # on CPU the network itself needs the cores
            pin_memory=device.type == "cuda",
            drop_last=True,
        )
        sums: dict[str, float] = {}
        started = time.monotonic()
        bar = progress(loader, total=batches, unit="batch", what=f"{what} epoch {epoch + 1}/{settings.epochs}")
        for number, batch in enumerate(bar):
            done = epoch * batches + number
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * SCHEDULES[settings.schedule](done / total)
            batch = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
            losses = step(batch, epoch)
            loss = torch.stack(list(losses.values())).sum()
            if not bool(torch.isfinite(loss)):
                names = ", ".join(name_of(int(i)) for i in batch["number"][:8])
                parts = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in losses.items())
                raise InputError(
                    f"loss is not finite ({parts}) in epoch {epoch + 1} on images {names}, ...; lower the learning rate"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
        history.append({name: value / batches for name, value in sums.items()})
        logger.info(
            "%s: epoch %d/%d, %s, %.1f s",
            what,
            epoch + 1,
            settings.epochs,
            ", ".join(f"{name} loss {value:.4f}" for name, value in history[-1].items()),
            time.monotonic() - started,
        )
        save_state(state / STATE, model, optimizer, key=key, progress={"epoch": epoch + 1, "history": history})
    return history


def _optimizer(settings: ScheduleSettings, groups: list[dict[str, Any]]) -> Optimizer:
    if settings.optimizer == "adamw":
        return AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.999), weight_decay=settings.weight_decay)
    return SGD(groups, lr=settings.learning_rate, momentum=0.9, weight_decay=settings.weight_decay)


def _one_cycle(t: float) -> float:
    if t < WARM_UP:
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * t / WARM_UP))
    return 0.5 * (1 + math.cos(math.pi * (t - WARM_UP) / (1 - WARM_UP)))


def _poly(t: float) -> float:
    return (1 - t) ** 0.9


SCHEDULES: dict[str, Callable[[float], float]] = {"one_cycle": _one_cycle, "poly": _poly}
"""Share of training done, in [0, 1) -> factor of the highest learning rate."""


class EpochSampler(Sampler[int]):
    """The numbers `epoch * len + i` of an epoch in an order that seed and epoch decide."""

    def __init__(self, length: int, *, epoch: int, seed: int) -> None:
        self.length = length
        self.epoch = epoch
        self.seed = seed

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator)
        return iter((order + self.epoch * self.length).tolist())


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
