"""Label completion by hand, against the authors' arrays and pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.literal_completion import literal_complete, literal_released_opening

from getam.errors import InputError
from getam.labels.completion import Opening, background_tie, complete_labels, decisions, open_classes
from getam.labels.decisions import Decision, rules_of

Arrays = Callable[[str], dict[str, np.ndarray]]
Conflict = Literal["unknown", "lowest"]

# Two classes on 4x4 pixels, the upper half salient. With alpha 0.5: class 3 has 9 positive activations, the fifth
# smallest is 0.5; class 9 has 7, the fourth smallest is 0.8.
CLASSES = [3, 9]
MAPS = np.array(
    [
        [[1.0, 0.9, 0.0, 0.02], [0.5, 0.0, 0.4, 0.0], [0.8, 0.5, 0.2, 0.0], [0.0, 0.1, 0.0, 0.0]],
        [[0.0, 0.9, 1.0, 0.00], [0.5, 0.0, 0.0, 0.0], [0.9, 0.0, 0.8, 0.0], [0.3, 0.1, 0.0, 0.0]],
    ],
    np.float32,
)
SALIENCY = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], np.uint8)
# Salient: ties go to the first class; 0.02 is below 0.98^32 = 0.52. Elsewhere: class 3's 0.5 is not strictly above
# its quantile, nor is class 9's 0.8; both claim the pixel (2, 0).
BY_HAND = np.array([[4, 4, 10, 255], [4, 255, 0, 0], [255, 0, 0, 0], [0, 0, 0, 0]], np.uint8)


@pytest.mark.parametrize(("conflict", "claimed_twice"), [("unknown", 255), ("lowest", 4)])
def test_sixteen_pixels_by_hand(conflict: Conflict, claimed_twice: int) -> None:
    # Positive activations, sorted: 0.02 0.1 0.2 0.4 [0.5] 0.5 0.8 0.9 1 and 0.1 0.3 0.5 [0.8] 0.9 0.9 1.
    maps, saliency = MAPS.copy(), SALIENCY.copy()
    labels = complete_labels(maps, CLASSES, saliency, alpha=0.5, gamma=32, conflict=conflict)
    expected = BY_HAND.copy()
    expected[2, 0] = claimed_twice
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(maps, MAPS)
    np.testing.assert_array_equal(saliency, SALIENCY)


def authors_labels(arrays: dict[str, np.ndarray], case: int, **changes: Any) -> np.ndarray:
    """Our labels of a case of the authors', which has gamma 32."""
    how = {"alpha": float(arrays[f"{case}/cut_threshold"]), "gamma": 32, "saliency": arrays[f"{case}/saliency"]}
    return complete_labels(arrays[f"{case}/cam"], arrays[f"{case}/classes"].tolist(), **(how | changes))


@pytest.mark.parametrize(
    ("key", "how"),
    [
        ("out_official", {"conflict": "lowest", "opening": "released"}),
        ("out_before_opening", {"conflict": "lowest"}),
        ("alt_conflict255", {}),
        ("before_completion", {"alpha": 1}),
    ],
)
@pytest.mark.parametrize("case", range(8))
def test_labels_equal_the_authors(case: int, key: str, how: dict[str, Any], reference: Arrays) -> None:
    arrays = reference("completion.npz")
    np.testing.assert_array_equal(authors_labels(arrays, case, **how), arrays[f"{case}/{key}"])


@pytest.mark.parametrize("case", range(8))
def test_the_winners_equal_the_authors(case: int, reference: Arrays) -> None:
    arrays = reference("completion.npz")
    labels = authors_labels(arrays, case, saliency=np.ones((60, 80), np.uint8))
    differ = np.where(labels == 255, 0, labels) != arrays[f"{case}/argmax_with_bg"]
    # They divide by the maximum + 1e-5; one pixel of all lies between.
    assert differ.sum() == (1 if case == 3 else 0)
    np.testing.assert_allclose(arrays[f"{case}/cam"].max(0)[differ], background_tie(32, torch.float64), rtol=1e-5)


