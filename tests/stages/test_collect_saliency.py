"""`getam collect-saliency`: maps that somebody brings become a shard, or are refused for what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from getam.cli import STAGES, command
from getam.datasets.index import Index, IndexRow, write_index
from getam.system.image_files import read_gray, write_gray

SIZE = (4, 6)
MAPS = {id: np.full(SIZE, value, np.uint8) for id, value in {"a": 0, "b": 1, "c": 200}.items()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """index.csv of three images; maps/, one of them hardly salient, one not at all."""
    rows = tuple(IndexRow(id, "train", tmp_path / f"{id}.jpg", None, *SIZE, ("cat",)) for id in MAPS)
    write_index(tmp_path / "index.csv", Index(rows=rows, classes=("cat",)))
    for id, values in MAPS.items():
        write_gray(tmp_path / "maps" / f"{id}.png", values)
    return tmp_path


def collect(data: Path, *, shard: int = 0, shards: int = 1) -> int:
    words: list[object] = [
        "--index",
        data / "index.csv",
        "--folder",
        data / "maps",
        "--split",
        "train",
        "--out",
        data / "out",
    ]
    words += ["--shard", shard, "--shards", shards, "--threads", 1]
    return command("getam", STAGES, ["collect-saliency", *map(str, words)])


def test_maps_become_a_shard(data: Path) -> None:
    assert collect(data) == 0
    for id, values in MAPS.items():
        assert (read_gray(data / "out" / f"{id}.png") == values).all()


def test_a_map_may_hold_no_color_in_any_mode(data: Path) -> None:
    Image.fromarray(MAPS["c"]).convert("RGBA").save(data / "maps" / "c.png")
    assert collect(data) == 0
    assert (read_gray(data / "out" / "c.png") == 200).all()


def test_a_shard_without_anything_salient_is_taken(data: Path) -> None:
    assert collect(data, shard=0, shards=3) == 0
    assert not read_gray(data / "out" / "a.png").any()


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "colors": (
        lambda maps: Image.new("RGB", SIZE[::-1], (255, 0, 0)).save(maps / "b.png"),
        "maps/b.png: has colors; a saliency map is gray, 0 to 255: save it as such",
    ),
    "0 and 1": (
        lambda maps: write_gray(maps / "c.png", np.ones(SIZE, np.uint8)),
        "maps: the brightest value of its maps is 1; maps hold 0 to 255, multiply them by 255",
    ),
    "another size": (
        lambda maps: write_gray(maps / "b.png", MAPS["b"].T),
        "maps/b.png: size (6, 4) is not the image's (4, 6) (H, W)",
    ),
    "missing": (lambda maps: (maps / "b.png").unlink(), "maps/b.png: no such saliency map, nor .jpg or .jpeg; add it"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_maps_end_with_one_message_and_nothing_written(
    data: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = BAD[name]
    spoil(data / "maps")
    assert collect(data) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("getam collect-saliency: ") == 1
    assert "Traceback" not in error
    assert not (data / "out").exists()
