"""The stage refine_maps: files, batches of several sizes and numbers of classes, refusals, going on after a stop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import getam.stages.refine_maps
from getam.datasets.index import Index, IndexRow, read_index, write_index
from getam.datasets.shards import new_shard, read_manifest
from getam.errors import InputError
from getam.labels.refined_maps import quantize, read_refined, refined_file
from getam.maps.pamr import normalize, pamr
from getam.settings.maps import RefineMapsSettings
from getam.stages.refine_maps import Arguments, run
from getam.system.files import read_array, write_array
from getam.system.image_files import read_image

CLASSES = ("a", "b", "c")
REFINE = RefineMapsSettings(iterations=3, dilations=(1, 2), long_side=0, storage="float16")
LABELS = [("a",), ("a", "b"), (), ("a", "b", "c"), ("c",)]
SIZES = [(24, 32), (24, 32), (24, 32), (32, 24), (24, 32)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """index.csv of five images of two sizes and a shard of raw maps of theirs."""
    rng = np.random.default_rng(0)
    rows = []
    for number, (labels, (height, width)) in enumerate(zip(LABELS, SIZES, strict=True)):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        rows.append(IndexRow(f"i{number}", "train", path, None, height, width, labels))
    write_index(tmp_path / "index.csv", Index(tuple(rows), CLASSES))
    with new_shard(
        tmp_path / "maps", ids=[row.id for row in rows], suffix=".npy", classes=CLASSES, settings=None
    ) as shard:
        for row in rows:
            grid = (row.height // 8, row.width // 8)
            # As small as a fresh network's.
            values = (1e-9 * rng.random((len(row.labels), *grid))).astype(np.float32)
            shard.submit(row.id, write_array, values)
    return tmp_path


def refine(data: Path, name: str = "refined", threads: int = 1, **changes: Any) -> dict[str, np.ndarray]:
    run(
        Arguments(
            **REFINE.model_dump() | changes,
            index=data / "index.csv",
            maps=data / "maps",
            out=data / name,
            threads=threads,
            device="cpu",
        )
    )
    return {id: read_refined(refined_file(data / name, id)) for id in read_manifest(data / name)["ids"]}


def test_maps_of_a_large_photograph_are_refined_scaled_down(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = refine(data)
    with caplog.at_level(logging.INFO):
        scaled_down = refine(data, "scaled_down", long_side=16)
    assert "refine_maps: 5 of 5 images are computed at a longer side of 16 pixels" in caplog.text
    index = read_index(data / "index.csv")
    for id, values in scaled_down.items():
        assert values.shape == whole[id].shape
        assert values.dtype == np.float16
        row = index.by_id[id]
        size = (row.height // 2, row.width // 2)
        image = cv2.resize(read_image(row.image), size[::-1], interpolation=cv2.INTER_AREA)
        masks = torch.from_numpy(read_array(data / "maps" / f"{id}.npy"))[None]
        photograph = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        small = normalize(pamr(photograph, masks, iterations=REFINE.iterations, dilations=REFINE.dilations))
        expected = F.interpolate(small, size=(row.height, row.width), mode="bilinear")[0] if len(values) else small[0]
        np.testing.assert_allclose(values, expected if len(values) else values, atol=2e-3)
    for id, values in refine(data, "fits", long_side=32).items():
        np.testing.assert_array_equal(values, whole[id])


def test_files_hold_pamr_of_each_image_divided_by_its_maximum(data: Path) -> None:
    refined = refine(data)
    assert list(refined) == [f"i{number}" for number in range(5)]
    for number, (labels, size) in enumerate(zip(LABELS, SIZES, strict=True)):
        values = refined[f"i{number}"]
        assert values.dtype == np.float16
        assert values.shape == (len(labels), *size)
        image = torch.from_numpy(read_image(data / f"{number}.png").copy()).permute(2, 0, 1)[None].float()
        maps = torch.from_numpy(read_array(data / "maps" / f"i{number}.npy"))[None]
        expected = normalize(pamr(image, maps, iterations=3, dilations=(1, 2)))[0]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-3)
        assert all(values[k].max() == 1 for k in range(len(labels)))


def test_quantized_maps_have_files_of_their_own(data: Path) -> None:
    whole, quantized = refine(data), refine(data, "quantized", storage="quantized")
    for id, maps in whole.items():
        levels, codes = quantize(maps)
        np.testing.assert_array_equal(quantized[id], np.take_along_axis(levels[:, None], codes, 2))
    names = sorted(path.name for path in (data / "quantized").iterdir())
    assert names == [".getam", *(f"{id}.npz" for id in whole), "manifest.json"]
    assert read_manifest(data / "quantized")["settings"]["storage"] == "quantized"
    # A shard in the other form takes its place.
    refine(data, "quantized", storage="float16")
    assert not [*(data / "quantized").glob("*.npz")]


def test_threads_change_nothing(data: Path) -> None:
    one, two = refine(data, "one", threads=1), refine(data, "two", threads=2)
    assert all(np.array_equal(one[id], two[id]) for id in one)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((1, 3, 4), np.float64), r"float64 \(1, 3, 4\) is not float32 \(K, n_h, n_w\), K = 1"),
        (np.ones((2, 3, 4), np.float32), r"float32 \(2, 3, 4\) is not float32 \(K, n_h, n_w\), K = 1"),
        (np.full((1, 3, 4), np.nan, np.float32), "holds NaN, infinite or negative values; dump the maps again"),
        (np.full((1, 3, 4), -1, np.float32), "holds NaN, infinite or negative values; dump the maps again"),
    ],
)
def test_broken_maps_are_refused(data: Path, values: np.ndarray, message: str) -> None:
    write_array(data / "maps" / "i0.npy", values)
    with pytest.raises(InputError, match=rf"i0\.npy: {message}"):
        refine(data)
    assert not [path for path in data.iterdir() if "refined" in path.name]


def test_a_stopped_shard_is_gone_on_with(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = refine(data, "whole")
    sizes: list[tuple[int, ...]] = []
    stop_at = 1

    def watched(images: torch.Tensor, *rest: Any, **how: Any) -> torch.Tensor:
        if len(sizes) == stop_at:
            raise RuntimeError("CUDA out of memory")
        sizes.append(tuple(images.shape))
        return pamr(images, *rest, **how)

    monkeypatch.setattr(getam.stages.refine_maps, "pamr", watched)
    with pytest.raises(RuntimeError, match="out of memory"):
        refine(data)
    assert not (data / "refined").exists()
    stop_at = 9
    found = refine(data)
    assert sizes == [(4, 3, 24, 32), (1, 3, 32, 24)]
    assert all(np.array_equal(found[id], expected[id]) for id in expected)
