"""Labels by two background scores, pixel by pixel and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError
from reference.literal_bands import literal_bands

from getam.errors import InputError
from getam.labels.bands import band_labels
from getam.labels.methods import make_labels
from getam.maps.pamr import normalize, pamr
from getam.settings.completion import BandSettings, LabelSettings
from getam.settings.config import Config


def test_by_hand() -> None:
    maps = np.array([[[10.0, 5.0, 2.5, 0.0, 4.0]], [[0.0, 0.1, 0.2, 0.1, 0.2]]])
    # Divided by their maxima: 1, 0.5, 0.25, 0, 0.4 and 0, 0.5, 1, 0.5, 1; of 0.5 and 0.5 neither is above 0.5.
    labels = band_labels(maps, [2, 7], high=0.5, low=0.25)
    assert labels.tolist() == [[3, 255, 8, 255, 8]]
    assert labels.dtype == np.uint8
    assert band_labels(maps[:1], [2], high=0.4, low=0.25).tolist() == [[3, 3, 0, 0, 255]]
    assert band_labels(maps[:1], [2], high=0.4, low=0.4).tolist() == [[3, 3, 0, 0, 0]]
    # Where two classes are alike, the first wins.
    assert band_labels(np.ones((2, 1, 1)), [0, 3], high=0.5, low=0).tolist() == [[1]]


def test_a_map_of_zeros_and_no_class_are_background() -> None:
    assert band_labels(np.zeros((1, 2, 2)), [4], high=0.5, low=0.2).tolist() == [[0, 0], [0, 0]]
    assert band_labels(np.zeros((0, 2, 2)), [], high=0.5, low=0.2).tolist() == [[0, 0], [0, 0]]


@given(
    maps=arrays.arrays(
        np.float64, st.tuples(st.integers(1, 3), st.just(2), st.just(3)), elements=st.sampled_from([0, 0.2, 0.5, 1, 3])
    ),
    scores=st.tuples(*[st.sampled_from([0, 0.2, 0.25, 0.5, 0.7, 1])] * 2).map(sorted),
)
def test_it_is_the_literal_rule(maps: np.ndarray, scores: list[float]) -> None:
    low, high = scores
    classes = [1, 4, 9][: len(maps)]
    expected = literal_bands(maps, classes, high, low)
    before = maps.copy()
    np.testing.assert_array_equal(band_labels(maps, classes, high=high, low=low), expected)
    np.testing.assert_array_equal(band_labels(torch.from_numpy(maps), classes, high=high, low=low), expected)
    np.testing.assert_array_equal(maps, before)


def test_refining_the_maps_is_refining_the_stack_with_its_background() -> None:
    torch.manual_seed(0)
    image, maps = 255 * torch.rand(1, 3, 24, 24), torch.rand(1, 2, 6, 6) ** 3
    maps = normalize(maps)
    for beta in (0.25, 0.6):
        stack = torch.cat([torch.full((1, 1, 6, 6), beta), maps], dim=1)
        refined = pamr(image, stack)[0]
        own = pamr(image, maps)[0]
        torch.testing.assert_close(refined[1:], own)
        torch.testing.assert_close(refined[0], torch.full((24, 24), beta))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -1.0])
def test_broken_maps_are_refused(broken: float) -> None:
    maps = np.ones((1, 2, 2))
    maps[0, 1, 1] = broken
    with pytest.raises(InputError, match="NaN, infinite or negative"):
        band_labels(maps, [0], high=0.5, low=0.2)


def test_a_low_score_above_the_high_one_is_refused() -> None:
    with pytest.raises(InputError, match=r"bands: low 0\.6 is above high 0\.5"):
        band_labels(np.ones((1, 2, 2)), [0], high=0.5, low=0.6)
    with pytest.raises(ValidationError, match=r"low: 0\.6 is above high 0\.5"):
        BandSettings(high=0.5, low=0.6)


def test_the_method_reads_maps_alone(config: Config) -> None:
    values = config.completion.model_dump() | {"method": "bands", "bands": {"high": 0.7, "low": 0.1}}
    settings = LabelSettings.model_validate({name: values[name] for name in LabelSettings.model_fields})
    assert not settings.needs_saliency
    maps = np.array([[[1.0, 0.5, 0.05]]])
    assert make_labels(maps, [3], settings=settings).tolist() == [[4, 255, 0]]
    assert make_labels(torch.from_numpy(maps), [3], settings=settings).tolist() == [[4, 255, 0]]
