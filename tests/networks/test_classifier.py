"""The classifier: what it builds, what it refuses, how it is saved, and its class activation maps by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from getam.errors import InputError
from getam.maps.attention import AttentionMaps
from getam.networks.checkpoints import save_model
from getam.networks.classifier import (
    CNNClassifier,
    DPTReadout,
    TokenReadout,
    ViTClassifier,
    build_classifier,
    create_backbone,
    describe_classifier,
    load_classifier,
)
from getam.networks.tokens import Tokens, read_tokens
from getam.settings.classifier import ClassifierSettings
from getam.settings.config import validate_config
from getam.settings.reading import read_yaml

CLASSES = ("bolt", "cog", "nut")


@pytest.fixture(scope="module")
def demo() -> ClassifierSettings:
    return validate_config(read_yaml(Path(__file__).resolve().parents[2] / "config.yaml")).classifier


def smaller(settings: ClassifierSettings, **changes: Any) -> ClassifierSettings:
    """The demo's settings at 16 dimensions and 2 blocks; `backbone_options` are added to the others."""
    options = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8} | changes.pop("backbone_options", {})
    values = {"stem_channels": (4, 8), "backbone_options": options} | changes
    return ClassifierSettings.model_validate(settings.model_dump() | values)


def test_the_demos_settings_build_the_demos_classifier(demo: ClassifierSettings) -> None:
    model = build_classifier(demo, num_classes=20, image_size=demo.crop.size).eval()
    options = demo.backbone_options
    assert isinstance(model.readout, DPTReadout)
    assert model.backbone.embed_dim == options["embed_dim"]
    assert len(model.backbone.blocks) == options["depth"]
    assert model.stride == options["patch_size"]
    images = torch.randn(2, 3, demo.crop.size, demo.crop.size)
    with AttentionMaps(model) as maps:
        scores, found = maps(images, [[0, 19], []])
    side = demo.crop.size // options["patch_size"]
    assert scores.shape == (2, 20)
    assert [m.shape for m in found] == [(2, side, side), (0, side, side)]
    assert found[0].isfinite().all()
    assert (found[0].amax((1, 2)) > 0).all()


@pytest.mark.parametrize("readout", ["project", "token", "max"])
@pytest.mark.parametrize("stem", [(4, 8), ()], ids=["stem", "patches"])
@pytest.mark.parametrize("size", [(32, 32), (48, 24), (8, 40), (16, 96)])
def test_any_size_that_the_patches_divide(
    demo: ClassifierSettings, stem: tuple[int, ...], readout: str, size: tuple[int, int]
) -> None:
    settings = smaller(demo, stem_channels=stem, readout=readout)
    model = build_classifier(settings, num_classes=3, image_size=32).eval()
    images = torch.randn(2, 3, *size)
    grid = (size[0] // 8, size[1] // 8)
    tokens = read_tokens(model.backbone, images, taps=[0])
    assert tokens.grid == grid
    assert [t.shape for t in (*tokens.taps, tokens.last, tokens.normalized)][:2] == [(2, 1 + grid[0] * grid[1], 16)] * 2
    assert model(images).shape == (2, 3)
    assert model.activation_map(images)[1].shape == (2, 3, *grid)


@pytest.mark.parametrize("final_norm", [False, True])
@pytest.mark.parametrize("readout", ["project", "token", "max"])
def test_every_parameter_gets_a_gradient(demo: ClassifierSettings, readout: str, final_norm: bool) -> None:
    torch.manual_seed(0)
    model = build_classifier(
        smaller(demo, readout=readout, final_norm=final_norm), num_classes=3, image_size=32
    ).train()
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # The authors' read-out takes tokens before the final norm.
    bypassed = readout != "token" and not final_norm
    assert without == (["backbone.norm.weight", "backbone.norm.bias"] if bypassed else [])


def test_readout_max_and_its_cam_by_hand(demo: ClassifierSettings) -> None:
    torch.manual_seed(0)
    for final_norm in (False, True):
        model = build_classifier(
            smaller(demo, readout="max", final_norm=final_norm), num_classes=3, image_size=32
        ).eval()
        images = torch.randn(2, 3, 32, 40)
        tokens = model.tokens(images)
        patches = (tokens.normalized if final_norm else tokens.last)[:, 1:]
        weight = model.readout.head.weight
        scores, maps = model.activation_map(images)
        torch.testing.assert_close(scores, patches.max(1).values @ weight.T)
        torch.testing.assert_close(scores, model(images))
        torch.testing.assert_close(maps, (patches @ weight.T).relu().transpose(1, 2).reshape(2, 3, 4, 5))
        assert maps.max() > 0


def test_taps_after_the_final_norm(demo: ClassifierSettings) -> None:
    torch.manual_seed(0)
    vit = build_classifier(smaller(demo), num_classes=3, image_size=32).eval().backbone
    nn.init.normal_(vit.norm.weight)
    images = torch.randn(1, 3, 32, 32)
    plain, normalized = read_tokens(vit, images, taps=[0]), read_tokens(vit, images, taps=[0], final_norm=True)
    torch.testing.assert_close(normalized.taps[0], vit.norm(plain.taps[0]))
    assert torch.equal(plain.last, normalized.last)
    assert torch.equal(plain.normalized, normalized.normalized)


def test_a_norm_after_the_average_normalizes_tokens_too() -> None:
    torch.manual_seed(0)
    options = {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 28, "dynamic_img_size": True}
    vit = timm.create_model("eva02_tiny_patch14_224", num_classes=0, **options).eval()
    assert isinstance(vit.norm, nn.Identity)
    tokens = read_tokens(vit, torch.randn(1, 3, 28, 28))
    torch.testing.assert_close(tokens.normalized, vit.fc_norm(tokens.last))
    assert not torch.allclose(tokens.normalized, tokens.last)


def test_tokens_are_those_of_timms_forward() -> None:
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=0, reg_tokens=2
    ).eval()
    nn.init.normal_(vit.norm.weight)
    images = torch.randn(2, 3, 32, 32)
    outputs: list[torch.Tensor] = []
    for block in vit.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    expected = vit.forward_features(images)
    blocks = list(outputs)
    tokens = read_tokens(vit, images, taps=[0, 2])
    assert tokens.num_prefix_tokens == 3
    torch.testing.assert_close(tokens.normalized, expected)
    torch.testing.assert_close(tokens.last, blocks[2])
    torch.testing.assert_close(list(tokens.taps), [blocks[0], blocks[2]])


