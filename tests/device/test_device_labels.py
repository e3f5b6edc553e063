"""Label methods and the dense CRF on the simulated device: the CPU's labels, and how often it is waited for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.simulated_cuda import simulated_cuda

from getam.errors import InputError
from getam.labels.bands import band_labels
from getam.labels.completion import complete_labels
from getam.labels.mean_field import mean_field
from getam.settings.config import Config

CLASSES = [1, 4]
COMPLETIONS: dict[str, dict[str, Any]] = {
    "quantiles": {"alpha": 0.7},
    "nothing is mined": {"alpha": 1.0},
    "everything is mined": {"alpha": 0.0},
    "lowest": {"alpha": 0.7, "conflict": "lowest", "epsilon": 1e-5},
    "opening": {"alpha": 0.7, "opening": 3},
    "released opening": {"alpha": 0.7, "opening": "released"},
}


def maps_of() -> torch.Tensor:
    """Two maps (2, 24, 36) of squares of 12 pixels, half of them zero, and noise."""
    generator = torch.Generator().manual_seed(2)
    squares = torch.randn(2, 2, 3, generator=generator).repeat_interleave(12, 1).repeat_interleave(12, 2)
    return (squares + 0.01 * torch.randn(2, 24, 36, generator=generator)).relu()


@pytest.mark.parametrize("name", COMPLETIONS)
def test_completion(name: str) -> None:
    maps = maps_of()
    saliency = torch.zeros(24, 36, dtype=torch.bool)
    saliency[:, 10:30] = True
    how = {"gamma": 4.0} | COMPLETIONS[name]
    expected = complete_labels(maps, CLASSES, saliency, **how)
    assert len(expected.unique()) > 1
    with simulated_cuda() as device:
        maps, saliency = maps.to("cuda"), saliency.to("cuda")
        device.forget()
        found = complete_labels(maps, CLASSES, saliency, **how, check=False)
        assert not device.waits
        assert found.is_cuda
        assert torch.equal(found.cpu(), expected)
        device.forget()
        assert torch.equal(complete_labels(maps, CLASSES, saliency, **how).cpu(), expected)
        assert device.waits == {"_local_scalar_dense": 1, "download": 1}, "the check, and the test's own"
        with pytest.raises(InputError, match="hold NaN"):
            complete_labels(maps * torch.nan, CLASSES, saliency, **how)


def test_a_map_of_zeros_mines_nothing() -> None:
    maps, saliency = torch.zeros(1, 4, 4), torch.zeros(4, 4, dtype=torch.uint8)
    with simulated_cuda():
        labels = complete_labels(maps.to("cuda"), [2], saliency.to("cuda"), alpha=0.0, gamma=4.0)
        assert not labels.cpu().any()


def test_bands() -> None:
    maps = maps_of()
    expected = band_labels(maps, CLASSES, high=0.6, low=0.3)
    with simulated_cuda() as device:
        maps = maps.to("cuda")
        device.forget()
        found = band_labels(maps, CLASSES, high=0.6, low=0.3, check=False)
        assert not device.waits
        assert found.is_cuda
        assert torch.equal(found.cpu(), expected)
        with pytest.raises(InputError, match="hold NaN"):
            band_labels(-maps, CLASSES, high=0.6, low=0.3)


def test_mean_field(config: Config) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (14, 18, 3), dtype=torch.uint8, generator=generator)
    probabilities = torch.rand(3, 14, 18, generator=generator)
    probabilities /= probabilities.sum(0)
    settings = config.completion.crf.model_copy(update={"iterations": 2})
    expected = mean_field(image, probabilities, settings)
    with simulated_cuda() as device:
        image, probabilities = image.to("cuda"), probabilities.to("cuda")
        device.forget()
        found = mean_field(image, probabilities, settings)
        # The vertices of both kernels' lattices are counted, and their numbers' digits.
        assert device.waits == {"nonzero": 2, "download": 2}
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), expected)
