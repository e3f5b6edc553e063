"""The stage compare_maps on two hand-made images: what is shown of each method, and its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from getam.datasets.index import Index, IndexRow, write_index
from getam.datasets.shards import new_shard
from getam.errors import InputError
from getam.labels.refined_maps import SUFFIXES, write_refined
from getam.pages.map_sheet import GAP, LINE, TILE
from getam.pages.pictures import heat_colors
from getam.stages.compare_maps import Arguments, run
from getam.system.files import read_json, write_array, write_json
from getam.system.image_files import write_labels

CLASSES = ("a", "b")
TRUTH = np.array([[0, 1, 2, 2], [0, 0, 2, 2]], np.uint8)
CURVE = {
    "split": "train",
    "images": 2,
    "best_threshold": {"threshold": 0.25, "miou": 0.625, "miou_classes": 3},
    "maps_supervision": "I",
    "image_labels": "masks",
}


def write_run(folder: Path, *, masks: bool = True) -> list[dict[str, Any]]:
    """Two images of classes a and b in two shards, and two methods: one all 0, one 1 for class b."""
    rows = []
    for id in ("one", "two"):
        Image.fromarray(np.full((2, 4, 3), 200, np.uint8)).save(folder / f"{id}.png")
        write_labels(folder / f"{id}_mask.png", TRUTH)
        mask = folder / f"{id}_mask.png" if masks else None
        rows.append(IndexRow(id, "train", folder / f"{id}.png", mask, 2, 4, CLASSES))
    write_index(folder / "index.csv", Index(tuple(rows), CLASSES))
    methods = []
    for label, value in (("nothing", 0.0), ("b alone", 1.0)):
        for shard, id in (("000", "one"), ("001", "two")):
            # The maps of one method are quantized.
            storage = "quantized" if value else "float16"
            how: dict[str, Any] = {"ids": [id], "suffix": SUFFIXES[storage], "classes": CLASSES, "settings": None}
            with new_shard(folder / label / shard, **how) as writer:
                maps = np.stack([np.zeros((2, 4)), np.full((2, 4), value)]).astype(np.float16)
                writer.submit(id, write_refined, maps, storage)
        write_json(folder / f"{label}.json", CURVE)
        methods.append({"label": label, "maps": folder / label, "scores": folder / f"{label}.json"})
    return methods


def compare(folder: Path, methods: list[dict[str, Any]], *, images: int = 9) -> dict[str, Any]:
    run(
        Arguments.model_validate(
            {
                "index": folder / "index.csv",
                "methods": methods,
                "shards": 2,
                "images": images,
                "out": folder / "f.png",
                "threads": 1,
            }
        )
    )
    return read_json(folder / "f.json")


def tile(folder: Path, column: int, row: int) -> np.ndarray:
    """The middle pixel of a tile of a sheet with two lines of headings."""
    sheet = np.asarray(Image.open(folder / "f.png").convert("RGB"))
    top = 2 * LINE + 2 * GAP + row * (TILE + LINE + GAP) + LINE
    return sheet[top + TILE // 2, GAP + column * (TILE + GAP) + TILE // 2]


def test_a_sheet_shows_photograph_truth_and_maps(tmp_path: Path) -> None:
    content = compare(tmp_path, write_run(tmp_path))
    # Class b is the larger one.
    assert content["images"] == [{"id": "one", "class": "b"}, {"id": "two", "class": "b"}]
    assert [(each["label"], each["miou"], each["threshold"]) for each in content["methods"]] == [
        ("nothing", 0.625, 0.25),
        ("b alone", 0.625, 0.25),
    ]
    for row in (0, 1):
        assert tuple(tile(tmp_path, 0, row)) == (200, 200, 200)
        low, high = tile(tmp_path, 2, row), tile(tmp_path, 3, row)
        for shown, color in ((low, heat_colors()[0]), (high, heat_colors()[255])):
            assert np.abs(shown - (0.7 * color + 0.3 * 200)).max() <= 2
    assert "| b alone | 0.625 | 3 | 0.250 | train | 2 | I (masks) |" in (tmp_path / "f.md").read_text()


def test_images_are_evenly_spaced_over_all_shards(tmp_path: Path) -> None:
    methods = write_run(tmp_path)
    assert [each["id"] for each in compare(tmp_path, methods, images=1)["images"]] == ["one"]
    assert [each["id"] for each in compare(tmp_path, methods, images=2)["images"]] == ["one", "two"]


def test_without_ground_truth_the_first_class_is_shown_and_no_number(tmp_path: Path) -> None:
    methods = write_run(tmp_path, masks=False)
    for method in methods:
        write_json(method["scores"], CURVE | {"best_threshold": None, "images": 0})
    content = compare(tmp_path, methods)
    assert [each["class"] for each in content["images"]] == ["a", "a"]
    assert [each["miou"] for each in content["methods"]] == [None, None]
    assert "| nothing | - | - | - | train | 0 | I (masks) |" in (tmp_path / "f.md").read_text()
    assert tuple(tile(tmp_path, 1, 0)) == (255, 255, 255)


@pytest.mark.parametrize("label", ["<b>|x</b>\n| y", "", "long " * 50, "日本\N{BELL}"])
def test_labels_may_be_anything(tmp_path: Path, label: str) -> None:
    methods = write_run(tmp_path)
    compare(tmp_path, [methods[0] | {"label": label}, methods[1]])
    table = [line for line in (tmp_path / "f.md").read_text().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {8}
    assert not any("<b>" in line for line in table)


def test_maps_of_another_size_and_scores_of_another_kind_are_named(tmp_path: Path) -> None:
    methods = write_run(tmp_path)
    write_json(methods[0]["scores"], {"miou": 1})
    with pytest.raises(InputError, match=r"nothing\.json: not what its stage writes \('best_threshold'\)"):
        compare(tmp_path, methods)
    write_json(methods[0]["scores"], CURVE)
    write_array(tmp_path / "nothing" / "000" / "one.npy", np.zeros((2, 3, 3), np.float16))
    with pytest.raises(InputError, match=r"one\.npy: shape \(2, 3, 3\)"):
        compare(tmp_path, methods)
