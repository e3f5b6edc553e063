"""GETAM by hand, against the authors' arrays and against the equations with whole attention matrices."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from reference.literal_maps import literal_getam
from support.networks import assert_same, fingerprint, images_of, reference_model, small_vit
from torch import Tensor, nn
from torch.nn import functional as F

from getam.errors import InputError
from getam.maps.attention import AttentionMaps, class_gradients, find_backbone, gradient_weighted_maps
from getam.maps.recorder import AttentionCall, AttentionRecorder

Arrays = Callable[[str], dict[str, np.ndarray]]
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


def head_of(vit: Any) -> Callable[[Tensor], Tensor]:
    return lambda tokens: vit.forward_head(vit.norm(tokens))


def assert_literal(vit: Any, images: Tensor, classes: Sequence[Sequence[int]], maps: list[Tensor], **how: Any) -> None:
    for image, indices in enumerate(classes):
        for found, category in zip(maps[image], indices, strict=True):
            expected = literal_getam(vit, images, head_of(vit), image, category, **how)
            assert expected.max() > 0
            torch.testing.assert_close(found.flatten(), expected, rtol=1e-8, atol=1e-10 * expected.max().item())


# Three tokens, by hand


class ThreeTokenBlock(nn.Module):
    """One head of width 1: the class token's scores are log 5, log 3, log 2, so it attends 0.5, 0.3 and 0.2."""

    def forward(self, tokens: Tensor) -> Tensor:
        query = torch.ones(1, 1, 3, 1, dtype=tokens.dtype)
        key = torch.tensor([math.log(5), math.log(3), math.log(2)], dtype=tokens.dtype).view(1, 1, 3, 1)
        return tokens + F.scaled_dot_product_attention(query, key, tokens[:, None])[:, 0]


class ThreeTokenViT(nn.Module):
    """Tokens (1, 3, 1) in the place of images; the score is `slope` times the class token."""

    def __init__(self, slope: float, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ThreeTokenBlock() for _ in range(blocks))
        self.cls_token = nn.Parameter(torch.zeros(1))
        self.num_prefix_tokens = 1
        self.patch_embed = SimpleNamespace(dynamic_feat_size=lambda size: (1, 2))
        self.slope = slope

    def forward(self, images: Tensor) -> Tensor:
        tokens = images[:, 0]
        for block in self.blocks:
            tokens = block(tokens)
        return self.slope * tokens[:, :1, 0]


@pytest.mark.parametrize("coupling", ["released", "paper"])
def test_three_tokens_by_hand(coupling: str) -> None:
    # With V = (7, 4, -1) and dy/do = 2: g = (14, 8, -2), a = (0.5, 0.3, 0.2).
    # Patch 1: relu(8 * 0.3) * relu(8) = 19.2; patch 2 has a negative gradient. One head: both couplings agree.
    tokens = torch.tensor([7.0, 4.0, -1.0]).view(1, 1, 3, 1)
    with AttentionMaps(ThreeTokenViT(2, blocks=1), coupling=coupling) as maps:
        scores, (m,) = maps(tokens, [[0]])
    torch.testing.assert_close(scores, torch.tensor([[2 * (7 + 4.5)]]))
    torch.testing.assert_close(m, torch.tensor([[[19.2, 0.0]]]))


def test_three_tokens_over_two_blocks_by_hand() -> None:
    # Every token attends alike: block 1 sees V + 4.5 = (11.5, 8.5, 3.5), and g = 2 V: 0.3 * 17^2 = 86.7 and
    # 0.2 * 7^2 = 9.8.
    # Block 0's o[0] reaches the score directly and by the class token's own value: 2 + 2 * 0.5 = 3, so
    # g = 3 * (7, 4, -1): 0.3 * 12^2 = 43.2 and 0.
    tokens = torch.tensor([7.0, 4.0, -1.0]).view(1, 1, 3, 1)
    with AttentionMaps(ThreeTokenViT(2, blocks=2)) as maps:
        _, (m,) = maps(tokens, [[0]])
    torch.testing.assert_close(m, torch.tensor([[[86.7 + 43.2, 9.8]]]))
    with AttentionMaps(ThreeTokenViT(2, blocks=2), start_block=1) as maps:
        _, (m,) = maps(tokens, [[0]])
    torch.testing.assert_close(m, torch.tensor([[[86.7, 9.8]]]))