# What is refused


def test_an_unknown_backbone_is_refused_with_near_ones(demo: ClassifierSettings) -> None:
    with pytest.raises(InputError, match=r"no model 'vit_tinny_patch16_224'; near ones: vit_tiny_patch16_224\b"):
        create_backbone(smaller(demo, backbone="vit_tinny_patch16_224"), image_size=32)


@pytest.mark.parametrize("backbone", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_a_network_that_is_no_vit_is_refused(demo: ClassifierSettings, backbone: str) -> None:
    settings = demo.model_copy(update={"backbone": backbone, "backbone_options": {}, "stem_channels": ()})
    with pytest.raises(InputError, match=f"{backbone} (does not take them|has no class token)"):
        create_backbone(settings, image_size=224)


def test_a_vit_without_class_token_is_refused(demo: ClassifierSettings) -> None:
    options = {"class_token": False, "global_pool": "avg"}
    with pytest.raises(InputError, match="has no class token"):
        create_backbone(smaller(demo, backbone_options=options), image_size=32)


@pytest.mark.parametrize(
    "options",
    [
        {"nonsense": 1},
        {"num_classes": 3},
        {"embed_dim": 17},
        {"embed_dim": "wide"},
        {"num_heads": 0},
        {"global_pool": "nowhere"},
        {"norm_layer": "nowhere"},
        {"drop_rate": 7},
    ],
    ids=str,
)
def test_bad_options_are_refused(demo: ClassifierSettings, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"backbone_options: {demo.backbone} does not take them"):
        create_backbone(smaller(demo, backbone_options=options), image_size=32)


@pytest.mark.parametrize(("stem", "factor"), [((4,), 4), ((4, 8, 8), 16)])
def test_a_stem_that_does_not_match_the_patch_is_refused(
    demo: ClassifierSettings, stem: tuple[int, ...], factor: int
) -> None:
    with pytest.raises(
        InputError, match=rf"stem_channels: {len(stem)} widths .* reduce by {factor}, .*patch_size is 8"
    ):
        create_backbone(smaller(demo, stem_channels=stem), image_size=32)


@pytest.mark.parametrize(
    ("backbone", "patch", "near"),
    [("flexivit_small", 16, "64 or 80"), ("vit_tiny_r_s16_p8_224", 32, "64 or 96")],
)
def test_a_crop_of_no_whole_patches_is_refused_when_the_network_is_built(
    demo: ClassifierSettings, backbone: str, patch: int, near: str
) -> None:
    # The names don't say the size of a patch, and the hybrid's is not the number in its name.
    crop = demo.crop.model_copy(update={"size": 72})
    options = {"embed_dim": 48, "depth": 1, "num_heads": 2}
    changes = {"backbone": backbone, "stem_channels": (), "backbone_options": options, "crop": crop}
    settings = ClassifierSettings.model_validate(demo.model_dump() | changes)
    message = rf"^crop\.size: 72 is no multiple of {patch}, the side of {backbone}'s patches; write {near}$"
    with pytest.raises(InputError, match=message):
        build_classifier(settings, num_classes=3, image_size=72)
    torch.manual_seed(0)
    model = build_classifier(settings, num_classes=3, image_size=96)
    assert model.stride == patch
    assert model(torch.zeros(2, 3, 96, 96)).shape == (2, 3)
    # To ask for the size of a patch draws no random number that the weights would depend on.
    torch.manual_seed(0)
    plain = timm.create_model(backbone, num_classes=0, img_size=96, dynamic_img_size=True, **options)
    assert torch.equal(model.backbone.blocks[0].mlp.fc1.weight, plain.blocks[0].mlp.fc1.weight)


def test_padded_patches_take_any_size(demo: ClassifierSettings) -> None:
    crop = demo.crop.model_copy(update={"size": 36})
    settings = smaller(demo, stem_channels=(), backbone_options={"dynamic_img_pad": True}, crop=crop)
    model = build_classifier(settings, num_classes=3, image_size=36)
    assert model(torch.zeros(2, 3, 36, 36)).shape == (2, 3)


# On disk


@pytest.mark.parametrize("readout", ["project", "token", "max"])
@pytest.mark.parametrize("stem", [(4, 8), ()], ids=["stem", "patches"])
def test_a_saved_classifier_gives_identical_scores(
    demo: ClassifierSettings, stem: tuple[int, ...], readout: str, tmp_path: Path
) -> None:
    settings = smaller(demo, stem_channels=stem, readout=readout, crop=demo.crop.model_copy(update={"size": 32}))
    torch.manual_seed(3)
    model = build_classifier(settings, num_classes=3, image_size=32).train()
    images = torch.randn(4, 3, 32, 32)
    # A step in training mode, so that the statistics of batch norm are no longer those of a fresh network.
    model(images)
    save_model(tmp_path, model, describe_classifier(settings, CLASSES))
    loaded, classes = load_classifier(tmp_path)
    assert classes == CLASSES
    assert not any(m.training for m in loaded.modules())
    with torch.no_grad():
        assert torch.equal(loaded(images), model.eval()(images))
        wide = torch.randn(1, 3, 24, 64)
        assert torch.equal(loaded(wide), model(wide))


def test_loading_never_fetches_pretrained_weights(demo: ClassifierSettings, tmp_path: Path) -> None:
    settings = smaller(demo)
    model = build_classifier(settings, num_classes=3, image_size=settings.crop.size)
    description = describe_classifier(settings.model_copy(update={"pretrained": True}), CLASSES)
    assert json.loads(json.dumps(description)) == description
    save_model(tmp_path, model, description)
    load_classifier(tmp_path)


def test_weights_that_do_not_fit_are_refused(demo: ClassifierSettings, tmp_path: Path) -> None:
    settings = smaller(demo)
    model = build_classifier(settings, num_classes=3, image_size=settings.crop.size)
    save_model(tmp_path, model, describe_classifier(settings, (*CLASSES, "screw")))
    with pytest.raises(InputError, match=r"first at 'readout\.head\.weight'"):
        load_classifier(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, nn.Linear(1, 1), {"kind": "saliency"})
    with pytest.raises(InputError, match="does not describe a classifier"):
        load_classifier(tmp_path)


# Class activation maps


def tokens_of(values: list[list[float]], grid: tuple[int, int], *, prefix: int) -> Tokens:
    tokens = torch.tensor([values])
    return Tokens(taps=(), last=torch.full_like(tokens, 99), normalized=tokens, grid=grid, num_prefix_tokens=prefix)


def test_token_readout_by_hand() -> None:
    readout = TokenReadout(dim=2, num_classes=2)
    with torch.no_grad():
        readout.head.weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.5]]))
        readout.head.bias.copy_(torch.tensor([0.5, -1.0]))
    # A class token, a register that nobody reads, and six patches on a 2x3 grid.
    patches = [[1.0, 0.0], [0.0, 1.0], [-4.0, 0.0], [2.0, 2.0], [0.0, 6.0], [-0.5, 0.0]]
    tokens = tokens_of([[3.0, 1.0], [50.0, 50.0], *patches], (2, 3), prefix=2)
    torch.testing.assert_close(readout(tokens), torch.tensor([[5.5, -3.5]]))
    expected = torch.tensor([[[1.5, 2.5, 0.0], [6.5, 12.5, 0.0]], [[0.0, 0.0, 3.0], [0.0, 2.0, 0.0]]])
    scores, maps = readout.activation_map(tokens)
    torch.testing.assert_close(scores, readout(tokens))
    torch.testing.assert_close(maps, expected[None])


