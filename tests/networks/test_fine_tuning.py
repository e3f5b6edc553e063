"""Freezing layers of backbones: which ones, in which mode, and messages where it cannot be done."""

from __future__ import annotations

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from support.workplace import PROJECT
from torch import nn

from getam.errors import InputError
from getam.networks.classifier import build_classifier
from getam.networks.fine_tuning import FineTunedNetwork, freeze, layers_of
from getam.networks.saliency import SaliencyNetwork
from getam.settings.classifier import ClassifierSettings
from getam.settings.config import validate_config
from getam.settings.reading import read_yaml

TINY = {"embed_dim": 16, "depth": 4, "num_heads": 2}


@pytest.fixture(scope="module")
def demo() -> ClassifierSettings:
    return validate_config(read_yaml(PROJECT / "config.yaml")).classifier


def trained(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", TINY),
        ("deit_tiny_distilled_patch16_224", TINY),
        ("vit_small_patch14_reg4_dinov2", TINY),
        # Its final norm comes after the average of the patches; timm counts it as a layer of its own.
        ("beit_base_patch16_224", TINY),
        ("vit_small_patch16_dinov3", TINY),
    ],
)
def test_layers_of_a_vit_are_its_blocks(name: str, options: dict[str, Any]) -> None:
    vit = timm.create_model(name, num_classes=0, **options)
    layers = layers_of(vit, key="backbone")
    assert set(layers) == {name for name, _ in vit.named_parameters()}
    assert max(layers.values()) == 4
    for parameter, layer in layers.items():
        if parameter.startswith("blocks."):
            assert layer == int(parameter.split(".")[1]) + 1
        else:
            assert layer == (4 if "norm." in parameter else 0), parameter


def test_layers_of_the_resnets_are_their_stages() -> None:
    resnet = smp.encoders.get_encoder("resnet18", weights=None)
    layers = layers_of(resnet, key="encoder")
    assert layers["conv1.weight"] == layers["bn1.bias"] == 0
    assert {layer for name, layer in layers.items() if name.startswith("layer3.")} == {3}
    assert max(layers.values()) == 4


def test_the_last_layers_are_trained() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY)
    freeze(vit, 2, key="backbone")
    assert {name.split(".")[0] if "blocks" not in name else name[:8] for name in trained(vit)} == {
        "blocks.2",
        "blocks.3",
        "norm",
    }
    freeze(vit, "none", key="backbone")
    assert trained(vit) == set()


def test_layers_of_the_saliency_network_are_swins() -> None:
    options = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "window_size": 4}
    network = SaliencyNetwork(
        backbone="swin_tiny_patch4_window7_224", backbone_options=options, image_size=64, trainable=1
    )
    # The blocks of the last stage are left out; its patch merging is the last layer.
    assert {name for name in trained(network) if name.startswith("backbone.")} == {
        "backbone.layers.3.downsample.norm.weight",
        "backbone.layers.3.downsample.norm.bias",
        "backbone.layers.3.downsample.reduction.weight",
    }
    assert any(name.startswith("neck.") for name in trained(network))


def test_more_layers_than_there_are_is_refused() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY)
    with pytest.raises(InputError, match=r"^trainable: 5 layers, but the backbone has 4 above its stem; write all$"):
        freeze(vit, 5, key="backbone")
    assert trained(vit) == {name for name, _ in vit.named_parameters()}


def test_an_encoder_with_unknown_layers_is_refused() -> None:
    encoder = smp.encoders.get_encoder("mit_b0", weights=None)
    with pytest.raises(InputError, match=r"the layers of this encoder .* write trainable: all or none, and"):
        freeze(encoder, 1, key="encoder")
    freeze(encoder, "none", key="encoder")
    assert trained(encoder) == set()


class Network(FineTunedNetwork):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)))
        self.dropout = nn.Dropout()
        self.head = nn.Linear(2, 2)


def test_frozen_modules_stay_in_evaluation_mode() -> None:
    network = Network()
    network.backbone[:2].requires_grad_(False)
    assert [module.training for module in network.train().backbone] == [False, False, True]
    assert network.backbone.training
    network.backbone.requires_grad_(False)
    network.eval().train()
    assert not any(module.training for module in network.backbone.modules())
    assert network.dropout.training
    assert network.head.training


def test_a_network_of_which_nothing_is_trained_has_modes_too() -> None:
    network = FineTunedNetwork()
    network.backbone = nn.Sequential(nn.Linear(2, 2))
    network.requires_grad_(False)
    assert not any(module.training for module in network.eval().modules())
    assert network.train().training
    assert not any(module.training for module in network.backbone.modules())


@pytest.mark.parametrize("readout", ["project", "token", "max"])
def test_a_frozen_backbone_runs_without_a_graph(demo: ClassifierSettings, readout: str) -> None:
    settings = demo.model_copy(update={"trainable": "none", "readout": readout, "stem_channels": ()})
    model = build_classifier(settings, num_classes=3, image_size=32).train()
    images = torch.randn(2, 3, 32, 32)
    assert not model.tokens(images).last.requires_grad
    assert model(images).requires_grad
    model(images).sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained(model)
    assert not any(name.startswith("backbone.") for name in trained(model))
