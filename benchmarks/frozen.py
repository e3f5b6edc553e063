"""A step of the classifier's training with a frozen backbone, compared with one that trains all of its blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Check, Row, Run, extra_memory, medians, seconds
from getam.networks.classifier import build_classifier
from getam.settings.classifier import ClassifierSettings
from getam.settings.config import validate_config
from getam.settings.reading import BASE_CONFIG, merge, read_yaml
from getam.training.optimization import fine_tuning_groups, optimizer_of

CLASSES = 20
IMAGES = 8

MOST_TIME = 0.4
MOST_MEMORY = 0.4


def rows(rounds: int) -> list[Row]:
    recipe = dinov2_recipe()
    side = recipe.crop.size
    runs = {trainable: prepare(trainable, IMAGES, side) for trainable in ("none", "all")}
    spent = medians(runs, rounds)
    none, every = (
        extra_memory(f"trainable: {name}", *(partial(prepare, name, count, side) for count in (1, IMAGES)))
        for name in runs
    )
    return [
        Row(
            what=f"training step of the classifier, frozen ViT-S/14, {IMAGES} images of {side}x{side}",
            ours=seconds(spent["none"]),
            other="all blocks trained",
            its=seconds(spent["all"]),
            time=Check(spent["none"] / spent["all"], high=MOST_TIME, form="{:.2f}x the time"),
            memory=(none, every),
            most_memory=MOST_MEMORY,
        )
    ]


def dinov2_recipe() -> ClassifierSettings:
    """The classifier of configs/dinov2.yaml, with fresh weights."""
    recipe = merge(read_yaml(BASE_CONFIG), read_yaml(BASE_CONFIG.parent / "configs" / "dinov2.yaml"))
    recipe["classifier"]["pretrained"] = False
    return validate_config(recipe).classifier


def prepare(trainable: str, count: int, side: int) -> Run:
    """A function that takes one optimizer step on `count` images."""
    recipe = dinov2_recipe().model_copy(update={"trainable": trainable})
    torch.manual_seed(0)
    model = build_classifier(recipe, num_classes=CLASSES, image_size=side).train()
    optimizer = optimizer_of(recipe, fine_tuning_groups(model, recipe, learning_rate=recipe.learning_rate))
    images, labels = torch.randn(count, 3, side, side), (torch.rand(count, CLASSES) < 0.1).float()
    return partial(step, model, optimizer, images, labels)


def step(model: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    F.multilabel_soft_margin_loss(model(images), labels).backward()
    optimizer.step()
