"""One score of a run over several seeds: its mean, and how far the seeds lie apart."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from getam.runs.summary import three_decimals


@dataclass(frozen=True)
class Spread:
    """The values of a score, one for each seed; only one if no seed touches the score, None without ground truth."""

    values: tuple[float | None, ...]

    @property
    def known(self) -> list[float]:
        """All values; none of them if one is missing, since numbers of fewer seeds are not comparable with others."""
        known = [value for value in self.values if value is not None]
        return known if len(known) == len(self.values) else []

    @property
    def mean(self) -> float | None:
        # One value stays as it was read: 1 does not become 1.0.
        return self.known[0] if len(self.known) == 1 else statistics.fmean(self.known) if self.known else None

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation, whose divisor is one less than the number of values; None for one value."""
        return statistics.stdev(self.known) if len(self.known) > 1 else None

    @property
    def least(self) -> float | None:
        return min(self.known, default=None)

    @property
    def most(self) -> float | None:
        return max(self.known, default=None)


def with_deviation(mean: float | None, deviation: float | None) -> str:
    """A score as text: "0.815 ± 0.012"; the mean alone if there is no deviation, a dash without a mean."""
    return three_decimals(mean) + ("" if deviation is None else f" ± {deviation:.3f}")
