"""The dense CRF: probabilities stay probabilities, and color edges clean up noise."""

from __future__ import annotations

import numpy as np
import pytest

from getam.crf import dense_crf
from getam.settings import CrfSettings

SETTINGS = CrfSettings(
    iterations=5, gaussian_xy=3, gaussian_weight=3, bilateral_xy=30, bilateral_rgb=5, bilateral_weight=4
)


def noisy_halves(height: int = 24, width: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A red and a blue half, their labels, and probabilities that are wrong at about one pixel in five."""
    rng = np.random.default_rng(0)
    truth = np.zeros((height, width), np.int64)
    truth[:, width // 3 :] = 1
    image = np.where(truth[..., None] == 1, [30, 30, 200], [200, 30, 30]).astype(np.uint8)
    seen = np.where(rng.random(truth.shape) < 0.2, 1 - truth, truth)
    probabilities = np.stack([np.where(seen == k, 0.7, 0.3) for k in range(2)]).astype(np.float32)
    return image, truth, probabilities


def test_a_noisy_image_of_two_colors_gets_cleaner() -> None:
    image, truth, probabilities = noisy_halves()
    before = (probabilities.argmax(0) != truth).mean()
    after = (dense_crf(image, probabilities, SETTINGS).argmax(0) != truth).mean()
    assert before > 0.15
    assert after < 0.01


def test_without_kernels_the_probabilities_stay() -> None:
    image, _, probabilities = noisy_halves()
    off = SETTINGS.model_copy(update={"gaussian_weight": 0.0, "bilateral_weight": 0.0})
    np.testing.assert_allclose(dense_crf(image, probabilities, off), probabilities, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 21])
def test_probabilities_sum_to_one(classes: int) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (17, 23, 3), np.uint8)
    probabilities = rng.dirichlet(np.ones(classes), (17, 23)).transpose(2, 0, 1).astype(np.float32)
    refined = dense_crf(image, probabilities, SETTINGS)
    assert refined.shape == (classes, 17, 23)
    assert refined.dtype == np.float32
    assert (refined >= 0).all()
    np.testing.assert_allclose(refined.sum(0), 1, atol=1e-5)


def test_inputs_are_unchanged() -> None:
    image, _, probabilities = noisy_halves()
    copies = image.copy(), probabilities.copy()
    dense_crf(image, probabilities, SETTINGS)
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(probabilities, copies[1])


def test_certain_probabilities_give_finite_ones() -> None:
    image, truth, _ = noisy_halves()
    refined = dense_crf(image, np.stack([truth == 0, truth == 1]).astype(np.float32), SETTINGS)
    assert np.isfinite(refined).all()
    np.testing.assert_array_equal(refined.argmax(0), truth)


def test_rows_and_columns_are_not_swapped() -> None:
    # Certain stripes along the rows of an image without edges: they survive only where (H, W) is kept apart.
    image = np.full((12, 30, 3), 128, np.uint8)
    truth = np.zeros((12, 30), np.int64)
    truth[6:] = 1
    probabilities = np.stack([np.where(truth == k, 0.99, 0.01) for k in range(2)]).astype(np.float32)
    weak = SETTINGS.model_copy(update={"gaussian_xy": 1.0, "bilateral_weight": 0.0})
    np.testing.assert_array_equal(dense_crf(image, probabilities, weak).argmax(0), truth)


def test_arrays_in_any_memory_order_are_taken() -> None:
    image, _, probabilities = noisy_halves()
    expected = dense_crf(image, probabilities, SETTINGS)
    np.testing.assert_allclose(
        dense_crf(np.asfortranarray(image), np.asfortranarray(probabilities), SETTINGS), expected
    )
