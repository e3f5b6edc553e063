"""Saliency scores: by hand, and beside figures of py_sod_metrics 1.6.2 (which this environment cannot hold)."""

from __future__ import annotations

import numpy as np
import pytest

from getam.scores.saliency import e_measure, s_measure, saliency_scores

Y, X = np.mgrid[0:40, 0:56]
BLOB = ((Y - 18) / 9) ** 2 + ((X - 30) / 14) ** 2 < 1
SOFT = np.clip(255 * np.exp(-(((Y - 20) / 11.0) ** 2 + ((X - 27) / 15.0) ** 2)), 0, 255).round().astype(np.uint8)
NOISE = ((X * 37 + Y * 91 + X * Y * 13) % 256).astype(np.uint8)

# Map, mask; S-measure and largest E-measure that py_sod_metrics gave with normalize=False.
CASES = {
    "close": (SOFT, BLOB, 0.797218926748259, 0.9385865374503413),
    "noise": (NOISE, BLOB, 0.32621856347543865, 0.750366824069473),
    "nothing salient": (SOFT, np.zeros_like(BLOB), 0.7728781512605042, 1.0),
    "all salient": (SOFT, np.ones_like(BLOB), 0.22712184873949579, 1.0004466279589102),
    "two objects, faint": (SOFT // 2, BLOB | ((Y < 8) & (X < 9)), 0.6103421906744095, 0.9026773467999825),
    "exact": ((BLOB * 255).astype(np.uint8), BLOB, 0.9999999999999929, 1.000446627958907),
    "blank": (np.zeros_like(SOFT), BLOB, 0.41361607142857143, 0.25011165698972754),
}


@pytest.mark.parametrize("case", CASES)
def test_structure_and_alignment_beside_py_sod_metrics(case: str) -> None:
    values, mask, s, e = CASES[case]
    assert s_measure(values / 255, mask) == pytest.approx(s, abs=1e-9)
    assert e_measure(values, mask).max() == pytest.approx(e, abs=1e-9)


def test_an_object_at_the_corner_leaves_empty_regions_out() -> None:
    mask = np.zeros((6, 6), bool)
    mask[5, 5] = True
    assert s_measure(mask.astype(float), mask) == pytest.approx(1, abs=1e-9)


def test_a_threshold_that_nothing_reaches_has_no_precision() -> None:
    mask = np.array([[1, 0]])
    exact, blank = np.array([[255, 0]], np.uint8), np.zeros((1, 2), np.uint8)
    # At 0 all is taken: precisions 1/2 and 1/2, recalls 1 and 1. Above, precisions and recalls are 1 and 0.
    at_zero, above = 1.3 * 0.5 / (0.3 * 0.5 + 1), 0.5
    assert saliency_scores([(exact, mask), (blank, mask)])["max_f"] == pytest.approx(max(at_zero, above))


def test_scores_are_averaged_over_images() -> None:
    maps, masks = [SOFT, NOISE], [BLOB, BLOB]
    both = saliency_scores(zip(maps, masks, strict=True))
    each = [saliency_scores([pair]) for pair in zip(maps, masks, strict=True)]
    for name in ("mae", "s_measure"):
        assert both[name] == pytest.approx((each[0][name] + each[1][name]) / 2)
    curve = (e_measure(SOFT, BLOB) + e_measure(NOISE, BLOB)) / 2
    assert both["max_e"] == pytest.approx(curve.max())
