"""The dense CRF: probabilities stay probabilities, color edges clean up noise, labels come from maps."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest
from support.crf import NEEDS_PYDENSECRF, without_pydensecrf

from getam.errors import InputError
from getam.labels.crf import crf_labels, dense_crf, with_known_backend
from getam.settings.crf import CrfSettings

SETTINGS = CrfSettings(
    iterations=5, gaussian_xy=3, gaussian_weight=3, bilateral_xy=30, bilateral_rgb=5, bilateral_weight=4, backend="auto"
)
NO_KERNELS = {"gaussian_weight": 0.0, "bilateral_weight": 0.0}


@pytest.fixture(params=[pytest.param("pydensecrf", marks=NEEDS_PYDENSECRF), "torch"])
def settings(request: pytest.FixtureRequest) -> CrfSettings:
    return SETTINGS.model_copy(update={"backend": request.param})


def noisy_halves(height: int = 24, width: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A red and a blue half, their labels, and probabilities that are wrong at about one pixel in five."""
    rng = np.random.default_rng(0)
    truth = np.zeros((height, width), np.int64)
    truth[:, width // 3 :] = 1
    image = np.where(truth[..., None] == 1, [30, 30, 200], [200, 30, 30]).astype(np.uint8)
    seen = np.where(rng.random(truth.shape) < 0.2, 1 - truth, truth)
    probabilities = np.stack([np.where(seen == k, 0.7, 0.3) for k in range(2)]).astype(np.float32)
    return image, truth, probabilities


def test_a_noisy_image_of_two_colors_gets_cleaner(settings: CrfSettings) -> None:
    image, truth, probabilities = noisy_halves()
    before = (probabilities.argmax(0) != truth).mean()
    after = (dense_crf(image, probabilities, settings).argmax(0) != truth).mean()
    assert before > 0.15
    assert after < 0.01


def test_without_kernels_the_probabilities_stay(settings: CrfSettings) -> None:
    image, _, probabilities = noisy_halves()
    off = settings.model_copy(update=NO_KERNELS)
    np.testing.assert_allclose(dense_crf(image, probabilities, off), probabilities, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 21])
def test_probabilities_sum_to_one(classes: int, settings: CrfSettings) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (17, 23, 3), np.uint8)
    probabilities = rng.dirichlet(np.ones(classes), (17, 23)).transpose(2, 0, 1).astype(np.float32)
    refined = dense_crf(image, probabilities, settings)
    assert refined.shape == (classes, 17, 23)
    assert refined.dtype == np.float32
    assert (refined >= 0).all()
    np.testing.assert_allclose(refined.sum(0), 1, atol=1e-5)


def test_inputs_are_unchanged(settings: CrfSettings) -> None:
    image, _, probabilities = noisy_halves()
    copies = image.copy(), probabilities.copy()
    dense_crf(image, probabilities, settings)
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(probabilities, copies[1])


def test_certain_probabilities_give_finite_ones(settings: CrfSettings) -> None:
    image, truth, _ = noisy_halves()
    refined = dense_crf(image, np.stack([truth == 0, truth == 1]).astype(np.float32), settings)
    assert np.isfinite(refined).all()
    np.testing.assert_array_equal(refined.argmax(0), truth)


def test_rows_and_columns_are_not_swapped(settings: CrfSettings) -> None:
    # Certain stripes along the rows of an image without edges: they survive only where (H, W) is kept apart.
    image = np.full((12, 30, 3), 128, np.uint8)
    truth = np.zeros((12, 30), np.int64)
    truth[6:] = 1
    probabilities = np.stack([np.where(truth == k, 0.99, 0.01) for k in range(2)]).astype(np.float32)
    weak = settings.model_copy(update={"gaussian_xy": 1.0, "bilateral_weight": 0.0})
    np.testing.assert_array_equal(dense_crf(image, probabilities, weak).argmax(0), truth)


def test_arrays_in_any_memory_order_are_taken(settings: CrfSettings) -> None:
    image, _, probabilities = noisy_halves()
    expected = dense_crf(image, probabilities, settings)
    np.testing.assert_allclose(
        dense_crf(np.asfortranarray(image), np.asfortranarray(probabilities), settings), expected
    )


def test_labels_by_hand_without_kernels(settings: CrfSettings) -> None:
    off = settings.model_copy(update=NO_KERNELS)
    # Divided by 2 and 0.5; the background is (1 - max)^2: 1, 0.25, 0.16, 0.81 and 0.
    maps = np.array([[[0.0, 1.0, 1.2, 0.2, 0.4]], [[0.0, 0.2, 0.2, 0.02, 0.5]]], np.float32) * [[[5]], [[1]]]
    maps[0, 0, 4] = 10
    image = np.zeros((1, 5, 3), np.uint8)
    labels = crf_labels(image, maps, [2, 7], off, gamma=2)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[0, 3, 3, 0, 3]]
    # The labels' probabilities: 1/1, 0.5/1.15, 0.6/1.16, 0.81/0.95 and 1/2.
    sure = crf_labels(image, maps, [2, 7], off, gamma=2, confidence=0.51)
    assert sure.tolist() == [[0, 255, 3, 0, 255]]
    # At gamma 1 a score of 0.5 ties with the background, which comes first.
    assert crf_labels(image, maps, [2, 7], off, gamma=1).tolist() == [[0, 0, 3, 0, 3]]


