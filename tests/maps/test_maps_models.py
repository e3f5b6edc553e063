"""AttentionMaps on the ViTs of timm, one of every kind, against the matrices of the models' own explicit attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.literal_maps import literal_maps_of
from support.vits import MODELS, SMALL, TOKEN, grids_of, images_of, model_of, size_for, stock, telling, vit
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from timm.models.vision_transformer import DiffParallelScalingBlock, ParallelThingsBlock, VisionTransformer
from timm.models.volo import VOLO
from torch import Tensor, nn

from getam.errors import InputError
from getam.maps.attention import AttentionMaps

CLASSES = [[4, 1], [0]]


def assert_literal(
    model: nn.Module, images: Tensor, classes: Sequence[Sequence[int]], maps: list[Tensor], **how: Any
) -> None:
    """Every map equals the oracle's to 1e-8 of its maximum, and they are not all zero."""
    greatest = 0.0
    for image, indices in enumerate(classes):
        assert len(maps[image]) == len(indices)
        for found, category in zip(maps[image], indices, strict=True):
            expected = literal_maps_of(model, images, image, category, **how)
            greatest = max(greatest, expected.max().item())
            torch.testing.assert_close(found.flatten(), expected, rtol=0, atol=1e-8 * expected.max().item())
    assert greatest > 0


@pytest.mark.parametrize("coupling", ["released", "paper"])
@pytest.mark.parametrize("start_block", [0, 1])
@pytest.mark.parametrize("name", MODELS)
def test_maps_equal_those_of_the_models_own_matrices(name: str, start_block: int, coupling: str) -> None:
    model = model_of(name)
    for grid in grids_of(model):
        images = images_of(2, size_for(model, grid))
        with AttentionMaps(model, coupling=coupling, start_block=start_block) as maps:
            scores, found = maps(images, CLASSES)
        torch.testing.assert_close(scores, model(images).detach())
        assert [m.shape for m in found] == [(2, *grid), (1, *grid)]
        assert_literal(model, images, CLASSES, found, coupling=coupling, start_block=start_block)


def shrunk(name: str) -> Any:
    """A stock model as its entry point builds it but for its size, with the class token's head where it takes one."""
    options: dict[str, Any] = {"num_kv_heads": (4, 2)} if "sapiens2" in name else {}
    try:
        return stock(name, **TOKEN, **options)
    except AssertionError:
        return stock(name, **options)


@pytest.mark.parametrize("module", ["beit", "deit", "eva", "vision_transformer", "vision_transformer_relpos"])
def test_every_stock_vit_is_right_or_refused(module: str) -> None:
    accepted = 0
    for name in timm.list_models(module=module):
        model = shrunk(name)
        if model.cls_token is None:
            with pytest.raises(InputError, match="no ViT with a class token"):
                AttentionMaps(model)
            continue
        images = images_of(2, model.patch_embed.img_size)
        with AttentionMaps(model) as maps:
            _, found = maps(images, CLASSES)
        assert_literal(model, images, CLASSES, found, coupling="released", start_block=0)
        accepted += 1
    assert accepted > 0


def test_padded_images_have_a_patch_for_the_rest() -> None:
    model = vit(dynamic_img_size=True, dynamic_img_pad=True)
    images = images_of(2, (19, 33))
    with AttentionMaps(model) as maps:
        _, found = maps(images, CLASSES)
    assert [m.shape for m in found] == [(2, 3, 5), (1, 3, 5)]
    assert_literal(model, images, CLASSES, found, coupling="released", start_block=0)


@pytest.mark.parametrize("name", ["eva_giant_patch14_224", "beit_base_patch16_224", "vit_relpos_base_patch16_cls_224"])
def test_a_head_that_does_not_read_the_class_token(name: str) -> None:
    # An average over the patches: the class token's last row reaches no score, the rows before it do.
    model = stock(name, global_pool="avg")
    images = images_of(2, model.patch_embed.img_size)
    with AttentionMaps(model) as maps:
        _, found = maps(images, CLASSES)
    assert_literal(model, images, CLASSES, found, coupling="released", start_block=0)
    with AttentionMaps(model, start_block=1) as maps:
        _, found = maps(images, CLASSES)
    assert not any(m.any() for m in found)


