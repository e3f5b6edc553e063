"""The stage time_labels: every method labels every image at every batch size, and what the numbers are of."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.completion import COMPLETION

import getam.experiments.label_times
from getam.datasets.index import Index, IndexRow, write_index
from getam.datasets.shards import new_shard
from getam.errors import InputError
from getam.experiments.label_times import ROUNDS, Item, time_labels
from getam.labels.methods import LABEL_MAKERS
from getam.labels.refined_maps import write_refined
from getam.settings.completion import LABEL_METHODS, LabelSettings
from getam.stages.time_labels import Arguments, run
from getam.system.files import read_json
from getam.system.image_files import write_gray

IDS = ("one", "two", "three")
METHODS = [method.name for method in LABEL_METHODS.values()]


def write_run(folder: Path, *, labels: tuple[str, ...] = ("a", "b")) -> dict[str, Any]:
    rows = []
    rng = np.random.default_rng(0)
    (folder / "saliency").mkdir()
    for id in IDS:
        Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).save(folder / f"{id}.png")
        write_gray(folder / "saliency" / f"{id}.png", rng.integers(0, 255, (12, 16), np.uint8))
        rows.append(IndexRow(id, "train", folder / f"{id}.png", None, 12, 16, labels))
    write_index(folder / "index.csv", Index(tuple(rows), ("a", "b")))
    how: dict[str, Any] = {"ids": IDS, "suffix": ".npz", "classes": ("a", "b"), "settings": None}
    with new_shard(folder / "maps", **how) as writer:
        for id in IDS:
            writer.submit(id, write_refined, rng.random((len(labels), 12, 16)).astype(np.float16), "quantized")
    return {"index": folder / "index.csv", "maps": folder / "maps", "saliency": folder / "saliency"}


def test_the_stage_states_what_was_measured(tmp_path: Path) -> None:
    out = tmp_path / "f.svg"
    settings = COMPLETION.model_dump()
    rest: dict[str, Any] = {"images": 2, "batch_sizes": [1, 4], "out": out, "threads": 1, "device": "cpu"}
    before = torch.get_num_threads()
    try:
        run(Arguments.model_validate({**settings, **write_run(tmp_path), **rest}))
    finally:
        torch.set_num_threads(before)
    content = read_json(tmp_path / "f.json")
    assert (content["images"], content["pixels"], content["classes"]) == (2, 192, 2)
    assert (content["threads"], content["completion_on"], content["crf_iterations"]) == (1, "the CPU", 10)
    assert content["crf_backend"] in ("pydensecrf", "torch")
    seconds = content["seconds_an_image"]
    assert [*seconds] == [*METHODS]
    assert all(seconds[name][size] > 0 for name in METHODS for size in ("1", "4"))
    ratio = content["ratio_to_completion"]["RRM"]["4"]
    assert ratio == pytest.approx(seconds["RRM"]["4"] / seconds["completion"]["4"])
    text = (tmp_path / "f.md").read_text()
    assert content["cpu"].split()[0] in text
    assert f"| {ratio:.1f}x |" in text
    assert ET.parse(out).getroot().tag.endswith("svg")


def test_without_an_image_of_a_class_there_is_nothing_to_measure(tmp_path: Path) -> None:
    rest: dict[str, Any] = {"images": 2, "batch_sizes": [1], "out": tmp_path / "f.svg", "threads": 1, "device": "cpu"}
    with pytest.raises(InputError, match="holds no image with a class"):
        run(Arguments.model_validate({**COMPLETION.model_dump(), **write_run(tmp_path, labels=()), **rest}))


def test_every_method_labels_the_same_images_and_medians_are_an_images(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    seen: dict[str, list[int]] = {name: [] for name in METHODS}

    def labels(name: str, seconds: float) -> Any:
        def make(maps: Any, classes: list[int], *rest: Any) -> None:
            nonlocal clock
            clock += seconds
            seen[name].append(classes[0])

        return make

    monkeypatch.setattr(getam.experiments.label_times.time, "perf_counter", lambda: clock)
    # Halves and their doubles: sums of them are exact.
    times = {key: 0.5 * 2**number for number, key in enumerate(LABEL_METHODS)}
    for key, seconds in times.items():
        monkeypatch.setitem(LABEL_MAKERS, key, labels(LABEL_METHODS[key].name, seconds))
    empty = np.zeros((1, 2, 2), np.float32)
    items = [Item(np.zeros((2, 2, 3), np.uint8), empty, [number], empty[0].astype(np.uint8)) for number in range(3)]
    settings: LabelSettings = COMPLETION
    found = time_labels(items, settings, batch_sizes=[1, 2], device=torch.device("cpu"))
    assert found == {LABEL_METHODS[key].name: {1: seconds, 2: seconds} for key, seconds in times.items()}
    # One to warm up; then, each round, one by one, and by twos of which the last begins anew.
    assert all(numbers == [0, *[0, 1, 2, 0, 1, 2, 0] * ROUNDS] for numbers in seen.values())
