"""The segmentation phase's losses, by hand and against the authors' dense energy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from reference.literal_energy import literal_energy
from torch import Tensor

from getam.training import losses
from getam.training.losses import balanced_cross_entropy, dense_energy_loss, gaussian_filter, mean_where, saliency_loss


def logits_of(probabilities: list[list[float]]) -> Tensor:
    """(1, K, 1, n) logits of n pixels with these class probabilities."""
    return torch.tensor(probabilities, dtype=torch.float64).log().T[None, :, None]


def test_cross_entropy_is_the_sum_of_two_means() -> None:
    logits = logits_of([[0.5, 0.5], [0.25, 0.75], [0.2, 0.8], [0.9, 0.1], [0.3, 0.7]])
    labels = torch.tensor([[[0, 0, 1, 255, 0]]])
    expected = -math.log(0.8) - (math.log(0.5) + math.log(0.25) + math.log(0.3)) / 3
    assert balanced_cross_entropy(logits, labels).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([0, 255], -math.log(0.5)), ([255, 1], -math.log(0.75)), ([255, 255], 0.0)],
)
def test_cross_entropy_of_no_pixels_is_zero(labels: list[int], expected: float) -> None:
    logits = logits_of([[0.5, 0.5], [0.25, 0.75]]).requires_grad_()
    loss = balanced_cross_entropy(logits, torch.tensor([[labels]]))
    loss.backward()
    assert loss.item() == pytest.approx(expected)
    assert logits.grad is not None
    unknown = torch.tensor(labels) == 255
    assert logits.grad[..., unknown].eq(0).all()
    assert logits.grad[..., ~unknown].ne(0).all()


def test_saliency_trains_salient_pixels_away_from_the_background() -> None:
    logits = logits_of([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]]).requires_grad_()
    loss = saliency_loss(logits, torch.tensor([[[0, 1]]], dtype=torch.uint8))
    loss.backward()
    assert loss.item() == pytest.approx(-0.1 * (math.log(0.5) + math.log(0.9)) / 2)
    assert logits.grad is not None
    # Descent raises the background where nothing is salient, and lowers it where something is.
    assert logits.grad[0, 0, 0, 0] < 0 < logits.grad[0, 0, 0, 1]


def test_saliency_loss_survives_saturation() -> None:
    logits = torch.tensor([200.0, 0.0, 0.0]).view(1, 3, 1, 1).requires_grad_()
    loss = saliency_loss(logits, torch.ones(1, 1, 1), weight=1.0)
    loss.backward()
    # -log(1 - p_background) = log(e^200 + 2) - log 2, where 1 - softmax is zero in float32.
    assert loss.item() == pytest.approx(200 - math.log(2), rel=1e-6)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([1.0, -0.5, -0.5]))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(half: torch.dtype) -> None:
    logits = torch.randn(1, 3, 4, 4).to(half)
    labels = torch.arange(16).view(1, 4, 4) % 3
    assert torch.equal(balanced_cross_entropy(logits, labels), balanced_cross_entropy(logits.float(), labels))
    assert torch.equal(saliency_loss(logits, labels > 0), saliency_loss(logits.float(), labels > 0))
    images, probabilities = torch.zeros(1, 3, 4, 4), logits.softmax(dim=1)
    expected = dense_energy_loss(images, probabilities.float(), labels)
    assert torch.equal(dense_energy_loss(images, probabilities, labels), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(dense_energy_loss(images, probabilities, labels), expected)


def test_energy_of_two_pixels_by_hand() -> None:
    images = torch.tensor([[0.0, 15.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64).view(1, 3, 1, 2)
    probabilities = torch.tensor([[0.9, 0.4], [0.1, 0.6]], dtype=torch.float64).view(1, 2, 1, 2).requires_grad_()
    labels = torch.tensor([[[0, 255]]])
    loss = dense_energy_loss(images, probabilities, labels, sigma_rgb=15, sigma_xy=2, scale=1, weight=1)
    loss.backward()
    # One width apart in color, half a width in position; the gates are 1 - 0.9 and, unknown, 1.
    k = math.exp(-0.5 - 0.125)
    same, cross, other = 0.9**2 + 0.1**2, 0.9 * 0.4 + 0.1 * 0.6, 0.4**2 + 0.6**2
    assert loss.item() == pytest.approx(-(0.1 * (same + k * cross) + 1 * (other + k * cross)))
    assert probabilities.grad is not None
    first = [-2 * 0.1 * (0.9 + k * 0.4), -2 * 0.1 * (0.1 + k * 0.6)]
    unknown = [-2 * (0.4 + k * 0.9), -2 * (0.6 + k * 0.1)]
    expected = torch.tensor([first, unknown], dtype=torch.float64).T.view(1, 2, 1, 2)
    torch.testing.assert_close(probabilities.grad, expected)


def test_padding_neither_pulls_nor_is_pulled() -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, 4, 6).double() * 255
    probabilities = torch.randn(1, 3, 4, 6).double().softmax(dim=1).requires_grad_()
    labels = torch.full((1, 4, 6), 255)
    region = torch.ones(1, 4, 6).double()
    region[..., 4:] = 0
    padded = dense_energy_loss(images, probabilities, labels, region, scale=1, weight=1)
    padded.backward()
    assert probabilities.grad is not None
    assert probabilities.grad[..., 4:].eq(0).all()
    cropped = dense_energy_loss(images[..., :4], probabilities[..., :4], labels[..., :4], scale=1, weight=1).item()
    assert padded.item() == pytest.approx(cropped, rel=1e-12)


def test_filter_in_tiles_equals_the_full_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    features, values = torch.randn(2, 11, 5) + 20, torch.rand(2, 3, 11)
    kernel = torch.exp(-torch.cdist(features.double(), features.double()).square() / 2)
    expected = (values.double() @ kernel).float()
    for tile in (1, 4, 11, 384):
        monkeypatch.setattr(losses, "CPU_TILE", tile)
        torch.testing.assert_close(gaussian_filter(features, values), expected, rtol=1e-6, atol=1e-6)


def test_pixels_far_apart_do_not_touch() -> None:
    features = torch.tensor([[[0.0], [1e3], [1e3]]])
    values = torch.tensor([[[1.0, 2.0, 4.0]]])
    torch.testing.assert_close(gaussian_filter(features, values), torch.tensor([[[1.0, 6.0, 6.0]]]))


def energy_case(case: str, reference: Callable[[str], dict[str, np.ndarray]]) -> tuple[list[Tensor], dict[str, float]]:
    """Images, probabilities, labels, region and the parameters: a recorded case, or a random one with padding."""
    if case == "random":
        generator = torch.Generator().manual_seed(0)
        region = torch.ones(2, 20, 24)
        region[:, :, 19:] = 0
        labels = torch.randint(0, 5, (2, 20, 24), generator=generator)
        labels[labels == 4] = 255
        probabilities = (3 * torch.randn(2, 6, 20, 24, generator=generator)).softmax(1)
        images = torch.randint(0, 256, (2, 3, 20, 24), generator=generator).float()
        return [images, probabilities, labels, region], {"sigma_rgb": 40, "sigma_xy": 7, "scale": 1.0, "weight": 1e-3}
    arrays = reference("energy_loss.npz")
    names = ("weight", "sigma_rgb", "sigma_xy", "scale")
    return [
        torch.from_numpy(arrays[f"{case}/image"]),
        torch.from_numpy(arrays[f"{case}/logits"]).softmax(1),
        torch.from_numpy(arrays[f"{case}/seg_label"]).squeeze(1).long(),
        torch.from_numpy(arrays[f"{case}/croppings"]),
    ], dict(zip(names, arrays[f"{case}/params"].tolist(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", ["0", "1", "random"])
def test_energy_and_its_gradient_are_exact(
    case: str, dtype: torch.dtype, reference: Callable[[str], dict[str, np.ndarray]]
) -> None:
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-10}[dtype]
    (images, probabilities, labels, region), parameters = energy_case(case, reference)
    expected, slope = literal_energy(images, probabilities, labels, region, **parameters)
    given = probabilities.to(dtype).requires_grad_()
    loss = dense_energy_loss(images, given, labels, region, **parameters)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=tolerance)
    assert given.grad is not None
    assert (given.grad - slope).abs().max() <= tolerance * slope.abs().max()


@pytest.mark.parametrize(
    ("case", "energy", "length", "correlation"), [("0", 2.002, 1.959, 0.99), ("1", 2.215, 2.140, 0.98)]
)
def test_distance_to_the_authors_approximation(
    case: str, energy: float, length: float, correlation: float, reference: Callable[[str], dict[str, np.ndarray]]
) -> None:
    """Their lattice yields about half of the exact energy: the gradient's direction agrees, its length does not."""
    (images, probabilities, labels, region), parameters = energy_case(case, reference)
    arrays = reference("energy_loss.npz")
    given = probabilities.requires_grad_()
    loss = dense_energy_loss(images, given, labels, region, **parameters)
    loss.backward()
    assert loss.item() == pytest.approx(arrays[f"{case}/ref/loss_exact_gaussian"].item(), rel=1e-5)
    assert loss.item() / arrays[f"{case}/ref/loss"].item() == pytest.approx(energy, abs=1e-3)
    lattice = arrays[f"{case}/ref/grad_probs"]
    assert given.grad is not None
    found = given.grad.numpy()
    assert np.linalg.norm(found) / np.linalg.norm(lattice) == pytest.approx(length, abs=0.01)
    assert np.corrcoef(found.ravel(), lattice.ravel())[0, 1] > correlation


@pytest.mark.parametrize("counts", [(3, 1), (4, 0), (0, 0)])
def test_synchronized_losses_average_to_the_whole_batchs(
    counts: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.rand(2, 4)
    selected = torch.arange(4) < torch.tensor(counts)[:, None]
    monkeypatch.setattr(losses, "mean_over_processes", lambda count: torch.tensor(sum(counts) / 2))
    shares = [mean_where(values[p], selected[p], synchronize=True) for p in (0, 1)]
    torch.testing.assert_close(sum(shares) / 2, mean_where(values, selected))