def test_project_readout_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    readout = DPTReadout(2, 2, "project")
    with torch.no_grad():
        readout.head.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        readout.head.bias.copy_(torch.tensor([10.0, 20.0]))
    # Two features on a 1x2 map of a 2x4 grid: the sum is 4 and 12, the difference -2 and 4.
    features = torch.tensor([[[[1.0, 8.0]], [[3.0, 4.0]]]])
    monkeypatch.setattr(readout, "features", lambda tokens: features)
    tokens = tokens_of([[0.0, 0.0]] * 9, (2, 4), prefix=1)
    torch.testing.assert_close(readout(tokens), torch.tensor([[18.0, 21.0]]))
    # The features stand at columns 0 and 2.
    rows = torch.tensor([[4.0, 8.0, 12.0, 12.0], [0.0, 2.0, 4.0, 4.0]])
    scores, maps = readout.activation_map(tokens)
    torch.testing.assert_close(scores, readout(tokens))
    torch.testing.assert_close(maps, rows[None, :, None].expand(1, 2, 2, 4))


def test_project_readout_reads_tokens_before_the_norm() -> None:
    torch.manual_seed(0)
    readout = DPTReadout(4, 3, "project")
    last, normalized = torch.randn(2, 13, 4), torch.randn(2, 13, 4)
    how: dict[str, Any] = {"taps": (), "grid": (3, 4), "num_prefix_tokens": 1}
    tokens = Tokens(last=last, normalized=normalized, **how)
    other_norm = Tokens(last=last, normalized=-normalized, **how)
    assert readout.features(tokens).shape == (2, 4, 2, 2)
    assert torch.equal(readout(tokens), readout(other_norm))
    torch.testing.assert_close(readout(tokens), readout.scores(readout.features(tokens)))


