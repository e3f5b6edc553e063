"""Commands that run a trained network, on the simulated device: the CPU's files, and how often it is waited for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.dumped_maps import CLASSES, dump, write_data
from support.simulated_cuda import Device, simulated_cuda

import getam.scores.prediction
from deeplab.model import build_deeplab, describe_deeplab, load_deeplab
from deeplab.stages import predict_deeplab
from getam.datasets.index import read_index
from getam.networks.checkpoints import save_model
from getam.networks.classifier import build_classifier
from getam.networks.end_to_end import EndToEndNetwork, describe_end_to_end
from getam.networks.saliency import build_saliency, describe_saliency
from getam.scores.probe import frozen_features
from getam.scores.segmenter import load_segmenter
from getam.settings.config import Config
from getam.settings.prediction import PredictionSettings
from getam.settings.saliency import SaliencySettings
from getam.settings.section import section_of
from getam.stages import dump_maps, predict_end_to_end, predict_saliency, refine_maps
from getam.system.files import read_array
from getam.system.image_files import read_gray, read_labels

NO_CRF: dict[str, Any] = {
    "iterations": 0,
    "gaussian_xy": 3,
    "gaussian_weight": 3,
    "bilateral_xy": 83,
    "bilateral_rgb": 5,
    "bilateral_weight": 4,
    "backend": "torch",
}
Watch = Callable[[Device, Any], None]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Has a device count from when a stage has planned its batches: its network is there by then."""

    def start(device: Device, module: Any) -> None:
        planned_batches = module.planned_batches

        def plan(*arguments: Any, **options: Any) -> Any:
            device.forget()
            return planned_batches(*arguments, **options)

        monkeypatch.setattr(module, "planned_batches", plan)

    return start


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scales": (0.5, 1.0), "flip": True},
        {"method": "cam"},
        {"propagation": "attention", "propagation_threshold": 0.0},
        {"precision": "bfloat16"},
    ],
    ids=str,
)
def test_dump_maps_waits_once_a_batch(changes: dict[str, Any], data: Path, tmp_path: Path, watch: Watch) -> None:
    dump(data, tmp_path / "cpu", **changes)
    with simulated_cuda() as device:
        watch(device, dump_maps)
        dump(data, tmp_path / "cuda", device="cuda", **changes)
        assert device.waits == {"download": 3}, "there are images of three sizes"
        assert not device.waits_elsewhere
    files = sorted((tmp_path / "cpu").glob("*.npy"))
    assert len(files) == 5
    for path in files:
        found, expected = read_array(tmp_path / "cuda" / path.name), read_array(path)
        assert found.dtype == np.float32
        tolerance = 0.1 if "precision" in changes else 1e-4
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=tolerance * expected.max())


def test_refine_maps(data: Path, tmp_path: Path, config: Config) -> None:
    dump(data, tmp_path / "maps")

    def refine(device: str) -> None:
        refine_maps.run(
            refine_maps.Arguments(
                **config.refine.model_dump() | {"iterations": 2},
                index=data / "index.csv",
                maps=tmp_path / "maps",
                out=tmp_path / device,
                threads=1,
                device=device,
            )
        )

    refine("cpu")
    with simulated_cuda():
        refine("cuda")
    for path in (tmp_path / "cpu").glob("*.npy"):
        np.testing.assert_allclose(read_array(tmp_path / "cuda" / path.name), read_array(path), atol=2e-3)


def segmenters(config: Config, folder: Path) -> None:
    """Saves both segmenters for the classes of the data, with weights large enough for labels that differ."""
    torch.manual_seed(0)
    network = EndToEndNetwork(config.end_to_end, num_classes=len(CLASSES))
    segmenter = build_deeplab(config.deeplab, num_classes=1 + len(CLASSES))
    for part in (network.decoder, segmenter.aspp):
        for parameter in part.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    save_model(folder / "end_to_end", network, describe_end_to_end(config.end_to_end, CLASSES))
    save_model(folder / "deeplab", segmenter, describe_deeplab(config.deeplab, CLASSES, learned_from="I+S"))


