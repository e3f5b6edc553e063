"""Fusions, and the methods that GETAM is compared with: by hand, by autograd, with whole matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.classifiers import CLASSES, METHODS, classifier
from support.networks import assert_same, fingerprint, images_of, small_vit
from torch import Tensor, nn

from getam.errors import InputError
from getam.maps.attention import AttentionMaps
from getam.maps.baselines import AttentionRollout, ClassActivationMaps, GradCAM, create_maps
from getam.settings.config import validate_config
from getam.settings.maps import ActivationSettings
from getam.settings.reading import read_yaml


@pytest.fixture(scope="module")
def defaults() -> ActivationSettings:
    config = validate_config(read_yaml(Path(__file__).resolve().parents[2] / "config.yaml"))
    return ActivationSettings.model_validate(config.end_to_end.maps.model_dump())


def explicit_attention(vit: Any, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Scores and each block's whole matrix (B, heads, N, N), in one graph; the ViT's own explicit form."""
    matrices: list[Tensor] = []
    handles = [
        block.attn.attn_drop.register_forward_hook(lambda module, inputs, output: matrices.append(output))
        for block in vit.blocks
    ]
    for block in vit.blocks:
        block.attn.fused_attn = False
    scores = vit(images)
    for block, handle in zip(vit.blocks, handles, strict=True):
        block.attn.fused_attn = True
        handle.remove()
    return scores, matrices


# Fusions


@pytest.mark.parametrize("coupling", ["released", "paper", "attention_gradient"])
@pytest.mark.parametrize("start_block", [0, 1])
@pytest.mark.parametrize("fusion", ["sum", "product", "matmul"])
def test_fusions_of_whole_matrices(fusion: str, start_block: int, coupling: str) -> None:
    vit, images = small_vit(reg_tokens=2).double(), images_of(2, dtype=torch.float64)
    with AttentionMaps(vit, coupling, start_block, fusion) as maps:
        _, found = maps(images, CLASSES)
    scores, matrices = explicit_attention(vit, images)
    for b, indices in enumerate(CLASSES):
        for values, category in zip(found[b], indices, strict=True):
            gradients = torch.autograd.grad(scores[b, category], matrices, retain_graph=True)
            blocks = []
            for matrix, gradient in list(zip(matrices, gradients, strict=True))[start_block:]:
                a, g = matrix[b].detach(), gradient[b]
                if coupling == "released":
                    blocks.append((a * g).clamp(min=0).mean(0) * g.clamp(min=0).mean(0))
                elif coupling == "paper":
                    blocks.append((a.mean(0) * g.mean(0)).clamp(min=0) * g.mean(0).clamp(min=0))
                else:
                    blocks.append((a * g).clamp(min=0).mean(0))
            if fusion == "matmul":
                whole = torch.eye(len(blocks[0]), dtype=torch.float64)
                for block in reversed(blocks):
                    whole = whole @ block
                expected = whole[0, 3:]
            else:
                rows = torch.stack([block[0, 3:] for block in blocks])
                expected = rows.sum(0) if fusion == "sum" else rows.prod(0)
            assert expected.max() > 0
            if fusion != "sum":
                # Up to a factor: each block is divided by its maximum, so that nothing underflows.
                values, expected = values / values.max(), expected / expected.max()
            torch.testing.assert_close(values.flatten(), expected, rtol=1e-8, atol=1e-10 * float(expected.max()))


@pytest.mark.parametrize("fusion", ["product", "matmul"])
def test_many_tiny_blocks_do_not_underflow(fusion: str) -> None:
    vit = small_vit()
    for parameter in vit.head.parameters():
        # Gradients of 1e-12 make maps of 1e-24 in each of three blocks; their product is no float32.
        parameter.data.mul_(1e-12)
    with AttentionMaps(vit, fusion=fusion) as maps:
        _, (found, _) = maps(images_of(2), CLASSES)
    assert (found.amax((1, 2)) > 0).all()
    assert found.max() <= 1


def test_a_block_of_zeros_makes_a_product_of_zeros() -> None:
    vit = small_vit()
    for parameter in vit.head.parameters():
        parameter.data.zero_()
    for fusion in ("sum", "product", "matmul"):
        with AttentionMaps(vit, fusion=fusion) as maps:
            _, (found, _) = maps(images_of(2), CLASSES)
        assert torch.equal(found, torch.zeros(2, 4, 4))


