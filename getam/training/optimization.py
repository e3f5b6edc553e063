"""Parameter groups, optimizers and learning-rate schedules.

A group is a dict as torch's optimizers take it: `params`, `lr` (its highest learning rate), and further options of its
own, such as `weight_decay` and a `name` for plots.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from getam.networks.fine_tuning import backbone_layers, is_decayed
from getam.settings.networks import FineTuningSettings
from getam.settings.training import ScheduleSettings

ParameterGroup = dict[str, Any]

WARM_UP = 0.25
"""Fraction of a one-cycle schedule in which the learning rate rises."""

FIRST_FACTOR = 0.04
"""Initial learning rate of a one-cycle schedule over the highest: 1 / div_factor of torch's OneCycleLR."""

HALVED = 0.4
"""Fraction of a training after which the step schedule halves the learning rate, repeatedly: epochs 20 and 40 of 50."""


def decay_groups(model: nn.Module, *, learning_rate: float, title: str = "") -> list[ParameterGroup]:
    """Puts all trainable parameters into two groups of one learning rate: with and without weight decay.

    Matrices and convolution kernels are decayed; biases, norms, prefix tokens and position tables are not.

    Args:
        title: name of both groups in plots; empty: numbers.
    """
    return _groups(title, model.named_parameters(), learning_rate=learning_rate)


def fine_tuning_groups(model: nn.Module, settings: FineTuningSettings, *, learning_rate: float) -> list[ParameterGroup]:
    """Parameter groups of a network with a backbone, whose layers have lower learning rates than the new layers.

    The new layers have `learning_rate`. Layer l of a backbone of L layers (see `getam.networks.fine_tuning.layers_of`)
    has learning_rate * backbone_rate * layer_decay^(L - l), as BEiT's and MAE's fine-tuning, whose backbone_rate is
    layer_decay. Each group is split into two, with and without weight decay, as in `decay_groups`.

    Args:
        model: has its backbone as `backbone`.
    """
    backbone: Any = model.backbone
    if settings.backbone_rate == 1 and settings.layer_decay == 1:
        return decay_groups(model, learning_rate=learning_rate)
    in_backbone = {id(parameter) for parameter in backbone.parameters()}
    new = ((name, parameter) for name, parameter in model.named_parameters() if id(parameter) not in in_backbone)
    groups = _groups("new", new, learning_rate=learning_rate)
    for name, parameters, factor in backbone_layers(backbone, settings.layer_decay, key="backbone"):
        groups += _groups(name, parameters, learning_rate=learning_rate * settings.backbone_rate * factor)
    return groups


def _groups(
    title: str, parameters: Iterable[tuple[str, nn.Parameter]], *, learning_rate: float
) -> list[ParameterGroup]:
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in parameters:
        if parameter.requires_grad:
            (decayed if is_decayed(name, parameter) else kept).append(parameter)
    groups: list[ParameterGroup] = [
        {"params": decayed, "lr": learning_rate},
        {"params": kept, "lr": learning_rate, "weight_decay": 0.0},
    ]
    return [group | ({"name": title} if title else {}) for group in groups if group["params"]]


def check_groups(model: nn.Module, groups: Sequence[ParameterGroup]) -> None:
    """Checks that each trainable parameter of the model is in exactly one group.

    Raises:
        ValueError: a parameter is in no group, and would not be trained, or in several; the first three are named.
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
    """Builds the optimizer that the settings name, over the groups."""
    if settings.optimizer == "adamw":
        betas = (settings.momentum, 0.999)
        return AdamW(groups, lr=settings.learning_rate, betas=betas, weight_decay=settings.weight_decay)
    return SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay)


def schedule_factor(settings: ScheduleSettings, step: int, steps: int) -> float:
    """Factor on every group's highest learning rate in a step of the training.

    The schedule's factor, in the first steps (`warmup_epochs`) times a rise from 1 / n to 1, where n is their number.

    Args:
        step: counted from 0.
        steps: number of all steps.
    """
    factor = SCHEDULES[settings.schedule](step / steps)
    warmup_steps = round(steps * settings.warmup_epochs / settings.epochs)
    return factor * (step + 1) / warmup_steps if step < warmup_steps else factor


def _one_cycle(t: float) -> float:
    if t < WARM_UP:
        return FIRST_FACTOR + (1 - FIRST_FACTOR) * 0.5 * (1 - math.cos(math.pi * t / WARM_UP))
    return 0.5 * (1 + math.cos(math.pi * (t - WARM_UP) / (1 - WARM_UP)))


def _poly(t: float) -> float:
    return (1 - t) ** 0.9


def _step(t: float) -> float:
    return 0.5 ** int(t / HALVED)


SCHEDULES: dict[str, Callable[[float], float]] = {"one_cycle": _one_cycle, "poly": _poly, "step": _step}
"""Name -> function from the fraction of the training that is done, in [0, 1), to a factor on the learning rate."""
