"""The distribution of the values of maps, each map divided by its maximum (figure 7)."""

from __future__ import annotations

from typing import Any

import numpy as np

from getam.labels.class_maps import divide_by_maximum

BINS = 1000
"""Number of bins of equal width, from 0 to 1."""

SHARES = (0.1, 0.5, 0.9)
"""Levels for which `ValueCounts.summary` gives the fraction of values that are at least as high."""


class ValueCounts:
    """A histogram of values in [0, 1]; the last bin includes 1."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.maps = 0
        self.empty = 0
        """Number of maps that are zero everywhere, whose values are not counted."""

    def add(self, maps: np.ndarray) -> None:
        """Adds the maps of an image: (K, h, w), floating, >= 0.

        Raises:
            InputError: a value is NaN, infinite or negative.
        """
        maps = divide_by_maximum(maps)
        is_positive = maps.max((1, 2)) > 0
        self.maps += len(maps)
        self.empty += int((~is_positive).sum())
        bins = (maps[is_positive].astype(np.float64) * BINS).astype(np.int64).clip(max=BINS - 1)
        self.counts += np.bincount(bins.ravel(), minlength=BINS)

    def share_from(self) -> np.ndarray:
        """The fraction of values that are at least i / BINS, i = 0 .. BINS - 1: (BINS,), float64; NaN if empty."""
        total = self.counts.sum()
        return np.cumsum(self.counts[::-1])[::-1] / total if total else np.full(BINS, np.nan)

    def summary(self) -> dict[str, Any]:
        """Counts of maps and values, fractions of high values, mean and median (exact to half a bin), for JSON."""
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