def test_labels_follow_the_colors(settings: CrfSettings) -> None:
    image, truth, probabilities = noisy_halves()
    maps = probabilities[1:].copy()
    maps[0, -1, -1] = 1  # the others stay uncertain
    copies = image.copy(), maps.copy()
    labels = crf_labels(image, maps, [4], settings, gamma=1)
    assert set(np.unique(labels)) == {0, 5}
    assert ((labels == 5) != (truth == 1)).mean() < 0.01
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(maps, copies[1])
    half = maps.astype(np.float16)
    np.testing.assert_array_equal(crf_labels(image, half, [4], settings, gamma=1), labels)


@pytest.mark.parametrize("count", [0, 2])
def test_without_activations_all_is_background(count: int, settings: CrfSettings) -> None:
    image, truth, _ = noisy_halves()
    maps = np.zeros((count, *truth.shape), np.float32)
    assert not crf_labels(image, maps, [0, 253][:count], settings, gamma=32).any()


def test_labels_of_one_pixel(settings: CrfSettings) -> None:
    image = np.zeros((1, 1, 3), np.uint8)
    assert crf_labels(image, np.full((1, 1, 1), 0.2), [253], settings, gamma=32).tolist() == [[254]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1])
def test_labels_of_broken_maps_are_refused(value: float, settings: CrfSettings) -> None:
    with pytest.raises(InputError, match="maps hold NaN"):
        crf_labels(np.zeros((1, 2, 3), np.uint8), np.array([[[value, 1.0]]]), [0], settings, gamma=32)


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((1, 2, 3), [0], r"image \(2, 4\) disagree"),
        ((1, 2, 4), [0, 1], "2 classes"),
        ((2, 4), [0], "disagree"),
        ((2, 2, 4), [1, 1], "ascending"),
        ((1, 2, 4), [254], "from 0 to 253"),
    ],
)
def test_labels_of_what_disagrees_are_refused(
    shape: tuple[int, ...], classes: list[int], message: str, settings: CrfSettings
) -> None:
    with pytest.raises(InputError, match=message):
        crf_labels(np.zeros((2, 4, 3), np.uint8), np.ones(shape), classes, settings, gamma=32)


def test_worker_processes_need_no_torch() -> None:
    code = "import sys, getam.stages.complete_labels; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# Backends


@NEEDS_PYDENSECRF
def test_auto_is_pydensecrf_where_it_is_installed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert with_known_backend(SETTINGS) == SETTINGS.model_copy(update={"backend": "pydensecrf"})
    assert caplog.messages == ["dense CRF by pydensecrf"]
    image, _, probabilities = noisy_halves()
    expected = dense_crf(image, probabilities, SETTINGS.model_copy(update={"backend": "pydensecrf"}))
    assert dense_crf(image, probabilities, SETTINGS).tobytes() == expected.tobytes()


def test_auto_is_torch_where_pydensecrf_is_missing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pydensecrf(monkeypatch)
    caplog.set_level(logging.INFO)
    by_torch = SETTINGS.model_copy(update={"backend": "torch"})
    assert with_known_backend(SETTINGS) == with_known_backend(by_torch) == by_torch
    assert caplog.messages == [
        "dense CRF by torch, which crf.backend: auto takes where pydensecrf is not installed",
        "dense CRF by torch",
    ]
    image, _, probabilities = noisy_halves()
    expected = dense_crf(image, probabilities, by_torch)
    assert dense_crf(image, probabilities, SETTINGS).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("version", "cure"),
    [
        ((3, 12, 1), "install it by pip install 'getam[crf]', which takes a C++ compiler, or write torch"),
        ((3, 13, 0), "use Python 3.12 or write torch"),
    ],
)
def test_pydensecrf_that_is_missing_is_refused_with_a_cure(
    version: tuple[int, ...], cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pydensecrf(monkeypatch)
    monkeypatch.setattr(sys, "version_info", version)
    by_it = SETTINGS.model_copy(update={"backend": "pydensecrf"})
    image, _, probabilities = noisy_halves()
    for refused in (lambda: with_known_backend(by_it), lambda: dense_crf(image, probabilities, by_it)):
        with pytest.raises(InputError, match=r"crf\.backend: pydensecrf can't be imported") as error:
            refused()
        assert cure in str(error.value)
