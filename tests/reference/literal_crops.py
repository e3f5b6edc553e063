"""The augmentation of a training image, literally: whole image and maps are scaled, then torchvision's transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from getam.datasets.images import MEAN, STD, fit_long_side
from getam.settings.training import CropSettings


class LiteralCrop:
    """Draws the long side, scales, and hands the rest to torchvision."""

    def __init__(self, settings: CropSettings) -> None:
        self.low, self.high = settings.long_side
        fill = {tv_tensors.Image: [round(255 * value) for value in MEAN], tv_tensors.Mask: 255}
        self.crop = v2.RandomCrop(settings.size, pad_if_needed=True, fill=fill)
        self.flip = v2.RandomHorizontalFlip()
        strength = settings.color_jitter
        self.color = v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength)

    def __call__(self, image: np.ndarray, maps: dict[str, np.ndarray], *, seed: int) -> dict[str, Tensor]:
        """A crop of an image (H, W, 3) and its maps (H, W), all uint8: the image (3, h, w) and the maps (h, w)."""
        sample: dict[str, Any] = {"image": tv_tensors.Image(torch.from_numpy(image.copy()).permute(2, 0, 1))}
        sample |= {name: tv_tensors.Mask(torch.from_numpy(np.array(values))) for name, values in maps.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            size = fit_long_side(image.shape[:2], int(torch.randint(self.low, self.high + 1, ())))
            sample = self.flip(self.crop({name: _scaled(value, size) for name, value in sample.items()}))
            sample = self.color(sample)
        return {name: value.as_subclass(Tensor) for name, value in sample.items()}


def literal_normalize(image: Tensor) -> Tensor:
    """(3, h, w), uint8 RGB -> float32, normalized by ImageNet's mean and deviation."""
    mean, deviation = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (image.float() / 255 - mean) / deviation


def _scaled(value: Tensor, size: tuple[int, int]) -> Tensor:
    mode = v2.InterpolationMode
    is_map = isinstance(value, tv_tensors.Mask)
    return v2.functional.resize(
        value, list(size), interpolation=mode.NEAREST_EXACT if is_map else mode.BILINEAR, antialias=True
    )