@pytest.mark.parametrize("case", range(8))
def test_what_is_mined_equals_the_authors(case: int, reference: Arrays) -> None:
    arrays = reference("completion.npz")
    # Their program marks mined pixels in the saliency map itself, as 255.
    mined = (authors_labels(arrays, case) > 0) & (arrays[f"{case}/saliency"] == 0)
    np.testing.assert_array_equal(mined, (arrays[f"{case}/out_saliency"] == 255) & (arrays[f"{case}/saliency"] == 0))
    # NaN: a class without positive activations, above which is nothing.
    for k, threshold in enumerate(arrays[f"{case}/thresholds"]):
        alone = arrays | {f"{case}/{key}": arrays[f"{case}/{key}"][k : k + 1] for key in ("cam", "classes")}
        labels = authors_labels(alone, case, saliency=np.zeros((60, 80), np.uint8))
        np.testing.assert_array_equal(labels > 0, arrays[f"{case}/cam"][k] > threshold)


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    classes=st.lists(st.integers(0, 19), min_size=1, max_size=4, unique=True).map(sorted),
    levels=st.sampled_from([1, 2, 5, 1000]),
    alpha=st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.95, 1.0]),
    gamma=st.sampled_from([0.5, 1.0, 2.0, 32.0, 128.0]),
    conflict=st.sampled_from(["unknown", "lowest"]),
    salient=st.sampled_from([0.0, 0.4, 1.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**16),
)
def test_labels_equal_the_literal_equations(
    height: int,
    width: int,
    classes: list[int],
    levels: int,
    alpha: float,
    gamma: float,
    conflict: Conflict,
    salient: float,
    dtype: type[np.floating],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    # Few levels make ties between classes and at the quantile; some maps are 0 altogether.
    maps = rng.integers(0, levels + 1, (len(classes), height, width)) * rng.integers(0, 4, (len(classes), 1, 1)) / 7
    maps = maps.astype(dtype)
    saliency = (rng.random((height, width)) < salient).astype(np.uint8)
    labels = complete_labels(maps, classes, saliency, alpha=alpha, gamma=gamma, conflict=conflict)
    expected = literal_complete(maps, classes, saliency, alpha=alpha, gamma=gamma, conflict=conflict)
    np.testing.assert_array_equal(labels, expected)
    assert set(np.unique(labels)) <= {0, 255, *(c + 1 for c in classes)}


@pytest.mark.parametrize("opening", [0, 3, "released"])
@pytest.mark.parametrize("conflict", ["unknown", "lowest"])
def test_torch_and_numpy_agree(conflict: Conflict, opening: Opening) -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((3, 20, 30), np.float32) ** 3
    saliency = rng.integers(0, 2, (20, 30), np.uint8)
    how = {"alpha": 0.8, "gamma": 8, "conflict": conflict, "opening": opening}
    tensors = torch.from_numpy(maps.copy()), torch.from_numpy(saliency.copy())
    labels = complete_labels(tensors[0], [0, 4, 7], tensors[1], **how)
    assert isinstance(labels, torch.Tensor)
    assert labels.dtype == torch.uint8
    np.testing.assert_array_equal(labels.numpy(), complete_labels(maps, [0, 4, 7], saliency, **how))
    np.testing.assert_array_equal(tensors[0].numpy(), maps)
    np.testing.assert_array_equal(tensors[1].numpy(), saliency)


def test_scaling_a_map_changes_nothing() -> None:
    labels = complete_labels(
        MAPS * np.array([1e-9, 1e4], np.float32)[:, None, None], CLASSES, SALIENCY, alpha=0.5, gamma=32
    )
    np.testing.assert_array_equal(labels, BY_HAND)


@pytest.mark.filterwarnings("error")
def test_arrays_that_cannot_be_written_are_taken() -> None:
    maps, saliency = MAPS.copy(), SALIENCY.copy()
    maps.flags.writeable = saliency.flags.writeable = False
    np.testing.assert_array_equal(complete_labels(maps, CLASSES, saliency, alpha=0.5, gamma=32), BY_HAND)


@pytest.mark.parametrize("saliency", [SALIENCY.astype(bool), SALIENCY * 255, SALIENCY * 0.01])
def test_salient_is_whatever_is_above_zero(saliency: np.ndarray) -> None:
    np.testing.assert_array_equal(complete_labels(MAPS, CLASSES, saliency, alpha=0.5, gamma=32), BY_HAND)


def test_maps_of_half_precision_are_taken() -> None:
    maps = (np.arange(32).reshape(2, 4, 4) % 11 / 10).astype(np.float16)
    labels = complete_labels(maps, CLASSES, SALIENCY, alpha=0.5, gamma=32)
    expected = complete_labels(maps.astype(np.float32), CLASSES, SALIENCY, alpha=0.5, gamma=32)
    np.testing.assert_array_equal(labels, expected)
    assert len(np.unique(labels)) > 2


@pytest.mark.parametrize(("saliency", "label"), [(0, 0), (1, 4)])
def test_one_pixel(saliency: int, label: int) -> None:
    # Nothing is above the quantile of one activation, which is that activation.
    labels = complete_labels(np.full((1, 1, 1), 0.2), [3], np.full((1, 1), saliency), alpha=0.5, gamma=32)
    assert labels.tolist() == [[label]]


def test_no_classes_leave_salient_pixels_unknown() -> None:
    labels = complete_labels(np.zeros((0, 4, 4), np.float32), [], SALIENCY, alpha=0.9, gamma=32)
    np.testing.assert_array_equal(labels, np.where(SALIENCY, 255, 0))
    assert labels.dtype == np.uint8


def test_a_map_of_zeros_claims_nothing() -> None:
    maps = MAPS.copy()
    maps[1] = 0
    labels = complete_labels(maps, CLASSES, SALIENCY, alpha=0.5, gamma=32)
    np.testing.assert_array_equal(labels, complete_labels(maps[:1], CLASSES[:1], SALIENCY, alpha=0.5, gamma=32))
    labels = complete_labels(np.zeros_like(maps), CLASSES, SALIENCY, alpha=0.0, gamma=32)
    np.testing.assert_array_equal(labels, np.where(SALIENCY, 255, 0))


def test_empty_saliency_leaves_what_is_mined() -> None:
    labels = complete_labels(MAPS, CLASSES, np.zeros_like(SALIENCY), alpha=0.5, gamma=32)
    # Above 0.5: class 3's 1.0, 0.9, 0.8; above 0.8: class 9's 0.9, 1.0, 0.9.
    expected = [[4, 255, 10, 0], [0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(labels, np.array(expected, np.uint8))


def test_full_saliency_leaves_no_background() -> None:
    labels = complete_labels(MAPS, CLASSES, np.ones_like(SALIENCY), alpha=0.5, gamma=32)
    assert not (labels == 0).any()


def test_alpha_one_mines_nothing() -> None:
    labels = complete_labels(MAPS, CLASSES, SALIENCY, alpha=1.0, gamma=32)
    np.testing.assert_array_equal(labels, np.where(SALIENCY, BY_HAND, 0))


def test_alpha_zero_mines_all_but_the_smallest() -> None:
    labels = complete_labels(MAPS, CLASSES, np.zeros_like(SALIENCY), alpha=0, gamma=32)
    # Not class 3's 0.02, nor class 9's 0.1.
    expected = [[4, 255, 10, 0], [255, 0, 4, 0], [255, 4, 255, 0], [10, 4, 0, 0]]
    np.testing.assert_array_equal(labels, np.array(expected, np.uint8))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 32.0, 128.0])
def test_the_background_ties_where_its_power_does(gamma: float) -> None:
    for dtype in (np.float32, np.float64):
        tie = background_tie(gamma, torch.float32 if dtype is np.float32 else torch.float64)
        above = float(np.nextafter(dtype(tie), dtype(1)))
        assert dtype(tie) == tie
        assert (1 - tie) ** gamma >= tie
        assert (1 - above) ** gamma < above


def test_a_larger_gamma_leaves_less_unknown() -> None:
    # A tie goes to the background: at gamma 1 that is an activation of one half.
    maps = np.array([[[1.0, 0.5, 0.51, 0.1]]])
    saliency = np.ones((1, 4), np.uint8)
    weak = complete_labels(maps, [0], saliency, alpha=1, gamma=1)
    np.testing.assert_array_equal(weak, [[1, 255, 1, 255]])
    strong = complete_labels(maps, [0], saliency, alpha=1, gamma=32)
    np.testing.assert_array_equal(strong, [[1, 1, 1, 1]])


@pytest.mark.parametrize("value", [np.nan, -1e-6, np.inf])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_broken_maps_are_refused(value: float, as_tensor: bool) -> None:
    maps = MAPS.copy()
    maps[1, 2, 3] = value
    arrays = (torch.from_numpy(maps), torch.from_numpy(SALIENCY)) if as_tensor else (maps, SALIENCY)
    with pytest.raises(InputError, match="maps hold"):
        complete_labels(arrays[0], CLASSES, arrays[1], alpha=0.5, gamma=32)


@pytest.mark.parametrize(
    ("maps", "classes", "saliency"),
    [
        (MAPS, [3], SALIENCY),
        (MAPS, [], SALIENCY),
        (MAPS, CLASSES, SALIENCY[:3]),
        (MAPS, CLASSES, SALIENCY[None]),
        (MAPS[0], CLASSES, SALIENCY),
        (MAPS, CLASSES, SALIENCY[:1, :1]),
        (np.zeros((0, 4, 4), np.float32), [1], SALIENCY),
    ],
)
def test_shapes_that_disagree_are_refused(maps: np.ndarray, classes: list[int], saliency: np.ndarray) -> None:
    with pytest.raises(InputError, match="disagree"):
        complete_labels(maps, classes, saliency, alpha=0.5, gamma=32)


@pytest.mark.parametrize("classes", [[9, 3], [3, 3], [-1, 3], [3, 254]])
def test_classes_out_of_order_or_range_are_refused(classes: list[int]) -> None:
    with pytest.raises(InputError, match=r"classes \[.*ascending, from 0 to 253"):
        complete_labels(MAPS, classes, SALIENCY, alpha=0.5, gamma=32)


def test_the_last_class_has_the_last_label_value() -> None:
    labels = complete_labels(MAPS, [0, 253], SALIENCY, alpha=0.5, gamma=32)
    expected = BY_HAND.copy()
    expected[BY_HAND == 4], expected[BY_HAND == 10] = 1, 254
    np.testing.assert_array_equal(labels, expected)


def test_opening_removes_a_thin_line_and_keeps_blocks_and_unknown() -> None:
    labels = np.zeros((12, 16), np.uint8)
    labels[1:5, 1:6] = 3
    labels[2, 6:14] = 3
    labels[7:10, 8:11] = 4
    labels[8, 2] = 255
    labels[11] = 255
    before = labels.copy()
    expected = labels.copy()
    expected[2, 6:14] = 0
    np.testing.assert_array_equal(open_classes(torch.from_numpy(labels), 3).numpy(), expected)
    np.testing.assert_array_equal(labels, before)
    expected[7:10, 8:11] = 0
    expected[1:5, 1:6] = 0
    np.testing.assert_array_equal(open_classes(torch.from_numpy(labels), 5).numpy(), expected)


def test_opening_treats_classes_apart() -> None:
    # Two columns of each of two classes: together wide enough for a 3x3 square, apart not.
    labels = np.zeros((8, 8), np.uint8)
    labels[2:6, 2:4] = 1
    labels[2:6, 4:6] = 2
    assert not open_classes(torch.from_numpy(labels), 3).numpy().any()


def test_completion_opens_last() -> None:
    maps = np.zeros((1, 9, 9), np.float32)
    maps[0, 1:4, 1:4] = 1
    maps[0, 6, 1:8] = 1
    saliency = np.ones((9, 9), np.uint8)
    saliency[:, 8] = 0
    labels = complete_labels(maps, [6], saliency, alpha=1, gamma=32, opening=3)
    expected = np.full((9, 9), 255, np.uint8)
    expected[:, 8] = 0
    expected[1:4, 1:4] = 7
    expected[6, 1:8] = 0
    np.testing.assert_array_equal(labels, expected)


def test_the_released_opening_by_hand() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[5:17, 6:16] = 3  # 12 x 10: ten wide, both columns of squares fit
    labels[22:31, 5:35] = 7  # nine high: nothing fits
    labels[5:15, 26:31] = 1
    labels[5:15, 31:36] = 255  # five of a class and five unknown: together they hold a square
    expected = np.zeros_like(labels)
    expected[6:17, 7:16] = 3  # opened to 6:18, 7:17: a pixel down and to the right
    expected[6:15, 27:31] = 1
    expected[6:15, 31:36] = 255
    np.testing.assert_array_equal(open_classes(torch.from_numpy(labels), "released").numpy(), expected)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 26), width=st.integers(1, 26), density=st.sampled_from([0.0, 0.01, 0.05]), seed=st.integers()
)
def test_the_released_opening_equals_the_literal_one(height: int, width: int, density: float, seed: int) -> None:
    rng = np.random.default_rng(abs(seed))
    labels = rng.choice(np.array([1, 7, 255], np.uint8), (height, width))
    labels[rng.random(labels.shape) < density] = 0
    np.testing.assert_array_equal(
        open_classes(torch.from_numpy(labels), "released").numpy(), literal_released_opening(labels)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha: 1.5 is no quantile; give 0 to 1"),
        ({"alpha": -0.5}, "alpha: -0.5 is no quantile"),
        ({"opening": 4}, "opening: 4 is even and would shift labels"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, float], message: str) -> None:
    how = {"alpha": 0.5, "gamma": 32.0} | options
    with pytest.raises(InputError, match=message):
        complete_labels(MAPS, CLASSES, SALIENCY, **how)


