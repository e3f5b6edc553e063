"""`getam probe`: ranks backbones, says what it saw, and refuses bad input in one message."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from support.dumped_maps import CLASSES, write_data

from getam.cli import STAGES, TOOLS, command
from getam.datasets.index import Index, read_index, write_index
from getam.datasets.voc import index_voc
from getam.system.files import read_json

VIT = "vit_tiny_patch16_224"
OPTIONS = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


def probe(*words: object) -> int:
    given = [word if isinstance(word, str) else str(word) for word in words]
    return command("getam", STAGES | TOOLS, ["probe", "--threads", "1", "--device", "cpu", *given])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def test_a_vit_and_a_cnn_are_ranked(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "probe.json"
    names, options = json.dumps([VIT, "resnet10t"]), json.dumps([OPTIONS, {}])
    words = ("--index", data / "index.csv", "--backbone", names, "--backbone-options", options, "--out", out)
    assert probe(*words, "--pretrained", "false", "--image-size", "45", "--images", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["backbone", "weights", "val", "mAP", "image", "size", "features", "seconds"]
    assert {line.split()[0] for line in lines[1:3]} == {VIT, "resnet10t"}
    assert lines[3] == (
        "A linear layer on frozen features; 3 of 5 images of train and 1 of 1 images of val; random scores have 1.000."
    )
    found = read_json(out)
    assert found["images"] == {"train": {"probed": 3, "all": 5}, "val": {"probed": 1, "all": 1}}
    probes = {each["backbone"]: each for each in found["probes"]}
    scores = [each["mean_average_precision"] for each in found["probes"]]
    assert scores == sorted(scores, reverse=True)
    # 45 is rounded to whole patches: of 8 pixels, or of a network whose name doesn't tell.
    assert (probes[VIT]["image_size"], probes["resnet10t"]["image_size"]) == (48, 32)
    assert (probes[VIT]["features"], probes["resnet10t"]["features"]) == (16, 512)
    assert probes[VIT]["pretrained"] is False


def test_bad_input_is_one_message(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = read_index(data / "index.csv")
    train, val = index.split("train"), index.split("val")
    for name, rows in (
        ("no_train", val),
        ("no_labels", [*train, *(dataclasses.replace(row, labels=()) for row in val)]),
    ):
        (tmp_path / name).mkdir()
        write_index(tmp_path / name / "index.csv", Index(tuple(rows), CLASSES))
    small = ("--backbone-options", json.dumps(OPTIONS), "--pretrained", "false", "--image-size", "32")
    cases = [
        (
            ("--backbone", "vit_tinny_patch16_224"),
            "no model 'vit_tinny_patch16_224'; near ones: vit_",
        ),
        (("--backbone", json.dumps([VIT, "nothing_at_all"])), "backbone: timm has no model 'nothing_at_all'"),
        (("--backbone", VIT, "--index", tmp_path / "no_train" / "index.csv"), "no image of the split 'train'"),
        (("--backbone", VIT, "--index", tmp_path / "no_labels" / "index.csv"), "no image of val has a label"),
        (("--backbone", VIT, "--index", tmp_path / "none.csv"), "none.csv: no such file"),
        (("--backbone", VIT, "--backbone-options", '{"embed_dim": 17}'), "backbone_options: vit_tiny_patch16_224"),
        (("--backbone", VIT, "--pretrained", tmp_path / "none.safetensors"), "none.safetensors: no such file"),
        (("--backbone", "swin_tiny_patch4_window7_224", "--backbone-options", "{}"), "swin_tiny_patch4_window7_224"),
        (
            ("--backbone", json.dumps([VIT] * 3), "--pretrained", "[true, false]"),
            "--pretrained: 2 values where another list has 3; give one for all, or 3",
        ),
        (("--backbone", "[]"), "--backbone: "),
    ]
    for words, message in cases:
        assert probe("--index", data / "index.csv", *small, *words) == 1, words
        error = capsys.readouterr().err
        assert message in error, words
        assert "Traceback" not in error


@pytest.mark.slow
def test_dinov2_is_above_fresh_weights_on_photographs(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = index_voc(shared / "data" / "msrc", labels="file", threads=1)
    write_index(tmp_path / "index.csv", index)
    weights = json.dumps([False, str(shared / "weights" / "vit_small_patch14_dinov2.safetensors")])
    words = ("--index", tmp_path / "index.csv", "--backbone", "vit_small_patch14_dinov2", "--pretrained", weights)
    assert probe(*words, "--image-size", "112", "--images", "60", "--out", tmp_path / "probe.json") == 0
    found = read_json(tmp_path / "probe.json")
    first, second = found["probes"]
    assert first["pretrained"] == json.loads(weights)[1]
    assert second["pretrained"] is False
    assert first["mean_average_precision"] > second["mean_average_precision"] + 0.2
    assert "60 of 299 images of train and 60 of 88 images of val" in capsys.readouterr().out
