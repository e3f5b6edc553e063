"""`getam export`: the files' logits are torch's at several sizes, the card says where things come from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.trained import CLASSES, save_trained
from torch import Tensor

from deeplab.model import build_deeplab, describe_deeplab
from getam.cli import STAGES, TOOLS, command
from getam.networks.checkpoints import save_model
from getam.pages.text.documents import as_markdown
from getam.pages.text.model_card import model_card
from getam.scores import export as module
from getam.scores.evaluation import mean_iou
from getam.scores.export import WithNormalization
from getam.scores.segmenter import find_model, load_segmenter
from getam.settings.config import Config
from getam.system.files import write_json

VIT = {
    "encoder": "vit_tiny_patch16_224",
    "encoder_options": {"patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2},
    "architecture": "dpt",
    "trainable": "all",
}


NETWORKS = ["deeplab", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dpt", "end_to_end"))]


@pytest.fixture(scope="module")
def models(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_trained(tmp_path_factory.mktemp("models"), config)
    decoder = config.end_to_end.decoder
    settings = config.deeplab.model_copy(update=VIT | {"decoder": decoder})
    torch.manual_seed(0)
    network = build_deeplab(settings, num_classes=4)
    save_model(folder / "dpt", network, describe_deeplab(settings, CLASSES, learned_from="I"))
    return folder


def run(*words: object) -> int:
    return command("getam", STAGES | TOOLS, ["export", "--threads", "1", *map(str, words)])


def images(height: int, width: int, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def torch_logits(folder: Path, pixels: Tensor) -> np.ndarray:
    return WithNormalization(find_model(folder).network()[0])(pixels).numpy()


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_is_torch_at_every_size(name: str, models: Path, tmp_path: Path) -> None:
    out = tmp_path / "network.onnx"
    assert run(models / name, "--out", out) == 0
    onnx.checker.check_model(out)
    session = onnxruntime.InferenceSession(out)
    for size in ((32, 32), (48, 24), (80, 112)):
        pixels = images(*size)
        expected = torch_logits(models / name, pixels)
        (found,) = session.run(None, {"images": pixels.numpy()})
        assert found.shape == expected.shape == (3, 4, *size)
        assert np.abs(found - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["background", *CLASSES]
    assert metadata["multiple"] == ("1" if name == "deeplab" else "8")
    assert metadata["supervision"] == ("I" if name == "dpt" else "I+S")
    # The largest logit is the label that the network in use gives, where nothing is averaged.
    pixels = images(32, 32, 1)
    labels = load_segmenter(models / name, device="cpu", flip=False).predict(pixels[0])
    assert (session.run(None, {"images": pixels.numpy()})[0][0].argmax(0) == labels).mean() > 0.99


@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_of_torch_export_is_torch(name: str, models: Path, tmp_path: Path) -> None:
    out = tmp_path / "network.pt2"
    assert run(models / name, "--format", "torch", "--out", out) == 0
    found: dict[str, str] = {"metadata.json": ""}
    program = torch.export.load(out, extra_files=found).module()
    for size in ((32, 32), (80, 112)):
        pixels = images(*size)
        expected = torch_logits(models / name, pixels)
        assert np.abs(program(pixels).numpy() - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
    assert json.loads(found["metadata.json"])["classes"] == ["background", *CLASSES]


def test_the_card(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photographs" / "deeplab"
    folder.mkdir(parents=True)
    description = json.loads((models / "deeplab" / "model.json").read_text())
    origin = {"name": "resnet18", "source": "timm/resnet18", "license": "apache-2.0", "sha256": "ab12"}
    write_json(folder / "model.json", description | {"initialization": origin})
    (folder / "model.safetensors").hardlink_to(models / "deeplab" / "model.safetensors")
    iou = {"background": 0.9, "cat": 0.5, "dog & co": None, "zebra": 0.25}
    scores = {"split": "val", "images": 7, "miou": 0.55, "pixel_accuracy": 0.8, "iou": iou}
    write_json(folder / "metrics.json", scores | {"precision": iou, "recall": iou})
    splits = {"train": {"images": 30}, "val": {"images": 7}}
    write_json(folder.parent / "index.json", {"root": "data/<mine>", "labels": "file", "splits": splits})
    assert run(folder) == 0
    card = (folder / "model.onnx.md").read_text()
    assert card.startswith("# Model card: photographs/deeplab\n")
    for line in (
        "session = onnxruntime.InferenceSession('model.onnx')",
        "| 2 | dog &amp; co |",
        "- mIoU 0.550, pixel accuracy 0.800, on 7 images of val",
        "| cat | 0.500 | 0.500 | 0.500 |",
        "- I: image labels",
        "- S: masks of salient objects, of other photographs",
        "- Data: data/&#60;mine&#62; (30 images of train, 7 images of val); image labels from file",
        "- Initial weights: resnet18, source timm/resnet18, license apache-2.0, sha256 ab12",
    ):
        assert line in card, line
    assert run(models / "deeplab", "--out", tmp_path / "bare.onnx") == 0
    bare = (tmp_path / "bare.onnx.md").read_text()
    assert "It was not scored: there is no metrics.json beside it." in bare
    assert "- Initial weights: random" in bare


def card_with(scores: dict[str, Any], root: str = "data") -> str:
    description = {"kind": "deeplab", "classes": ["cat"], "settings": {"encoder": "resnet18"}}
    data = {"root": root, "labels": "annotations", "splits": {}}
    return as_markdown(model_card(description, name="n", scores=scores, data=data, usage="", code=""))


def test_the_card_of_a_run_without_masks_says_once_that_it_was_not_scored() -> None:
    classes = dict.fromkeys(["background", "cat"])
    scores = {"split": "val", "images": 0, "iou": classes, "precision": classes, "recall": classes}
    card = card_with(scores | mean_iou(np.array([np.nan, np.nan])))
    assert "It was not scored: no pixel has a ground truth in val." in card
    assert "IoU" not in card
    # Pixels of the background alone have an accuracy, and no mean over classes.
    alone = scores | {"images": 2, "pixel_accuracy": 1.0, "iou": {"background": 1.0, "cat": None}}
    card = card_with(alone | mean_iou(np.array([1.0, np.nan])))
    expected = "no mIoU (ground truth and prediction show background alone), pixel accuracy 1.000, on 2 images of val"
    assert expected in card


def test_the_card_does_not_tell_where_on_its_author_s_disk_the_data_lay() -> None:
    assert "Data: birds.csv (" in card_with({}, "/home/me/birds.csv")
    assert "Data: data/VOC2012 (" in card_with({}, "data/VOC2012")


def test_bad_input_is_one_message(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, message in (
        ((models / "classifier",), "is a classifier; a segmenter is exported, such as results/<run>/deeplab"),
        ((models,), "it holds the models"),
        ((models / "deeplab", "--out", tmp_path / "a.pt2"), "onnx files end in .onnx"),
        ((models / "deeplab", "--format", "caffe"), "--format"),
    ):
        assert run(*words) == 1
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run(models / "deeplab", "--out", tmp_path / "a.onnx") == 1
    assert "onnxruntime is not installed; pip install 'getam[export]'" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_file_that_differs_is_not_written(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOLERANCE", -1.0)
    for format, suffix in (("onnx", "onnx"), ("torch", "pt2")):
        assert run(models / "deeplab", "--format", format, "--out", tmp_path / f"a.{suffix}") == 1
        assert "its logits differ from torch's by" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
