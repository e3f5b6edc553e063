"""A trained network in use from Python: the stages' own labels, the kinds of photographs, sizes, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.trained import CLASSES, KINDS, save_trained

import getam
from deeplab.stages import predict_deeplab
from getam.datasets.index import Index, IndexRow, write_index
from getam.errors import InputError
from getam.scores import segmenter as module
from getam.scores.segmenter import labels_of, load_segmenter, upsampled
from getam.settings.config import Config
from getam.stages import predict_end_to_end
from getam.system.image_files import read_labels, voc_palette


@pytest.fixture(scope="module")
def models(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_trained(tmp_path_factory.mktemp("models"), config)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["deeplab", "end_to_end"])
def test_labels_are_those_of_the_stage(kind: str, models: Path, config: Config, tmp_path: Path) -> None:
    sizes = {"one": (40, 56), "two": (37, 31)}
    rows = []
    for number, (id, size) in enumerate(sizes.items()):
        Image.fromarray(noise(*size, seed=number)).save(tmp_path / f"{id}.png")
        rows.append(IndexRow(id, "val", tmp_path / f"{id}.png", None, *size, ()))
    write_index(tmp_path / "index.csv", Index(tuple(rows), CLASSES))
    stage, settings = {
        "deeplab": (predict_deeplab, config.deeplab_prediction),
        "end_to_end": (predict_end_to_end, config.end_to_end_prediction),
    }[kind]
    given: dict[str, Any] = settings.model_dump() | {"scales": (1.0, 0.5), "window": 32}
    arguments = {"index": tmp_path / "index.csv", "model": models / kind, "split": "val", "out": tmp_path / "out"}
    stage.run(stage.Arguments(**given, **arguments, threads=1, device="cpu"))
    network = load_segmenter(
        models / kind, device="cpu", long_side=0, scales=(1.0, 0.5), window=32, window_overlap=given["window_overlap"]
    )
    found = {id: network.predict(tmp_path / f"{id}.png") for id in sizes}
    assert all(np.array_equal(found[id], read_labels(tmp_path / "out" / f"{id}.png")) for id in sizes)
    assert any(len(np.unique(labels)) > 1 for labels in found.values())


def test_every_kind_of_photograph_gives_the_same_labels(models: Path, tmp_path: Path) -> None:
    pixels = noise(30, 42)
    Image.fromarray(pixels).save(tmp_path / "photograph.png")
    turned = Image.fromarray(np.rot90(pixels).copy())
    turned.getexif()[0x0112] = 6  # turned by 90 degrees to be seen upright
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    network = getam.load_segmenter(str(models / "deeplab" / "model.json"), device="cpu")
    labels = network.predict(pixels)
    assert labels.shape == (30, 42)
    assert labels.dtype == np.uint8
    others = (tmp_path / "photograph.png", str(tmp_path / "photograph.png"), turned, tensor, tensor.float() / 255)
    for photograph in (*others, Image.fromarray(pixels), np.dstack([pixels, pixels[..., :1]])):
        assert np.array_equal(network.predict(photograph), labels), type(photograph)
    gray = pixels[..., 0]
    of_gray = network.predict(np.repeat(gray[..., None], 3, 2))
    for photograph in (gray, gray[..., None], torch.from_numpy(gray)[None], Image.fromarray(gray)):
        assert np.array_equal(network.predict(photograph), of_gray)


def test_probabilities_are_what_the_labels_are_the_largest_of(models: Path) -> None:
    network = load_segmenter(models / "end_to_end", device="cpu", flip=False)
    probabilities = network.probabilities(noise(30, 42))
    assert probabilities.shape == (1 + len(CLASSES), 30, 42)
    assert probabilities.dtype == np.float32
    assert np.allclose(probabilities.sum(0), 1, atol=1e-5)
    assert np.array_equal(probabilities.argmax(0), network.predict(noise(30, 42)))
    assert network.classes == CLASSES
    assert np.array_equal(network.palette, voc_palette())


def test_strips_of_rows_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    low = torch.rand(3, 9, 7, generator=torch.Generator().manual_seed(0)).softmax(0)
    for size in ((31, 20), (9, 7), (5, 40), (18, 3)):
        ((rows, whole),) = upsampled(low, size)
        labels, confidence = labels_of(low, size)
        assert (rows, tuple(whole.shape)) == (slice(0, size[0]), (3, *size))
        monkeypatch.setattr(module, "STRIP", 3 * size[1] * 4)
        strips = list(upsampled(low, size))
        assert [part.stop - part.start for part, _ in strips[:-1]] == [4] * (len(strips) - 1)
        assert len(strips) > 1
        assert torch.allclose(torch.cat([values for _, values in strips], dim=1), whole, atol=1e-6)
        in_strips = labels_of(low, size)
        assert np.allclose(in_strips[1], confidence, atol=1e-6)
        assert (in_strips[0] == labels).mean() > 0.99
        monkeypatch.undo()


def test_a_large_photograph_goes_in_as_training_saw_them(models: Path, config: Config) -> None:
    largest = config.deeplab.crop.long_side[1]
    network = load_segmenter(models / "deeplab", device="cpu")
    assert network.long_side == largest
    assert network.input_size((10 * largest, 5 * largest)) == (largest, largest // 2)
    assert network.input_size((largest - 3, 20)) == (largest - 3, 20)
    assert network.predict(noise(3 * largest, 2 * largest)).shape == (3 * largest, 2 * largest)
    assert load_segmenter(models / "deeplab", device="cpu", long_side=0).input_size((900, 700)) == (900, 700)
    # Whole patches of 8 pixels.
    assert load_segmenter(models / "end_to_end", device="cpu", long_side=50).input_size((100, 80)) == (48, 40)


def test_bad_photographs_are_one_message(models: Path, tmp_path: Path) -> None:
    network = load_segmenter(models / "deeplab", device="cpu")
    for photograph, message in (
        (np.zeros((8, 8, 3), np.float32), r"an array \(8, 8, 3\) of float32; give uint8 RGB"),
        (np.zeros((8, 8, 2), np.uint8), r"an array \(8, 8, 2\) of uint8"),
        (np.zeros((1, 8, 8, 3), np.uint8), "an array"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (torch.zeros(1, 3, 8, 8), r"a tensor \(1, 3, 8, 8\); give one photograph as \(3, H, W\)"),
        (torch.full((3, 8, 8), 2.0), "isn't within 0 to 1; give it before normalization"),
        (torch.full((3, 8, 8), float("nan")), "isn't within 0 to 1"),
        (Image.new("I;16", (8, 8)), "more than 8 bits a channel"),
        (None, "a NoneType; give an array"),
        (tmp_path / "none.jpg", "none.jpg: no such image"),
    ):
        with pytest.raises(InputError, match=message):
            network.predict(photograph)  # type: ignore[arg-type]


def test_a_file_that_pil_reads_late_is_one_message(models: Path, tmp_path: Path) -> None:
    network = load_segmenter(models / "deeplab", device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    for suffix in (".jpg", ".png"):
        path = tmp_path / f"a{suffix}"
        Image.fromarray(pixels).save(path)
        path.write_bytes(path.read_bytes()[:-300])
        with (
            Image.open(path) as photograph,
            pytest.raises(InputError, match=r"^photograph: cannot be decoded \(.*\); give an intact one"),
        ):
            network.predict(photograph)


def test_only_segmenters_are_loaded(models: Path, tmp_path: Path) -> None:
    names = ", ".join(str(models / kind) for kind in sorted(KINDS))
    (tmp_path / "odd").mkdir()
    for content, message in (
        ("[]", "describes none of deeplab, end_to_end, classifier; name the folder of one"),
        ('{"kind": "saliency"}', "describes none of"),
        ('{"kind": ["deeplab"]}', "describes none of"),
    ):
        (tmp_path / "odd" / "model.json").write_text(content)
        with pytest.raises(InputError, match=message):
            load_segmenter(tmp_path / "odd")
    with pytest.raises(InputError, match=f"it holds the models {names}: name one"):
        load_segmenter(models)
    with pytest.raises(InputError, match=r"none: no model.json in it; name the folder of a trained model"):
        load_segmenter(tmp_path / "none")
    with pytest.raises(InputError, match="describes a classifier, which segments nothing"):
        load_segmenter(models / "classifier")


def test_a_model_of_before_a_setting_is_loaded(models: Path, tmp_path: Path) -> None:
    text = (models / "deeplab" / "model.json").read_text()
    (tmp_path / "model.json").write_text(text.replace('"labels": "pseudo",', ""))
    (tmp_path / "model.safetensors").hardlink_to(models / "deeplab" / "model.safetensors")
    assert '"labels"' not in (tmp_path / "model.json").read_text()
    before, after = (load_segmenter(folder, device="cpu") for folder in (models / "deeplab", tmp_path))
    assert np.array_equal(before.predict(noise(20, 20)), after.predict(noise(20, 20)))