@pytest.mark.parametrize(
    ("coupling", "expected"),
    [
        # Patch 1: mean(relu(4 * 0.3), relu(-2 * 0.1)) * mean(relu(4), relu(-2)) = 0.6 * 2.
        # Patch 2: mean(relu(-6 * 0.2), relu(8 * 0.5)) * mean(relu(-6), relu(8)) = 2 * 4.
        ("released", [1.2, 8.0]),
        # Patch 1: mean a 0.2, mean g 1: 0.2 * 1 * 1. Patch 2: mean a 0.35, mean g 1: 0.35.
        ("paper", [0.2, 0.35]),
    ],
)
def test_two_heads_by_hand(coupling: str, expected: list[float]) -> None:
    output = torch.zeros(1, 2, 3, 1, requires_grad=True)
    # With keys of log p and queries of 1, the class token attends by p.
    call = AttentionCall(
        query=torch.ones(1, 2, 3, 1),
        key=torch.tensor([[[0.5, 0.3, 0.2], [0.4, 0.1, 0.5]]]).log()[..., None],
        value=torch.tensor([[[9.0, 2.0, -3.0], [9.0, -1.0, 4.0]]])[..., None],
        scale=1,
        bias=None,
        output=output,
    )
    # The score's slope is 2 at the class token; what it has at the other tokens is none of GETAM's business.
    scores = (output * torch.tensor([2.0, 50.0, -50.0])[:, None]).sum().view(1, 1)
    (m,) = gradient_weighted_maps(
        scores, [call], [[0]], coupling=coupling, num_prefix_tokens=1, grid=(1, 2), retain_graph=False
    )
    torch.testing.assert_close(m, torch.tensor([[expected]]))


# The authors' network


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("start_block", [0, 2])
@pytest.mark.parametrize("coupling", ["released", "paper"])
@pytest.mark.parametrize("name", ["getam_small", "getam_small_rect", "getam_small_distilled", "getam_small_clshead"])
def test_maps_equal_the_authors(
    name: str, coupling: str, start_block: int, dtype: torch.dtype, reference: Arrays
) -> None:
    arrays = reference(f"{name}.npz")
    model = reference_model(name, arrays, dtype)
    images = torch.from_numpy(arrays["x"]).to(dtype)
    categories = arrays["classes"].tolist()
    if coupling == "released":
        expected = arrays[f"ref/off_s{start_block}"]
    else:
        expected = arrays["ref/p1_blocks"][:, :, start_block:].sum(2)
    with AttentionMaps(model, coupling=coupling, start_block=start_block) as maps:
        scores, found = maps(images, [categories] * len(images))
    torch.testing.assert_close(scores.double(), torch.from_numpy(arrays["ref/scores"]), rtol=0, atol=TOLERANCE[dtype])
    for m, reference_maps in zip(found, torch.from_numpy(expected), strict=True):
        error = (m.flatten(1).double() - reference_maps).abs().amax(1) / reference_maps.amax(1)
        assert error.max().item() <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["getam_small", "getam_small_rect", "getam_small_distilled", "getam_small_clshead"])
def test_rows_and_their_gradients_equal_the_authors(name: str, reference: Arrays) -> None:
    arrays = reference(f"{name}.npz")
    model = reference_model(name, arrays, torch.float64).eval()
    with AttentionRecorder(find_backbone(model), start_block=0, detach_below=False) as recorder:
        scores = model(torch.from_numpy(arrays["x"]).double())
    rows = torch.stack([call.class_row() for call in recorder.calls], dim=1)
    torch.testing.assert_close(rows, torch.from_numpy(arrays["ref/attn_cls"]), rtol=0, atol=1e-12)
    classes = [arrays["classes"].tolist()] * len(scores)
    outputs = [call.output for call in recorder.calls]
    expected = torch.from_numpy(arrays["ref/grad_cls"])
    for k, images, gradients in class_gradients(scores, classes, outputs, retain_graph=True):
        assert images == list(range(len(scores)))
        found = [call.class_row_gradient(g) for call, g in zip(recorder.calls, gradients, strict=True)]
        error = (torch.stack(found, dim=1) - expected[:, k]).abs().max()
        assert error <= 1e-10 * expected[:, k].abs().max()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("coupling", ["released", "paper"])
