"""The stage fetch_weights: a network's weights are had, or what is wrong with them is said, before any training."""

from __future__ import annotations

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch

import getam.networks.pretrained
from getam.cli import STAGES, command
from getam.system.files import read_json


def fetch(out: Path, section: str, network: str, pretrained: str | Path, *, options: str = "{}") -> int:
    words = ["--section", section, "--network", network, "--pretrained", str(pretrained), "--options", options]
    return command("getam", STAGES, ["fetch-weights", *words, "--segmentation-pretrained", "false", "--out", str(out)])


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the hub, which gives the fresh weights of the network that a repository is of."""
    repositories: list[str] = []

    def download(repository: str, *_: object, **__: object) -> str:
        repositories.append(repository)
        name = repository.partition("/")[2].partition(".")[0]
        of_timm = repository.startswith("timm/")
        network = timm.create_model(name, num_classes=3) if of_timm else smp.encoders.get_encoder(name, weights=None)
        torch.save(network.state_dict(), tmp_path / "file.pth")
        return str(tmp_path / "file.pth")

    monkeypatch.setattr(getam.networks.pretrained, "hf_hub_download", download)
    return repositories


@pytest.mark.parametrize(
    ("section", "network", "repository"),
    [
        ("classifier", "vit_tiny_r_s16_p8_224.augreg_in21k_ft_in1k", "timm/vit_tiny_r_s16_p8_224.augreg_in21k_ft_in1k"),
        ("saliency", "swin_tiny_patch4_window7_224.ms_in1k", "timm/swin_tiny_patch4_window7_224.ms_in1k"),
        ("deeplab", "resnet18", "smp-hub/resnet18.imagenet"),
        ("deeplab", "tu-convnext_atto.d2_in1k", "timm/convnext_atto.d2_in1k"),
        # timm's, not the encoder of the same name.
        ("classifier", "resnet18.tv_in1k", "timm/resnet18.tv_in1k"),
    ],
)
def test_weights_are_asked_of_where_they_are(
    tmp_path: Path, asked: list[str], section: str, network: str, repository: str
) -> None:
    assert fetch(tmp_path / "weights.json", section, network, "true") == 0
    assert asked == [repository]
    found = read_json(tmp_path / "weights.json")
    assert found["name"] == network.removeprefix("tu-")
    assert found["source"].startswith(f"https://huggingface.co/{repository}/resolve/")
    assert len(found["sha256"]) == 64


def test_a_file_is_read_and_hashed(tmp_path: Path, asked: list[str]) -> None:
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "mine.pth")
    assert fetch(tmp_path / "weights.json", "classifier", "resnet10t", tmp_path / "mine.pth") == 0
    assert asked == []
    assert read_json(tmp_path / "weights.json")["source"] == "mine.pth"


@pytest.mark.parametrize(
    ("section", "network", "options", "message"),
    [
        ("classifier", "resnet10t", "{}", "classifier.pretrained: mine.pth "),
        ("deeplab", "resnet18", "{}", "deeplab.pretrained: mine.pth does not fit resnet18: conv1.weight is missing"),
        ("deeplab", "tu-resnet10t", "{}", "deeplab.pretrained: mine.pth "),
        ("deeplab", "tu-vit_tiny_patch16_224", '{"depth": 3}', "deeplab.pretrained: mine.pth "),
        (
            "deeplab",
            "tu-vit_tiny_patch16_224",
            '{"wings": 3}',
            "deeplab.encoder_options: vit_tiny_patch16_224 does not",
        ),
        ("deeplab", "resnet19", "{}", "deeplab.encoder: 'resnet19' is none of segmentation-models-pytorch"),
        ("end_to_end", "vit_tiny_patch16_224", '{"depth": 3}', "end_to_end.pretrained: mine.pth "),
    ],
)
def test_a_file_of_another_network_is_found_out_before_any_training(
    tmp_path: Path, section: str, network: str, options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "mine.pth")
    assert fetch(tmp_path / "weights.json", section, network, tmp_path / "mine.pth", options=options) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "weights.json").exists()


def test_without_a_connection_the_section_and_the_file_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(getam.networks.pretrained, "hf_hub_download", unreachable)
    assert fetch(tmp_path / "weights.json", "deeplab", "resnet101", "true") == 1
    error = capsys.readouterr().err
    assert "deeplab.pretrained: the weights of resnet101 cannot be fetched (ConnectionError)" in error
    assert "smp-hub/resnet101.imagenet/resolve/" in error
    assert "set pretrained to the path of that file" in error
    assert "Traceback" not in error
    assert not (tmp_path / "weights.json").exists()


@pytest.mark.parametrize(
    ("section", "network", "pretrained", "message"),
    [
        ("saliency", "swin_base_patch4_window12_384", "nowhere.pth", "saliency.pretrained: nowhere.pth: no such file"),
        ("deeplab", "resnet19", "true", "deeplab.pretrained: there are no ImageNet weights of resnet19"),
        (
            "end_to_end",
            "samvit_base_patch16",
            "true",
            "samvit_base_patch16.sa1b was trained on pixel labels",
        ),
        ("classifier", "resnet10t", "false", "--pretrained: false: classifier has nothing to fetch"),
    ],
)
def test_what_cannot_be_had_is_named(
    tmp_path: Path, section: str, network: str, pretrained: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(tmp_path / "weights.json", section, network, pretrained) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "weights.json").exists()
