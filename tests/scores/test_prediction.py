"""Segmentation of whole images: averaging over views, original sizes, CRF, what is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError
from support.crf import NEEDS_PYDENSECRF, without_pydensecrf
from torch import Tensor, nn

import getam.scores.prediction
import getam.system.version
from getam.datasets.images import normalize_rgb
from getam.datasets.index import Index, IndexRow, write_index
from getam.datasets.working_size import most_probable
from getam.labels.crf import LabelsOf
from getam.networks.checkpoints import DESCRIPTION, WEIGHTS, save_model
from getam.networks.end_to_end import EndToEndNetwork, describe_end_to_end
from getam.scores.prediction import predict, window_starts
from getam.settings.crf import CrfSettings
from getam.settings.end_to_end import EndToEndSettings
from getam.settings.prediction import PredictionSettings
from getam.stages import predict_end_to_end
from getam.system.files import read_json
from getam.system.image_files import read_image, read_labels

SETTINGS = PredictionSettings(
    scales=(1.0,),
    squares=(),
    window=0,
    window_overlap=0.5,
    long_side=0,
    flip=False,
    crf=CrfSettings(
        iterations=0,
        gaussian_xy=3,
        gaussian_weight=3,
        bilateral_xy=83,
        bilateral_rgb=5,
        bilateral_weight=4,
        backend="auto",
    ),
)


def write_rows(folder: Path, images: dict[str, np.ndarray]) -> list[IndexRow]:
    folder.mkdir(exist_ok=True)
    rows = []
    for id, image in images.items():
        Image.fromarray(image).save(folder / f"{id}.png")
        rows.append(IndexRow(id, "val", folder / f"{id}.png", None, *image.shape[:2], ()))
    return rows


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def run(
    network: Callable[[Tensor], Tensor],
    rows: list[IndexRow],
    out: Path,
    *,
    multiple: int = 1,
    **changes: Any,
) -> dict[str, np.ndarray]:
    predict(
        network,
        rows,
        settings=SETTINGS.model_copy(update=changes),
        multiple=multiple,
        classes=("dog", "cat"),
        model=model_folder(out.parent),
        out=out,
        device=torch.device("cpu"),
        threads=2,
        what="predict_test",
    )
    return {row.id: read_labels(out / f"{row.id}.png") for row in rows}


def model_folder(folder: Path) -> Path:
    """What stands for the files of a network."""
    for name in (WEIGHTS, DESCRIPTION):
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model" / name).touch()
    return folder / "model"


def constant(images: Tensor) -> Tensor:
    logits = torch.tensor([0.0, 1.0, 3.0])[None, :, None, None]
    return logits.expand(len(images), 3, images.shape[2] // 8 + 1, images.shape[3] // 8 + 1)


class Lopsided(nn.Module):
    """A convolution of random weights plus a score of class 1 that grows to the right."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, images.shape[3]).expand(len(images), 1, *images.shape[2:])
        return self.convolution(images) + torch.cat([0 * ramp, ramp, 0 * ramp], dim=1)


def test_constant_network_writes_labels_and_manifest(tmp_path: Path) -> None:
    sizes = {"a": (24, 32), "b": (24, 32), "c": (37, 53)}
    rows = write_rows(tmp_path / "images", {id: noise(*size) for id, size in sizes.items()})
    labels = run(constant, rows, tmp_path / "out", flip=True, scales=(1.0, 0.5))
    for id, size in sizes.items():
        assert np.array_equal(labels[id], np.full(size, 2, np.uint8))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".getam",
        "a.png",
        "b.png",
        "c.png",
        "manifest.json",
    ]
    assert read_json(tmp_path / "out" / "manifest.json") == {
        "ids": ["a", "b", "c"],
        "classes": ["dog", "cat"],
        "settings": SETTINGS.model_copy(update={"flip": True, "scales": (1.0, 0.5)}).model_dump(mode="json"),
        "version": getam.system.version.VERSION,
    }
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.mode == "P"
        assert image.convert("RGB").getpixel((0, 0)) == (0, 128, 0)  # VOC's color of label 2


