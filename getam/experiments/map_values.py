"""How the values of maps are distributed, each map divided by its maximum."""

from __future__ import annotations

from typing import Any

import numpy as np

from getam.labels.class_maps import divide_by_maximum

BINS = 1000
"""Of equal width, from 0 to 1."""

SHARES = (0.1, 0.5, 0.9)
"""Values of which it is said how many are as high."""


class ValueCounts:
    """Counts of values in [0, 1] by bins; the last one holds 1 too."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.maps = 0
        self.empty = 0
        """Maps of zeros, which are not counted."""

    def add(self, maps: np.ndarray) -> None:
        """Adds the maps (K, h, w), >= 0, of an image.

        Raises:
            InputError: a value is NaN, infinite or negative.
        """
        maps = divide_by_maximum(maps)
        alive = maps.max((1, 2)) > 0
        self.maps += len(maps)
        self.empty += int((~alive).sum())
        places = (maps[alive].astype(np.float64) * BINS).astype(np.int64).clip(max=BINS - 1)
        self.counts += np.bincount(places.ravel(), minlength=BINS)

    def share_from(self) -> np.ndarray:
        """Share of values that are at least i / BINS, i = 0 .. BINS - 1; NaN where there are no values."""
        total = self.counts.sum()
        return np.cumsum(self.counts[::-1])[::-1] / total if total else np.full(BINS, np.nan)

    def summary(self) -> dict[str, Any]:
        """Numbers of maps and values, shares of high values, mean and median to the width of a bin."""
        total = int(self.counts.sum())
        shares = self.share_from()
        middles = (np.arange(BINS) + 0.5) / BINS
        return {
            "maps": self.maps,
            "empty_maps": self.empty,
            "values": total,
            "share_from": {str(value): float(shares[int(value * BINS)]) if total else None for value in SHARES},
            "mean": float((self.counts * middles).sum() / total) if total else None,
            "median": float(middles[np.searchsorted(np.cumsum(self.counts), total / 2)]) if total else None,
        }
