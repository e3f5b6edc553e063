"""DeepLab v2: shapes, modes, frozen batch norm, learning-rate groups, loss, the reference's logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import HTTPError
from PIL import Image
from support.references import Procedural, Shapes

import getam.networks.pretrained
from deeplab import DeepLabV2
from deeplab.cli import STAGES, TOOLS
from deeplab.import_kazuto1011_state import from_kazuto1011_state
from deeplab.model import CAFFE_MEAN, load_deeplab
from deeplab.multi_scale import multi_scale_loss
from getam.cli import command
from getam.datasets.images import MEAN, STD
from getam.errors import InputError
from getam.system.files import read_json


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 65, 49, generator=torch.Generator().manual_seed(0))


def small(**settings: object) -> DeepLabV2:
    torch.manual_seed(0)
    return DeepLabV2(**{"encoder": "resnet18", "num_classes": 5, **settings})


def batch_norms(model: DeepLabV2) -> Iterator[torch.nn.BatchNorm2d]:
    return (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))


# Ceil-mode pooling adds one to even sizes: 64 -> 32 -> 17 -> 9, without it 16 -> 8; not to odd ones.
@pytest.mark.parametrize(
    ("output_stride", "size", "expected"),
    [
        (8, (113, 97), [(15, 13), (8, 7), (11, 10), (15, 13)]),
        (8, (64, 65), [(9, 9), (5, 5), (7, 7), (9, 9)]),
        (16, (113, 97), [(8, 7), (4, 4), (6, 5), (8, 7)]),
    ],
)
def test_logits_have_the_size_of_the_output_stride(
    output_stride: int, size: tuple[int, int], expected: list[tuple[int, int]]
) -> None:
    model = small(output_stride=output_stride)
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, *size))
        evaluated = model.eval()(torch.randn(1, 3, *size))
    assert [tuple(output.shape) for output in outputs] == [(1, 5, *shape) for shape in expected]
    assert evaluated.shape == (1, 5, *expected[-1])


def test_eval_is_the_last_training_output_when_batch_norm_is_frozen(images: torch.Tensor) -> None:
    model = small()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), model.train()(images)[-1], rtol=0, atol=0)


def test_fusion_is_the_maximum_of_separately_computed_scales(images: torch.Tensor) -> None:
    model = small(scales=(0.5, 0.75)).eval()
    single = small(scales=()).eval()
    single.load_state_dict(model.state_dict())
    with torch.no_grad():
        full = single(images)
        expected = full
        for factor, size in [(0.5, (32, 24)), (0.75, (48, 36))]:
            resized = F.interpolate(images, scale_factor=factor, mode="bilinear", align_corners=False)
            assert resized.shape[-2:] == size
            scaled = F.interpolate(single(resized), size=full.shape[-2:], mode="bilinear", align_corners=False)
            assert (scaled > expected).any()  # every scale wins somewhere, so leaving one out is seen
            expected = torch.maximum(expected, scaled)
        torch.testing.assert_close(model(images), expected)


def test_without_scales_training_returns_a_list_of_one(images: torch.Tensor) -> None:
    model = small(scales=())
    with torch.no_grad():
        outputs = model(images)
        assert len(outputs) == 1
        torch.testing.assert_close(outputs[0], model.eval()(images), rtol=0, atol=0)


def test_aspp_is_the_sum_of_its_branches_and_starts_near_zero() -> None:
    aspp = small(num_classes=21, atrous_rates=(2, 6)).aspp
    features = torch.randn(1, 512, 7, 9)
    with torch.no_grad():
        first, second = (
            F.conv2d(features, branch.weight, branch.bias, padding=rate, dilation=rate)
            for branch, rate in zip(aspp.branches, (2, 6), strict=True)
        )
        torch.testing.assert_close(aspp(features), first + second)
    for branch in aspp.branches:
        assert branch.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert branch.bias.count_nonzero() == 0


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_first_block_of_a_stage_is_strided_on_conv1_and_dilated(encoder: str) -> None:
    resnet = small(encoder=encoder).encoder
    for stage, stride, dilation in [(resnet.layer2, 2, 1), (resnet.layer3, 1, 2), (resnet.layer4, 1, 4)]:
        assert stage[0].conv1.stride == stage[0].downsample[0].stride == (stride, stride)
        assert stage[0].conv2.stride == (1, 1)
        dilated = [module for module in stage.modules() if getattr(module, "kernel_size", None) == (3, 3)]
        assert len(dilated) == {"resnet18": 2, "resnet50": 1}[encoder] * len(stage)
        assert {(conv.dilation, conv.padding) for conv in dilated} == {((dilation, dilation),) * 2}


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_the_stride_of_bottlenecks_may_be_that_of_torchvisions_weights(encoder: str) -> None:
    first = small(encoder=encoder, bottleneck_stride="3x3").encoder.layer2[0]
    strides = [(1, 1), (2, 2)] if encoder == "resnet50" else [(2, 2), (1, 1)]  # A basic block has one place for it.
    assert [first.conv1.stride, first.conv2.stride, first.downsample[0].stride] == [*strides, (2, 2)]


def test_frozen_batch_norm_stays_frozen_after_train(images: torch.Tensor) -> None:
    model = small(frozen_batch_norm=True)
    model.eval()
    model.train()
    before = {key: value.clone() for key, value in model.encoder.named_buffers()}
    assert model.training
    assert model.encoder.layer1.training
    assert len(before) == 3 * 20
    sum(output.sum() for output in model(images)).backward()
    for norm in batch_norms(model):
        assert not norm.training
        assert not norm.weight.requires_grad
        assert not norm.bias.requires_grad
        assert norm.weight.grad is None
    for key, value in model.encoder.named_buffers():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    assert model.encoder.conv1.weight.grad.abs().sum() > 0


def test_trainable_batch_norm_moves_its_statistics(images: torch.Tensor) -> None:
    model = small(frozen_batch_norm=False)
    model(images)
    assert all(norm.training and norm.weight.requires_grad for norm in batch_norms(model))
    assert all(norm.num_batches_tracked == 3 for norm in batch_norms(model))  # once a scale
    model.eval()(images)
    assert all(norm.num_batches_tracked == 3 for norm in batch_norms(model))


@pytest.mark.parametrize("frozen", [True, False])
def test_groups_hold_each_trainable_parameter_once(frozen: bool) -> None:
    model = small(frozen_batch_norm=frozen)
    groups = model.parameter_groups(learning_rate=2.5e-4, weight_decay=5e-4)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    table = {group["name"]: (len(group["params"]), group["lr"], group["weight_decay"]) for group in groups}
    expected = {
        "encoder": (20, 2.5e-4, 5e-4),
        "aspp_weight": (4, pytest.approx(2.5e-3), 5e-4),
        "aspp_bias": (4, pytest.approx(5e-3), 0.0),
    }
    assert table == (expected if frozen else {**expected, "batch_norm": (40, 2.5e-4, 0.0)})
    by_name = {group["name"]: {id(parameter) for parameter in group["params"]} for group in groups}
    assert id(model.encoder.conv1.weight) in by_name["encoder"]
    assert by_name["aspp_weight"] == {id(branch.weight) for branch in model.aspp.branches}
    assert by_name["aspp_bias"] == {id(branch.bias) for branch in model.aspp.branches}
    torch.optim.SGD(groups, lr=2.5e-4, momentum=0.9)


def test_loss_is_the_mean_over_labeled_pixels_summed_over_outputs() -> None:
    # Two classes; log-odds log 3 towards class 0: -log p is log(4/3) for label 0, log 4 for label 1.
    logits = torch.stack([torch.full((2, 2), math.log(3)), torch.zeros(2, 2)])[None]
    labels = torch.tensor([[[0, 1], [255, 0]]])
    one = (2 * math.log(4 / 3) + math.log(4)) / 3
    assert multi_scale_loss([logits], labels).item() == pytest.approx(one)
    # The second output is a single cell. Its center falls on the pixel (1, 1), label 0.
    assert multi_scale_loss([logits, logits[..., :1, :1]], labels).item() == pytest.approx(one + math.log(4 / 3))
    # At full resolution that cell is spread over all four pixels.
    assert multi_scale_loss([logits, logits[..., :1, :1]], labels, full_resolution=True).item() == pytest.approx(
        2 * one
    )


@pytest.mark.parametrize("full_resolution", [True, False])
def test_loss_of_labels_that_are_all_unknown_is_zero_with_zero_gradient(full_resolution: bool) -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = multi_scale_loss([logits], torch.full((1, 5, 4), 255), full_resolution=full_resolution)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.count_nonzero() == 0


def test_labels_are_sampled_down_as_pil_does() -> None:
    # Logits of 100 at the label that PIL's NEAREST picks: any other pick costs 100.
    labels = np.random.default_rng(0).integers(0, 7, (33, 50), dtype=np.uint8)
    for height, width in [(5, 7), (4, 13), (16, 25), (33, 50)]:
        sampled = np.array(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
        logits = 100.0 * F.one_hot(torch.from_numpy(sampled).long(), 7).permute(2, 0, 1)[None]
        assert multi_scale_loss([logits], torch.from_numpy(labels).long()[None]).item() < 1e-6


@pytest.mark.parametrize("name", ["resnet19", "vgg16", "resnext50_32x4d"])
def test_an_encoder_that_is_not_offered_is_answered_with_those_that_are(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name}.*resnet18, resnet34, resnet50, resnet101, resnet152"):
        small(encoder=name)


def test_output_stride_that_is_not_offered() -> None:
    with pytest.raises(InputError, match=r"output_stride 32.*\[8, 16\]"):
        small(output_stride=32)


@pytest.mark.parametrize("error", [ConnectionError, HTTPError])
def test_pretrained_weights_out_of_reach_name_the_encoder_and_the_cure(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise error("no route to host")

    monkeypatch.setattr(getam.networks.pretrained, "hf_hub_download", unreachable)
    with pytest.raises(InputError, match=rf"resnet18.*{error.__name__}.*pretrained to false"):
        small(pretrained=True)


@pytest.mark.parametrize("key", ["module.base.aspp.c0.weight", "base.layer6.block1.reduce.conv.weight", "epoch"])
def test_a_foreign_key_is_refused(key: str) -> None:
    with pytest.raises(InputError, match="no key of kazuto1011"):
        from_kazuto1011_state({key: torch.zeros(1)})


def test_resnet101_equals_the_reference_program(
    full_shapes: Shapes, procedural: Procedural, reference: Callable[[str], dict[str, np.ndarray]]
) -> None:
    official = procedural(full_shapes("deeplabv2"))
    expected = reference("deeplabv2.npz")

    model = DeepLabV2(encoder="resnet101", num_classes=21)
    assert sum(parameter.numel() for parameter in model.parameters()) == 44_048_532
    model.load_state_dict(from_kazuto1011_state(official), strict=True)
    model.double()
    with torch.no_grad():
        outputs = model(torch.from_numpy(expected["x"]).double())
        losses = [multi_scale_loss([output], torch.from_numpy(expected["label"]).long()) for output in outputs]

    for output, name in zip(outputs, ["base", "scale05", "scale075", "eval_max"], strict=True):
        array = expected[f"ref/{name}"]
        np.testing.assert_allclose(output.numpy(), array, rtol=0, atol=1e-12 * np.abs(array).max())
    np.testing.assert_allclose(losses, expected["ref/losses_100_50_75_max"], rtol=1e-12)


# The command import-deeplab


def import_deeplab(file: Path, *words: str) -> int:
    given = ["import-deeplab", str(file), "--out", str(file.parent / "model"), *words]
    return command("deeplab", STAGES | TOOLS, given, TOOLS)


def test_an_imported_checkpoint_computes_what_the_program_did(
    full_shapes: Shapes, procedural: Procedural, reference: Callable[[str], dict[str, np.ndarray]], tmp_path: Path
) -> None:
    torch.save(procedural(full_shapes("deeplabv2")), tmp_path / "theirs.pth")
    assert import_deeplab(tmp_path / "theirs.pth") == 0
    model, classes = load_deeplab(tmp_path / "model")
    assert (len(classes), classes[0]) == (20, "aeroplane")
    expected = reference("deeplabv2.npz")
    # Theirs takes BGR of 0..255 less its mean; ours what every network here takes.
    bgr = torch.from_numpy(expected["x"]).double() + torch.tensor(CAFFE_MEAN).double()[:, None, None]
    images = (bgr.flip(1) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        found = model.double()(images).numpy()
    array = expected["ref/eval_max"]
    np.testing.assert_allclose(found, array, rtol=0, atol=1e-4 * np.abs(array).max())
    description = read_json(tmp_path / "model" / "model.json")
    assert description["source"]["file"] == "theirs.pth"
    assert len(description["source"]["sha256"]) == 64
    # Scores of it say that it has seen pixel labels.
    assert description["supervision"] == "F"


def without_a_key(state: dict[str, torch.Tensor]) -> None:
    del state["base.layer3.block1.reduce.conv.weight"]


def of_another_shape(state: dict[str, torch.Tensor]) -> None:
    state["base.layer1.conv1.conv.weight"] = torch.zeros(64, 3, 3, 3)


def of_21_classes(state: dict[str, torch.Tensor]) -> None:
    for rate in range(4):
        state[f"base.aspp.c{rate}.bias"] = torch.zeros(22)


def with_a_key_more(state: dict[str, torch.Tensor]) -> None:
    state["base.layer9.x"] = torch.zeros(1)


UNFIT = {
    without_a_key: "does not fit: encoder.layer2.0.conv1.weight is missing",
    of_another_shape: "does not fit: encoder.conv1.weight is (64, 3, 3, 3), not (64, 3, 7, 7)",
    of_21_classes: "has 21 classes, --classes names 20; name its own",
    with_a_key_more: "'base.layer9.x' is no key of kazuto1011's",
}


@pytest.mark.parametrize("spoil", UNFIT)
def test_a_checkpoint_that_does_not_fit_is_named(
    full_shapes: Shapes,
    tmp_path: Path,
    spoil: Callable[[dict[str, torch.Tensor]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = {key: torch.zeros(shape) for key, shape in full_shapes("deeplabv2").items()}
    spoil(state)
    torch.save(state, tmp_path / "theirs.pth")
    assert import_deeplab(tmp_path / "theirs.pth") == 1
    error = capsys.readouterr().err
    assert UNFIT[spoil] in error
    assert "Traceback" not in error
    assert not (tmp_path / "model").exists()