@pytest.mark.parametrize("name", ["vit_base_patch16_384", "vit_small_patch16_dinov3", "beit_base_patch16_224"])
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    model = stock(name, **TOKEN)
    images = images_of(2, model.patch_embed.img_size)
    with AttentionMaps(model) as maps:
        _, expected = maps(images, CLASSES)
    model.set_grad_checkpointing(True)
    with AttentionMaps(model) as maps:
        _, found = maps(images, CLASSES)
    assert model.grad_checkpointing
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_xp_224",
        "vit_small_patch16_18x2_224",
        "eva02_tiny_patch14_224",
        "vit_small_patch16_rope_mixed_224",
        "beit_base_patch16_224",
        "vit_relpos_base_patch16_cls_224",
    ],
)
def test_models_set_to_explicit_attention_give_the_same(name: str) -> None:
    model = MODELS[name]()
    images = images_of(2, model.patch_embed.img_size)
    with AttentionMaps(model) as maps:
        _, expected = maps(images, CLASSES)
    attentions = [module for module in model.modules() if hasattr(module, "fused_attn")]
    for module in attentions:
        module.fused_attn = False
    with AttentionMaps(model) as maps:
        _, found = maps(images, CLASSES)
    assert not any(module.fused_attn for module in attentions)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


class Around(nn.Module):
    """A model that contains a ViT: its scores are any function of the ViT and the images."""

    def __init__(self, inner: Any, scores: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.inner = inner
        self.scores = scores

    def forward(self, images: Tensor) -> Any:
        return self.scores(self.inner, images)


def test_a_class_token_that_sees_only_itself_has_empty_maps() -> None:
    model = Around(
        vit(global_pool="avg", fc_norm=False),
        lambda inner, images: inner.forward_head(inner.forward_features(images, is_causal=True)),
    )
    with AttentionMaps(model) as maps:
        _, found = maps(images_of(2, (24, 32)), CLASSES)
    assert not any(m.any() for m in found)


@pytest.mark.parametrize("coupling", ["released", "paper"])
@pytest.mark.parametrize("shape", [(13, 13), (2, 1, 13, 13), (1, 4, 13, 13), (2, 1, 1, 13)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bool, torch.float64], ids=str)
def test_masks_of_every_shape(dtype: torch.dtype, shape: tuple[int, ...], coupling: str) -> None:
    mask = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    if dtype == torch.bool:
        mask = mask > -0.5
        mask[..., 0] = True
    model = Around(vit(), lambda inner, images: inner.forward_head(inner.forward_features(images, attn_mask=mask)))
    images = images_of(2, (24, 32))
    with AttentionMaps(model, coupling=coupling) as maps:
        _, found = maps(images, CLASSES)
    assert_literal(model, images, CLASSES, found, coupling=coupling, start_block=0)
    if dtype == torch.bool and shape == (2, 1, 1, 13):
        seen = mask[:, 0, 0, 1:].view(2, 3, 4)
        assert not any(m[~seen[b].expand_as(m)].any() for b, m in enumerate(found))


# Random small ViTs


@st.composite
def small_vits(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], list[list[int]]]:
    """Options of a VisionTransformer, of AttentionMaps, and the classes of one to three images."""
    heads, depth = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    options = {
        "img_size": (4 * draw(st.integers(1, 3)), 4 * draw(st.integers(1, 4))),
        "embed_dim": heads * draw(st.sampled_from([6, 8, 12])),
        "num_heads": heads,
        "depth": depth,
        "reg_tokens": draw(st.integers(0, 2)),
        "no_embed_class": draw(st.booleans()),
        "qk_norm": draw(st.booleans()),
        "init_values": draw(st.sampled_from([None, 0.5])),
        "block_fn": draw(st.sampled_from([timm.models.vision_transformer.Block, ParallelThingsBlock])),
    }
    how = {"coupling": draw(st.sampled_from(["released", "paper"])), "start_block": draw(st.integers(0, depth - 1))}
    classes = draw(st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=3))
    return options, how, classes


