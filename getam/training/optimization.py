"""How weights are moved: groups of parameters with their learning rates, the optimizers, the learning rate's schedules.

A group is a dict as torch's optimizers take it: `params`, `lr` (its highest learning rate), and what else it has of its
own, such as `weight_decay`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from getam.settings.training import ScheduleSettings

ParameterGroup = dict[str, Any]

WARM_UP = 0.25
"""Share of a one-cycle schedule in which the learning rate rises."""

FIRST_FACTOR = 0.04
"""Factor of the highest learning rate with which a one-cycle schedule starts: 1 / div_factor of torch's OneCycleLR."""

HALVED = 0.4
"""Share of a step schedule after which the learning rate is halved, again and again: epochs 20 and 40 of 50."""


def decay_groups(model: nn.Module, *, learning_rate: float) -> list[ParameterGroup]:
    """Groups of all trainable weights at one learning rate; the optimizer's weight decay acts on matrices and kernels.

    Biases, norms, prefix tokens and position tables are not decayed.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_kept = parameter.ndim <= 1 or name.endswith(("_token", "pos_embed"))
            (kept if is_kept else decayed).append(parameter)
    return [
        {"params": decayed, "lr": learning_rate},
        {"params": kept, "lr": learning_rate, "weight_decay": 0.0},
    ]


def check_groups(model: nn.Module, groups: Sequence[ParameterGroup]) -> None:
    """Checks that each trainable parameter of the model is in exactly one group.

    Raises:
        ValueError: one is in none, and would stay as it is, or in several; the first are named.
    """
    counts = Counter(id(parameter) for group in groups for parameter in group["params"])
    wrong = [
        f"{name} is in {counts[id(parameter)] or 'none'}"
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and counts[id(parameter)] != 1
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"each trainable parameter must be in one parameter group: {'; '.join(wrong[:3])}{more}")


def optimizer_of(settings: ScheduleSettings, groups: list[ParameterGroup]) -> Optimizer:
    if settings.optimizer == "adamw":
        betas = (settings.momentum, 0.999)
        return AdamW(groups, lr=settings.learning_rate, betas=betas, weight_decay=settings.weight_decay)
    return SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay)


def schedule_factor(settings: ScheduleSettings, done: float) -> float:
    """Factor of every group's highest learning rate once `done`, in [0, 1), of the training is done."""
    return SCHEDULES[settings.schedule](done)


def _one_cycle(t: float) -> float:
    if t < WARM_UP:
        return FIRST_FACTOR + (1 - FIRST_FACTOR) * 0.5 * (1 - math.cos(math.pi * t / WARM_UP))
    return 0.5 * (1 + math.cos(math.pi * (t - WARM_UP) / (1 - WARM_UP)))


def _poly(t: float) -> float:
    return (1 - t) ** 0.9


def _step(t: float) -> float:
    return 0.5 ** int(t / HALVED)


SCHEDULES: dict[str, Callable[[float], float]] = {"one_cycle": _one_cycle, "poly": _poly, "step": _step}
"""Share of the training that is done, in [0, 1) -> factor of the highest learning rate."""
