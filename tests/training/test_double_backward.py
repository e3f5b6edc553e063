"""The end-to-end training step: its two phases, what reaches the weights, targets, the authors' step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference.literal_double_backward import literal_training_step
from support.training_steps import SIZE, build, make_batch, without_dropout
from support.workplace import PROJECT
from torch import Tensor

import getam.training.double_backward
from getam.datasets.images import denormalize_rgb
from getam.labels.completion import complete_labels
from getam.labels.crf import crf_labels
from getam.labels.rrm import rrm_labels
from getam.maps.baselines import create_maps
from getam.maps.pamr import normalize, pamr
from getam.networks.end_to_end import EndToEndNetwork
from getam.networks.released import from_released, to_released
from getam.pages.pictures import CAPTION, SIDE, training_picture
from getam.settings.config import validate_config
from getam.settings.end_to_end import EndToEndSettings
from getam.settings.reading import merge, read_yaml
from getam.system.image_files import UNKNOWN
from getam.training.double_backward import training_step
from getam.training.losses import balanced_cross_entropy, dense_energy_loss, saliency_loss


def changed(settings: EndToEndSettings, **sections: dict[str, Any] | float) -> EndToEndSettings:
    """Settings with some of a nested section's values replaced."""
    return settings.model_copy(
        update={
            name: getattr(settings, name).model_copy(update=values) if isinstance(values, dict) else values
            for name, values in sections.items()
        }
    )


def in_float64(network: EndToEndNetwork, batch: dict[str, Tensor]) -> tuple[EndToEndNetwork, dict[str, Tensor]]:
    """Both in float64, where two ways to one value agree on any CPU to far less than what tells two labels apart."""
    return network.double(), {name: v.double() if v.is_floating_point() else v for name, v in batch.items()}


