"""Propagation of maps: affinities and boxes patch by patch, on every kind of ViT, inside a map method's own pass."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.literal_propagation import (
    literal_attention_affinity,
    literal_boundary_prior,
    literal_boxes,
    literal_feature_affinity,
    literal_propagate,
)
from support.classifiers import CLASSES, METHODS, classifier
from support.networks import assert_same, fingerprint, images_of, small_vit
from support.vits import MODELS, grids_of, model_of, size_for
from torch import Tensor, nn

from getam import propagate
from getam.errors import InputError
from getam.maps.attention import AttentionMaps
from getam.maps.baselines import create_maps
from getam.maps.propagation import (
    PropagatedMaps,
    attention_affinity,
    boundary_prior,
    feature_affinity,
    in_boxes,
)
from getam.settings.maps import ActivationSettings

WAYS = ["attention", "features", "both"]
PRIORS = [0, 0.5]
seeds = st.integers(0, 2**32 - 1)


def settings_of(propagation: str, **values: Any) -> ActivationSettings:
    return ActivationSettings.model_validate(
        {
            "method": "getam",
            "coupling": "released",
            "start_block": 0,
            "fusion": "sum",
            "propagation": propagation,
            "propagation_blocks": 2,
            "propagation_threshold": 0.4,
            "propagation_power": 3,
            "propagation_steps": 2,
            "boundary_prior": 0,
        }
        | values
    )


@given(seed=seeds, count=st.integers(1, 9))
def test_attention_affinity_is_the_literal_one(seed: int, count: int) -> None:
    attention = np.random.default_rng(seed).dirichlet(np.full(count, 0.5), size=count) + 1e-6
    found = attention_affinity(torch.from_numpy(attention)).numpy()
    np.testing.assert_allclose(found, literal_attention_affinity(attention), rtol=1e-9)
    np.testing.assert_allclose(found, found.T, rtol=1e-9)


@given(seed=seeds, count=st.integers(1, 9), power=st.sampled_from([0.5, 1.0, 4.0]))
def test_feature_affinity_is_the_literal_one(seed: int, count: int, power: float) -> None:
    tokens = np.random.default_rng(seed).normal(size=(count, 3))
    found = feature_affinity(torch.from_numpy(tokens), power=power).numpy()
    np.testing.assert_allclose(found, literal_feature_affinity(tokens, power), rtol=1e-7, atol=1e-12)


@given(
    seed=seeds,
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    power=st.sampled_from([0.5, 1.0, 8.0]),
)
def test_boundary_prior_is_the_literal_one(seed: int, grid: tuple[int, int], power: float) -> None:
    tokens = np.random.default_rng(seed).normal(size=(grid[0] * grid[1], 3))
    found = boundary_prior(torch.from_numpy(tokens), grid, power=power).numpy()
    np.testing.assert_allclose(found, literal_boundary_prior(tokens, grid, power), rtol=1e-7, atol=1e-12)


def test_boundary_prior_by_hand() -> None:
    # What is like the edges has nothing left, wherever it lies; what is unlike them all has everything.
    tokens = torch.tensor([1.0, 0.0]).repeat(4, 5, 1)
    tokens[1, 2:4] = torch.tensor([0.0, 1.0])
    prior = torch.zeros(4, 5)
    prior[1, 2:4] = 1
    torch.testing.assert_close(boundary_prior(tokens.flatten(0, 1), (4, 5), power=8), prior)
    # Tokens of zeros are like nothing.
    assert torch.equal(boundary_prior(torch.zeros(20, 2), (4, 5), power=8), torch.ones(4, 5))


@given(
    seed=seeds,
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    count=st.integers(0, 3),
    threshold=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    steps=st.integers(1, 3),
)
def test_propagation_is_the_literal_one(
    seed: int, grid: tuple[int, int], count: int, threshold: float, steps: int
) -> None:
    random = np.random.default_rng(seed)
    maps = random.random((count, *grid)) ** 4
    affinity = random.random((grid[0] * grid[1],) * 2)
    given_maps, given_affinity = torch.from_numpy(maps), torch.from_numpy(affinity)
    found = propagate(given_maps, given_affinity, threshold=threshold, steps=steps).numpy()
    assert found.shape == maps.shape
    if count:
        np.testing.assert_allclose(found, literal_propagate(maps, affinity, threshold, steps), rtol=1e-9)
    assert np.array_equal(given_maps, maps), "the inputs stay as they are"
    assert np.array_equal(given_affinity, affinity)


def test_boxes_by_hand() -> None:
    # Two regions reach half of 10: a diagonal of three cells, whose box is a square, and a single cell.
    values = torch.tensor(
        [
            [9.0, 1.0, 1.0, 1.0, 1.0],
            [1.0, 5.0, 1.0, 1.0, 8.0],
            [1.0, 1.0, 10.0, 1.0, 1.0],
            [4.9, 1.0, 1.0, 1.0, 1.0],
        ]
    )
    inside = torch.zeros(4, 5)
    inside[:3, :3] = inside[1, 4] = 1
    torch.testing.assert_close(in_boxes(values[None], 0.5)[0], values * inside)
    assert torch.equal(inside.bool(), torch.from_numpy(literal_boxes(values.numpy(), 0.5)))
    # Each class has its own boxes, and a map of zeros stays one.
    both = in_boxes(torch.stack([values, torch.zeros(4, 5), values.flip(1)]), 0.5)
    torch.testing.assert_close(both[0], both[2].flip(1))
    assert not both[1].any()


def test_an_affinity_of_itself_alone_leaves_maps_as_they_are() -> None:
    maps = torch.rand(2, 3, 4)
    assert torch.equal(propagate(maps, torch.eye(12)), maps)


def matrices_of(vit: Any, images: Tensor) -> list[Tensor]:
    """Each block's matrix (B, heads, N, N) by timm's explicit attention."""
    matrices: list[Tensor] = []
    attentions = [m for block in vit.blocks for m in block.modules() if hasattr(m, "attn_drop")]
    handles = [m.attn_drop.register_forward_hook(lambda *call: matrices.append(call[2].detach())) for m in attentions]
    flags = [(m, m.fused_attn) for m in vit.modules() if hasattr(m, "fused_attn")]
    try:
        for module, _ in flags:
            module.fused_attn = False
        vit(images)
    finally:
        for module, fused in flags:
            module.fused_attn = fused
        for handle in handles:
            handle.remove()
    return matrices


def by_hand(vit: Any, images: Tensor, maps: list[Tensor], settings: ActivationSettings) -> list[Tensor]:
    """Propagated maps from timm's own matrices and tokens, by the literal functions."""
    prefix, results = vit.num_prefix_tokens, []
    count = len(vit.blocks)
    with torch.no_grad():
        matrices = matrices_of(vit, images)
        # Some blocks have two parallel attentions.
        each = len(matrices) // count
        matrices = matrices[each * max(0, count - settings.propagation_blocks) :]
        tokens = vit.forward_features(images)
        if isinstance(vit.norm, nn.Identity):
            tokens = vit.fc_norm(tokens)
    for image, values in enumerate(maps):
        spread, threshold = values.numpy(), settings.propagation_threshold
        if settings.propagation in ("attention", "both"):
            mean = torch.stack([m[image].mean(0) for m in matrices]).mean(0)[prefix:, prefix:]
            spread = literal_propagate(spread, literal_attention_affinity(mean.numpy()), threshold, 1)
            threshold = 0.0
        if settings.propagation in ("features", "both"):
            affinity = literal_feature_affinity(tokens[image, prefix:].numpy(), settings.propagation_power)
            spread = literal_propagate(spread, affinity, threshold, settings.propagation_steps)
        if settings.boundary_prior:
            prior = literal_boundary_prior(tokens[image, prefix:].numpy(), spread.shape[1:], settings.propagation_power)
            spread = spread * prior**settings.boundary_prior
        results.append(torch.from_numpy(spread))
    return results


