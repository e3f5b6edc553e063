"""Every map method, propagation and PAMR on the simulated device: the CPU's maps, and no wait but the boxes'."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.classifiers import CLASSES, METHODS, classifier
from support.networks import images_of
from support.simulated_cuda import simulated_cuda
from torch import Tensor

from getam.maps.attention import FUSIONS
from getam.maps.baselines import create_maps
from getam.maps.pamr import normalize, pamr
from getam.settings.config import Config
from getam.settings.maps import ActivationSettings, MapSettings
from getam.stages.dump_maps import averaged_maps

GETAM: dict[str, dict[str, Any]] = {
    f"getam {coupling} {fusion}": {"method": "getam", "coupling": coupling, "fusion": fusion}
    for coupling in ("released", "paper")
    for fusion in FUSIONS
}
BASELINES: dict[str, dict[str, Any]] = {method: {"method": method} for method in METHODS[1:]}
PROPAGATED: dict[str, dict[str, Any]] = {
    f"propagated by {name}": {"propagation": name, "propagation_threshold": threshold}
    for name, threshold in (("attention", 0.0), ("features", 0.0), ("both", 0.4))
} | {
    "propagated with a boundary prior": {
        "propagation": "attention",
        "propagation_threshold": 0.0,
        "boundary_prior": 0.5,
    }
}


def of(config: Config, **changes: Any) -> ActivationSettings:
    values = config.end_to_end.maps.model_dump() | {"start_block": 1, "propagation_blocks": 2} | changes
    return ActivationSettings.model_validate(values)


def near(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.is_cuda
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", GETAM | BASELINES | PROPAGATED)
def test_maps(name: str, config: Config) -> None:
    settings = of(config, **(GETAM | BASELINES | PROPAGATED)[name])
    model, images = classifier(), images_of(3)
    classes = [*CLASSES, []]
    with create_maps(model, settings) as maps:
        expected = maps(images, classes)[1]
    with simulated_cuda() as device, create_maps(copy.deepcopy(model).to("cuda"), settings) as maps:
        images = images.to("cuda")
        device.forget()
        found = maps(images, classes)[1]
        # The boxes of propagation are found on the CPU.
        assert device.waits == ({"download": 1} if settings.propagation_threshold and "propagated" in name else {})
        near(found, expected)
        with torch.autocast("cuda", torch.bfloat16):
            rounded = maps(images, classes)[1]
        assert {values.dtype for values in rounded} == {torch.float32}


@pytest.mark.parametrize("method", METHODS)
def test_maps_of_scales_and_mirrored_images(method: str, config: Config) -> None:
    values = config.maps.model_dump(exclude={"source", "folder"}) | {"start_block": 1, "method": method}
    settings = MapSettings.model_validate(values | {"scales": [0.5, 1], "flip": True})
    model, images = classifier(), images_of(2)
    with create_maps(model, settings) as maps:
        expected = averaged_maps(maps, images, CLASSES, settings, 8)
    with simulated_cuda() as device, create_maps(copy.deepcopy(model).to("cuda"), settings) as maps:
        images = images.to("cuda")
        device.forget()
        found = averaged_maps(maps, images, CLASSES, settings, 8)
        assert not device.waits
        near(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pamr(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    images = 255 * torch.rand(2, 3, 40, 30, generator=generator)
    masks = torch.rand(2, 2, 5, 4, generator=generator).to(dtype)
    expected = normalize(pamr(images, masks, iterations=2))
    with simulated_cuda() as device:
        images, masks = images.to("cuda"), masks.to("cuda")
        device.forget()
        found = normalize(pamr(images, masks, iterations=2))
        assert not device.waits
        assert found.is_cuda
        assert found.dtype == dtype
        torch.testing.assert_close(found.cpu(), expected)