def test_an_unknown_fusion_is_refused() -> None:
    with pytest.raises(InputError, match="fusion: 'mean' is none of sum, product, matmul"):
        AttentionMaps(small_vit(), fusion="mean")


# Grad-CAM


@pytest.mark.parametrize("prefix", [0, 3])
def test_grad_cam_by_autograd_through_the_whole_network(prefix: int) -> None:
    vit, images = small_vit(reg_tokens=prefix).double(), images_of(2, dtype=torch.float64)
    seen: list[Tensor] = []
    handle = vit.blocks[-1].norm1.register_forward_hook(lambda norm, inputs, output: seen.append(output))
    scores = vit(images)
    handle.remove()
    with GradCAM(vit) as maps:
        found_scores, found = maps(images, CLASSES)
    torch.testing.assert_close(found_scores, scores.detach())
    for b, indices in enumerate(CLASSES):
        for values, category in zip(found[b], indices, strict=True):
            (gradient,) = torch.autograd.grad(scores[b, category], seen, retain_graph=True)
            patches = seen[0][b, 1 + prefix :].detach()
            weights = gradient[b, 1 + prefix :].mean(0)
            expected = torch.stack([(weights * patch).sum() for patch in patches]).clamp(min=0).view(4, 4)
            assert expected.max() > 0
            torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-12)


def test_grad_cam_needs_one_attention() -> None:
    vit = small_vit()
    vit.blocks[-1].attn = None
    with pytest.raises(InputError, match="grad_cam: Block has no one attention"):
        GradCAM(vit)


def test_grad_cam_of_a_checkpointed_model() -> None:
    vit, images = small_vit(), images_of(1)
    with GradCAM(vit) as maps:
        _, expected = maps(images, [[2]])
    vit.set_grad_checkpointing(True)
    with GradCAM(vit) as maps:
        _, found = maps(images, [[2]])
    assert vit.grad_checkpointing is True
    assert torch.equal(found[0], expected[0])


def test_grad_cam_refuses_dropped_patches() -> None:
    vit = small_vit()
    vit.blocks.insert(2, KeepHalf())
    with (
        GradCAM(vit) as maps,
        pytest.raises(InputError, match=r"took \[\(1, 8, 32\)\] for 1 images of 1 prefix tokens"),
    ):
        maps(images_of(1), [[0]])


class KeepHalf(nn.Module):
    def forward(self, tokens: Tensor, **options: Any) -> Tensor:
        return tokens[:, :8]


# Rollout


@pytest.mark.parametrize("start_block", [0, 2])
def test_rollout_multiplies_whole_matrices(start_block: int) -> None:
    vit, images = small_vit().double(), images_of(2, dtype=torch.float64)
    with AttentionRollout(vit, start_block) as maps:
        scores, found = maps(images, [[4, 1], []])
    torch.testing.assert_close(scores, vit(images).detach())
    assert [m.shape for m in found] == [(2, 4, 4), (0, 4, 4)]
    _, matrices = explicit_attention(vit, images)
    expected = torch.eye(17, dtype=torch.float64)
    for matrix in matrices[start_block:]:
        expected = (0.5 * matrix[0].detach().mean(0) + 0.5 * torch.eye(17, dtype=torch.float64)) @ expected
    torch.testing.assert_close(expected.sum(1), torch.ones(17, dtype=torch.float64))
    for values in found[0]:
        torch.testing.assert_close(values.flatten(), expected[0, 1:])


# CAM


def test_cam_picks_the_named_classes_in_their_order() -> None:
    class Model(nn.Module):
        def activation_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
            maps = (10 * torch.arange(len(images))[:, None] + torch.arange(4.0))[..., None, None].expand(-1, -1, 2, 3)
            return maps[..., 0, 0], maps

    with ClassActivationMaps(Model()) as maps:
        scores, found = maps(torch.zeros(3, 3, 8, 8), [[2, 0], [], [3]])
    assert scores[1].tolist() == [10, 11, 12, 13]
    assert [m.shape for m in found] == [(2, 2, 3), (0, 2, 3), (1, 2, 3)]
    assert found[0][:, 0, 0].tolist() == [2, 0]
    assert found[2][:, 1, 2].tolist() == [23]


