"""The dense CRF by torch: beside literal lattices, beside whole Gaussian kernels, and beside pydensecrf."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import literal_crf
from support.crf import NEEDS_PYDENSECRF

from getam.errors import InputError
from getam.labels.crf import dense_crf
from getam.labels.mean_field import mean_field
from getam.settings.crf import CrfSettings

SETTINGS = CrfSettings(
    iterations=5,
    gaussian_xy=2.3,
    gaussian_weight=2,
    bilateral_xy=6.1,
    bilateral_rgb=19.7,
    bilateral_weight=3,
    backend="torch",
)


def drawn(height: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) of two textured regions, and probabilities (K, H, W) that follow neither of them."""
    rng = np.random.default_rng(seed)
    right = np.arange(width) + 3 * np.sin(np.arange(height)[:, None]) > width / 2
    color = np.where(right[..., None], [200, 90, 40], [60, 120, 160]) + rng.normal(0, 6, (height, width, 3))
    coarse = torch.from_numpy(rng.normal(0, 2, (1, classes, 4, 5))).float()
    probabilities = F.interpolate(coarse, size=(height, width), mode="bicubic").softmax(1)[0]
    return color.clip(0, 255).astype(np.uint8), probabilities.numpy()


def refined(image: np.ndarray, probabilities: np.ndarray, settings: CrfSettings = SETTINGS) -> np.ndarray:
    return mean_field(torch.from_numpy(image), torch.from_numpy(probabilities), settings).numpy()


def literally(image: np.ndarray, probabilities: np.ndarray, settings: CrfSettings, *, lattice: bool) -> np.ndarray:
    make = literal_crf.lattice_kernel if lattice else literal_crf.gaussian_kernel
    kernels = [
        (settings.gaussian_weight, make(literal_crf.features(image, settings.gaussian_xy))),
        (
            settings.bilateral_weight,
            make(literal_crf.features(image, settings.bilateral_xy, settings.bilateral_rgb)),
        ),
    ]
    flat = probabilities.reshape(len(probabilities), -1)
    return literal_crf.mean_field(flat, kernels, settings.iterations).reshape(probabilities.shape)


# Each class count takes another path: the classes of a pixel are few, or fill a vector of the processor.
@pytest.mark.parametrize("classes", [1, 2, 5, 21])
def test_lattices_are_those_of_the_literal_version(classes: int) -> None:
    image, probabilities = drawn(11, 14, classes)
    expected = literally(image, probabilities, SETTINGS, lattice=True)
    # float32 beside float64: 1e-6 of each of the sums over pixels and iterations, which a softmax takes times 5.
    np.testing.assert_allclose(refined(image, probabilities), expected, rtol=0, atol=2e-5)


def test_kernels_are_near_gaussians() -> None:
    image, probabilities = drawn(16, 20, 3)
    found = refined(image, probabilities)
    expected = literally(image, probabilities, SETTINGS, lattice=False)
    # The lattice's kernel is broader in some directions than in others; a wrong one is off by the CRF's whole effect.
    assert (found.argmax(0) == expected.argmax(0)).mean() > 0.95
    assert np.abs(found - expected).max() < 0.15 < 0.5 < np.abs(found - probabilities).max()


@NEEDS_PYDENSECRF
@pytest.mark.parametrize(
    ("size", "classes", "changes"),
    [
        ((40, 60), 2, {}),
        ((33, 47), 3, {"iterations": 10}),
        ((60, 40), 21, {"bilateral_rgb": 5.0, "gaussian_xy": 1.0}),
        ((24, 32), 81, {"bilateral_xy": 80.0}),
        ((1, 50), 2, {}),
        ((5, 1), 2, {"iterations": 0}),
    ],
)
def test_probabilities_are_pydensecrfs(size: tuple[int, int], classes: int, changes: dict[str, float]) -> None:
    image, probabilities = drawn(*size, classes)
    settings = SETTINGS.model_copy(update=changes)
    found = refined(image, probabilities, settings)
    expected = dense_crf(image, probabilities, settings.model_copy(update={"backend": "pydensecrf"}))
    # Both compute in float32; what is measured is 2e-6.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert (found.argmax(0) == expected.argmax(0)).mean() > 0.99


def test_a_color_edge_far_away_changes_nothing_and_a_near_one_does() -> None:
    # Uncertain pixels take the label of sure ones of their color, across any distance that bilateral_xy spans.
    image = np.full((6, 40, 3), 100, np.uint8)
    image[:, 20:] = 180
    probabilities = np.full((2, 6, 40), 0.5, np.float32)
    probabilities[:, :, :5] = np.array([0.95, 0.05])[:, None, None]
    settings = SETTINGS.model_copy(update={"bilateral_xy": 30.0, "gaussian_weight": 0.0})
    found = refined(image, probabilities, settings)[0]
    assert (found[:, :20] > 0.8).all()
    assert (np.abs(found[:, 20:] - 0.5) < 0.05).all()


def test_the_same_image_twice_gives_the_same_bytes() -> None:
    image, probabilities = drawn(40, 60, 5)
    assert refined(image, probabilities).tobytes() == refined(image, probabilities).tobytes()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("classes", [2, 21])
def test_a_gpu_gives_the_same_probabilities(classes: int) -> None:
    image, probabilities = drawn(40, 60, classes)
    found = mean_field(torch.from_numpy(image).cuda(), torch.from_numpy(probabilities).cuda(), SETTINGS)
    assert found.is_cuda
    np.testing.assert_allclose(found.cpu().numpy(), refined(image, probabilities), rtol=0, atol=1e-4)


def test_kernels_too_narrow_for_the_image_are_refused() -> None:
    image, probabilities = drawn(11, 14, 2)
    with pytest.raises(InputError, match="write larger ones in gaussian_xy"):
        refined(image, probabilities, SETTINGS.model_copy(update={"bilateral_rgb": 1e-3}))
