"""`getam doctor`: what it finds of a machine, of data sets and of weights."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import try_to_load_from_cache

import getam.tools.doctor
from getam.cli import STAGES, TOOLS, command
from getam.networks.pretrained import encoder_location


def doctor(capsys: pytest.CaptureFixture[str], *overlays: Path) -> dict[str, str]:
    """{what: finding}"""
    words = ["doctor", "--configs", json.dumps([str(path) for path in overlays])]
    assert command("getam", STAGES | TOOLS, words) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line[2:36].strip(): line[36:].strip() for line in lines if line.startswith("  ")}


def overlay(tmp_path: Path, **sections: Any) -> Path:
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(sections))
    return tmp_path / "overlay.yaml"


def test_versions_and_devices(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = doctor(capsys)
    assert found["torch"] == torch.__version__.split("+")[0]
    assert found["CUDA devices"] == "none: networks run on the CPU"
    assert int(found["CPU cores"]) >= 1


def test_missing_packages_say_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(getam.tools.doctor, "OPTIONAL", {"no-such-package": "nothing: pip install nothing"})
    assert doctor(capsys)["no-such-package"] == "missing (nothing: pip install nothing)"


def test_data_in_vocs_layout_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, sbd = tmp_path / "VOC2012", tmp_path / "dataset"
    for path in ("JPEGImages/a.jpg", "JPEGImages/b.jpg", "SegmentationClass/a.png"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nb\n")
    (sbd / "cls").mkdir(parents=True)
    (sbd / "cls" / "b.mat").touch()
    data = {"root": str(root), "augmented": str(sbd), "saliency_train": str(tmp_path / "none")}
    found = doctor(capsys, overlay(tmp_path, run="mine", data=data))
    assert found["JPEGImages"] == "2 files"
    assert found["SegmentationClass"] == "1 files"
    assert (found["train.txt"], found["val.txt"]) == ("2 ids", "missing")
    assert found["data.augmented"] == f"{sbd}: 1 masks of SBD"
    assert found["data.saliency_train"].startswith(f"{tmp_path / 'none'}: no such folder")


def test_what_cannot_be_read_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, sbd = tmp_path / "VOC2012", tmp_path / "dataset"
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_bytes(b"caf\xe9\n")
    (lists / "val.txt").touch()
    (sbd / "cls").mkdir(parents=True)
    found = doctor(capsys, overlay(tmp_path, run="mine", data={"root": str(root), "augmented": str(sbd)}))
    assert found["train.txt"].startswith("cannot be read as UTF-8 text")
    assert found["val.txt"] == "no ids; write one image id a line"
    assert "cls: no .mat files; name the folder" in found["data.augmented"]


def test_data_of_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "coco"
    (root / "train2014").mkdir(parents=True)
    (root / "train2014" / "COCO_train2014_000000000009.jpg").touch()
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val2014.json").write_bytes(bytes(3 * 2**20))
    found = doctor(capsys, overlay(tmp_path, data={"format": "coco", "root": str(root)}))
    assert (found["train2014"], found["val2014"]) == ("1 files", "missing")
    assert (found["instances_train2014.json"], found["instances_val2014.json"]) == ("missing", "3 MiB")


def test_weights_and_where_they_come_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(getam.tools.doctor, "try_to_load_from_cache", lambda *_, **__: None)
    path = overlay(
        tmp_path,
        classifier={"pretrained": True, "backbone": "vit_base_patch16_384"},
        deeplab={"pretrained": True, "encoder": "resnet101"},
        saliency={"pretrained": str(tmp_path / "swin.pth")},
    )
    found = doctor(capsys, path)
    assert found["classifier"].startswith("vit_base_patch16_384: fetched at run time from huggingface.co/timm/vit_base")
    assert found["deeplab"] == "resnet101: fetched at run time from huggingface.co/smp-hub/resnet101.imagenet"
    assert found["saliency"].endswith("swin.pth, missing")
    assert "end_to_end" not in found
    assert doctor(capsys)["none"] == "all networks start from scratch"


def test_weights_in_the_cache_are_found_by_the_revision_that_is_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        getam.tools.doctor, "try_to_load_from_cache", partial(try_to_load_from_cache, cache_dir=tmp_path / "hub")
    )
    path = overlay(tmp_path, deeplab={"pretrained": True, "encoder": "resnet101"})
    assert doctor(capsys, path)["deeplab"].startswith("resnet101: fetched at run time")
    revision = encoder_location("resnet101").revision
    snapshot = tmp_path / "hub" / "models--smp-hub--resnet101.imagenet" / "snapshots" / str(revision)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    assert doctor(capsys, path)["deeplab"] == "resnet101: in the cache"


def test_weights_that_the_run_does_not_use_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = {"file": str(tmp_path / "vitb.pth"), "backbone": "vitb"}
    found = doctor(capsys, overlay(tmp_path, checkpoint=checkpoint, end_to_end={"pretrained": True}))
    assert "end_to_end" not in found
    assert found["checkpoint.file"].endswith("vitb.pth, missing")


def test_a_bad_overlay_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = overlay(tmp_path, deeplab={"encodr": "resnet18"})
    assert command("getam", STAGES | TOOLS, ["doctor", "--configs", json.dumps([str(path)])]) == 1
    assert "deeplab.encodr: unknown key; did you mean encoder?" in capsys.readouterr().err
