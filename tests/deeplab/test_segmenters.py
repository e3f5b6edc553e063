"""Segmenters of segmentation-models-pytorch in the place of DeepLabv2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deeplab.model import DeepLabV2, build_deeplab, describe_deeplab, load_deeplab
from deeplab.multi_scale import MultiScaleNetwork, multi_scale_loss
from deeplab.segmenters import SmpSegmenter
from getam.datasets.images import MEAN, STD
from getam.errors import InputError
from getam.networks.checkpoints import save_model
from getam.settings.config import Config
from getam.settings.deeplab import SEGMENTERS

CASES = [("deeplabv3plus", "resnet18"), ("upernet", "mit_b0"), ("segformer", "mit_b0"), ("segformer", "tu-resnet10t")]


def segmenter(architecture: str = "segformer", encoder: str = "mit_b0", **options: Any) -> SmpSegmenter:
    torch.manual_seed(0)
    return SmpSegmenter(architecture=architecture, encoder=encoder, num_classes=4, **options)


@pytest.mark.parametrize(("architecture", "encoder"), CASES)
def test_outputs_at_any_size_and_their_maximum(architecture: str, encoder: str) -> None:
    network = segmenter(architecture, encoder, scales=(0.5,))
    images = torch.randn(2, 3, 70, 53)
    assert [tuple(output.shape) for output in network(images)] == [(2, 4, 70, 53), (2, 4, 35, 26), (2, 4, 70, 53)]
    network.eval()
    with torch.no_grad():
        whole = network.logits(images)
        half = network.logits(F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False))
        half = F.interpolate(half, size=(70, 53), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(images), torch.maximum(whole, half))
    assert len(segmenter(architecture, encoder)(images)) == 1


@pytest.mark.parametrize(("architecture", "encoder"), CASES)
def test_groups_hold_each_trained_weight_once(architecture: str, encoder: str) -> None:
    network = segmenter(architecture, encoder)
    groups = network.parameter_groups(learning_rate=0.1, weight_decay=0.5)
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in network.parameters()}
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates["encoder_weight"] == (0.1, 0.5)
    assert rates["decoder_weight"] == (1.0, 0.5)
    assert rates["head_rest"] == (1.0, 0)


def test_frozen_batch_norm_stays() -> None:
    network = segmenter("deeplabv3plus", "resnet18", frozen_batch_norm=True)
    before = {name: value.clone() for name, value in network.encoder.state_dict().items() if "bn" in name}
    groups = network.parameter_groups(learning_rate=0.1, weight_decay=0.5)
    optimizer = torch.optim.SGD(groups, lr=0.1)
    multi_scale_loss(network(torch.randn(2, 3, 64, 64)), torch.zeros(2, 64, 64).long()).backward()
    optimizer.step()
    after = network.encoder.state_dict()
    assert before
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("architecture", [name for name, known in SEGMENTERS.items() if known.in_smp])
def test_it_learns(architecture: str) -> None:
    network = segmenter(architecture, "resnet18")
    generator = torch.Generator().manual_seed(1)
    labels = (torch.arange(64)[None, None] // 16).expand(2, 64, 64)
    images = labels[:, None].float() + 0.1 * torch.randn(2, 3, 64, 64, generator=generator)
    optimizer = torch.optim.SGD(network.parameter_groups(learning_rate=0.005, weight_decay=0), lr=0.005, momentum=0.9)
    losses = []
    for _ in range(8):
        loss = multi_scale_loss(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("architecture", ["deeplabv3plus", "upernet"])
def test_a_batch_of_one_is_refused_in_training_alone(architecture: str) -> None:
    network = segmenter(architecture, "resnet18")
    with pytest.raises(InputError, match="two images or more"):
        network(torch.randn(1, 3, 64, 64))
    assert network.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 4, 64, 64)


@pytest.mark.parametrize(
    ("architecture", "encoder", "message"),
    [
        ("segformr", "mit_b0", "'segformr' is not offered; use deeplabv2, deeplabv3plus, upernet, segformer"),
        ("segformer", "resnet19", "'resnet19' is none of .* near: resnet"),
        ("upernet", "tu-nothing", "upernet does not take tu-nothing"),
        ("upernet", "tu-hf-hub:somebody/model", "upernet does not take tu-hf-hub:somebody/model"),
        ("deeplabv3plus", "vgg11", "deeplabv3plus does not take vgg11"),
    ],
)
def test_what_is_not_offered(architecture: str, encoder: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        segmenter(architecture, encoder)


def test_rates_are_those_of_deeplabv3plus() -> None:
    network = segmenter("deeplabv3plus", "resnet18", atrous_rates=(2, 3, 5))
    rates = {module.dilation for module in network.decoder.modules() if isinstance(module, nn.Conv2d)}
    assert {(2, 2), (3, 3), (5, 5)} <= rates
    with pytest.raises(InputError, match=r"atrous_rates: deeplabv3plus takes three, not \[6, 12, 18, 24\]"):
        segmenter("deeplabv3plus", "resnet18", atrous_rates=(6, 12, 18, 24))


def test_images_come_to_an_encoder_as_its_weights_know_them() -> None:
    images = torch.randn(1, 3, 4, 4)
    assert torch.equal(segmenter().normalization(images), images)
    # Pretrained with mean and deviation 0.5: black is -1.
    black = -torch.tensor(MEAN)[:, None, None] / torch.tensor(STD)[:, None, None]
    found = segmenter("upernet", "tu-tf_efficientnet_lite0").normalization(black.expand(1, 3, 4, 4))
    torch.testing.assert_close(found, torch.full((1, 3, 4, 4), -1.0))


@pytest.mark.parametrize(("architecture", "kind"), [("deeplabv2", DeepLabV2), ("segformer", SmpSegmenter)])
def test_the_setting_chooses_and_a_saved_model_comes_back(
    config: Config, tmp_path: Any, architecture: str, kind: type[nn.Module]
) -> None:
    settings = config.deeplab.model_copy(update={"architecture": architecture})
    network = build_deeplab(settings, num_classes=3).eval()
    assert isinstance(network, kind)
    assert isinstance(network, MultiScaleNetwork)
    save_model(tmp_path, network, describe_deeplab(settings, ("a", "b"), learned_from="I+S"))
    again, classes = load_deeplab(tmp_path)
    assert classes == ("a", "b")
    images = torch.randn(1, 3, 40, 48)
    with torch.no_grad():
        assert torch.equal(again(images), network(images))
