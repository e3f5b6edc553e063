"""A score over seeds, beside numbers by hand."""

from __future__ import annotations

import pytest

from getam.runs.spread import Spread, with_deviation


def test_mean_and_deviation_by_hand() -> None:
    spread = Spread((0.25, 0.75, 0.5))
    assert (spread.mean, spread.least, spread.most) == (0.5, 0.25, 0.75)
    # The squares 1/16, 1/16 and 0, over one less than their number.
    assert spread.deviation == pytest.approx((2 / 16 / 2) ** 0.5)
    assert Spread((0.5, 0.5)).deviation == 0


def test_one_value_has_no_deviation() -> None:
    spread = Spread((0.5,))
    assert (spread.mean, spread.deviation, spread.least, spread.most) == (0.5, None, 0.5, 0.5)
    assert isinstance(Spread((1,)).mean, int)


@pytest.mark.parametrize("values", [(None,), (None, None), (0.5, None, 0.75)])
def test_a_missing_value_leaves_nothing_to_compare(values: tuple[float | None, ...]) -> None:
    spread = Spread(values)
    assert (spread.mean, spread.deviation, spread.least, spread.most) == (None, None, None, None)


def test_a_deviation_stands_beside_its_mean() -> None:
    assert with_deviation(0.8154, 0.0123) == "0.815 ± 0.012"
    assert with_deviation(0.8154, None) == "0.815"
    assert with_deviation(None, None) == "-"