def captured_targets(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    targets: list[Tensor] = []

    def watch(logits: Tensor, labels: Tensor, *, synchronize: bool) -> Tensor:
        targets.append(labels.clone())
        return balanced_cross_entropy(logits, labels, synchronize=synchronize)

    monkeypatch.setattr(getam.training.double_backward, "balanced_cross_entropy", watch)
    return targets


def targets_by_hand(network: EndToEndNetwork, batch: dict[str, Tensor], settings: EndToEndSettings) -> Tensor:
    """The multi-stage path, image by image: maps of the classifier alone, PAMR, completion."""
    targets = []
    for image, classes, saliency in zip(batch["image"], batch["classes"], batch["saliency"], strict=True):
        present = classes.nonzero().flatten().tolist()
        with create_maps(network.classifier, settings.maps) as maps_of:
            maps = maps_of(image[None], [present])[1][0]
        refine = settings.refine
        refined = normalize(
            pamr(denormalize_rgb(image[None]), maps[None], iterations=refine.iterations, dilations=refine.dilations)
        )[0]
        labels = complete_labels(
            refined,
            present,
            (saliency == 1).to(torch.uint8),
            alpha=settings.completion.alpha,
            gamma=settings.completion.gamma,
            conflict=settings.completion.conflict,
        )
        targets.append(labels.masked_fill(saliency == UNKNOWN, UNKNOWN))
    return torch.stack(targets)


def gradients(network: EndToEndNetwork) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_first_phase_is_classification_alone(settings: EndToEndSettings) -> None:
    settings = settings.model_copy(update={"epochs": 3, "classifier_epochs": 2})
    network, batch = build(settings), make_batch()
    for epoch in (0, 1):
        losses = training_step(network, batch, epoch, settings).losses
        assert set(losses) == {"classification"}
    expected = F.multilabel_soft_margin_loss(network.classifier(batch["image"]), batch["classes"])
    torch.testing.assert_close(losses["classification"], expected)
    losses["classification"].backward()
    reached = gradients(network)
    assert any(name.startswith("classifier.backbone.blocks.0") for name in reached)
    assert not any(name.startswith("decoder") for name in reached)
    assert set(training_step(network, batch, 2, settings).losses) == {
        "classification",
        "segmentation",
        "saliency",
        "energy",
    }
    without = changed(settings, energy={"weight": 0.0})
    assert set(training_step(network, batch, 2, without).losses) == {"classification", "segmentation", "saliency"}


READOUTS = ["project", "add", "token", "max"]


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("method", ["getam", "cam"])
@pytest.mark.parametrize("trainable", ["all", 1, "none"])
@pytest.mark.parametrize("architecture", ["dpt", "linear"])
def test_any_readout_and_any_trainable_blocks(
    settings: EndToEndSettings,
    monkeypatch: pytest.MonkeyPatch,
    readout: str,
    method: str,
    trainable: int | str,
    architecture: str,
) -> None:
    settings = changed(
        settings,
        readout=readout,
        final_norm=True,
        trainable=trainable,
        architecture=architecture,
        maps={"method": method, "start_block": 1},
    )
    network, batch = in_float64(build(settings), make_batch())
    expected_targets = targets_by_hand(network, batch, settings)
    targets = captured_targets(monkeypatch)
    losses = training_step(network, batch, 1, settings).losses
    assert gradients(network) == {}, "the maps' pass reached the weights"
    assert torch.equal(targets[0], expected_targets.long())
    torch.stack(list(losses.values())).sum().backward()
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    reached = gradients(network)
    # The norm of the last block's tokens is read by every read-out and by the decoder.
    assert reached.keys() == trained
    assert all(gradient.abs().sum() > 0 for name, gradient in reached.items() if "head" in name)
    blocks = {name.split(".")[3] for name in trained if ".blocks." in name}
    assert blocks == {"all": {"0", "1", "2", "3"}, 1: {"3"}, "none": set()}[trainable]


def test_a_frozen_backbone_gets_no_backward_pass_of_the_losses(settings: EndToEndSettings) -> None:
    settings = changed(settings, readout="token", trainable="none", maps={"start_block": 1})
    network, batch = build(settings), make_batch()
    passes: list[int] = []
    block = network.classifier.backbone.blocks[2]
    block.register_full_backward_hook(lambda *_: passes.append(1))
    losses = training_step(network, batch, 1, settings).losses
    # One for each class of the image that has most.
    assert len(passes) == 2
    torch.stack(list(losses.values())).sum().backward()
    assert len(passes) == 2


def test_a_frozen_backbones_losses_are_those_of_a_trained_one(settings: EndToEndSettings) -> None:
    losses = {}
    for trainable in ("all", "none"):
        each = changed(settings, readout="token", trainable=trainable, maps={"start_block": 1})
        torch.manual_seed(0)
        network = without_dropout(build(each))
        losses[trainable] = training_step(network, make_batch(), 1, each).losses
    for name, value in losses["all"].items():
        torch.testing.assert_close(losses["none"][name], value)


@pytest.mark.parametrize(
    "maps",
    [
        {"method": "getam", "coupling": "released", "start_block": 0, "fusion": "sum"},
        {"method": "getam", "coupling": "paper", "start_block": 2, "fusion": "sum"},
        {"method": "attention_gradient", "start_block": 1},
        {"method": "cam"},
    ],
)
def test_second_phase_has_the_gradients_of_fixed_targets(
    settings: EndToEndSettings, monkeypatch: pytest.MonkeyPatch, maps: dict[str, Any]
) -> None:
    settings = changed(settings, maps=maps, energy={"weight": 1e-3})
    network, batch = in_float64(build(settings), make_batch())
    expected_targets = targets_by_hand(network, batch, settings)
    assert gradients(network) == {}
    targets = captured_targets(monkeypatch)
    losses = training_step(network, batch, 1, settings).losses
    assert gradients(network) == {}, "the maps' pass reached the weights"
    assert not any(parameter.grad_fn for parameter in network.parameters())
    assert torch.equal(targets[0], expected_targets.long())
    assert {0, 1, 3, UNKNOWN} <= set(targets[0].unique().tolist())
    torch.stack(list(losses.values())).sum().backward()
    stepped = gradients(network)

    reference = build(settings).double()
    scores, logits = reference(batch["image"])
    outside = batch["saliency"] == UNKNOWN
    fixed = {
        "classification": F.multilabel_soft_margin_loss(scores, batch["classes"]),
        "segmentation": balanced_cross_entropy(logits, expected_targets.long()),
        "saliency": saliency_loss(
            logits, (batch["saliency"] == 1).to(torch.uint8), ~outside, weight=settings.saliency_weight
        ),
        "energy": dense_energy_loss(
            denormalize_rgb(batch["image"]),
            logits.softmax(1),
            expected_targets,
            (~outside).double(),
            sigma_rgb=settings.energy.sigma_rgb,
            sigma_xy=settings.energy.sigma_xy,
            scale=settings.energy.scale,
            weight=settings.energy.weight,
        ),
    }
    for name, value in fixed.items():
        torch.testing.assert_close(losses[name], value, msg=name)
    torch.stack(list(fixed.values())).sum().backward()
    expected = gradients(reference)
    assert stepped.keys() == expected.keys()
    assert any(name.startswith("decoder") for name in stepped)
    for name, value in expected.items():
        torch.testing.assert_close(stepped[name], value, rtol=1e-9, atol=1e-12 * float(value.abs().max()), msg=name)


def test_targets_are_unknown_in_padding_and_background_where_nothing_is_mined(
    settings: EndToEndSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = changed(settings, completion={"alpha": 1.0})  # mines nothing
    targets = captured_targets(monkeypatch)
    batch = make_batch()
    training_step(build(settings), batch, 1, settings)
    saliency = batch["saliency"]
    assert (targets[0][saliency == UNKNOWN] == UNKNOWN).all()
    assert (targets[0][saliency == 0] == 0).all()
    inside = targets[0][saliency == 1]
    assert (inside != 0).all()
    assert (inside != UNKNOWN).any()
    # With mining, some of the background is a class of the image, and only such.
    settings = changed(settings, completion={"alpha": 0.5})
    training_step(build(settings), batch, 1, settings)
    for labels, outside, present in zip(targets[1], saliency == 0, ({1, 3}, {2}), strict=True):
        mined = set(labels[outside].unique().tolist()) - {0, UNKNOWN}
        assert mined
        assert mined <= present


def test_nothing_salient_is_background(settings: EndToEndSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = changed(settings, completion={"alpha": 1.0})
    targets = captured_targets(monkeypatch)
    batch = make_batch()
    batch["saliency"] = torch.zeros_like(batch["saliency"])
    losses = training_step(build(settings), batch, 1, settings).losses
    assert (targets[0] == 0).all()
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.parametrize("method", ["activation", "bands", "crf"])
def test_an_image_without_a_class_is_background_whatever_is_salient(
    method: str, settings: EndToEndSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = changed(settings, completion={"method": method})
    targets = captured_targets(monkeypatch)
    batch = make_batch()
    for none_of_them in ([1], [0, 1]):
        batch["classes"][none_of_them] = 0
        salient = training_step(build(settings), batch, 1, settings).losses
        assert (targets[-1][none_of_them][batch["saliency"][none_of_them] != UNKNOWN] == 0).all()
        assert all(torch.isfinite(value) for value in salient.values())
        not_salient = batch["saliency"].clone()
        not_salient[none_of_them] = torch.where(not_salient[none_of_them] == UNKNOWN, UNKNOWN, 0).byte()
        other = training_step(build(settings), batch | {"saliency": not_salient}, 1, settings).losses
        torch.testing.assert_close(salient, other, rtol=0, atol=0)


def test_padding_has_no_saliency_loss(settings: EndToEndSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[Tensor] = []
    forward = EndToEndNetwork.forward

    def watch(self: EndToEndNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
        scores, logits = forward(self, images)
        logits.retain_grad()
        received.append(logits)
        return scores, logits

    monkeypatch.setattr(EndToEndNetwork, "forward", watch)
    batch = make_batch()
    training_step(build(settings), batch, 1, settings).losses["saliency"].backward()
    gradient = received[0].grad
    assert gradient is not None
    padding = batch["saliency"] == UNKNOWN
    assert gradient.abs().sum(1)[~padding].min() > 0
    assert (gradient.abs().sum(1)[padding] == 0).all()


def test_a_step_in_float32_is_that_in_float64(settings: EndToEndSettings) -> None:
    ours = training_step(without_dropout(build(settings)), make_batch(), 1, settings)
    network, batch = in_float64(without_dropout(build(settings)), make_batch())
    exact = training_step(network, batch, 1, settings)
    assert ours.pictures is not None
    assert exact.pictures is not None
    # Rounding decides the label of a pixel where two classes are as good as equal: of one in a hundred at most. What
    # those change in a loss, an average over pixels, is of the same order.
    assert (ours.pictures.targets != exact.pictures.targets).float().mean() <= 0.01
    for name, value in exact.losses.items():
        assert ours.losses[name].dtype == torch.float32
        torch.testing.assert_close(ours.losses[name].double(), value, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("start_block", [0, 2])
def test_one_forward_equals_two_where_nothing_is_stochastic(settings: EndToEndSettings, start_block: int) -> None:
    settings = changed(settings, maps={"start_block": start_block})
    network, batch = in_float64(without_dropout(build(settings)), make_batch())
    literal = without_dropout(build(settings)).double()
    ours = training_step(network, batch, 1, settings)
    theirs = literal_training_step(literal, batch, settings)
    assert ours.pictures is not None
    assert theirs.pictures is not None
    assert torch.equal(ours.pictures.targets, theirs.pictures.targets)
    for step in (ours, theirs):
        torch.stack(list(step.losses.values())).sum().backward()
    for name, value in theirs.losses.items():
        torch.testing.assert_close(ours.losses[name], value, rtol=1e-9, atol=1e-12, msg=name)
    expected = gradients(literal)
    assert gradients(network).keys() == expected.keys()
    for name, value in gradients(network).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12 * float(expected[name].abs().max()))


AUTHORS_LOSSES = ("segmentation", "energy", "classification", "saliency")


@pytest.fixture
def authors_step(
    reference: Callable[[str], dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> tuple[EndToEndNetwork, dict[str, Tensor], EndToEndSettings, dict[str, np.ndarray]]:
    """The small network of the authors' program with the batch and the recipe of its recorded step.

    In float64, where our step is the same on any CPU to 1e-12. Their arrays are float32, so that what is left between
    the two is the rounding of their one recorded run, which no machine of ours changes: at most 4e-6 of normalized
    maps, 3e-7 of losses, 2e-6 of logits and 6e-6 of gradients' norms. Ours in float32 is as far from itself on
    another CPU as from theirs.
    """
    arrays, weights = reference("train_step.npz"), reference("getam_small.npz")
    recipe = merge(read_yaml(PROJECT / "config.yaml"), read_yaml(PROJECT / "configs" / "released.yaml"))
    recipe["end_to_end"] |= {
        "backbone": "vit_base_patch16_384",
        "backbone_options": {"embed_dim": 48, "depth": 4, "num_heads": 3, "img_size": 64},
        "pretrained": False,
    }
    recipe["end_to_end"]["decoder"] |= {"taps": [0, 1, 2], "channels": [8, 12, 16], "width": 16}
    recipe["end_to_end"]["maps"]["start_block"] = int(arrays["start_layer"])
    released = validate_config(recipe).end_to_end
    network = EndToEndNetwork(released, num_classes=20).train()
    state = {key[3:]: torch.from_numpy(value) for key, value in weights.items() if key.startswith("sd/")}
    network.load_state_dict(from_released(state)[0])
    without_dropout(network)
    batch = {
        "image": torch.from_numpy(arrays["img"]),
        "classes": torch.from_numpy(arrays["label"]),
        "saliency": torch.from_numpy((arrays["saliency"] > 0).astype(np.uint8)),
    }
    # Their photographs were cut to whole numbers on their way, which the normalized images no longer show.
    photographs = torch.from_numpy(arrays["ori_images"]).double()
    monkeypatch.setattr(getam.training.double_backward, "denormalize_rgb", lambda images: photographs)
    return *in_float64(network, batch), released, arrays


def test_released_step_is_the_authors(
    authors_step: tuple[EndToEndNetwork, dict[str, Tensor], EndToEndSettings, dict[str, np.ndarray]],
) -> None:
    network, batch, released, arrays = authors_step
    step = training_step(network, batch, released.epochs - 1, released)
    assert step.pictures is not None
    present = [row.nonzero().flatten().tolist() for row in batch["classes"]]
    for b, indices in enumerate(present):
        refined = step.pictures.maps[b, : len(indices)].numpy()
        normalized = refined / (refined.max((1, 2), keepdims=True) + released.map_epsilon)
        np.testing.assert_allclose(normalized, arrays[f"ref/norm_cam{b}"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(step.pictures.targets.numpy(), arrays["ref/seg_label"])
    expected = dict(zip(AUTHORS_LOSSES, arrays["ref/losses_ce_dense_cls_sal_total"], strict=False))
    # Not the energy: theirs is an approximation of ours, see test_losses.
    for name in ("segmentation", "classification", "saliency"):
        assert float(step.losses[name].detach()) == pytest.approx(expected[name], rel=1e-6), name
    logits = step.pictures.logits[..., ::4, ::4].numpy()
    np.testing.assert_allclose(logits, arrays["ref/seg_train_bn_stride4"], rtol=0, atol=1e-5)

    torch.stack([value for name, value in step.losses.items() if name != "energy"]).sum().backward()
    ours = {name: parameter.grad for name, parameter in network.named_parameters()}
    norms = {
        name: 0.0 if gradient is None else float(gradient.norm())
        for name, gradient in to_released(ours).items()  # type: ignore[arg-type]
    }
    theirs = dict(zip(arrays["ref/grad_norm_names"].tolist(), arrays["ref/grad_norms"].tolist(), strict=True))
    # Theirs has no entry for what gets no gradient: the final norm.
    assert {name for name in norms if name not in theirs} == {
        "pretrained.model.norm.weight",
        "pretrained.model.norm.bias",
    }
    for name, norm in theirs.items():
        assert norms[name] == pytest.approx(norm, rel=1e-5, abs=1e-9), name


def test_saliency_target_of_the_paper(
    authors_step: tuple[EndToEndNetwork, dict[str, Tensor], EndToEndSettings, dict[str, np.ndarray]],
) -> None:
    network, batch, released, arrays = authors_step
    intended = released.model_copy(update={"saliency_target": "background"})
    losses = training_step(network, batch, released.epochs - 1, intended).losses
    assert float(losses["saliency"].detach()) == pytest.approx(float(arrays["ref/sal_loss_intended"]), rel=1e-6)


@pytest.mark.parametrize("method", ["crf", "rrm"])
def test_targets_by_the_label_makers_without_saliency(
    method: str, settings: EndToEndSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = changed(settings, completion={"method": method})
    targets = captured_targets(monkeypatch)
    batch = make_batch()
    step = training_step(build(settings), batch, 1, settings)
    assert step.pictures is not None
    how = settings.completion
    for b, classes in enumerate(([0, 2], [1])):
        photograph = step.pictures.photographs[b].permute(1, 2, 0).round().byte().numpy()
        maps = step.pictures.maps[b, : len(classes)].numpy()
        made = (
            crf_labels(photograph, maps, classes, how.crf, gamma=how.gamma)
            if method == "crf"
            else rrm_labels(photograph, maps, classes, how.rrm, how.crf)
        )
        made[batch["saliency"][b].numpy() == UNKNOWN] = UNKNOWN
        np.testing.assert_array_equal(targets[0][b].numpy(), made)


def test_bfloat16_keeps_losses_in_float32(settings: EndToEndSettings) -> None:
    batch = make_batch()
    network = build(settings)
    exact = training_step(network, batch, 1, settings).losses
    with torch.autocast("cpu", torch.bfloat16):
        losses = training_step(network, batch, 1, settings).losses
    torch.stack(list(losses.values())).sum().backward()
    for value in losses.values():
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
    torch.testing.assert_close(losses["classification"], exact["classification"], rtol=0.05, atol=0.05)


def test_picture_of_a_step(settings: EndToEndSettings) -> None:
    step = training_step(build(settings), make_batch(), 1, settings)
    assert step.pictures is not None
    picture = training_picture(step.pictures)
    assert picture.dtype == np.uint8
    side = SIZE * -(-SIDE // SIZE)
    assert picture.shape == (CAPTION + 2 * side, 4 * side, 3)
    # Ground below the second image, which is padded there, is unknown: hatched, not a class's color.
    tile = picture[CAPTION + 2 * side - 20 :, 2 * side : 3 * side]
    assert {tuple(color) for color in tile.reshape(-1, 3).tolist()} == {(255, 255, 255), (150, 150, 150)}