def test_views_are_the_scales_and_their_mirror_images(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def watching(images: Tensor) -> Tensor:
        seen.append(images)
        return constant(images)

    rows = write_rows(tmp_path / "images", {"a": noise(32, 48), "b": noise(32, 48, seed=1)})
    run(watching, rows, tmp_path / "out", flip=True, scales=(0.5, 1.0, 1.5))
    shapes = [tuple(images.shape) for images in seen]
    assert shapes == [(2, 3, 16, 24)] * 2 + [(2, 3, 32, 48)] * 2 + [(2, 3, 48, 72)] * 2
    for straight, mirrored in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(straight.flip(-1), mirrored)
    seen.clear()
    run(watching, rows, tmp_path / "out", flip=False, scales=(1.0,))
    assert [tuple(images.shape) for images in seen] == [(2, 3, 32, 48)]


def test_squares_take_the_place_of_scales(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def watching(images: Tensor) -> Tensor:
        seen.append(images)
        return constant(images)

    images = {"a": noise(32, 48), "b": noise(20, 30, seed=1)}
    rows = write_rows(tmp_path / "images", images)
    labels = run(watching, rows, tmp_path / "out", multiple=16, scales=(0.5,), squares=(48, 20), flip=False)
    assert [tuple(images.shape) for images in seen] == [(1, 3, 48, 48), (1, 3, 16, 16)] * 2
    for id, image in images.items():
        assert labels[id].shape == image.shape[:2]


# Photographs larger than long_side


@pytest.mark.parametrize(
    "views", [{}, {"squares": (16, 32)}, {"crf": SETTINGS.crf.model_copy(update={"iterations": 1})}]
)
def test_a_large_photograph_is_segmented_scaled_down_and_its_labels_have_its_size(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, views: dict[str, Any]
) -> None:
    seen: list[tuple[int, ...]] = []

    def by_color(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape[2:]))
        return 9 * images

    # Red, green and blue stripes, wide enough to be found again: labels 0, 1 and 2.
    large = np.repeat(np.repeat(255 * np.eye(3, dtype=np.uint8)[None], 40, 1), 90, 0)
    rows = write_rows(tmp_path / "images", {"large": large, "fits": large[:40, 20:60]})
    with caplog.at_level(logging.INFO):
        labels = run(by_color, rows, tmp_path / "out", multiple=2, long_side=40, **views)
    assert "predict_test: 1 of 2 images are computed at a longer side of 40 pixels" in caplog.text
    assert max(max(size) for size in seen) <= 40
    expected = np.repeat(np.arange(3), 40)[None].repeat(90, 0)
    assert labels["large"].shape == expected.shape
    edges = np.isin(np.arange(120) % 40, (37, 38, 39, 0, 1, 2))
    assert np.array_equal(labels["large"][:, ~edges], expected[:, ~edges])
    # What fits is not touched.
    unbounded = run(by_color, rows, tmp_path / "other", multiple=2, long_side=0, **views)
    assert np.array_equal(labels["fits"], unbounded["fits"])


def test_the_most_probable_class_of_an_enlarged_photograph() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(5), (7, 9)).transpose(2, 0, 1).astype(np.float32)
    winner, highest = most_probable(probabilities, (70, 81))
    enlarged = F.interpolate(torch.from_numpy(probabilities)[None], size=(70, 81), mode="bilinear")[0]
    assert (winner.dtype, winner.shape) == (np.uint8, (70, 81))
    np.testing.assert_allclose(highest, enlarged.amax(0).numpy(), atol=1e-5)
    chosen = np.take_along_axis(enlarged.numpy(), winner[None].astype(int), 0)[0]
    np.testing.assert_allclose(chosen, highest, atol=1e-5)


# Windows


def test_windows_cover_a_side_evenly_and_end_at_its_edge() -> None:
    assert window_starts(100, 40, 0.5) == [0, 20, 40, 60]
    assert window_starts(101, 40, 0.5) == [0, 20, 40, 60, 61]
    assert window_starts(1000, 480, 1 / 3) == [0, 320, 520]  # WeakTr's
    assert window_starts(90, 40, 0) == [0, 40, 50]
    assert window_starts(40, 40, 0.5) == window_starts(7, 40, 0.5) == [0]
    assert window_starts(5, 2, 0.99) == [0, 1, 2, 3]


