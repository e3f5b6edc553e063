"""`getam collect-maps`: class maps of other programs become a shard, or are refused for what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from getam.cli import STAGES, command
from getam.datasets.index import Index, IndexRow, write_index
from getam.datasets.shards import read_manifest
from getam.stages.collect_maps import read_class_maps

CLASSES = ("cat", "cow", "dog")
LABELS = {"a": ("cat", "dog"), "b": ("cow",), "c": ()}
GRID = (2, 3)
OF_CLASS = {name: np.full(GRID, value, np.float32) for value, name in enumerate(CLASSES, start=1)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """index.csv of three images; brought/, with a file of each form."""
    rows = tuple(IndexRow(id, "train", tmp_path / f"{id}.jpg", None, 4, 6, labels) for id, labels in LABELS.items())
    write_index(tmp_path / "index.csv", Index(rows=rows, classes=CLASSES))
    brought = tmp_path / "brought"
    brought.mkdir()
    np.save(brought / "a_cam.npy", np.stack([OF_CLASS["cat"], OF_CLASS["dog"]]))
    np.savez(brought / "b_cam.npz", **OF_CLASS)
    np.save(brought / "c_cam.npy", np.stack(list(OF_CLASS.values())).astype(np.float64))
    return tmp_path


def collect(data: Path) -> int:
    words: list[object] = ["--index", data / "index.csv", "--folder", data / "brought", "--split", "train"]
    words += ["--shard", 0, "--shards", 1, "--out", data / "out", "--threads", 1]
    return command("getam", STAGES, ["collect-maps", *map(str, words)])


def test_maps_of_each_form_become_those_of_the_images_classes(data: Path) -> None:
    assert collect(data) == 0
    for id, labels in LABELS.items():
        maps = np.load(data / "out" / f"{id}.npy")
        assert maps.dtype == np.float32
        assert [float(values.mean()) for values in maps] == [CLASSES.index(name) + 1 for name in labels]
    assert read_manifest(data / "out")["supervision"] == "I+M"


def test_all_classes_may_be_present(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.stack(list(OF_CLASS.values())))
    assert read_class_maps(tmp_path / "a.npy", CLASSES, CLASSES)[:, 0, 0].tolist() == [1, 2, 3]


def save(name: str, values: object) -> Callable[[Path], None]:
    def saved(folder: Path) -> None:
        (folder / "a_cam.npy").unlink()
        if isinstance(values, dict):
            np.savez(folder / name, **values)
        else:
            np.save(folder / name, values)

    return saved


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "another number of classes": (
        save("a_cam.npy", np.zeros((1, 2, 3), np.float32)),
        "a_cam.npy: shape (1, 2, 3); class maps are (K, h, w), with K = 2, the image's classes (cat, dog), or K = 3",
    ),
    "no channels": (save("a_cam.npy", np.zeros((2, 3), np.float32)), "a_cam.npy: shape (2, 3); class maps are (K, h"),
    "no grid": (save("a_cam.npy", np.zeros((2, 0, 3), np.float32)), "a_cam.npy: shape (2, 0, 3); class maps are"),
    "text": (save("a_cam.npy", np.full((2, 2, 3), "x")), "a_cam.npy: not a plain .npy array (holds <U1, not numbers)"),
    "negative": (save("a_cam.npy", -np.ones((2, 2, 3))), "a_cam.npy: holds negative values; save np.maximum(maps, 0)"),
    "not finite": (save("a_cam.npy", np.full((2, 2, 3), np.nan)), "a_cam.npy: holds values that are not finite"),
    "a pickle": (save("a_cam.npy", np.array({"cat": 1}, dtype=object)), "a_cam.npy: not a plain .npy array"),
    "a pickle of several": (
        save("a_cam.npz", {"cat": np.array({}, dtype=object), "dog": OF_CLASS["dog"]}),
        "a_cam.npz: not a plain .npz file",
    ),
    "a class without a map": (
        save("a_cam.npz", {"cat": OF_CLASS["cat"], "hound": OF_CLASS["dog"]}),
        "a_cam.npz: has no map of dog, which the image's labels name; its arrays are 'cat', 'hound'",
    ),
    "two sizes": (
        save("a_cam.npz", {"cat": OF_CLASS["cat"], "dog": OF_CLASS["dog"].T}),
        "a_cam.npz: arrays of shape (2, 3), (3, 2); all are (h, w), of one size",
    ),
    "no file": (lambda folder: (folder / "b_cam.npz").unlink(), "b_cam.npy: no such class map, nor .npz; add it"),
    "no archive": (lambda folder: (folder / "b_cam.npz").write_bytes(b"x"), "b_cam.npz: not a plain .npz file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_maps_end_with_one_message_and_nothing_written(
    data: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = BAD[name]
    spoil(data / "brought")
    assert collect(data) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("getam collect-maps: ") == 1
    assert not (data / "out").exists()
