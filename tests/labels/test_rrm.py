"""RRM's reliable labels: by hand, pixel by pixel, and on an image of two colors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.literal_rrm import literal_reliable

from getam.errors import InputError
from getam.labels.crf import dense_crf
from getam.labels.rrm import reliable_labels, rrm_labels
from getam.settings.completion import RrmSettings
from getam.settings.crf import CrfSettings

RRM = RrmSettings(foreground_gamma=4, background_gamma=32, activation=0.1, quantile=0.6, confidence=0.8)
CRF = CrfSettings(
    iterations=5,
    gaussian_xy=3,
    gaussian_weight=3,
    bilateral_xy=30,
    bilateral_rgb=5,
    bilateral_weight=4,
    backend="auto",
)

# One class on eight pixels. Where it wins it is sure above the value at rank int(0.6 * 5) = 3 of 0.2 0.4 0.6 0.8 1.
MAPS = np.array([[[1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0, 0.006]]], np.float32)
FOREGROUND = np.array([0.9, 0.9, 0.9, 0.9, 0.2, 0.1, 0.1, 0.1], np.float32)
BACKGROUND = np.array([0.0, 0.0, 0.0, 0.0, 0.2, 0.9, 0.7, 0.9], np.float32)


def labels_of(
    maps: np.ndarray = MAPS, foreground: np.ndarray = FOREGROUND, background: np.ndarray = BACKGROUND, **changes: Any
) -> list[int]:
    """Labels of the one row of pixels; `foreground` and `background` are what the two CRFs give them."""
    how = RRM.model_copy(update=changes)
    foreground = np.stack([1 - foreground, foreground])[:, None]
    background = np.stack([background, 1 - background])[:, None]
    labels = reliable_labels(maps, foreground, background, [6], how)
    assert labels.dtype == np.uint8
    return labels[0].tolist()


def test_eight_pixels_by_hand() -> None:
    # The seventh: the CRF gives background 0.7 only. The last: (1 - 0.006)^32 = 0.82.
    assert labels_of() == [6, 255, 255, 255, 255, 0, 255, 0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"quantile": 0.0}, [6, 6, 6, 6, 255, 0, 255, 0]),  # 0.2 is not above itself
        ({"quantile": 1.0}, [255, 255, 255, 255, 255, 0, 255, 0]),
        ({"activation": 0.5}, [6, 255, 255, 255, 255, 0, 255, 0]),  # rank 1 of 0.6 0.8 1
        ({"activation": 1.0}, [255, 255, 255, 255, 255, 0, 255, 0]),  # nothing is above 1
        ({"background_gamma": 64.0}, [6, 255, 255, 255, 255, 0, 255, 255]),  # 0.994^64 = 0.68
        ({"confidence": 0.7}, [6, 255, 255, 255, 255, 0, 0, 0]),
        ({"confidence": 1.0}, [255] * 8),
    ],
)
def test_each_setting_by_hand(changes: dict[str, float], expected: list[int]) -> None:
    assert labels_of(**changes) == expected


def test_background_by_one_crf_outdoes_a_class_of_the_other() -> None:
    background = BACKGROUND.copy()
    background[0] = 0.9
    assert labels_of(background=background)[0] == 0


def test_no_class_by_one_crf_and_no_background_by_the_other_is_unknown() -> None:
    maps = np.array([[[1.0, 1.0, 0.9, 0.0]]], np.float32)
    foreground = np.array([0.9, 0.3, 0.9, 0.3], np.float32)
    # The second pixel is sure by its map, and neither a class nor background.
    assert labels_of(maps, foreground, np.array([0.1, 0.4, 0.1, 0.9], np.float32), quantile=0.0) == [6, 255, 255, 0]


def test_what_the_first_crf_finds_nowhere_is_nowhere_sure() -> None:
    assert labels_of(foreground=np.full(8, 0.9, np.float32)) == [6, *[255] * 7]
    assert labels_of(foreground=np.full(8, 0.1, np.float32)) == [255, 255, 255, 255, 255, 0, 255, 0]


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    count=st.integers(0, 3),
    levels=st.sampled_from([1, 2, 5, 1000]),
    background_gamma=st.sampled_from([1.0, 4.0, 32.0]),
    activation=st.sampled_from([0.0, 0.1, 0.5]),
    quantile=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
    confidence=st.sampled_from([0.0, 0.3, 0.5, 0.8]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**16),
)
def test_labels_equal_the_literal_ones(
    height: int, width: int, count: int, levels: int, dtype: type[np.floating], seed: int, **how: float
) -> None:
    rng = np.random.default_rng(seed)
    maps = (rng.integers(0, levels + 1, (count, height, width)) / levels).astype(dtype)
    # Few levels make ties; that they don't sum to 1 is nothing to the function.
    foreground, background = (rng.integers(0, levels + 1, (2, 1 + count, height, width)) / levels).astype(dtype)
    values = sorted(rng.choice(np.arange(1, 255), count, replace=False).tolist())
    labels = reliable_labels(maps, foreground, background, values, RrmSettings(foreground_gamma=4, **how))
    np.testing.assert_array_equal(labels, literal_reliable(maps, foreground, background, values, **how))


def two_colors() -> tuple[np.ndarray, np.ndarray]:
    """A red and a blue half, and a map that is strong in the middle of the right one, weak at its edge."""
    image = np.full((24, 40, 3), [200, 30, 30], np.uint8)
    image[:, 20:] = [30, 30, 200]
    maps = np.zeros((1, 24, 40), np.float32)
    maps[0, :, 20:] = 0.9 - np.abs(np.linspace(-0.5, 0.5, 20))
    return image, maps


def test_labels_are_what_the_two_crfs_and_the_maps_agree_on() -> None:
    image, maps = two_colors()
    copies = image.copy(), maps.copy()
    labels = rrm_labels(image, maps, [4], RRM, CRF)
    assert set(np.unique(labels)) == {0, 5, 255}
    assert not (labels[:, 20:] == 0).any()
    assert not (labels[:, :20] == 5).any()
    assert (labels[:, 28:32] == 5).all()
    assert (labels[:, 20:22] == 255).all()
    scores = np.stack([(1 - maps[0] / maps.max()) ** 4, maps[0] / maps.max()])
    foreground = dense_crf(image, scores / scores.sum(0), CRF)
    scores = np.stack([(1 - maps[0] / maps.max()) ** 32, maps[0] / maps.max()])
    background = dense_crf(image, scores / scores.sum(0), CRF)
    expected = reliable_labels(maps / maps.max(), foreground, background, [5], RRM)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(maps, copies[1])


@pytest.mark.parametrize("count", [0, 2])
def test_without_activations_all_is_background(count: int) -> None:
    image, _ = two_colors()
    assert not rrm_labels(image, np.zeros((count, 24, 40), np.float16), [0, 1][:count], RRM, CRF).any()


def test_one_pixel_is_unknown() -> None:
    # No activation is above itself.
    assert rrm_labels(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1, 1)), [0], RRM, CRF).tolist() == [[255]]


def test_broken_input_is_refused() -> None:
    image, maps = two_colors()
    with pytest.raises(InputError, match="disagree"):
        rrm_labels(image, maps[:, 1:], [4], RRM, CRF)
    with pytest.raises(InputError, match="ascending"):
        rrm_labels(image, maps, [-1], RRM, CRF)
    maps[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="maps hold NaN"):
        rrm_labels(image, maps, [4], RRM, CRF)