# One interface


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_scores_and_maps_and_leaves_the_model_alone(
    method: str, defaults: ActivationSettings
) -> None:
    model = classifier().train()
    before = fingerprint(model)
    images = images_of(3, size=(32, 48))
    with create_maps(model, defaults.model_copy(update={"method": method})) as maps:
        assert not any(module.training for module in model.modules())
        scores, found = maps(images, [[2, 0], [], [1]])
    assert scores.shape == (3, 5)
    assert not scores.requires_grad
    assert [m.shape for m in found] == [(2, 4, 6), (0, 4, 6), (1, 4, 6)]
    for m in found:
        assert m.dtype == torch.float32
        assert not m.requires_grad
        assert (m >= 0).all()
    assert found[0].max() > 0
    assert_same(before, fingerprint(model))
    torch.testing.assert_close(scores, model.eval()(images).detach())


@pytest.mark.parametrize("method", METHODS)
def test_an_images_map_is_the_same_alone_and_in_a_batch(method: str, defaults: ActivationSettings) -> None:
    model, images, classes = classifier(torch.float64), images_of(3, dtype=torch.float64), [[1], [4, 0, 2], []]
    with create_maps(model, defaults.model_copy(update={"method": method})) as maps:
        _, together = maps(images, classes)
        for b in range(3):
            _, (alone,) = maps(images[b : b + 1], classes[b : b + 1])
            torch.testing.assert_close(together[b], alone, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_gives_float32_maps(method: str, defaults: ActivationSettings) -> None:
    model, images = classifier(), images_of(2)
    with create_maps(model, defaults.model_copy(update={"method": method})) as maps:
        _, expected = maps(images, CLASSES)
        with torch.autocast("cpu", torch.bfloat16):
            _, found = maps(images, CLASSES)
    for m, full in zip(found, expected, strict=True):
        assert m.dtype == torch.float32
        assert nn.functional.cosine_similarity(m.flatten(1), full.flatten(1)).min() > 0.98


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("classes", "message"),
    [([[0], [5]], "image 1 has class index 5"), ([[-1], []], "image 0 has class index -1"), ([[0]], "1 lists for 2")],
)
def test_every_method_refuses_classes_that_are_not_there(
    method: str, classes: list[list[int]], message: str, defaults: ActivationSettings
) -> None:
    with (
        create_maps(classifier(), defaults.model_copy(update={"method": method})) as maps,
        pytest.raises(InputError, match=message),
    ):
        maps(images_of(2), classes)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_context_manager(method: str, defaults: ActivationSettings) -> None:
    maps = create_maps(classifier(), defaults.model_copy(update={"method": method}))
    with pytest.raises(InputError, match=r"is a context manager; write `with "):
        maps(images_of(1), [[0]])


def test_attention_gradient_is_getams_first_factor(defaults: ActivationSettings) -> None:
    def coupling_of(**changes: str) -> str:
        maps = create_maps(classifier(), defaults.model_copy(update=changes))
        assert isinstance(maps, AttentionMaps)
        return maps.coupling

    for coupling in ("released", "paper"):
        assert coupling_of(method="attention_gradient", coupling=coupling) == "attention_gradient"
        assert coupling_of(method="getam", coupling=coupling) == coupling


def test_a_context_is_entered_once() -> None:
    model = classifier().train()
    before = fingerprint(model)
    maps = AttentionMaps(model)
    with maps, pytest.raises(InputError, match="AttentionMaps: is entered already"):
        maps.__enter__()
    assert_same(before, fingerprint(model))
    with maps:
        maps(images_of(1), [[0]])


def test_cam_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"cam: VisionTransformer is no classifier of getam\.networks\.classifier"):
        ClassActivationMaps(small_vit())


def test_scores_that_reach_no_block_are_refused() -> None:
    class Early(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = small_vit()

        def forward(self, images: Tensor) -> Tensor:
            self.vit(images)
            return images.mean((2, 3))

    with AttentionMaps(Early()) as maps, pytest.raises(InputError, match="scores depend on none of the blocks"):
        maps(images_of(1), [[0]])