def test_ignore_and_add_differ_from_the_class_token_alone() -> None:
    torch.manual_seed(0)
    ignore, add = DPTReadout(4, 3, "ignore"), DPTReadout(4, 3, "add")
    add.load_state_dict(ignore.state_dict())
    assert not [name for name in ignore.state_dict() if "project" in name]
    last = torch.randn(1, 14, 4)
    how: dict[str, Any] = {"taps": (), "normalized": last, "grid": (3, 4), "num_prefix_tokens": 2}
    other = last.clone()
    other[:, :2] = 7
    assert torch.equal(ignore(Tokens(last=last, **how)), ignore(Tokens(last=other, **how)))
    # Adding the class token by hand; the second prefix token is nobody's.
    added = last + torch.cat([torch.zeros(1, 2, 4), last[:, :1].expand(1, 12, 4)], dim=1)
    torch.testing.assert_close(add(Tokens(last=last, **how)), ignore(Tokens(last=added, **how)))


@pytest.mark.parametrize("readout", ["project", "ignore", "add", "token"])
def test_activation_map_comes_with_the_scores(demo: ClassifierSettings, readout: str) -> None:
    model = build_classifier(smaller(demo, readout=readout), num_classes=3, image_size=32).eval()
    images = torch.randn(2, 3, 32, 48)
    scores, maps = model.activation_map(images)
    torch.testing.assert_close(scores, model(images))
    assert maps.shape == (2, 3, 4, 6)
    assert (maps >= 0).all()


# CNNs


def cnn_settings(demo: ClassifierSettings, **changes: Any) -> ClassifierSettings:
    values = {"backbone": "resnet18", "backbone_options": {}, "stem_channels": [], "readout": "pool"} | changes
    return ClassifierSettings.model_validate(demo.model_dump() | values)


