"""Learning rates: of the layers of a backbone, and over the steps of a training."""

from __future__ import annotations

import pytest
import timm
from pydantic import ValidationError
from torch import nn

from getam.networks.classifier import ViTClassifier
from getam.networks.fine_tuning import freeze
from getam.settings.classifier import ClassifierSettings
from getam.settings.config import Config
from getam.training.optimization import (
    SCHEDULES,
    ParameterGroup,
    check_groups,
    decay_groups,
    fine_tuning_groups,
    schedule_factor,
)


def small_vit_classifier() -> ViTClassifier:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0, embed_dim=16, depth=3, num_heads=2)
    return ViTClassifier(vit, num_classes=2, readout="token")


def rates_of(model: nn.Module, groups: list[ParameterGroup]) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}


def test_fine_tuning_groups_have_the_layers_rates(config: Config) -> None:
    model = small_vit_classifier()
    tuned = config.classifier.model_copy(update={"backbone_rate": 0.1, "layer_decay": 0.5})
    groups = fine_tuning_groups(model, tuned, learning_rate=8.0)
    check_groups(model, groups)
    rates = rates_of(model, groups)
    for name, rate in rates.items():
        layer = int(name.split(".")[2]) + 1 if ".blocks." in name else 3 if ".norm." in name else 0
        expected = 8.0 if name.startswith("readout.") else 8.0 * 0.1 * 0.5 ** (3 - layer)
        assert rate == pytest.approx(expected), name
    decays = {group["name"]: group.get("weight_decay") for group in groups if group["lr"] == 8.0}
    assert decays == {"new": 0.0}
    with_decay = {name for group in groups if "weight_decay" not in group for name in rates_of(model, [group])}
    assert with_decay == {n for n, p in model.named_parameters() if p.ndim > 1 and not n.endswith(("token", "embed"))}


def test_fine_tuning_groups_of_one_rate_are_decay_groups(config: Config) -> None:
    model = small_vit_classifier()
    one = fine_tuning_groups(model, config.classifier, learning_rate=0.3)
    for group, expected in zip(one, decay_groups(model, learning_rate=0.3), strict=True):
        assert group.keys() == expected.keys()
        assert list(map(id, group["params"])) == list(map(id, expected["params"]))


def test_fine_tuning_groups_leave_frozen_layers_out(config: Config) -> None:
    model = small_vit_classifier()
    freeze(model.backbone, 1, key="backbone")
    tuned = config.classifier.model_copy(update={"backbone_rate": 0.1, "layer_decay": 0.5})
    groups = fine_tuning_groups(model, tuned, learning_rate=1.0)
    check_groups(model, groups)
    assert {group["lr"] for group in groups} == {1.0, 0.1}
    assert all(group["params"] for group in groups)


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_warm_up_rises_under_every_schedule(config: Config, schedule: str) -> None:
    plain = config.classifier.model_copy(update={"schedule": schedule, "epochs": 10, "warmup_epochs": 0})
    warm = plain.model_copy(update={"warmup_epochs": 2.5})
    without = [schedule_factor(plain, step, 40) for step in range(40)]
    assert without == [SCHEDULES[schedule](step / 40) for step in range(40)]
    factors = [schedule_factor(warm, step, 40) for step in range(40)]
    assert factors[10:] == without[10:]
    for step in range(10):
        assert factors[step] == pytest.approx(without[step] * (step + 1) / 10)
    assert factors[0] > 0


def test_a_warm_up_longer_than_the_training_is_refused(config: Config) -> None:
    values = config.classifier.model_dump() | {"epochs": 2, "warmup_epochs": 2.5}
    with pytest.raises(ValidationError, match=r"warmup_epochs: 2\.5 is more than the 2 epochs; write a smaller number"):
        ClassifierSettings.model_validate(values)
