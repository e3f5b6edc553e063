"""Segmenters on a ViT's tokens: the small head by hand, DPT's decoder, freezing, sizes, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from support.workplace import PROJECT
from torch import Tensor

from deeplab.model import build_deeplab, describe_deeplab, load_deeplab
from deeplab.multi_scale import multi_scale_loss
from deeplab.stages import predict_deeplab, train_deeplab
from deeplab.vit_segmenters import ViTSegmenter
from getam.datasets.images import MEAN, STD
from getam.datasets.index import Index, IndexRow, write_index
from getam.datasets.shards import new_shard
from getam.errors import InputError
from getam.networks.checkpoints import save_model
from getam.networks.dpt import DPTDecoder
from getam.networks.linear_head import LinearHead
from getam.scores.evaluation import evaluate_predictions
from getam.settings.config import Config, validate_config
from getam.settings.deeplab import DeepLabSettings
from getam.settings.reading import merge, read_yaml
from getam.system.files import read_json
from getam.system.image_files import read_labels, write_labels
from getam.training.optimization import check_groups

NAME = "vit_tiny_patch16_224"
OPTIONS = {"patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2}
DECODER = {"taps": [0, 1, 2], "channels": [8, 8, 8], "scales": [4, 2, 1], "width": 16}
ON_VITS = {"dpt": DPTDecoder, "linear": LinearHead}
NUM_CLASSES = 4


@pytest.fixture(params=ON_VITS)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def settings_of(config: Config, architecture: str, **changes: Any) -> DeepLabSettings:
    """A ViT of patch 8, 16 channels and 4 blocks, crops of 32 pixels."""
    values = {"architecture": architecture, "encoder": NAME, "encoder_options": OPTIONS, "decoder": DECODER} | changes
    return DeepLabSettings.model_validate(config.deeplab.model_dump() | values)


def segmenter(config: Config, architecture: str, **changes: Any) -> ViTSegmenter:
    torch.manual_seed(0)
    network = build_deeplab(settings_of(config, architecture, **changes), num_classes=NUM_CLASSES)
    assert isinstance(network, ViTSegmenter)
    assert isinstance(network.decoder, ON_VITS[architecture])
    return network


def train_steps(network: ViTSegmenter, *, steps: int, learning_rate: float = 0.01) -> list[float]:
    """Losses of a training on stripes that the brightness tells."""
    labels = (torch.arange(32)[None, None] // 8).expand(2, 32, 32)
    noise = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    images = labels[:, None].float() + 0.1 * noise
    groups = network.parameter_groups(learning_rate=learning_rate, weight_decay=0.01)
    check_groups(network, groups)
    optimizer = torch.optim.SGD(groups, lr=learning_rate, momentum=0.9)
    losses = []
    for _ in range(steps):
        loss = multi_scale_loss(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# Shapes


def test_outputs_at_any_size_and_their_maximum(config: Config, architecture: str) -> None:
    network = segmenter(config, architecture, scales=[0.5])
    assert network.multiple == 8
    images = torch.randn(2, 3, 37, 53)
    assert [tuple(output.shape) for output in network(images)] == [(2, 4, 37, 53), (2, 4, 18, 26), (2, 4, 37, 53)]
    network.eval()
    with torch.no_grad():
        whole = network.logits(images)
        half = network.logits(F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False))
        half = F.interpolate(half, size=(37, 53), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(images), torch.maximum(whole, half))
    assert len(segmenter(config, architecture)(images)) == 1


def test_images_between_multiples_of_the_patch_are_padded_with_the_mean_color(
    config: Config, architecture: str
) -> None:
    network = segmenter(config, architecture).eval()
    images = torch.randn(1, 3, 37, 50)
    mean = (torch.tensor([0.5, 0.5, 0.5]) - torch.tensor(MEAN)) / torch.tensor(STD)
    padded = mean[None, :, None, None].repeat(1, 1, 40, 56)
    padded[..., :37, :50] = images
    with torch.no_grad():
        torch.testing.assert_close(network(images), network(padded)[..., :37, :50])


@pytest.mark.parametrize("final_norm", [True, False])
def test_the_linear_head_by_hand(config: Config, final_norm: bool) -> None:
    network = segmenter(config, "linear", final_norm=final_norm).eval()
    assert isinstance(network.decoder, LinearHead)
    vit, (first, norm1, _, second, norm2, _, last) = network.encoder, network.decoder.layers
    for norm in (vit.norm, norm1, norm2):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    norm1.running_mean.normal_()
    images = torch.randn(2, 3, 24, 40)
    with torch.no_grad():
        # timm's weights of this ViT expect images between -1 and 1.
        pixels = images * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        blocks: list[Tensor] = []
        handle = vit.blocks[-1].register_forward_hook(lambda module, inputs, output: blocks.append(output))
        features = vit.forward_features((pixels - 0.5) / 0.5)
        handle.remove()
        tokens = (features if final_norm else blocks[0])[:, 1:]

        def affine(x: Tensor, norm: torch.nn.BatchNorm2d) -> Tensor:
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            return x * scale + norm.bias - norm.running_mean * scale

        # A 1x1 convolution is a matrix at each patch, and the 3x3 one a sum over the neighbors within the grid.
        hidden = affine(tokens @ first.weight[:, :, 0, 0].T, norm1).relu().reshape(2, 3, 5, 16)
        summed = torch.zeros(2, 3, 5, 16)
        for row in range(3):
            for column in range(5):
                for i in range(max(0, row - 1), min(3, row + 2)):
                    for j in range(max(0, column - 1), min(5, column + 2)):
                        kernel = second.weight[:, :, i - row + 1, j - column + 1]
                        summed[:, row, column] += hidden[:, i, j] @ kernel.T
        logits = affine(summed, norm2).relu() @ last.weight[:, :, 0, 0].T + last.bias
        logits = F.interpolate(logits.permute(0, 3, 1, 2), size=(24, 40), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(images), logits, rtol=1e-4, atol=1e-4)


def test_dpt_reads_the_taps_and_the_last_block(config: Config) -> None:
    images = torch.randn(1, 3, 32, 32)
    network = segmenter(config, "dpt", decoder=DECODER | {"taps": [0, 1, 3]}).eval()
    # The blocks change nothing: every tap has the tokens of the embedding.
    for block in network.encoder.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    seen: dict[str, Tensor] = {}
    for name, module in [*network.decoder.reassemble.named_children(), ("deepest", network.decoder.deepest)]:
        module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: inputs[0]}))
    with torch.no_grad():
        network(images)
        embedded = network.encoder.norm(
            network.encoder._pos_embed(network.encoder.patch_embed(network.normalization(images)))
        )
    assert sorted(seen) == ["0", "1", "2", "deepest"]
    for tokens in seen.values():
        torch.testing.assert_close(tokens, embedded)


@pytest.mark.parametrize(
    "options",
    [
        {"class_token": False, "global_pool": "avg"},
        {"class_token": False, "global_pool": "map"},  # SigLIP
        {"class_token": False, "global_pool": "avg", "reg_tokens": 2},
        {"reg_tokens": 4},  # DINOv2 with registers
    ],
    ids=str,
)
def test_a_vit_with_other_prefix_tokens(config: Config, architecture: str, options: dict[str, Any]) -> None:
    network = segmenter(config, architecture, encoder_options=OPTIONS | options)
    assert network(torch.randn(2, 3, 24, 40))[0].shape == (2, NUM_CLASSES, 24, 40)
    if architecture == "dpt":
        readouts = {module.readout for module in [*network.decoder.reassemble, network.decoder.deepest]}
        assert readouts == {"project" if "class_token" not in options else "ignore"}
    train_steps(network, steps=1)
    unused = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert unused == set()


def test_a_hybrids_stages_may_be_tapped(config: Config) -> None:
    name = "vit_base_r50_s16_384"
    changes: dict[str, Any] = {"encoder": name, "encoder_options": {"embed_dim": 16, "depth": 2, "num_heads": 2}}
    decoder = {"taps": ["stage0", "stage1", 0], "channels": [256, 512, 8], "scales": [4, 2, 1], "width": 16}
    network = segmenter(config, "dpt", decoder=decoder, **changes)
    assert network.multiple == 16
    assert network.eval()(torch.randn(1, 3, 32, 45)).shape == (1, NUM_CLASSES, 32, 45)
    with pytest.raises(InputError, match=f"decoder.channels, decoder.scales: stage1 of {name} has 512 channels"):
        segmenter(config, "dpt", decoder=decoder | {"channels": [256, 8, 8]}, **changes)


def test_images_come_to_the_encoder_as_its_weights_know_them(config: Config) -> None:
    network = segmenter(config, "linear")
    assert timm.get_pretrained_cfg(NAME).mean == (0.5, 0.5, 0.5)
    black = -torch.tensor(MEAN)[:, None, None] / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(network.normalization(black.expand(1, 3, 4, 4)), torch.full((1, 3, 4, 4), -1.0))


# Training


def test_it_learns(config: Config, architecture: str) -> None:
    losses = train_steps(segmenter(config, architecture), steps=12)
    assert losses[-1] < 0.6 * losses[0]


def test_a_frozen_encoder_keeps_its_weights_and_has_no_graph(config: Config, architecture: str) -> None:
    network = segmenter(config, architecture, trainable="none", encoder_options=OPTIONS | {"proj_drop_rate": 0.5})
    before = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    graphs: list[bool] = []
    network.encoder.norm.register_forward_hook(lambda module, inputs, output: graphs.append(output.requires_grad))
    losses = train_steps(network, steps=12)
    assert losses[-1] < losses[0]
    assert not any(graphs)
    assert not any(module.training for module in network.encoder.modules())
    assert network.decoder.training
    after = network.encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_groups_hold_each_trained_weight_once(config: Config, architecture: str) -> None:
    network = segmenter(config, architecture)
    groups = network.parameter_groups(learning_rate=0.1, weight_decay=0.5)
    check_groups(network, groups)
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates == {
        "encoder_weight": (0.1, 0.5),
        "encoder_rest": (0.1, 0),
        "decoder_weight": (1.0, 0.5),
        "decoder_rest": (1.0, 0),
    }
    kept = {id(parameter) for group in groups if group["name"] == "encoder_rest" for parameter in group["params"]}
    assert {id(network.encoder.pos_embed), id(network.encoder.cls_token)} <= kept
    # The rate of the new layers is the same beside a frozen encoder.
    frozen = segmenter(config, architecture, trainable="none")
    groups = frozen.parameter_groups(learning_rate=0.1, weight_decay=0.5)
    assert [(group["name"], group["lr"]) for group in groups] == [("decoder_weight", 1.0), ("decoder_rest", 1.0)]


def test_layers_of_the_encoder_have_rates_of_their_own(config: Config, architecture: str) -> None:
    network = segmenter(config, architecture, trainable=2)
    groups = network.parameter_groups(learning_rate=0.1, weight_decay=0.5, layer_decay=0.5)
    check_groups(network, groups)
    assert {group["name"]: pytest.approx(group["lr"]) for group in groups} == {
        "encoder_weight layer 4": 0.1,
        "encoder_rest layer 4": 0.1,
        "encoder_weight layer 3": 0.05,
        "encoder_rest layer 3": 0.05,
        "decoder_weight": 1.0,
        "decoder_rest": 1.0,
    }


# On disk


def test_a_saved_model_comes_back_for_images_of_another_size(config: Config, architecture: str, tmp_path: Path) -> None:
    """The weights have a position table of another grid than the crop's, and the images have a third one."""
    pretrained = timm.create_model(NAME, num_classes=0, img_size=64, **OPTIONS)
    save_file(pretrained.state_dict(), tmp_path / "vit.safetensors")
    settings = settings_of(config, architecture, pretrained=str(tmp_path / "vit.safetensors"))
    network = build_deeplab(settings, num_classes=3).eval()
    assert network.encoder.pos_embed.shape == (1, 1 + 4 * 4, 16)
    assert torch.equal(network.encoder.cls_token, pretrained.cls_token)
    description = describe_deeplab(settings, ("a", "b"), learned_from="I+S")
    save_model(tmp_path / "model", network, description)
    (tmp_path / "vit.safetensors").unlink()
    again, classes = load_deeplab(tmp_path / "model")
    assert classes == ("a", "b")
    images = torch.randn(1, 3, 40, 52)
    with torch.no_grad():
        assert torch.equal(again(images), network(images))


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder": "resnet18", "encoder_options": {}},
            "encoder: resnet18 is no plain ViT of timm, whose tokens {} reads; choose one, such as vit_small_patch14",
        ),
        ({"encoder": "swin_tiny_patch4_window7_224", "encoder_options": {}}, "encoder: swin_tiny.* is no plain ViT"),
        ({"encoder": "mit_b2", "encoder_options": {}}, "encoder: timm has no model 'mit_b2'"),
        ({"encoder": f"tu-{NAME}"}, f"encoder: timm has no model 'tu-{NAME}'; near ones: .*{NAME}"),
        ({"encoder_options": {"wings": 2}}, f"encoder_options: {NAME} does not take them"),
        ({"pretrained": "nowhere.pth"}, "pretrained: nowhere.pth: no such file"),
        ({"trainable": 7}, "trainable: 7 layers, but the encoder has 4 above its stem; write all"),
        (
            {"crop": {"long_side": [28, 36], "size": 36, "color_jitter": 0}},
            f"crop.size: 36 is no multiple of 8, the side of {NAME}'s patches; write 32 or 40",
        ),
        (
            {"encoder_options": {**OPTIONS, "patch_size": 64}},
            f"crop.size: 32 is no multiple of 64, the side of {NAME}'s patches; write 64",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_an_encoder(config: Config, architecture: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.format(architecture)):
        segmenter(config, architecture, **changes)


def test_taps_beyond_the_blocks_are_refused(config: Config) -> None:
    decoder = DECODER | {"taps": [0, 1, 4]}
    message = rf"decoder.taps: \[0, 1, 4\]: {NAME} has no block 4; its blocks are 0 to 3"
    with pytest.raises(InputError, match=message):
        segmenter(config, "dpt", decoder=decoder)
    # The linear head has no taps.
    segmenter(config, "linear", decoder=decoder)


def test_its_weights_are_fetched_as_timms(architecture: str) -> None:
    """fetch_weights takes timm's network with its options, which DeepLabv2 doesn't read."""
    overlay = {"encoder": NAME, "encoder_options": OPTIONS, "pretrained": True}
    base = read_yaml(PROJECT / "config.yaml")
    for name, network, options in ((architecture, f"tu-{NAME}", OPTIONS), ("deeplabv2", NAME, {})):
        config = validate_config(merge(base, {"deeplab": overlay | {"architecture": name}}))
        wanted = config.pretrained_networks()["deeplab"]
        assert (wanted.network, wanted.options) == (network, options)


# The stages


def test_the_stages_train_and_predict(config: Config, architecture: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for id, split, size in (("a", "train", (34, 50)), ("b", "train", (50, 34)), ("c", "val", (37, 61))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{id}.png")
        mask = tmp_path / f"mask_{id}.png" if split == "val" else None
        rows.append(IndexRow(id, split, tmp_path / f"{id}.png", mask, *size, ("dog",)))
    write_labels(tmp_path / "mask_c.png", np.zeros((37, 61), np.uint8))
    index = Index(tuple(rows), ("cat", "dog"))
    write_index(tmp_path / "index.csv", index)
    how: dict[str, Any] = {"ids": ["a", "b"], "classes": index.classes, "settings": None}
    with new_shard(tmp_path / "labels" / "000", suffix=".png", **how) as shard:
        for row in rows[:2]:
            shard.submit(row.id, write_labels, rng.integers(0, 3, (row.height, row.width)).astype(np.uint8))
    settings = settings_of(config, architecture, trainable="none", scales=[0.5])
    machine: dict[str, Any] = {"index": tmp_path / "index.csv", "threads": 1, "device": "cpu"}
    train_deeplab.run(
        train_deeplab.Arguments(
            **settings.model_dump(), pseudo_labels=tmp_path / "labels", shards=1, out=tmp_path / "model", **machine
        )
    )
    description = read_json(tmp_path / "model" / "model.json")
    assert description["settings"] == settings.model_dump(mode="json")
    predict_deeplab.run(
        predict_deeplab.Arguments(
            **config.deeplab_prediction.model_dump() | {"scales": [1, 0.5], "window": 24},
            model=tmp_path / "model",
            split="val",
            out=tmp_path / "predictions",
            **machine,
        )
    )
    assert read_labels(tmp_path / "predictions" / "c.png").shape == (37, 61)
    protocol = evaluate_predictions(index, tmp_path / "predictions", split="val")["protocol"]
    assert (protocol["architecture"], protocol["window"], protocol["window_overlap"]) == (architecture, 24, 0.333)