@settings(max_examples=25, deadline=None)
@given(small_vits())
def test_any_small_vit(case: tuple[dict[str, Any], dict[str, Any], list[list[int]]]) -> None:
    options, how, classes = case
    model = vit(patch_size=4, **options)
    images = images_of(len(classes), options["img_size"])
    with AttentionMaps(model, **how) as maps:
        scores, found = maps(images, classes)
    torch.testing.assert_close(scores, model(images).detach())
    assert [m.shape for m in found] == [(len(c), *model.patch_embed.grid_size) for c in classes]
    for image, indices in enumerate(classes):
        for m, category in zip(found[image], indices, strict=True):
            expected = literal_maps_of(model, images, image, category, **how)
            torch.testing.assert_close(m.flatten(), expected, rtol=0, atol=1e-8 * expected.max().item())


# ViTs within modules


class Branches(nn.Module):
    """A ViT in a list in a dictionary, read by its features, with a head of its own beside another network."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        branches = nn.ModuleList([nn.Sequential(nn.Identity(), inner), nn.Conv2d(3, 5, 8)])
        self.parts = nn.ModuleDict({"branches": branches, "the same": inner})
        self.head = nn.Linear(inner.embed_dim, 5)

    def forward(self, images: Tensor) -> Tensor:
        (_, inner), conv = self.parts["branches"]
        tokens = inner.forward_features(images)
        return self.head(tokens[:, 0] * tokens[:, 1:].mean(1)) + conv(images).mean((2, 3))


@pytest.mark.parametrize("start_block", [0, 1])
def test_a_vit_deep_inside_a_model(start_block: int) -> None:
    model = telling(Branches(vit(dynamic_img_size=True)))
    images = images_of(2, (32, 16))
    with AttentionMaps(model, start_block=start_block) as maps:
        _, found = maps(images, CLASSES)
    assert [m.shape for m in found] == [(2, 4, 2), (1, 4, 2)]
    assert_literal(model, images, CLASSES, found, coupling="released", start_block=start_block)


def early_scores(inner: VisionTransformer, images: Tensor) -> Tensor:
    """The head on the class token after block 1 of 3."""
    _, taps = inner.forward_intermediates(images, indices=[1], return_prefix_tokens=True, output_fmt="NLC")
    (_, prefix) = taps[0]
    return inner.head(prefix[:, 0])


def test_blocks_that_no_score_depends_on_add_nothing() -> None:
    model = Around(vit(depth=3), early_scores)
    images = images_of(2, (24, 32))
    with AttentionMaps(model) as maps:
        _, found = maps(images, CLASSES)
    assert_literal(model, images, CLASSES, found, coupling="released", start_block=0)


# What is refused

UNCLEAR: dict[str, Callable[[], nn.Module]] = {
    # Each pass has its own attention, of another picture: no one map is the image's.
    "mirror image": lambda: Around(vit(), lambda inner, images: inner(images) + inner(images.flip(3))),
    "mirror image in the batch": lambda: Around(
        vit(), lambda inner, images: sum(inner(torch.cat([images, images.flip(3)])).chunk(2))
    ),
    "images one by one": lambda: Around(vit(), lambda inner, images: torch.cat([inner(i[None]) for i in images])),
    "a block that is run twice": lambda: repeated(vit()),
    # Not (B, C).
    "scores of every token": lambda: vit(global_pool=""),
    "scores in a tuple": lambda: Around(vit(), lambda inner, images: (inner(images), images)),
    "scores in a dictionary": lambda: Around(vit(), lambda inner, images: {"scores": inner(images)}),
}


def repeated(model: VisionTransformer) -> VisionTransformer:
    model.blocks = nn.Sequential(model.blocks[0], model.blocks[0])
    return model


@pytest.mark.parametrize("start_block", [0, 1])
@pytest.mark.parametrize("name", UNCLEAR)
def test_models_whose_pass_or_scores_are_unclear_are_refused(name: str, start_block: int) -> None:
    with AttentionMaps(UNCLEAR[name](), start_block=start_block) as maps, pytest.raises(InputError):
        maps(images_of(2, (24, 32)), CLASSES)


LITTLE: dict[str, Any] = {"img_size": 64, "num_classes": 5}
REFUSED: dict[str, Callable[[], nn.Module]] = {
    # Another kind of attention, or the class token elsewhere.
    "cait": lambda: timm.create_model("cait_xxs24_224", **(LITTLE | SMALL)),
    "coat": lambda: timm.create_model("coat_lite_tiny", embed_dims=[16] * 4, serial_depths=[1] * 4, **LITTLE),
    "convit": lambda: timm.create_model("convit_tiny", **(LITTLE | SMALL | {"local_up_to_layer": 1})),
    "crossvit": lambda: timm.create_model("crossvit_tiny_240", embed_dim=[16, 32], num_heads=[2, 2], num_classes=5),
    "mvitv2": lambda: MultiScaleVit(MultiScaleVitCfg(depths=(1,) * 4, embed_dim=16, use_cls_token=True), **LITTLE),
    "naflexvit": lambda: timm.create_model("vit_base_patch16_224", use_naflex=True, **SMALL),
    "pit": lambda: timm.create_model("pit_ti_224", depth=[1] * 3, **LITTLE),
    "pit distilled": lambda: timm.create_model("pit_ti_distilled_224", depth=[1] * 3, **LITTLE),
    "tnt": lambda: timm.create_model("tnt_s_patch16_224", depth=2, **LITTLE),
    "volo": lambda: VOLO([1] * 4, embed_dims=[32, 64, 64, 64], num_heads=[2, 4, 4, 4], **LITTLE),
    "xcit": lambda: timm.create_model("xcit_nano_12_p16_224", depth=2, **LITTLE),
    # Two matrices make one attention.
    "differential": lambda: vit(attn_layer="diff"),
    "differential, parallel MLP": lambda: vit(block_fn=DiffParallelScalingBlock),
    "differential, in pairs": lambda: vit(attn_layer="diff", block_fn=ParallelThingsBlock),
    # No class token.
    "swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224", embed_dim=16, depths=(1, 1), num_heads=(1, 1), **LITTLE
    ),
    "siglip": lambda: timm.create_model("vit_base_patch16_siglip_224", **(LITTLE | SMALL)),
    "gap": lambda: timm.create_model("vit_medium_patch16_gap_240", **(LITTLE | SMALL)),
    "rope gap": lambda: timm.create_model(
        "vit_medium_patch16_rope_reg1_gap_256", **(LITTLE | SMALL), class_token=False
    ),
    "relpos": lambda: timm.create_model("vit_relpos_small_patch16_224", **(LITTLE | SMALL)),
    "sam": lambda: timm.create_model("samvit_base_patch16_224", **(LITTLE | SMALL)),
    "resnet": lambda: timm.create_model("resnet18", num_classes=5),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_networks_are_refused(name: str) -> None:
    torch.manual_seed(0)
    model = REFUSED[name]()
    embed = getattr(model, "patch_embed", None)
    size = getattr(embed, "img_size", None) or (64, 64)
    with pytest.raises(InputError), AttentionMaps(model) as maps:
        maps(torch.randn(1, 3, *size, dtype=next(model.parameters()).dtype), [[0]])
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch._C._len_torch_function_stack() == 0


@pytest.mark.parametrize("name", ["cait", "convit", "differential"])
def test_other_networks_are_refused_from_any_start_block(name: str) -> None:
    model = REFUSED[name]().double()
    with AttentionMaps(model, start_block=1) as maps, pytest.raises(InputError, match="block 1"):
        maps(images_of(1, model.patch_embed.img_size), [[0]])


def test_every_file_of_timm_with_a_class_token_has_a_test() -> None:
    folder = Path(timm.__file__).parent / "models"
    found = {path.stem for path in folder.glob("*.py") if "cls_token" in path.read_text(encoding="utf-8")}
    accepted = {type(model_of(name)).__module__.split(".")[-1] for name in MODELS}
    # CoaT and CrossViT number theirs.
    assert found - accepted <= set(REFUSED)
    assert found >= accepted