@pytest.mark.parametrize(
    "changes",
    [{"flip": True, "scales": (0.5, 1.0)}, {"window": 24}, {"crf": {"iterations": 1, "backend": "torch"}}],
    ids=["views", "windows", "crf"],
)
@pytest.mark.parametrize("stage", [predict_deeplab, predict_end_to_end], ids=lambda stage: stage.__name__)
def test_prediction(
    stage: Any,
    changes: dict[str, Any],
    config: Config,
    data: Path,
    tmp_path: Path,
    watch: Watch,
) -> None:
    segmenters(config, tmp_path)
    values = config.deeplab_prediction.model_dump() | {"squares": (), "flip": False, "scales": (1.0,)} | changes
    values["crf"] = NO_CRF | changes.get("crf", {})
    settings = PredictionSettings.model_validate(values)

    def run(device: str) -> None:
        stage.run(
            stage.Arguments(
                **settings.model_dump(),
                index=data / "index.csv",
                model=tmp_path / stage.__name__.rpartition("predict_")[2],
                split="train",
                out=tmp_path / device,
                threads=1,
                device=device,
            )
        )

    run("cpu")
    with simulated_cuda() as device:
        watch(device, getam.scores.prediction)
        run("cuda")
        # Of each image the CRF counts the vertices of two lattices, and the digits of their numbers.
        assert device.waits == ({"nonzero": 10, "download": 10} if settings.crf.iterations else {})
        # The writing threads fetch each image's labels and their probabilities.
        assert device.waits_elsewhere == {"download": 10}
    files = sorted((tmp_path / "cpu").glob("*.png"))
    assert len(files) == 5
    for path in files:
        assert (read_labels(tmp_path / "cuda" / path.name) == read_labels(path)).mean() > 0.99


def test_relabel(config: Config, data: Path, tmp_path: Path, watch: Watch) -> None:
    segmenters(config, tmp_path)
    index = read_index(data / "index.csv")
    settings = PredictionSettings.model_validate(config.deeplab_prediction.model_dump() | {"crf": NO_CRF})

    def run(device: str) -> None:
        network, _ = load_deeplab(tmp_path / "deeplab")
        getam.scores.prediction.predict(
            network.to(device),
            index.split("train"),
            settings=settings,
            multiple=network.multiple,
            classes=index.classes,
            model=tmp_path / "deeplab",
            out=tmp_path / device,
            device=torch.device(device),
            threads=1,
            what="relabel",
            possible=index.class_indices,
            confidence=0.3,
        )

    run("cpu")
    with simulated_cuda() as device:
        watch(device, getam.scores.prediction)
        run("cuda")
        assert not device.waits
    for path in (tmp_path / "cpu").glob("*.png"):
        assert (read_labels(tmp_path / "cuda" / path.name) == read_labels(path)).mean() > 0.99


def test_a_loaded_segmenter(config: Config, tmp_path: Path) -> None:
    segmenters(config, tmp_path)
    photograph = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    expected = load_segmenter(tmp_path / "end_to_end", device="cpu").predict(photograph)
    with simulated_cuda():
        # A GPU is taken where there is one.
        found = load_segmenter(tmp_path / "end_to_end").predict(photograph)
    assert len(np.unique(expected)) > 1
    assert (found == expected).mean() > 0.99


def test_a_linear_probe(config: Config, data: Path) -> None:
    index = read_index(data / "index.csv")

    def features(device: str) -> torch.Tensor:
        torch.manual_seed(0)
        model = build_classifier(config.classifier, num_classes=len(CLASSES), image_size=32).eval().to(device)
        rows = index.split("train")
        where = torch.device(device)
        return frozen_features(model, rows, image_size=32, device=where, threads=1, what="probe")

    expected = features("cpu")
    with simulated_cuda() as device:
        found = features("cuda")
        # Of each batch, and the weights' way before.
        assert device.waits["download"] == 3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_predict_saliency(config: Config, data: Path, tmp_path: Path, watch: Watch) -> None:
    torch.manual_seed(0)
    settings = section_of(SaliencySettings, config.saliency).model_copy(update={"image_size": 48})
    save_model(tmp_path / "saliency", build_saliency(settings), describe_saliency(settings))

    def run(device: str) -> None:
        predict_saliency.run(
            predict_saliency.Arguments(
                stretch=True,
                index=data / "index.csv",
                model=tmp_path / "saliency",
                split="train",
                shard=0,
                shards=1,
                out=tmp_path / device,
                threads=1,
                device=device,
            )
        )

    run("cpu")
    with simulated_cuda() as device:
        watch(device, predict_saliency)
        run("cuda")
        assert not device.waits
        assert device.waits_elsewhere == {"download": 5}
    for path in (tmp_path / "cpu").glob("*.png"):
        found, expected = read_gray(tmp_path / "cuda" / path.name), read_gray(path)
        assert np.abs(found.astype(int) - expected).max() <= 1
