"""PAMR against the authors' arrays, pixel by pixel, and where nothing is left to refine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.literal_pamr import literal_pamr
from torch import Tensor
from torch.nn import functional as F

from getam.maps.pamr import DILATIONS, NEIGHBORS, _affinity, normalize, pamr

Arrays = Callable[[str], dict[str, np.ndarray]]


@pytest.mark.parametrize(
    ("key", "options", "upsampled"),
    [
        ("out1", {"iterations": 1}, False),
        ("out10", {}, False),
        ("out10_same_size", {}, True),
        ("out10_dil12", {"dilations": (1, 2)}, False),
        ("up", {"iterations": 0}, False),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pamr_equals_the_authors(
    key: str, options: dict[str, object], upsampled: bool, dtype: torch.dtype, reference: Arrays
) -> None:
    arrays = {name: torch.from_numpy(array) for name, array in reference("pamr.npz").items() if array.dtype.kind == "f"}
    masks = (arrays["ref/up"] if upsampled else arrays["mask"]).to(dtype)
    found = pamr(arrays["image"].to(dtype), masks, **options)
    assert found.dtype == dtype
    assert (found - arrays[f"ref/{key}"]).abs().max() <= 1e-5


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    dilations=st.sampled_from([(1,), (2,), (1, 2), (1, 6), (3, 1)]),
    iterations=st.integers(1, 2),
    levels=st.sampled_from([2, 4, 256]),
    seed=st.integers(0, 2**16),
)
def test_pamr_equals_the_literal_equation(
    height: int, width: int, dilations: tuple[int, ...], iterations: int, levels: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, levels, (3, height, width)) * (255 // (levels - 1))
    masks = rng.random((2, height, width))
    found = pamr(
        torch.from_numpy(image)[None].double(),
        torch.from_numpy(masks)[None],
        iterations=iterations,
        dilations=dilations,
    )
    expected = literal_pamr(image, masks, iterations=iterations, dilations=dilations)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("level", [0.0, 17.3, 255.0])
def test_a_constant_image_gives_the_plain_mean_of_the_neighbors(level: float) -> None:
    masks = torch.rand(1, 2, 6, 7, generator=torch.Generator().manual_seed(0))
    kernel = torch.full((2, 1, 3, 3), 1 / 8)
    kernel[..., 1, 1] = 0
    expected = F.conv2d(F.pad(masks, (1, 1, 1, 1), mode="replicate"), kernel, groups=2)
    found = pamr(torch.full((1, 3, 6, 7), level), masks, iterations=1, dilations=(1,))
    torch.testing.assert_close(found, expected)


def test_a_color_edge_stops_the_spreading() -> None:
    image = torch.zeros(1, 3, 8, 8)
    image[..., 4:] = 255
    masks = torch.zeros(1, 1, 8, 8)
    masks[..., 2:6, 1:3] = 1
    found = pamr(image, masks)
    same_side, other_side = found[0, 0, :, :4], found[0, 0, :, 4:]
    assert same_side.min() > 100 * other_side.max()


def test_images_of_a_batch_are_refined_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    images = 255 * torch.rand(3, 3, 5, 6, generator=generator)
    masks = torch.rand(3, 2, 2, 3, generator=generator)
    together = pamr(images, masks)
    for b in range(3):
        torch.testing.assert_close(together[b : b + 1], pamr(images[b : b + 1], masks[b : b + 1]))


def test_values_stay_within_the_masks_range() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(1, 3, 4, 4, generator=generator) * 5 - 2
    found = pamr(255 * torch.rand(1, 3, 20, 30, generator=generator), masks)
    assert found.shape == (1, 3, 20, 30)
    assert found.min() >= masks.min()
    assert found.max() <= masks.max()


@pytest.mark.parametrize("size", [(3, 4), (6, 8)])
@pytest.mark.parametrize("iterations", [0, 2])
def test_inputs_are_unchanged(size: tuple[int, int], iterations: int) -> None:
    image, masks = 255 * torch.rand(1, 3, 6, 8), torch.rand(1, 2, *size)
    copies = image.clone(), masks.clone()
    found = pamr(image, masks, iterations=iterations)
    found.zero_()
    assert torch.equal(image, copies[0])
    assert torch.equal(masks, copies[1])


def test_an_image_of_integers_is_taken_as_it_is() -> None:
    image = torch.randint(0, 256, (1, 3, 6, 8), dtype=torch.uint8)
    masks = torch.rand(1, 2, 3, 4)
    assert torch.equal(pamr(image, masks), pamr(image.float(), masks))


@pytest.mark.parametrize("iterations", [0, 10])
@pytest.mark.parametrize("size", [(2, 2), (4, 5)])
def test_no_classes_give_no_masks_at_full_size(size: tuple[int, int], iterations: int) -> None:
    found = pamr(torch.rand(2, 3, 4, 5), torch.zeros(2, 0, *size), iterations=iterations)
    assert found.shape == (2, 0, 4, 5)


def test_one_pixel_keeps_its_value() -> None:
    masks = torch.tensor([0.3, 7.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(pamr(torch.full((1, 3, 1, 1), 200.0), masks), masks)


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        ([[[1.0, 2.0], [4.0, 0.0]]], [[[0.25, 0.5], [1.0, 0.0]]]),
        ([[[0.0, 0.0]], [[0.0, 5.0]]], [[[0.0, 0.0]], [[0.0, 1.0]]]),
        ([[[-1.0, 2.0]], [[-1.0, -3.0]]], [[[0.0, 1.0]], [[0.0, 0.0]]]),
        # Raw maps of a fresh network are tiny: nothing may be added to the maximum.
        ([[[1e-30, 5e-31]]], [[[1.0, 0.5]]]),
    ],
)
def test_normalize_divides_each_mask_by_its_maximum(masks: list[list[list[float]]], expected: Tensor) -> None:
    masks_before = torch.tensor(masks)
    given_masks = masks_before.clone()
    torch.testing.assert_close(normalize(given_masks), torch.tensor(expected))
    assert torch.equal(given_masks, masks_before)


def test_normalize_takes_no_masks() -> None:
    assert normalize(torch.zeros(2, 0, 4, 5)).shape == (2, 0, 4, 5)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, most: float) -> None:
    generator = torch.Generator().manual_seed(0)
    image, masks = 255 * torch.rand(1, 3, 20, 30, generator=generator), torch.rand(1, 2, 5, 6, generator=generator)
    found = pamr(image, masks.to(dtype))
    assert found.dtype == dtype
    assert (found.float() - pamr(image, masks.to(dtype).float())).abs().max() <= most


def test_the_affinity_equals_the_authors(reference: Arrays) -> None:
    arrays = reference("pamr.npz")
    offsets = [(dy * d, dx * d) for d in DILATIONS for dy, dx in NEIGHBORS]
    image = torch.from_numpy(arrays["image"]).double()
    found = _affinity(image, offsets, reach=max(DILATIONS), copies=len(DILATIONS))
    assert (found[1] - torch.from_numpy(arrays["ref/affinity_image1"])).abs().max() <= 1e-6


def test_nan_stays_nan() -> None:
    masks = torch.tensor([[[1.0, torch.nan]], [[2.0, 4.0]]])
    assert normalize(masks)[0].isnan().any()
    assert normalize(masks)[1].tolist() == [[0.5, 1.0]]
