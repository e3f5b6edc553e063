"""The stage plot_fusions: the distribution of hand-made maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from getam.datasets.index import Index, IndexRow, write_index
from getam.datasets.shards import new_shard
from getam.errors import InputError
from getam.experiments.map_values import BINS, ValueCounts
from getam.stages.plot_fusions import Arguments, run
from getam.system.files import read_json, write_array


def test_values_are_counted_by_hand() -> None:
    counts = ValueCounts()
    # Divided by their maxima: 0.1, 0.5, 1, 0 and 0.25, 1, 1, 1.
    counts.add(np.array([[[0.2, 1.0], [2.0, 0.0]], [[1e-9, 4e-9], [4e-9, 4e-9]]], np.float32))
    summary = counts.summary()
    assert (summary["maps"], summary["empty_maps"], summary["values"]) == (2, 0, 8)
    assert summary["share_from"] == {"0.1": 7 / 8, "0.5": 5 / 8, "0.9": 4 / 8}
    assert summary["mean"] == pytest.approx((0.1 + 0.5 + 0.25 + 4) / 8, abs=1 / BINS)
    assert summary["median"] == pytest.approx(0.5, abs=1 / BINS)
    shares = counts.share_from()
    assert shares[0] == 1
    assert (np.diff(shares) <= 0).all()


def test_maps_of_zeros_are_counted_apart() -> None:
    counts = ValueCounts()
    counts.add(np.zeros((1, 2, 2), np.float32))
    assert counts.summary() == {
        "maps": 1,
        "empty_maps": 1,
        "values": 0,
        "share_from": {"0.1": None, "0.5": None, "0.9": None},
        "mean": None,
        "median": None,
    }
    with pytest.raises(InputError, match="NaN"):
        counts.add(np.full((1, 2, 2), np.nan, np.float32))


def test_every_fusion_has_a_line(tmp_path: Path) -> None:
    rows = (IndexRow("one", "train", tmp_path / "one.jpg", None, 2, 2, ("a",)),)
    write_index(tmp_path / "index.csv", Index(rows, ("a",)))
    maps = {"sum": [[1.0, 0.5], [0.5, 0.2]], "product <b>|": [[1.0, 0.0], [0.0, 0.0]], "matmul": [[0.0, 0.0]] * 2}
    folders: dict[str, Path] = {}
    for number, (fusion, values) in enumerate(maps.items()):
        folders[fusion] = tmp_path / str(number)
        how: dict[str, Any] = {"ids": ["one"], "suffix": ".npy", "classes": ("a",), "settings": None}
        with new_shard(folders[fusion] / "000", **how) as writer:
            writer.submit("one", write_array, np.array([values], np.float32))
    out = tmp_path / "f.svg"
    run(Arguments(index=tmp_path / "index.csv", maps=folders, shards=1, out=out, threads=1))
    content = read_json(tmp_path / "f.json")
    assert {fusion: each["share_from"]["0.5"] for fusion, each in content.items()} == {
        "sum": 0.75, "product <b>|": 0.25, "matmul": None
    }  # fmt: skip
    text = (tmp_path / "f.md").read_text()
    assert "| sum | 1 | 0.55" in text
    assert "| matmul | 1 (1 of zeros) | - | - | - | - | - |" in text
    assert "<b>" not in text
    assert "<b>" not in out.read_text()
