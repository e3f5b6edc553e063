"""Saliency: the network and its loss against the authors' program, maps by hand, pairs of a DUTS folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.references import Procedural

from getam.cli import STAGES, TOOLS, command
from getam.errors import InputError
from getam.networks.imports.saliency import from_authors_state
from getam.networks.saliency import SaliencyNetwork, load_saliency, saliency_map
from getam.system.files import read_json
from getam.training.losses import structure_loss

SMALL: dict[str, Any] = {
    "backbone": "swin_tiny_patch4_window7_224",
    "backbone_options": {
        "embed_dim": 16,
        "depths": (1, 2, 1, 1),
        "num_heads": (1, 2, 4, 8),
        "window_size": 6,
        "drop_path_rate": 0.0,
    },
    "image_size": 96,
}


def small_network(**changes: Any) -> SaliencyNetwork:
    torch.manual_seed(0)
    return SaliencyNetwork(**{**SMALL, **changes})


def reference_shapes(
    *, embed: int, depths: Sequence[int], heads: Sequence[int], window: int, neck: int
) -> dict[str, tuple[int, ...]]:
    """Key names and shapes of the authors' checkpoint, as sod.md lists them."""
    shapes: dict[str, tuple[int, ...]] = {
        "backbone.patch_embed.proj.weight": (embed, 3, 4, 4),
        "backbone.patch_embed.proj.bias": (embed,),
        "backbone.patch_embed.norm.weight": (embed,),
        "backbone.patch_embed.norm.bias": (embed,),
    }
    for i, depth in enumerate(depths):
        c = embed * 2**i
        for j in range(depth):
            block = f"backbone.layers.{i}.blocks.{j}."
            shapes |= {block + f"{norm}.{k}": (c,) for norm in ("norm1", "norm2") for k in ("weight", "bias")}
            shapes[block + "attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads[i])
            shapes[block + "attn.relative_position_index"] = (window**2, window**2)
            linear = {
                "attn.qkv": (3 * c, c),
                "attn.proj": (c, c),
                "mlp.fc1": (4 * c, c),
                "mlp.fc2": (c, 4 * c),
            }
            for name, (rows, columns) in linear.items():
                shapes |= {block + name + ".weight": (rows, columns), block + name + ".bias": (rows,)}
            if j % 2 and i < len(depths) - 1:
                shapes[block + "attn_mask"] = (1, window**2, window**2)
        if i < len(depths) - 1:
            merging = f"backbone.layers.{i}.downsample."
            shapes |= {merging + "reduction.weight": (2 * c, 4 * c)}
            shapes |= {merging + "norm.weight": (4 * c,), merging + "norm.bias": (4 * c,)}
        for k, kernel in enumerate((1, 3, 3)):
            conv = f"neck.conv_list.{i}.reduce.{k}."
            shapes[conv + "conv.weight"] = (neck, neck if k else c, kernel, kernel)
            norm = ("weight", "bias", "running_mean", "running_var")
            shapes |= {conv + f"norm.{name}": (neck,) for name in norm}
            shapes[conv + "norm.num_batches_tracked"] = ()
    c = neck * len(depths)
    body = "decoder.rcab_conv.body."
    for name, shape in {
        "0": (c, c, 3, 3),
        "2": (c, c, 3, 3),
        "3.conv_du.0": (c // 16, c, 1, 1),
        "3.conv_du.2": (c, c // 16, 1, 1),
    }.items():
        shapes |= {body + name + ".weight": shape, body + name + ".bias": shape[:1]}
    shapes |= {f"decoder.aspp_head.conv2d_list.{i}.conv.weight": (1, c, 3, 3) for i in range(4)}
    return shapes | {
        "noise_model.noise_conv.weight": (neck, 2 * neck, 1, 1),
        "noise_model.noise_conv.bias": (neck,),
    }


def import_saliency(file: Path) -> int:
    return command("getam", STAGES | TOOLS, ["import-saliency", str(file), "--out", str(file.parent / "model")])


@pytest.mark.parametrize("state", [{"backbone.layers.0.blocks.0.norm1.bias": torch.zeros(3)}, {"conv": torch.ones(1)}])
def test_a_checkpoint_of_another_network_is_refused(
    state: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(state, tmp_path / "theirs.pth")
    assert import_saliency(tmp_path / "theirs.pth") == 1
    error = capsys.readouterr().err
    assert "getam import-saliency: " in error
    assert "Traceback" not in error
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_an_imported_checkpoint_computes_what_the_authors_swin_b_did(
    reference: Callable[[str], dict[str, np.ndarray]], procedural: Procedural, tmp_path: Path
) -> None:
    arrays = reference("sod.npz")
    state = procedural(reference_shapes(embed=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12, neck=32))
    assert len(state) == 446
    torch.save(state, tmp_path / "theirs.pth")
    assert import_saliency(tmp_path / "theirs.pth") == 0
    assert read_json(tmp_path / "model" / "model.json")["source"]["file"] == "theirs.pth"
    network, image_size = load_saliency(tmp_path / "model")
    assert image_size == 384
    images = F.interpolate(torch.from_numpy(arrays["x_lowres"]), size=(384, 384), mode="bicubic", align_corners=False)
    assert np.array_equal(images[..., ::16, ::16].numpy(), arrays["x"])

    with torch.no_grad():
        features = network.backbone(images)
        logits = network(images)

    for i, (feature, neck) in enumerate(zip(features, network.neck, strict=True)):
        means = {f"feat{i}_mean": feature.mean(dim=(2, 3)), f"neck{i}_mean": neck(feature).mean(dim=(2, 3))}
        for name, mean in means.items():
            assert np.abs(mean.detach().numpy() - arrays[name]).max() <= 1e-4 * np.abs(arrays[name]).max()
    expected = arrays["sal_stride4"]
    assert np.abs(logits[..., ::4, ::4].numpy() - expected).max() <= 1e-4 * np.abs(expected).max()
    assert logits.mean().item() == pytest.approx(arrays["sal_mean"].item(), rel=1e-4)


def test_reference_state_loads_strictly_into_a_small_network(
    procedural: Procedural,
) -> None:
    # Windows of 3 fit the last grid (96 / 4 / 8 = 3), so that no relative position table shrinks.
    state = procedural(reference_shapes(embed=16, depths=(1, 2, 1, 1), heads=(1, 2, 4, 8), window=3, neck=32))
    network = small_network(backbone_options={**SMALL["backbone_options"], "window_size": 3})
    network.load_state_dict(from_authors_state(state), strict=True)

    weights = network.state_dict()
    for ours, theirs in {
        "backbone.layers.3.downsample.reduction.weight": "backbone.layers.2.downsample.reduction.weight",
        "backbone.layers.1.blocks.1.attn.qkv.bias": "backbone.layers.1.blocks.1.attn.qkv.bias",
        "neck.2.1.norm.running_var": "neck.conv_list.2.reduce.1.norm.running_var",
        "decoder.refine.squeeze.bias": "decoder.rcab_conv.body.3.conv_du.0.bias",
        "decoder.head.3.weight": "decoder.aspp_head.conv2d_list.3.conv.weight",
    }.items():
        assert torch.equal(weights[ours], state[theirs])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("layers.0.blocks.0.norm1.bias",), r"no key backbone\.layers"),
        (
            ("backbone.layers.0.blocks.0.norm1.bias", "backbone.layers.1.x", "head.bias"),
            "head.bias is not of",
        ),
    ],
)
def test_reference_state_of_another_network_is_refused(keys: Sequence[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_authors_state({key: torch.zeros(1) for key in keys})


@pytest.mark.parametrize("image_size", [96, 64])
def test_logits_have_the_images_size(image_size: int) -> None:
    network = small_network(image_size=image_size, neck_width=8).eval()
    with torch.no_grad():
        features = network.backbone(torch.zeros(2, 3, image_size, image_size))
        assert network(torch.zeros(2, 3, image_size, image_size)).shape == (2, 1, image_size, image_size)
    grid = image_size // 4
    assert [f.shape for f in features] == [(2, 16 * 2**i, grid // 2**i, grid // 2**i) for i in range(4)]


def test_features_are_taken_before_each_stages_blocks() -> None:
    backbone = small_network().eval().backbone
    with torch.no_grad():
        images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
        features = [feature.permute(0, 2, 3, 1) for feature in backbone(images)]
        assert torch.equal(features[0], backbone.patch_embed(images))
        for i in (1, 2, 3):
            after_blocks = backbone.layers[i - 1].blocks(features[i - 1])
            assert torch.equal(features[i], backbone.layers[i].downsample(after_blocks))


def test_every_parameter_has_a_gradient() -> None:
    network = small_network().train()
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(2, 1, 96, 96)
    masks[:, :, 20:60, 30:70] = 1
    structure_loss(network(images), masks).backward()
    lacking = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert lacking == []


def test_training_learns_a_square() -> None:
    network = small_network(image_size=64).train()
    images = torch.zeros(2, 3, 64, 64)
    masks = torch.zeros(2, 1, 64, 64)
    for k, place in enumerate((slice(8, 32), slice(32, 56))):
        images[k, :, place, place] = 1
        masks[k, :, place, place] = 1
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(25):
        loss = structure_loss(network(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    predicted = network(images).detach() > 0
    overlap = (predicted & (masks > 0)).sum() / (predicted | (masks > 0)).sum()
    assert overlap > 0.8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet18"}, "swin_base_patch4_window12_384"),
        ({"backbone_options": {"img_size": 224}}, "image_size is 96"),
        ({"image_size": 98}, "not a multiple"),
    ],
)
def test_network_refuses_wrong_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_network(**changes)


def test_structure_loss_equals_the_authors(reference: Callable[[str], dict[str, np.ndarray]]) -> None:
    arrays = reference("sod.npz")
    # Ours in float64, so that the rounding of their recorded float32 alone is left, whatever the CPU.
    logits = torch.from_numpy(arrays["loss_pred"]).double().requires_grad_()
    masks = torch.from_numpy(arrays["loss_gt"]).double()

    released = structure_loss(logits, masks, weighted=False)
    assert released.item() == pytest.approx(arrays["loss_official"].item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(released, logits)
    expected = arrays["loss_grad"]
    assert np.abs(gradient.numpy() - expected).max() <= 1e-5 * np.abs(expected).max()

    assert structure_loss(logits, masks).item() == pytest.approx(arrays["loss_true_weighted"].item(), rel=1e-6)


def test_structure_loss_by_hand() -> None:
    # An empty mask: every weight is 1; at logit 0 the cross entropy is ln 2 for any target, and the IoU loss
    # 1 - 1 / (64 * 0.5 + 1).
    loss = structure_loss(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))
    assert loss.item() == pytest.approx(np.log(2) + 1 - 1 / 33, rel=1e-6)


def test_structure_loss_in_half_precision_is_finite() -> None:
    logits = torch.full((1, 1, 384, 384), 4.0, dtype=torch.float16)
    masks = torch.zeros(1, 1, 384, 384, dtype=torch.bool)
    masks[..., :192] = True
    loss = structure_loss(logits, masks)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(structure_loss(logits.double(), masks).item(), rel=1e-4)


def test_saliency_map_of_an_empty_image_stays_empty_unless_stretched() -> None:
    probabilities = torch.tensor([[[0.001, 0.002], [0.003, 0.004]]])
    logits = torch.logit(probabilities)
    plain = saliency_map(logits, (2, 2), stretch=False)
    assert plain.dtype == torch.uint8
    # 255 p = 0.255, 0.51, 0.765, 1.02, rounded.
    assert plain.tolist() == [[0, 1], [1, 1]]
    # 255 (p - min) / (max - min) = 0, 85, 170, 255.
    assert saliency_map(logits, (2, 2), stretch=True).tolist() == [[0, 85], [170, 255]]


def test_saliency_map_of_constant_logits_is_zero_when_stretched() -> None:
    logits = torch.full((1, 3, 3), 2.0)
    assert saliency_map(logits, (4, 5), stretch=True).max() == 0
    assert saliency_map(logits, (4, 5), stretch=False).unique().tolist() == [225]


def test_saliency_map_resizes_logits_with_aligned_pixel_centers() -> None:
    logits = torch.tensor([[[-2.0, 2.0]]])
    # Four columns from two: -2, -1, 1, 2; sigmoid after the resizing.
    expected = [round(255 / (1 + np.exp(-v))) for v in (-2, -1, 1, 2)]
    assert saliency_map(logits, (1, 4), stretch=False).tolist() == [expected]


def test_saliency_map_refuses_a_batch() -> None:
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 4\)"):
        saliency_map(torch.zeros(2, 1, 4, 4), (4, 4), stretch=False)


def test_options_that_the_swin_does_not_take_are_refused() -> None:
    with pytest.raises(InputError, match="saliency backbone_options: swin_tiny_patch4_window7_224 does not take them"):
        SaliencyNetwork(backbone="swin_tiny_patch4_window7_224", backbone_options={"wings": 2}, image_size=96)