def test_maps_of_the_full_size_network_equal_the_authors(coupling: str, dtype: torch.dtype, reference: Arrays) -> None:
    arrays = reference("getam_base_vitb.npz")
    model = reference_model("getam_base_vitb", arrays, dtype)
    images, categories = torch.from_numpy(arrays["x"]).to(dtype), arrays["classes"].tolist()
    blocks = arrays["ref/off_blocks" if coupling == "released" else "ref/p1_blocks"]
    for start_block in (0, 2, 6, 11):
        expected = torch.from_numpy(blocks[0, :, start_block:].sum(1))
        if coupling == "released" and start_block in (0, 2, 6):
            np.testing.assert_allclose(expected, arrays[f"ref/off_s{start_block}"][0], rtol=1e-12)
        with AttentionMaps(model, coupling, start_block) as maps:
            _, (found,) = maps(images, [categories])
        error = (found.flatten(1).double() - expected).abs().amax(1) / expected.amax(1)
        assert error.max().item() <= TOLERANCE[dtype]


@pytest.mark.slow
def test_bfloat16_of_the_full_size_network_is_near_the_authors(reference: Arrays) -> None:
    arrays = reference("getam_base_vitb.npz")
    model = reference_model("getam_base_vitb", arrays, torch.float32)
    with AttentionMaps(model, start_block=6) as maps, torch.autocast("cpu", torch.bfloat16):
        _, (found,) = maps(torch.from_numpy(arrays["x"]), [arrays["classes"].tolist()])
    expected = torch.from_numpy(arrays["ref/off_s6"][0])
    error = (found.flatten(1).double() - expected).abs().amax(1) / expected.amax(1)
    # The error of the forward pass below block 6: with all that follows in float32 it is as large.
    assert error.max().item() <= 5e-2


# The equations with whole matrices