@pytest.mark.parametrize(
    ("backbone", "options", "stride"),
    [
        ("resnet10t", {}, 32),
        ("resnet10t", {"output_stride": 16}, 16),
        ("mobilenetv3_small_050", {}, 32),
        ("convnext_atto", {}, 32),
    ],
)
def test_cam_of_a_cnn(demo: ClassifierSettings, backbone: str, options: dict[str, Any], stride: int) -> None:
    settings = cnn_settings(demo, backbone=backbone, backbone_options=options)
    model = build_classifier(settings, num_classes=3, image_size=64)
    assert isinstance(model, CNNClassifier)
    assert model.training
    model.eval()
    assert model.stride == stride
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    scores, maps = model.activation_map(images)
    torch.testing.assert_close(scores, model(images))
    assert maps.shape == (2, 3, 64 // stride, 96 // stride)
    # By the definition of CAM: the average of the map before ReLU is the score less its bias.
    features = model.backbone.forward_features(images)
    raw = (features[:, None] * model.head.weight[None, :, :, None, None]).sum(2)
    torch.testing.assert_close(raw.mean((2, 3)) + model.head.bias, scores)
    torch.testing.assert_close(maps, raw.relu())


def test_a_cnn_is_saved_and_loaded(demo: ClassifierSettings, tmp_path: Path) -> None:
    settings = cnn_settings(demo, backbone="resnet10t")
    model = build_classifier(settings, num_classes=len(CLASSES), image_size=32).eval()
    save_model(tmp_path, model, describe_classifier(settings, CLASSES))
    loaded, classes = load_classifier(tmp_path)
    images = torch.randn(1, 3, 64, 64)
    assert classes == CLASSES
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vit_tiny_patch16_224"}, "readout: pool is a CNN's, vit_tiny_patch16_224 is none"),
        (
            {"backbone": "swin_tiny_patch4_window7_224"},
            "swin_tiny_patch4_window7_224 gives no features for an image of 64x64 .* choose a CNN",
        ),
        ({"backbone": "resnet1"}, "timm has no model 'resnet1'; near ones: resnet18"),
        ({"backbone_options": {"depth": 3}}, "backbone_options: resnet18 does not take them"),
    ],
)
def test_what_is_no_cnn_is_refused(demo: ClassifierSettings, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_classifier(cnn_settings(demo, **changes), num_classes=2, image_size=64)


@pytest.mark.parametrize("backbone", ["beit_base_patch16_224", "cait_xxs24_224"])
def test_a_backbone_of_one_image_size_is_refused(demo: ClassifierSettings, backbone: str) -> None:
    settings = demo.model_copy(update={"backbone": backbone, "backbone_options": {}, "stem_channels": ()})
    with pytest.raises(InputError, match=rf"^backbone: {backbone} takes images of one size alone; choose a ViT"):
        build_classifier(settings, num_classes=2, image_size=32)


@pytest.mark.parametrize(
    ("backbone", "options", "stride"),
    [
        ("vit_small_patch14_reg4_dinov2", {"embed_dim": 32, "depth": 2, "num_heads": 2}, 14),
        ("vit_small_patch16_dinov3", {"embed_dim": 32, "depth": 2, "num_heads": 2}, 16),
        ("eva02_tiny_patch14_224", {"embed_dim": 32, "depth": 2, "num_heads": 2}, 14),
        ("deit_base_distilled_patch16_384", {"embed_dim": 32, "depth": 2, "num_heads": 2}, 16),
        ("vit_base_r50_s16_384", {"embed_dim": 32, "depth": 2, "num_heads": 2}, 16),
    ],
)
@pytest.mark.parametrize("readout", ["project", "token"])
def test_other_vits_classify_and_give_maps(
    demo: ClassifierSettings, backbone: str, options: dict[str, Any], stride: int, readout: str
) -> None:
    changes = {"backbone": backbone, "backbone_options": options, "stem_channels": (), "readout": readout}
    model = build_classifier(demo.model_copy(update=changes), num_classes=3, image_size=4 * stride).eval()
    assert model.stride == stride
    images = torch.randn(2, 3, 6 * stride, 5 * stride, generator=torch.Generator().manual_seed(0))
    with AttentionMaps(model) as maps:
        scores, found = maps(images, [[0, 2], []])
    assert scores.shape == (2, 3)
    assert [m.shape for m in found] == [(2, 6, 5), (0, 6, 5)]
    assert (found[0].amax((1, 2)) > 0).all()


def test_a_cnn_with_a_vits_readout_is_refused(demo: ClassifierSettings) -> None:
    with pytest.raises(InputError, match="backbone"):
        build_classifier(cnn_settings(demo, readout="token"), num_classes=2, image_size=64)


def test_the_classifiers_modules_are_its_backbone_and_its_readout() -> None:
    vit = VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=0)
    model = ViTClassifier(vit, num_classes=2, readout="token")
    weighted = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    assert weighted == ["backbone", "readout"]
