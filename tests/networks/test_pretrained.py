"""Pretrained weights: by name, from a file, refused where they know pixel labels; and where they came from."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import resample_patch_embed
from torch import Tensor, nn

import getam.networks.pretrained
from deeplab import DeepLabV2
from deeplab.segmenters import SmpSegmenter
from getam.errors import InputError
from getam.maps.attention import AttentionMaps
from getam.networks.backbones import create_timm_model
from getam.networks.classifier import build_classifier
from getam.networks.pretrained import SEGMENTATION_NAMES, initialization_of, read_state, timm_weights
from getam.networks.saliency import SaliencyNetwork
from getam.settings.classifier import ClassifierSettings
from getam.settings.config import Config

VIT = "vit_tiny_patch16_224"
SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 2}


def vit_state(*, num_classes: int = 1000, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return timm.create_model(VIT, num_classes=num_classes, **{**SMALL, **options}).state_dict()


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def vit(pretrained: bool | str | Path, **options: Any) -> Any:
    torch.manual_seed(0)
    given = str(pretrained) if isinstance(pretrained, Path) else pretrained
    return create_timm_model(VIT, pretrained=given, key="backbone", **{**SMALL, **options})


# From a file


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_of_the_model_is_loaded_and_named(tmp_path: Path, suffix: str) -> None:
    state = vit_state()
    path = saved(tmp_path / f"vit{suffix}", state)
    model = vit(path)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert initialization_of(nn.Sequential(model)) == {"name": VIT, "source": path.name, "sha256": digest}
    assert initialization_of(nn.Sequential(vit(False))) is None


def test_a_checkpoint_may_hold_more_and_a_prefix(tmp_path: Path) -> None:
    state = vit_state()
    torch.save({"epoch": 3, "state_dict": {f"module.{n}": v for n, v in state.items()}}, tmp_path / "run.pth")
    model = vit(tmp_path / "run.pth")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_position_table_is_resized_as_timm_does(tmp_path: Path) -> None:
    path = saved(tmp_path / "vit.safetensors", vit_state())
    model = vit(path, img_size=96)
    assert model.pos_embed.shape == (1, 37, 16)


def test_a_kernel_is_resampled_to_another_patch_as_timm_does(tmp_path: Path) -> None:
    state = vit_state()
    path = saved(tmp_path / "vit.safetensors", state)
    model = vit(path, patch_size=14, img_size=112)
    kernel = model.patch_embed.proj.weight
    assert kernel.shape == (16, 3, 14, 14)
    expected = resample_patch_embed(state["patch_embed.proj.weight"], [14, 14])
    torch.testing.assert_close(kernel, expected)
    # A resampled constant is no constant, so that values alone don't tell that the kernel was loaded.
    constant = resample_patch_embed(torch.full((16, 3, 16, 16), 0.5), [14, 14])
    assert constant.max() - constant.min() > 0.01


def test_a_file_in_half_precision_is_loaded_in_full(tmp_path: Path) -> None:
    state = {name: value.half() for name, value in vit_state().items()}
    model = vit(saved(tmp_path / "vit.safetensors", state), img_size=96, patch_size=32)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    name = "blocks.1.attn.qkv.weight"
    assert torch.equal(model.state_dict()[name], state[name].float())


def test_a_weight_that_equals_a_fresh_one_is_loaded_all_the_same(tmp_path: Path) -> None:
    # Norms of 1 and biases of 0, as a network that was hardly trained has them.
    path = saved(tmp_path / "vit.safetensors", vit_state())
    assert torch.equal(vit(path).norm.weight, torch.ones(16))


def test_a_file_without_the_register_tokens_is_refused_in_one_message(tmp_path: Path) -> None:
    whole = vit_state(reg_tokens=4)
    assert vit(saved(tmp_path / "whole.safetensors", whole), reg_tokens=4).num_prefix_tokens == 5
    for name, left_out in (("part", {"reg_token"}), ("parts", {"reg_token", "norm.bias"})):
        path = saved(tmp_path / f"{name}.safetensors", {k: v for k, v in whole.items() if k not in left_out})
        with pytest.raises(InputError, match=rf"pretrained: {name}\.safetensors (lacks|does not fit).*reg_token"):
            vit(path, reg_tokens=4)


def test_fresh_weights_are_those_of_before(tmp_path: Path) -> None:
    # Reading a file draws no random number: what is not loaded, and what is built after, is as without one.
    path = saved(tmp_path / "vit.safetensors", vit_state())
    vit(path)
    after_file = torch.rand(3)
    vit(False)
    assert torch.equal(torch.rand(3), after_file)


def test_a_file_without_some_of_the_weights_is_refused(tmp_path: Path) -> None:
    state = {name: value for name, value in vit_state().items() if not name.startswith("blocks.1.")}
    path = saved(tmp_path / "vit.safetensors", state)
    with pytest.raises(InputError, match=r"pretrained: vit\.safetensors (lacks|does not fit).*blocks\.1"):
        vit(path)


@pytest.mark.parametrize("part", [".bias", "norm1.weight"])
def test_a_file_without_what_starts_as_a_constant_is_refused(tmp_path: Path, part: str) -> None:
    # Norms and biases look the same loaded or not.
    state = {name: value for name, value in vit_state().items() if not name.endswith(part)}
    path = saved(tmp_path / "vit.safetensors", state)
    with pytest.raises(InputError, match=r"vit\.safetensors lacks \d+ of the model's tensors"):
        vit(path)


def test_a_file_without_running_statistics_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(7)
    state = timm.create_model("resnet10t", num_classes=3).state_dict()
    path = saved(tmp_path / "cnn.safetensors", {n: v for n, v in state.items() if "running_var" not in n})
    with pytest.raises(InputError, match=r"cnn\.safetensors lacks \d+ of the model's tensors.*running_var"):
        create_timm_model("resnet10t", pretrained=str(path), key="backbone")


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "vit.safetensors", vit_state(embed_dim=32))
    with pytest.raises(InputError, match=r"vit\.safetensors does not fit"):
        vit(path)
    path = saved(tmp_path / "other.safetensors", {"weight": torch.ones(3)})
    with pytest.raises(InputError, match=r"other\.safetensors"):
        vit(path)


class Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (Path("pwned"),)  # type: ignore[return-value]


def test_a_pickle_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({"weight": Evil()}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(InputError, match=rf"{name}: is no file of weights"):
            vit(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"x" * 100])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="is no file of weights"):
        read_state(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pretrained: .*none\.pth: no such file; name a \.safetensors or \.pth"):
        vit(tmp_path / "none.pth")


# By name


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Tensor]], list[tuple[Any, ...]]]:
    """Has the hub give a file with these weights; gives the list of what is asked of it."""

    def serve(state: dict[str, Tensor]) -> list[tuple[Any, ...]]:
        path = saved(tmp_path / "model.safetensors", state)
        asked: list[tuple[Any, ...]] = []

        def download(repository: str, file: str, *, revision: str | None) -> str:
            asked.append((repository, file, revision))
            return str(path)

        monkeypatch.setattr(getam.networks.pretrained, "hf_hub_download", download)
        return asked

    return serve


def test_weights_by_name_come_from_the_hub(hub: Callable[[dict[str, Tensor]], list[tuple[Any, ...]]]) -> None:
    state = vit_state()
    asked = hub(state)
    model = vit(True)
    assert asked == [("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "model.safetensors", None)]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    origin = initialization_of(nn.Sequential(model))
    assert origin is not None
    assert origin["source"].startswith("https://huggingface.co/timm/vit_tiny_patch16_224.augreg")


def test_an_encoder_by_name_comes_from_the_hub(hub: Callable[[dict[str, Tensor]], list[tuple[Any, ...]]]) -> None:
    torch.manual_seed(3)
    state = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    asked = hub(state)
    network = DeepLabV2(encoder="resnet18", num_classes=3, encoder_stages=2, pretrained=True)
    assert asked[0][:2] == ("smp-hub/resnet18.imagenet", "model.safetensors")
    own = network.encoder.state_dict()
    assert own
    assert all(torch.equal(value, state[name]) for name, value in own.items())
    other = SmpSegmenter(architecture="upernet", encoder="resnet18", num_classes=3, pretrained=True)
    assert torch.equal(other.encoder.state_dict()["conv1.weight"], state["conv1.weight"])
    assert initialization_of(other) == initialization_of(network)


def test_an_encoder_from_torchvisions_file_with_its_head(tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    path = saved(tmp_path / "resnet18-f37072fd.pth", state | {"fc.weight": torch.ones(1000, 512)})
    network = DeepLabV2(encoder="resnet18", num_classes=3, pretrained=str(path))
    assert torch.equal(network.encoder.state_dict()["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])
    del state["layer3.0.conv1.weight"]
    path = saved(tmp_path / "part.pth", state)
    with pytest.raises(InputError, match=r"part\.pth does not fit resnet18: layer3\.0\.conv1\.weight is missing"):
        DeepLabV2(encoder="resnet18", num_classes=3, pretrained=str(path))


@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224", "resnet10t"])
def test_an_encoder_of_timm_takes_the_whole_networks_file(tmp_path: Path, name: str) -> None:
    torch.manual_seed(3)
    state = timm.create_model(name, num_classes=10).state_dict()
    path = saved(tmp_path / "whole.safetensors", state)
    torch.manual_seed(0)
    network = SmpSegmenter(architecture="upernet", encoder=f"tu-{name}", num_classes=3, pretrained=str(path))
    drawn = torch.rand(3)
    own = network.encoder.model.state_dict()
    joined = {re.sub(r"^(stem|stages|layers)\.(\d+)\.", r"\1_\2.", key): value for key, value in state.items()}
    assert own
    assert all(torch.equal(value, joined[key]) for key, value in own.items())
    assert initialization_of(network)["source"] == "whole.safetensors"  # type: ignore[index]
    # What is built after it is as without the file.
    torch.manual_seed(0)
    SmpSegmenter(architecture="upernet", encoder=f"tu-{name}", num_classes=3)
    assert torch.equal(torch.rand(3), drawn)


def test_the_swin_of_the_saliency_network_takes_a_file(tmp_path: Path) -> None:
    options = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "window_size": 6}
    torch.manual_seed(5)
    swin = timm.create_model("swin_tiny_patch4_window7_224", img_size=96, **options)
    path = saved(tmp_path / "swin.safetensors", swin.state_dict())
    network = SaliencyNetwork(
        backbone="swin_tiny_patch4_window7_224", backbone_options=options, image_size=96, pretrained=str(path)
    )
    state = swin.state_dict()
    own = network.backbone.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in own.items())
    origin = initialization_of(network)
    assert origin is not None
    assert origin["source"] == "swin.safetensors"


def test_without_a_connection_the_message_says_which_file_to_put_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(getam.networks.pretrained, "hf_hub_download", unreachable)
    message = (
        r"pretrained: the weights of vit_tiny_patch16_224 cannot be fetched \(ConnectionError\): download "
        r"https://huggingface\.co/timm/vit_tiny_patch16_224\.augreg_in21k_ft_in1k/resolve/main/model\.safetensors on a "
        r"machine with a connection and set pretrained to the path of that file, or set pretrained to false"
    )
    with pytest.raises(InputError, match=message):
        vit(True)


def test_a_model_without_weights_of_its_name() -> None:
    with pytest.raises(InputError, match="timm has no weights of test_vit_nowhere"):
        timm_weights("test_vit_nowhere", True, allow_pixel_labels=False)
    with pytest.raises(InputError, match="choose another tag of vit_tiny_patch16_224"):
        timm_weights("vit_tiny_patch16_224.no_tag", True, allow_pixel_labels=False)


# Real weights, through to maps

DINOV2 = "vit_small_patch14_dinov2"


def maps_of_real_weights(config: Config, path: Path, size: int, **changes: Any) -> tuple[Any, list[Tensor]]:
    """The classifier of a file, and its maps of two classes of an image."""
    values = {"backbone": DINOV2, "backbone_options": {}, "readout": "token", "normalization": "backbone"} | changes
    values |= {"pretrained": str(path), "crop": config.classifier.crop.model_dump() | {"size": size}}
    settings = ClassifierSettings.model_validate(config.classifier.model_dump() | values)
    torch.manual_seed(0)
    model = build_classifier(settings, num_classes=3, image_size=size).eval()
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with AttentionMaps(model, start_block=6) as attention_maps:
        scores, maps = attention_maps(images, [[0, 2]])
    assert scores.isfinite().all()
    return model, maps


@pytest.mark.parametrize(("size", "patch"), [(224, 14), (126, 14), (224, 16), (112, 16)])
def test_dinov2_in_half_precision_at_other_sizes_and_patches(
    shared: Path, config: Config, size: int, patch: int
) -> None:
    # The file's position table is 37x37, of 518 pixels.
    options = {} if patch == 14 else {"patch_size": patch}
    path = shared / "weights" / f"{DINOV2}.safetensors"
    model, (maps,) = maps_of_real_weights(config, path, size, backbone_options=options)
    grid = size // patch
    assert model.stride == patch
    assert model.backbone.pos_embed.shape == (1, 1 + grid * grid, 384)
    assert maps.shape == (2, grid, grid)
    assert maps.isfinite().all()
    assert (maps.amax((1, 2)) > 0).all()


def test_dinov2_with_register_tokens(shared: Path, config: Config, tmp_path: Path) -> None:
    # The file of a model with registers is made of the one without: its table has no place for the class token.
    state = load_file(shared / "weights" / f"{DINOV2}.safetensors")
    table = state["pos_embed"]
    state |= {"pos_embed": table[:, 1:].contiguous(), "cls_token": state["cls_token"] + table[:, :1]}
    part = saved(tmp_path / "part.safetensors", state)
    path = saved(tmp_path / "reg4.safetensors", state | {"reg_token": torch.full((1, 4, 384), 0.02).half()})
    model, (maps,) = maps_of_real_weights(config, path, 112, backbone="vit_small_patch14_reg4_dinov2")
    tokens = model.tokens(torch.zeros(1, 3, 112, 112))
    assert tokens.num_prefix_tokens == 5
    assert tokens.normalized.shape == (1, 5 + 64, 384)
    assert maps.shape == (2, 8, 8)
    assert maps.isfinite().all()
    assert (maps.amax((1, 2)) > 0).all()
    for file in (part, shared / "weights" / f"{DINOV2}.safetensors"):
        with pytest.raises(InputError, match=rf"^pretrained: {file.name} (lacks|does not fit)"):
            maps_of_real_weights(config, file, 112, backbone="vit_small_patch14_reg4_dinov2")


# Pixel labels


@pytest.mark.parametrize(
    "name",
    [
        "samvit_base_patch16.sa1b",
        "sam2_hiera_tiny.fb_r896",
        "tu-sam2_hiera_tiny",
        "vit_pe_spatial_base_patch16_512.fb",
        "vit_base_patch16_siglip_224.c_radio",
        "mit_b5.ade20k",
        "deeplabv1_resnet101-coco",
    ],
)
def test_names_of_weights_that_know_pixel_labels(name: str) -> None:
    assert SEGMENTATION_NAMES.search(name)


def test_of_timms_names_only_those_that_know_pixel_labels_are_refused() -> None:
    refused = [name for name in timm.list_pretrained() if SEGMENTATION_NAMES.search(name)]
    assert refused
    # Segment Anything and what was distilled from it, and what was tuned on referring segmentation; no
    # Sharpness-Aware Minimization.
    known = ("sam2_", "samvit_", "vit_pe_spatial_", "refcoco_seg", "c_radio", "pali_mix")
    assert all(any(part in name for part in known) for name in refused)
    assert all(any(part in name for name in refused) for part in known)


def test_the_tag_that_timm_takes_for_a_name_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getam.networks.pretrained, "hf_hub_download", lambda *_, **__: pytest.fail("fetched"))
    path = saved(tmp_path / "model.safetensors", vit_state())
    found = 0
    for name in timm.list_models(pretrained=True):
        tagged = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        if not all(SEGMENTATION_NAMES.search(each) for each in tagged):
            continue
        found += 1
        for pretrained in (True, str(path)):
            with pytest.raises(InputError, match="was trained on pixel labels"):
                timm_weights(name.partition(".")[0], pretrained, allow_pixel_labels=False)
    assert found > 10


def test_weights_by_a_refused_name_are_not_even_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getam.networks.pretrained, "hf_hub_download", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(InputError, match=r"was trained on pixel labels.*segmentation_pretrained to true"):
        timm_weights("samvit_base_patch16.sa1b", True, allow_pixel_labels=False)


def test_a_file_of_a_refused_network_is_refused_whatever_its_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors", vit_state())
    with pytest.raises(InputError, match=r"model\.safetensors, of sam2_hiera_tiny\.fb_r896, was trained on pixel"):
        timm_weights("sam2_hiera_tiny.fb_r896", str(path), allow_pixel_labels=False)


@pytest.mark.parametrize(
    ("file", "key"),
    [("resnet101-coco.pth", "conv1.weight"), ("fine.pth", "aux_classifier.0.weight"), ("fine.pth", "aspp.c0.weight")],
)
def test_a_file_that_knows_pixel_labels_needs_a_setting(tmp_path: Path, file: str, key: str) -> None:
    state = vit_state()
    path = saved(tmp_path / file, state | {key: torch.ones(2)})
    with pytest.raises(InputError, match="was trained on pixel labels"):
        vit(path)
    saved(tmp_path / file, state)
    assert vit(path, allow_pixel_labels=True) is not None