def test_windows_of_a_constant_network_give_the_constant(tmp_path: Path) -> None:
    sizes = {"a": (24, 70), "b": (64, 20), "c": (40, 53)}
    rows = write_rows(tmp_path / "images", {id: noise(*size) for id, size in sizes.items()})
    labels = run(constant, rows, tmp_path / "out", flip=True, scales=(1.0, 0.5), window=32)
    for id, size in sizes.items():
        assert np.array_equal(labels[id], np.full(size, 2, np.uint8))


def of_window(images: Tensor) -> Tensor:
    """Scores that depend on the window: where its pixels lie in it, and its mean color."""
    height, width = images.shape[2:]
    ramp = torch.linspace(-1, 1, width).expand(len(images), 1, height, width)
    mean = images.mean((1, 2, 3), keepdim=True).expand_as(ramp)
    return torch.cat([ramp, 0.3 * images[:, :1], mean + 0.5 * ramp.square()], dim=1)


def test_scores_are_averaged_where_windows_overlap(tmp_path: Path) -> None:
    """Against a loop over windows and pixels; the image's height of 20 is less than the window's."""
    images = {"a": noise(20, 50), "b": noise(43, 37, seed=1)}
    starts = {"a": ([0], [0, 16, 26]), "b": ([0, 16, 19], [0, 13])}
    rows = write_rows(tmp_path / "images", images)
    labels = run(of_window, rows, tmp_path / "out", window=24, window_overlap=1 / 3)
    for id, image in images.items():
        height, width = image.shape[:2]
        normalized = normalize_rgb(torch.from_numpy(image).permute(2, 0, 1))[None]
        tops, lefts = starts[id]
        windows = {
            (top, left): of_window(normalized[..., top : top + 24, left : left + 24])[0]
            for top in tops
            for left in lefts
        }
        for y in range(height):
            for x in range(width):
                there = [
                    logits[:, y - top, x - left]
                    for (top, left), logits in windows.items()
                    if top <= y < top + 24 and left <= x < left + 24
                ]
                mean = torch.stack(there).mean(0)
                first, second = mean.sort(descending=True).values[:2]
                # A tie within rounding may go either way.
                assert labels[id][y, x] == int(mean.argmax()) or first - second < 1e-4, (id, y, x)
        assert len(np.unique(labels[id])) == 3


