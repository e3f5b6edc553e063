"""Images as networks take them: joint random crops for training, batches of whole images for inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from getam.errors import InputError
from getam.files import UNKNOWN, read_image
from getam.settings import CropSettings

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet statistics: what inputs are normalized by, for every backbone (as the authors do)."""

Row = TypeVar("Row")
Maps = Mapping[str, np.ndarray]


def normalize_rgb(images: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 RGB -> float32, ImageNet-normalized."""
    scaled = images.float() / 255
    return (scaled - _column(MEAN, scaled)) / _column(STD, scaled)


def denormalize_rgb(images: Tensor) -> Tensor:
    """The inverse of `normalize_rgb` without rounding: (..., 3, H, W) in 0..255."""
    return (images * _column(STD, images) + _column(MEAN, images)) * 255


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with antialiasing: (..., 3, H, W) uint8 -> size."""
    if tuple(image.shape[-2:]) == size:
        return image
    return v2.functional.resize(image, list(size), antialias=True)


def fit_long_side(size: tuple[int, int], long_side: int, *, multiple: int = 1) -> tuple[int, int]:
    """(H, W) scaled so that its longer side is `long_side`, each side rounded to a multiple (at least one)."""
    factor = long_side / max(size)
    height, width = (max(multiple, round(side * factor / multiple) * multiple) for side in size)
    return height, width


class RandomScaleCrop(v2.Transform):
    """Scales an image and its maps at random, then crops at random, padding what is too small.

    Padding is the mean color in images and 255 (unknown) in maps.
    """

    def __init__(self, settings: CropSettings) -> None:
        super().__init__()
        low, high = settings.long_side
        fill = {tv_tensors.Image: [round(255 * value) for value in MEAN], tv_tensors.Mask: UNKNOWN}
        self.low, self.high = low, high
        self.crop = v2.RandomCrop(settings.size, pad_if_needed=True, fill=fill)
        self.color = _jitter(settings.color_jitter)
        self.flip = v2.RandomHorizontalFlip()

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        long_side = int(torch.randint(self.low, self.high + 1, ()))
        size = fit_long_side(tuple(sample["image"].shape[-2:]), long_side)
        return self.color(self.flip(self.crop(_resized_sample(sample, size))))


class ResizeFlip(v2.Transform):
    """Resizes an image and its maps to a square and mirrors them at random."""

    def __init__(self, image_size: int, *, color_jitter: float) -> None:
        super().__init__()
        self.size = (image_size, image_size)
        self.color = _jitter(color_jitter)
        self.flip = v2.RandomHorizontalFlip()

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        return self.color(self.flip(_resized_sample(sample, self.size)))


def _resized_sample(sample: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    # Plain nearest sampling would shift a map by up to half a pixel against its antialiased image.
    nearest, bilinear = v2.InterpolationMode.NEAREST_EXACT, v2.InterpolationMode.BILINEAR
    return {
        name: v2.functional.resize(
            value,
            list(size),
            interpolation=nearest if isinstance(value, tv_tensors.Mask) else bilinear,
            antialias=True,
        )
        for name, value in sample.items()
    }


def mixed_seed(*parts: int) -> int:
    """One 32-bit seed from several numbers; torch's CPU generator takes no more bits, and nearby seeds must differ."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _jitter(strength: float) -> v2.Transform:
    if strength == 0:
        return v2.Identity()
    return v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength)


class TrainingImages(Dataset[dict[str, Any]]):
    """Augmented training images; item `epoch * len + i` is image i as it looks in that epoch.

    An item depends on the seed, the epoch and the image alone: not on the number of loader workers, and not on what
    was loaded before, so that a resumed training sees what an uninterrupted one sees.

    Args:
        rows: what `load` takes.
        load: row -> (image (H, W, 3) uint8, {name: map (H, W) uint8}).
        targets: row -> further tensors of an item.
        transform: joint transform of {"image": ..., name: ...}.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        load: Callable[[Row], tuple[np.ndarray, Maps]],
        transform: v2.Transform,
        seed: int,
        targets: Callable[[Row], dict[str, Tensor]] | None = None,
    ) -> None:
        self.rows = rows
        self.load = load
        self.transform = transform
        self.seed = seed
        self.targets = targets

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self.rows[number % len(self.rows)]
        image, maps = self.load(row)
        sample: dict[str, Any] = {"image": tv_tensors.Image(torch.from_numpy(image.copy()).permute(2, 0, 1))}
        sample |= {name: tv_tensors.Mask(torch.from_numpy(np.array(values))) for name, values in maps.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed_seed(self.seed, number))
            sample = self.transform(sample)
        item: dict[str, Any] = {name: value.as_subclass(Tensor) for name, value in sample.items()}
        item["image"] = normalize_rgb(item["image"])
        return item | {"number": number % len(self.rows)} | (self.targets(row) if self.targets else {})


def whole_images(
    rows: Sequence[Row],
    *,
    path: Callable[[Row], Path],
    size: Callable[[tuple[int, int]], tuple[int, int]],
    batch_size: int,
    threads: int,
) -> Iterator[tuple[list[Row], list[np.ndarray], Tensor]]:
    """Reads whole images ahead of the network and batches neighbors of equal input size.

    Args:
        path: row -> image file.
        size: (H, W) of an image -> (H, W) of the network's input.

    Yields:
        rows of a batch; their photographs (H, W, 3), uint8; inputs (B, 3, h, w), float32, normalized.
    """

    def load(row: Row) -> tuple[Row, np.ndarray, Tensor]:
        photograph = read_image(path(row))
        pixels = torch.from_numpy(photograph.copy()).permute(2, 0, 1)
        target = size((photograph.shape[0], photograph.shape[1]))
        return row, photograph, normalize_rgb(_resized(pixels, target))

    batch: list[tuple[Row, np.ndarray, Tensor]] = []
    with ThreadPoolExecutor(max(1, min(threads, 8))) as pool:
        # A window of a few batches is read ahead; mapping all rows would hold the whole data set in memory.
        window = 4 * batch_size
        pending = [pool.submit(load, row) for row in rows[:window]]
        for number in range(len(rows)):
            item = pending.pop(0).result()
            if number + window < len(rows):
                pending.append(pool.submit(load, rows[number + window]))
            if batch and (len(batch) == batch_size or batch[0][2].shape != item[2].shape):
                yield _collated(batch)
                batch = []
            batch.append(item)
    if batch:
        yield _collated(batch)


def _collated(batch: list[tuple[Row, np.ndarray, Tensor]]) -> tuple[list[Row], list[np.ndarray], Tensor]:
    return (
        [row for row, _, _ in batch],
        [image for _, image, _ in batch],
        torch.stack([x for _, _, x in batch]),
    )


def multi_hot(indices: Sequence[int], num_classes: int) -> Tensor:
    """Class indices counted from 0 -> (C,), float32."""
    target = torch.zeros(num_classes)
    target[list(indices)] = 1
    return target


def require_rows(rows: Sequence[Row], *, split: str, index: Path) -> Sequence[Row]:
    if not rows:
        raise InputError(f"{index}: no image of the split {split!r}; add ids to its list")
    return rows
