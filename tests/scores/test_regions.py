"""The regions of a label image, by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from getam.scores.regions import regions

CLASSES = ("cat", "dog & co", "zebra")


def test_regions_by_hand() -> None:
    labels = np.zeros((20, 50), np.uint8)
    labels[0:4, 0:5] = 2
    labels[4, 5] = 2  # touches the square's corner
    labels[10:12, 40:50] = 2
    labels[19, 0] = 1
    labels[15, 20:22] = 3
    confidence = np.full((20, 50), 0.5, np.float32)
    confidence[0:4, 0:5] = 1
    found = regions(labels, confidence, CLASSES)
    assert json.loads(json.dumps(found)) == found
    assert [entry["name"] for entry in found] == ["dog & co", "zebra", "cat"]
    assert found[0] == {
        "name": "dog & co",
        "value": 2,
        "pixels": 41,
        "share": pytest.approx(0.041),
        "score": pytest.approx((20 + 21 * 0.5) / 41),
        "regions": [{"box": [0, 0, 6, 5], "pixels": 21}, {"box": [40, 10, 50, 12], "pixels": 20}],
    }
    assert found[1]["regions"] == [{"box": [20, 15, 22, 16], "pixels": 2}]
    assert found[2]["regions"] == [{"box": [0, 19, 1, 20], "pixels": 1}]
    assert regions(np.zeros((4, 4), np.uint8), np.ones((4, 4), np.float32), CLASSES) == []
