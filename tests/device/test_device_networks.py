"""Every network on the simulated device: forward and backward as on the CPU, without a wait, and under autocast."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.simulated_cuda import simulated_cuda
from torch import Tensor, nn

from deeplab.model import build_deeplab
from deeplab.multi_scale import multi_scale_loss
from getam.networks.classifier import build_classifier
from getam.networks.end_to_end import EndToEndNetwork
from getam.networks.saliency import build_saliency
from getam.settings.config import Config
from getam.training.losses import balanced_cross_entropy, structure_loss

VIT: dict[str, Any] = {"backbone_options": {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}}
HYBRID: dict[str, Any] = {
    "backbone": "vit_base_r50_s16_384",
    "backbone_options": {"embed_dim": 48, "depth": 1, "num_heads": 3},
}
CNN: dict[str, Any] = {"backbone": "resnet18", "backbone_options": {}, "readout": "pool"}
CLASSIFIERS: dict[str, dict[str, Any]] = {
    **{name: VIT | {"readout": name} for name in ("project", "ignore", "add", "token", "max")},
    "final norm": VIT | {"final_norm": True},
    "convolutional stem": VIT | {"stem_channels": (4, 8)},
    "hybrid": HYBRID,
    "distilled": VIT | {"backbone": "deit_tiny_distilled_patch16_224"},
    "released embedding": VIT | {"embedding": "released"},
    "normalized for the backbone": VIT | {"normalization": "backbone"},
    "frozen": VIT | {"trainable": "none"},
    "CNN": CNN,
}
ON_VIT: dict[str, Any] = {
    "encoder": "vit_tiny_patch16_224",
    "encoder_options": {"patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2},
    "decoder": {"scales": [4, 2, 1], "taps": [0, 1, 2], "channels": [8, 8, 8], "width": 16},
}
SEGMENTERS: dict[str, dict[str, Any]] = {
    "deeplabv2": {"encoder": "resnet18", "encoder_stages": 2},
    "deeplabv2 of Caffe's colors": {"encoder": "resnet18", "encoder_stages": 2, "normalization": "caffe"},
    "deeplabv2 of scales": {"encoder": "resnet18", "encoder_stages": 2, "scales": (0.5,), "frozen_batch_norm": False},
    "deeplabv3plus": {"architecture": "deeplabv3plus", "encoder": "resnet18", "atrous_rates": (1, 2, 3)},
    "dpt": ON_VIT | {"architecture": "dpt"},
    "linear": ON_VIT | {"architecture": "linear"},
}
NETWORKS = [
    *(("classifier", name) for name in CLASSIFIERS),
    *(("deeplab", name) for name in SEGMENTERS),
    *(("end_to_end", name) for name in ("dpt", "linear", "token")),
    ("saliency", "swin"),
]

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def make(kind: str, name: str, config: Config) -> tuple[nn.Module, Tensor, Tensor, Loss]:
    """A network, images, what is to be learned of them, and a function of the three that gives the loss."""
    torch.manual_seed(0)
    if kind == "classifier":
        settings = config.classifier.model_validate(config.classifier.model_dump() | CLASSIFIERS[name])
        classes = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
        return build_classifier(settings, num_classes=3, image_size=32), torch.randn(2, 3, 32, 32), classes, classified
    if kind == "deeplab":
        deeplab = config.deeplab.model_validate(config.deeplab.model_dump() | {"scales": ()} | SEGMENTERS[name])
        labels = torch.randint(0, 4, (2, 32, 32))
        return build_deeplab(deeplab, num_classes=4), torch.randn(2, 3, 32, 32), labels, segmented
    if kind == "end_to_end":
        changes = {"readout": "token"} if name == "token" else {"architecture": name}
        end_to_end = config.end_to_end.model_validate(config.end_to_end.model_dump() | changes)
        labels = torch.randint(0, 4, (2, 32, 32))
        return EndToEndNetwork(end_to_end, num_classes=3), torch.randn(2, 3, 32, 32), labels, both
    saliency = config.saliency.model_validate(config.saliency.model_dump() | {"image_size": 48})
    return build_saliency(saliency), torch.randn(2, 3, 48, 48), torch.rand(2, 1, 48, 48).round(), salient


def classified(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    return F.multilabel_soft_margin_loss(model(images), classes)


def segmented(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return multi_scale_loss(model(images), labels, full_resolution=True, synchronize=True)


def both(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    scores, logits = model(images)
    return scores.square().mean() + balanced_cross_entropy(logits, labels, synchronize=True)


def salient(model: nn.Module, images: Tensor, masks: Tensor) -> Tensor:
    return structure_loss(model(images), masks)


def step(model: nn.Module, images: Tensor, targets: Tensor, loss_of: Loss) -> Tensor:
    torch.manual_seed(3)
    loss = loss_of(model.train(), images, targets)
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize(("kind", "name"), NETWORKS)
def test_a_step_is_the_cpus(kind: str, name: str, config: Config) -> None:
    model, images, targets, loss_of = make(kind, name, config)
    moved = copy.deepcopy(model)
    expected = step(model, images, targets, loss_of)
    with simulated_cuda() as device:
        moved.to("cuda")
        images, targets = images.to("cuda"), targets.to("cuda")
        device.forget()
        found = step(moved, images, targets, loss_of)
        assert not device.waits
        torch.testing.assert_close(found.cpu(), expected)
        for (title, parameter), other in zip(model.named_parameters(), moved.parameters(), strict=True):
            assert (parameter.grad is None) == (other.grad is None), title
            if parameter.grad is not None:
                assert other.grad.is_cuda
                torch.testing.assert_close(other.grad.cpu(), parameter.grad, rtol=1e-3, atol=1e-6, msg=title)


@pytest.mark.parametrize(("kind", "name"), NETWORKS)
def test_a_step_under_autocast(kind: str, name: str, config: Config) -> None:
    model, images, targets, loss_of = make(kind, name, config)
    with simulated_cuda() as device:
        model.to("cuda").train()
        images, targets = images.to("cuda"), targets.to("cuda")
        rounded = []
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.register_forward_hook(lambda module, inputs, output: rounded.append(output.dtype))
        device.forget()
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of(model, images, targets)
        assert loss.is_cuda
        assert loss.dtype == torch.float32
        assert set(rounded) == {torch.bfloat16}
        loss.backward()
        assert not device.waits
    for title, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.is_cuda, title
            assert parameter.grad.dtype == torch.float32, title