# Rules


def test_rules_of_sixteen_pixels_by_hand() -> None:
    maps, saliency = MAPS.copy(), SALIENCY.copy()
    rules = decisions(maps, CLASSES, saliency, alpha=0.5, gamma=32)
    # Two classes claim the pixel (2, 0); no other is above a quantile where nothing is salient.
    assert rules.dtype == np.uint8
    np.testing.assert_array_equal(rules, [[1, 1, 1, 2], [1, 2, 0, 0], [4, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(maps, MAPS)
    np.testing.assert_array_equal(saliency, SALIENCY)


def test_the_rule_of_every_kind_of_pixel() -> None:
    labels = np.array([[0, 3, 255], [0, 3, 255]], np.uint8)
    salient = np.array([[False, False, False], [True, True, True]])
    found = rules_of(labels, salient)[[0, 0, 0, 1, 1], [0, 1, 2, 1, 2]]
    wanted = [Decision.BACKGROUND, Decision.MINED, Decision.CONFLICT, Decision.SALIENT_CLASS, Decision.SALIENT_UNKNOWN]
    assert found.tolist() == wanted


@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.sampled_from([0.0, 0.5, 0.9, 1.0]))
@settings(max_examples=50, deadline=None)
def test_labels_follow_from_rules_with_the_lowest_conflict(seed: int, count: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    # Few levels, so that activations tie.
    maps = (rng.integers(0, 6, (count, 7, 9)) / 5).astype(np.float32)
    saliency = rng.integers(0, 2, (7, 9), np.uint8)
    classes = [2, 5, 9][:count]
    labels = complete_labels(maps, classes, saliency, alpha=alpha, gamma=4, conflict="lowest")
    rules = decisions(maps, classes, saliency, alpha=alpha, gamma=4)
    assert (labels[rules == Decision.BACKGROUND] == 0).all()
    assert (labels[rules == Decision.SALIENT_UNKNOWN] == 255).all()
    claimed = np.isin(rules, [Decision.SALIENT_CLASS, Decision.MINED, Decision.CONFLICT])
    assert np.isin(labels[claimed], [value + 1 for value in classes]).all()
    assert ((saliency > 0) == np.isin(rules, [Decision.SALIENT_CLASS, Decision.SALIENT_UNKNOWN])).all()


def test_rules_tell_what_the_opening_has_changed() -> None:
    maps = np.zeros((1, 8, 8), np.float32)
    maps[0, 1:4, 1:4] = maps[0, 6, 1:7] = 1
    saliency = np.ones((8, 8), np.uint8)
    rules = decisions(maps, [0], saliency, alpha=0.9, gamma=32, opening=3)
    expected = np.full((8, 8), Decision.SALIENT_UNKNOWN)
    expected[1:4, 1:4], expected[6, 1:7] = Decision.SALIENT_CLASS, Decision.OPENING
    np.testing.assert_array_equal(rules, expected)


def test_the_opening_is_of_the_labels_with_their_own_conflict() -> None:
    # Both classes claim all but one pixel each: with the lowest, a block that the opening keeps.
    maps = np.zeros((2, 5, 5), np.float32)
    maps[:, 1:4, 1:4] = 1
    maps[:, 0, 0] = 0.5
    saliency = np.zeros((5, 5), np.uint8)
    how = {"alpha": 0.0, "gamma": 32, "opening": 3}
    assert not (decisions(maps, [0, 1], saliency, conflict="lowest", **how) == Decision.OPENING).any()