@pytest.mark.parametrize("name", MODELS)
def test_every_vit_is_propagated_by_its_own_matrices_and_tokens(name: str) -> None:
    model = model_of(name)
    for grid in grids_of(model):
        images = torch.randn(2, 3, *size_for(model, grid), generator=torch.Generator().manual_seed(1)).double()
        with AttentionMaps(model, start_block=1) as method:
            scores, maps = method(images, CLASSES)
        for propagation, prior in product(WAYS, PRIORS):
            settings = settings_of(propagation, start_block=1, boundary_prior=prior)
            own = AttentionMaps(model, start_block=1, patch_tokens=propagation != "attention" or prior > 0)
            with PropagatedMaps(own, settings) as method:
                found_scores, found = method(images, CLASSES)
            torch.testing.assert_close(found_scores, scores)
            for one, other in zip(found, by_hand(model, images, maps, settings), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9 * other.max().item())


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("propagation", WAYS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_propagated_in_its_own_pass(method: str, propagation: str, prior: float) -> None:
    model, images = classifier(torch.float64), images_of(2, size=(32, 24), dtype=torch.float64)
    settings = settings_of(propagation, method=method, start_block=2, propagation_blocks=9, boundary_prior=prior)
    with create_maps(model, settings_of("none", method=method, start_block=2)) as maps_of:
        scores, maps = maps_of(images, CLASSES)
    before, passes = fingerprint(model), []
    with (
        model.backbone.blocks[0].register_forward_hook(lambda *_: passes.append(1)),
        create_maps(model, settings) as maps_of,
    ):
        found_scores, found = maps_of(images, CLASSES)
    assert len(passes) == 1
    assert_same(before, fingerprint(model))
    torch.testing.assert_close(found_scores, scores)
    assert not any(values.requires_grad for values in found)
    assert [values.shape for values in found] == [values.shape for values in maps]

    for one, other in zip(found, by_hand(model.backbone, images, maps, settings), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9 * other.max().item())


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("propagation", WAYS)
def test_a_batch_gives_what_its_images_give_alone(propagation: str, prior: float) -> None:
    model, images = classifier(), images_of(3)
    classes = [[4, 1], [], [0]]
    with create_maps(model, settings_of(propagation, boundary_prior=prior)) as maps_of:
        _, together = maps_of(images, classes)
        for image, indices in enumerate(classes):
            (alone,) = maps_of(images[image : image + 1], [indices])[1]
            peak = alone.amax() if len(alone) else 1
            torch.testing.assert_close(together[image] / peak, alone / peak, rtol=0, atol=1e-4)
    assert len(together[1]) == 0


def test_a_failing_pass_leaves_the_model_as_it_was() -> None:
    model = classifier()
    before = fingerprint(model)

    class Failed(Exception):
        pass

    def fail(*_: object) -> None:
        raise Failed

    handle = model.backbone.blocks[2].mlp.register_forward_hook(fail)
    with pytest.raises(Failed), create_maps(model, settings_of("both")) as maps_of:
        maps_of(images_of(1), [[0]])
    handle.remove()
    assert_same(before, fingerprint(model))


def test_a_block_without_fused_attention_is_refused() -> None:
    vit = small_vit()

    class Other(nn.Module):
        def forward(self, tokens: Tensor, **_: Any) -> Tensor:
            return tokens

    vit.blocks[1] = Other()
    maps = AttentionMaps(vit, start_block=2)
    with (
        pytest.raises(InputError, match=r"propagation: a block \(Other\) made no fused attention call.*or features"),
        PropagatedMaps(maps, settings_of("attention", propagation_blocks=2)) as method,
    ):
        method(images_of(1), [[0]])


@settings(max_examples=20)
@given(seed=seeds)
def test_rows_of_both_affinities_keep_a_constant_map(seed: int) -> None:
    random = np.random.default_rng(seed)
    attention = torch.from_numpy(random.dirichlet(np.full(6, 2.0), size=6))
    ones = torch.ones(1, 2, 3).double()
    # Doubly normalized attention is a walk: it neither adds to a constant map nor takes from it, to the precision of
    # three normalizations.
    torch.testing.assert_close(propagate(ones, attention_affinity(attention)), ones, rtol=0.1, atol=0)
    tokens = torch.from_numpy(random.normal(size=(6, 3)))
    torch.testing.assert_close(propagate(ones, feature_affinity(tokens, power=2)), ones)