@pytest.mark.parametrize("coupling", ["released", "paper"])
@pytest.mark.parametrize("start_block", [0, 1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reg_tokens": 3},
        {"qk_norm": True},
        {"reg_tokens": 2, "qk_norm": True, "init_values": 0.5, "pre_norm": True},
        # Attention after the blocks, which is nobody's row.
        {"global_pool": "map", "pool_include_prefix": True},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_maps_equal_the_literal_equations(options: dict[str, Any], start_block: int, coupling: str) -> None:
    vit = small_vit(**options).double()
    images = images_of(2, dtype=torch.float64)
    classes = [[4, 1], [0]]
    with AttentionMaps(vit, coupling=coupling, start_block=start_block) as maps:
        _, found = maps(images, classes)
    assert [m.shape for m in found] == [(2, 4, 4), (1, 4, 4)]
    assert_literal(vit, images, classes, found, coupling=coupling, start_block=start_block)


def test_a_grid_that_is_not_square_keeps_rows_and_columns_apart() -> None:
    vit = small_vit(dynamic_img_size=True).double()
    images = images_of(1, size=(16, 40), dtype=torch.float64)
    with AttentionMaps(vit) as maps:
        _, found = maps(images, [[2]])
    assert found[0].shape == (1, 2, 5)
    assert_literal(vit, images, [[2]], found, coupling="released", start_block=0)


def test_a_vit_inside_another_module_gives_the_same_maps() -> None:
    vit = small_vit()
    images = images_of(2)
    with AttentionMaps(vit) as maps:
        scores, found = maps(images, [[3], [1, 2]])
    wrapped = nn.Sequential(nn.Identity(), nn.ModuleDict({"inner": vit})["inner"])
    assert find_backbone(wrapped) is vit
    with AttentionMaps(wrapped) as maps:
        wrapped_scores, wrapped_found = maps(images, [[3], [1, 2]])
    torch.testing.assert_close(wrapped_scores, scores)
    for a, b in zip(wrapped_found, found, strict=True):
        torch.testing.assert_close(a, b)


def test_an_images_map_is_the_same_alone_and_in_a_batch() -> None:
    vit = small_vit().double()
    images = images_of(3, dtype=torch.float64)
    classes = [[1], [4, 0, 2], []]
    with AttentionMaps(vit) as maps:
        _, together = maps(images, classes)
        alone = [maps(images[b : b + 1], classes[b : b + 1])[1][0] for b in range(3)]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-14)


# What is left behind: nothing


def mixed_model() -> nn.Sequential:
    """Parts in training and in evaluation mode, frozen and free weights, one block with explicit attention."""
    model = nn.Sequential(nn.BatchNorm2d(3), small_vit(proj_drop_rate=0.5, attn_drop_rate=0.5))
    model.train()
    vit = model[1]
    vit.blocks[1].eval()
    vit.blocks[2].norm1.weight.requires_grad_(False)
    vit.head.bias.requires_grad_(False)
    vit.blocks[0].attn.fused_attn = False
    return model


def test_the_model_is_afterwards_as_it_was() -> None:
    model = mixed_model()
    before = fingerprint(model)
    with AttentionMaps(model, start_block=1) as maps:
        assert not any(m.training for m in model.modules())
        scores, found = maps(images_of(2), [[0, 1], [2]])
        assert not scores.requires_grad
        assert not any(m.requires_grad for m in found)
    assert_same(before, fingerprint(model))


def test_the_model_is_as_it_was_after_an_error_of_the_caller() -> None:
    model = mixed_model()
    before = fingerprint(model)

    def interrupted() -> None:
        with AttentionMaps(model) as maps:
            maps(images_of(1), [[0]])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert_same(before, fingerprint(model))


def test_the_model_is_as_it_was_after_an_error_inside_a_block() -> None:
    model = mixed_model()
    vit = model[1]

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    handle = vit.blocks[2].mlp.register_forward_hook(fail)
    before = fingerprint(model)
    with AttentionMaps(model) as maps:
        with pytest.raises(RuntimeError, match="out of memory"):
            maps(images_of(1), [[0]])
        # A block that never ended is no hindrance to the next pass.
        handle.remove()
        _, found = maps(images_of(1), [[0]])
        assert found[0].shape == (1, 4, 4)
    vit.blocks[2].mlp.register_forward_hook(fail)
    assert_same(before, fingerprint(model))


def test_explicit_attention_gives_the_same_maps() -> None:
    vit = small_vit()
    with AttentionMaps(vit) as maps:
        _, expected = maps(images_of(1), [[0, 3]])
    for block in vit.blocks:
        block.attn.fused_attn = False
    with AttentionMaps(vit) as maps:
        _, found = maps(images_of(1), [[0, 3]])
    assert torch.equal(found[0], expected[0])


def test_maps_work_where_gradients_are_switched_off() -> None:
    vit = small_vit()
    with AttentionMaps(vit) as maps:
        _, expected = maps(images_of(1), [[0, 3]])
        with torch.no_grad():
            _, found = maps(images_of(1), [[0, 3]])
            assert not torch.is_grad_enabled()
    assert torch.equal(found[0], expected[0])


def test_one_context_serves_many_batches() -> None:
    vit = small_vit()
    with AttentionMaps(vit) as maps:
        first = maps(images_of(2), [[0], [1]])[1]
        with pytest.raises(InputError):
            maps(images_of(2), [[0], [5]])
        again = maps(images_of(2), [[0], [1]])[1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_refused_class_leaves_no_graph_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[weakref.ref[AttentionCall]] = []

    def remember(**fields: Any) -> AttentionCall:
        call = AttentionCall(**fields)
        calls.append(weakref.ref(call))
        return call

    monkeypatch.setattr("getam.maps.recorder.AttentionCall", remember)
    with AttentionMaps(small_vit()) as maps:
        with pytest.raises(InputError):
            maps(images_of(1), [[9]])
        gc.collect()
        assert [call() for call in calls] == [None] * 3


# Cost


@pytest.mark.parametrize(
    ("classes", "most"),
    [([[0], [1], [2]], 1), ([[0, 1, 2], [4], []], 3), ([[], [], []], 0), ([[3, 1], [2], [0, 4]], 2)],
)
def test_backward_passes_are_the_largest_number_of_classes(
    classes: list[list[int]], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    grad = torch.autograd.grad

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return grad(*args, **kwargs)

    def refused(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("backward() writes gradients on weights")

    monkeypatch.setattr(torch.autograd, "grad", counted)
    monkeypatch.setattr(torch.autograd, "backward", refused)
    with AttentionMaps(small_vit()) as maps:
        maps(images_of(3), classes)
    assert calls == most


def test_the_graph_begins_at_the_first_block() -> None:
    vit = small_vit()
    seen: list[bool] = []
    for block in vit.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    with AttentionMaps(vit, start_block=2) as maps:
        maps(images_of(1), [[0]])
    assert seen == [False, False, True]


@pytest.mark.parametrize(
    ("options", "how", "seen"),
    [
        # The first recorded block's MLP runs once more for the class token, which alone has a graph; the head reads the
        # prefix tokens, so that the last block's has no others to compute.
        ({}, {}, [17, 17, 1, 1]),
        ({"reg_tokens": 2}, {}, [19, 19, 1, 3]),
        ({"global_pool": "avg"}, {}, [17, 17, 1, 17]),
        # Whole matrices need the gradients of every row.
        ({}, {"fusion": "matmul"}, [17, 17, 17]),
    ],
)
def test_tokens_that_nobody_reads_are_not_computed(
    options: dict[str, Any], how: dict[str, Any], seen: list[int]
) -> None:
    vit = small_vit(**options)
    tokens: list[int] = []
    for block in vit.blocks:
        block.mlp.fc1.register_forward_hook(lambda module, inputs, output: tokens.append(inputs[0].shape[1]))
    with AttentionMaps(vit, start_block=1, **how) as maps:
        maps(images_of(1), [[0]])
    assert tokens == seen


# What is refused


def test_empty_class_lists_give_empty_maps_and_the_scores() -> None:
    vit = small_vit()
    images = images_of(2)
    with AttentionMaps(vit) as maps:
        scores, found = maps(images, [[], []])
    assert [m.shape for m in found] == [(0, 4, 4)] * 2
    torch.testing.assert_close(scores, vit(images).detach())


@pytest.mark.parametrize("index", [5, -1, 100])
def test_a_class_index_out_of_range_is_named(index: int) -> None:
    with (
        AttentionMaps(small_vit()) as maps,
        pytest.raises(InputError, match=rf"image 1 has class index {index}, the model's are 0 to 4"),
    ):
        maps(images_of(2), [[0], [1, index]])


@pytest.mark.parametrize("classes", [[], [[0]], [[0], [1], [2]]])
def test_a_wrong_number_of_lists_is_named(classes: list[list[int]]) -> None:
    with (
        AttentionMaps(small_vit()) as maps,
        pytest.raises(InputError, match=rf"classes: {len(classes)} lists for 2 images"),
    ):
        maps(images_of(2), classes)


def test_a_model_without_class_token_is_refused() -> None:
    with pytest.raises(InputError, match="VisionTransformer holds no ViT with a class token"):
        AttentionMaps(small_vit(class_token=False, global_pool="avg"))
    with pytest.raises(InputError, match="Linear holds no ViT"):
        AttentionMaps(nn.Linear(2, 2))


def test_a_model_with_two_vits_is_refused() -> None:
    with pytest.raises(InputError, match="holds 2 ViTs"):
        AttentionMaps(nn.ModuleList([small_vit(), small_vit()]))


@pytest.mark.parametrize("start_block", [3, 12, -1])
def test_a_start_block_that_the_model_lacks_is_refused(start_block: int) -> None:
    with pytest.raises(InputError, match=rf"start_block: {start_block}.*blocks 0 to 2"):
        AttentionMaps(small_vit(), start_block=start_block)


def test_an_unknown_coupling_is_refused() -> None:
    with pytest.raises(InputError, match="'mean' is none of released, paper"):
        AttentionMaps(small_vit(), coupling="mean")


def test_blocks_without_attention_are_refused() -> None:
    vit = small_vit()
    vit.blocks = nn.Sequential(nn.Identity())
    with AttentionMaps(vit) as maps, pytest.raises(InputError, match="no fused attention call"):
        maps(images_of(1), [[0]])


# Lower precision


def test_autocast_gives_float32_maps_near_those_of_float32() -> None:
    vit = small_vit()
    images, classes = images_of(2), [[0, 3], [1]]
    with AttentionMaps(vit) as maps:
        _, expected = maps(images, classes)
        with torch.autocast("cpu", torch.bfloat16):
            scores, found = maps(images, classes)
    assert scores.dtype == torch.bfloat16
    for m, full in zip(found, expected, strict=True):
        assert m.dtype == torch.float32
        assert (m >= 0).all()
        similarity = F.cosine_similarity(m.flatten(1), full.flatten(1))
        assert similarity.min() > 0.99


def test_autocast_does_not_reach_the_coupling() -> None:
    vit = small_vit()
    how: dict[str, Any] = {"coupling": "released", "num_prefix_tokens": 1, "grid": (4, 4), "retain_graph": True}
    with AttentionRecorder(vit, start_block=0, detach_below=False) as recorder, torch.autocast("cpu", torch.bfloat16):
        scores = vit(images_of(2))
        inside = gradient_weighted_maps(scores, recorder.calls, [[0], [3]], **how)
    outside = gradient_weighted_maps(scores, recorder.calls, [[0], [3]], **how)
    for a, b in zip(inside, outside, strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_does_not_blur_the_rows() -> None:
    vit = small_vit()
    nn.init.normal_(vit.blocks[0].attn.qkv.weight, std=0.6)
    seen: list[Tensor] = []
    vit.blocks[0].attn.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with AttentionRecorder(vit, start_block=0, detach_below=False) as recorder, torch.autocast("cpu", torch.bfloat16):
        vit(images_of(1))
    query, key, _ = seen[0].double().view(1, 17, 3, 4, 8).permute(2, 0, 3, 1, 4)
    expected = (query[:, :, 0, None] @ key.transpose(-2, -1) / 8**0.5).softmax(-1)[:, :, 0]
    torch.testing.assert_close(recorder.calls[0].class_row().double(), expected, rtol=1e-4, atol=1e-6)


# In a training step


@pytest.mark.parametrize("start_block", [0, 1])
def test_maps_in_a_training_step_leave_its_gradients_alone(start_block: int) -> None:
    images, target = images_of(2), torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, 0, 0, 0]])

    def step(with_maps: bool) -> tuple[dict[str, Tensor], list[Tensor]]:
        vit = small_vit().train()
        found: list[Tensor] = []
        with AttentionRecorder(vit, start_block=start_block, detach_below=False) as recorder:
            scores = vit(images)
        assert len(recorder.calls) == 3 - start_block
        if with_maps:
            how: dict[str, Any] = {"coupling": "released", "num_prefix_tokens": 1, "grid": (4, 4)}
            found = gradient_weighted_maps(scores, recorder.calls, [[0, 3], [1]], retain_graph=True, **how)
            assert all(p.grad is None for p in vit.parameters())
            assert all(p.requires_grad for p in vit.parameters())
        F.multilabel_soft_margin_loss(scores, target).backward()
        return {name: p.grad for name, p in vit.named_parameters() if p.grad is not None}, found

    without, _ = step(False)
    gradients, found = step(True)
    assert gradients.keys() == without.keys() == dict(small_vit().named_parameters()).keys()
    for name in without:
        assert torch.equal(gradients[name], without[name]), name
    with AttentionMaps(small_vit(), start_block=start_block) as maps:
        _, expected = maps(images, [[0, 3], [1]])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