def test_an_image_within_one_window_is_segmented_as_without(tmp_path: Path) -> None:
    network = Lopsided().eval()
    rows = write_rows(tmp_path / "images", {"a": noise(24, 40), "b": noise(40, 40, seed=1), "c": noise(9, 17, seed=2)})
    seen: list[tuple[int, ...]] = []

    def watching(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return network(images)

    whole = run(watching, rows, tmp_path / "whole", flip=True)
    without, seen[:] = list(seen), []
    windows = run(watching, rows, tmp_path / "windows", flip=True, window=40)
    assert all(np.array_equal(whole[id], windows[id]) for id in whole)
    assert seen == without


def test_windows_go_in_as_multiples(tmp_path: Path) -> None:
    shapes: list[tuple[int, ...]] = []

    def patches(images: Tensor) -> Tensor:
        shapes.append(tuple(images.shape[2:]))
        return constant(images)

    rows = write_rows(tmp_path / "images", {"a": noise(48, 90), "b": noise(20, 70, seed=1)})
    run(patches, rows, tmp_path / "out", multiple=16, window=60, window_overlap=0.5)
    assert shapes == [(48, 64)] * 2 + [(16, 64)]
    shapes.clear()
    run(patches, rows, tmp_path / "out", multiple=16, window=16, squares=(32,), window_overlap=0)
    assert shapes == [(16, 16)] * 8


def test_the_end_to_end_network_predicts_in_windows_too(settings: EndToEndSettings, tmp_path: Path) -> None:
    """The image is 40x64 for a ViT of patch 8: windows of 24 by 24 go in, and their scores are averaged."""
    torch.manual_seed(0)
    network = EndToEndNetwork(settings, num_classes=2).eval()
    save_model(tmp_path / "model", network, describe_end_to_end(settings, ("dog", "cat")))
    rows = write_rows(tmp_path / "images", {"a": noise(40, 64)})
    write_index(tmp_path / "index.csv", Index(tuple(rows), ("dog", "cat")))
    predict_end_to_end.run(
        predict_end_to_end.Arguments(
            **SETTINGS.model_dump() | {"window": 27},
            index=tmp_path / "index.csv",
            model=tmp_path / "model",
            split="val",
            out=tmp_path / "out",
            threads=1,
            device="cpu",
        )
    )
    assert read_json(tmp_path / "out" / "manifest.json")["settings"]["window"] == 27
    images = normalize_rgb(torch.from_numpy(read_image(rows[0].image).copy()).permute(2, 0, 1))[None]
    total, counts = torch.zeros(1, 3, 40, 64), torch.zeros(40, 64)
    with torch.no_grad():
        for top in (0, 12, 16):
            for left in (0, 12, 24, 36, 40):
                place = (slice(top, top + 24), slice(left, left + 24))
                total[:, :, *place] += network.segment(images[:, :, *place])
                counts[place] += 1
    best = (total / counts)[0].sort(0, descending=True)
    found = torch.from_numpy(read_labels(tmp_path / "out" / "a.png").astype(np.int64))
    assert ((found == best.indices[0]) | (best.values[0] - best.values[1] < 1e-4)).all()


def test_a_window_of_a_few_pixels_is_refused() -> None:
    with pytest.raises(ValidationError, match="window: 15 pixels are too few; write 16 or more, or 0 for none"):
        PredictionSettings.model_validate(SETTINGS.model_dump() | {"window": 15})
    with pytest.raises(ValidationError, match="window_overlap"):
        PredictionSettings.model_validate(SETTINGS.model_dump() | {"window": 32, "window_overlap": 1})


def test_flip_averages_probabilities_not_scores(tmp_path: Path) -> None:
    def half(images: Tensor) -> Tensor:
        right = torch.arange(images.shape[3]) >= images.shape[3] // 2
        # p_1 is 0.269 on the left and 0.953 on the right: 0.611 on average.
        ramp = torch.where(right, 3.0, -1.0).expand(len(images), 1, *images.shape[2:])
        return torch.cat([0 * ramp, ramp], dim=1)

    def opposed(images: Tensor) -> Tensor:
        # The mean score of class 1 is -1, its mean probability is above a half.
        right = torch.arange(images.shape[3]) >= images.shape[3] // 2
        ramp = torch.where(right, 3.0, 0.1).expand(len(images), 1, *images.shape[2:])
        return torch.cat([0 * ramp, torch.where(ramp > 1, -10.0, 8.0)], dim=1)

    rows = write_rows(tmp_path / "images", {"a": noise(16, 20)})
    straight = run(half, rows, tmp_path / "out", flip=False)["a"]
    assert (straight == (np.arange(20) >= 10)).all()
    averaged = run(half, rows, tmp_path / "out", flip=True)["a"]
    assert (averaged == 1).all()
    assert (run(opposed, rows, tmp_path / "out", flip=True)["a"] == 0).all()


def test_flip_makes_the_prediction_of_the_mirrored_image_mirrored(tmp_path: Path) -> None:
    image = noise(21, 34)
    network = Lopsided().eval()
    both = {"straight": image, "mirrored": image[:, ::-1].copy()}
    rows = write_rows(tmp_path / "images", both)
    labels = run(network, rows, tmp_path / "out", flip=True)
    assert len(np.unique(labels["straight"])) > 1
    assert np.array_equal(labels["straight"][:, ::-1], labels["mirrored"])
    alone = run(network, rows, tmp_path / "out", flip=False)
    assert not np.array_equal(alone["straight"][:, ::-1], alone["mirrored"])


def test_odd_sizes_go_in_as_multiples_and_come_back(tmp_path: Path) -> None:
    sizes = {"a": (37, 53), "b": (53, 37), "c": (5, 90), "d": (16, 16)}
    shapes: list[tuple[int, ...]] = []

    def left_right(images: Tensor) -> Tensor:
        shapes.append(tuple(images.shape[2:]))
        right = torch.arange(images.shape[3] // 16) >= images.shape[3] // 32
        ramp = torch.where(right, 5.0, -5.0).expand(len(images), 1, images.shape[2] // 16, images.shape[3] // 16)
        return torch.cat([0 * ramp, ramp], dim=1)

    rows = write_rows(tmp_path / "images", {id: noise(*size) for id, size in sizes.items()})
    labels = run(left_right, rows, tmp_path / "out", multiple=16, scales=(1.0, 2.0))
    assert all(height % 16 == 0 and width % 16 == 0 for height, width in shapes)
    for id, (height, width) in sizes.items():
        assert labels[id].shape == (height, width)
    assert (labels["a"][:, 0] == 0).all()
    assert (labels["a"][:, -1] == 1).all()


@pytest.mark.parametrize("backend", [pytest.param("pydensecrf", marks=NEEDS_PYDENSECRF), "torch"])
def test_crf_straightens_a_stray_pixel(backend: str, tmp_path: Path) -> None:
    def stray(images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 2, *images.shape[2:])
        logits[:, 1] = 2.0
        logits[:, 1, 8, 8] = -0.5
        return logits

    rows = write_rows(tmp_path / "images", {"a": np.full((16, 20, 3), 90, np.uint8)})
    without = run(stray, rows, tmp_path / "out")["a"]
    assert (without == 0).sum() == 1
    assert without[8, 8] == 0
    crf = SETTINGS.crf.model_copy(update={"iterations": 1, "backend": backend})
    assert (run(stray, rows, tmp_path / "out", crf=crf)["a"] == 1).all()


@NEEDS_PYDENSECRF
def test_both_backends_refine_alike_and_the_manifest_says_which_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_rows(tmp_path / "images", {"a": noise(16, 20), "b": noise(20, 24, seed=1)})
    crf = SETTINGS.crf.model_copy(update={"iterations": 5})
    by_it = run(Lopsided().eval(), rows, tmp_path / "first", crf=crf)
    without_pydensecrf(monkeypatch)
    by_torch = run(Lopsided().eval(), rows, tmp_path / "second", crf=crf)
    without = run(Lopsided().eval(), rows, tmp_path / "third")
    for id, labels in by_it.items():
        assert (labels == by_torch[id]).mean() > 0.99
        assert (labels == without[id]).mean() < 0.9
    backends = [
        read_json(tmp_path / name / "manifest.json")["settings"]["crf"]["backend"]
        for name in ("first", "second", "third")
    ]
    assert backends == ["pydensecrf", "torch", "auto"], "where no CRF runs, none is looked for"


def test_an_image_counts_as_done_once_its_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_rows(tmp_path / "images", {id: noise(16, 16) for id in "abc"})
    (tmp_path / "results").mkdir()
    write = getam.scores.prediction._write

    def slow(path: Path, probabilities: Tensor, labels: LabelsOf) -> None:
        time.sleep(0.1)
        write(path, probabilities, labels)

    class Watching(logging.Handler):
        """Notes each line with the number of files that are there when it is logged."""

        def __init__(self) -> None:
            super().__init__()
            self.lines: list[tuple[str, int]] = []

        def emit(self, record: logging.LogRecord) -> None:
            files = [path for path in (tmp_path / "results").rglob("*.png") if path.stem in "abc"]
            self.lines.append((record.getMessage().partition(" images")[0], len(files)))

    monkeypatch.setattr(getam.scores.prediction, "_write", slow)
    logger, watching = logging.getLogger("getam.system.progress"), Watching()
    monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.setattr(logger, "handlers", [watching])
    run(constant, rows, tmp_path / "results" / "out")
    assert watching.lines == [("predict_test: 3/3", 3)]


def test_failure_leaves_the_earlier_predictions(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "images", {"a": noise(16, 16)})
    run(constant, rows, tmp_path / "out")

    def failing(images: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(failing, rows, tmp_path / "out")
    assert (read_labels(tmp_path / "out" / "a.png") == 2).all()


def test_predict_keeps_no_graph(tmp_path: Path) -> None:
    network = Lopsided()
    requires: list[bool] = []

    def watching(images: Tensor) -> Tensor:
        logits = network(images)
        requires.append(logits.requires_grad)
        return logits

    run(watching, write_rows(tmp_path / "images", {"a": noise(16, 16)}), tmp_path / "out")
    assert requires == [False]
