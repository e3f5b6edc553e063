"""Prepares images for networks: joint augmentation for training, batches of whole images for inference."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from getam.errors import InputError
from getam.settings.training import CropSettings
from getam.system.image_files import UNKNOWN
from getam.system.seeds import mixed_seed

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's RGB values in [0, 1]; all inputs are normalized by them, as in the authors' code."""

BATCH_PIXELS = {"cpu": 2 * 512 * 512, "cuda": 16 * 512 * 512}
"""Most input pixels of an inference batch by device type; larger batches on a CPU cost memory and gain no speed."""

READ_AHEAD = 2
"""Number of batches that are read while the network processes one."""

Row = TypeVar("Row")
Item = TypeVar("Item")
Maps = Mapping[str, np.ndarray]


def normalize_rgb(images: Tensor) -> Tensor:
    """(..., 3, H, W), uint8 RGB -> the same shape, float32, normalized by ImageNet's mean and deviation."""
    scaled = images.float() / 255
    return (scaled - column(MEAN, scaled)) / column(STD, scaled)


def denormalize_rgb(images: Tensor) -> Tensor:
    """The inverse of `normalize_rgb` without rounding: (..., 3, H, W) in 0..255."""
    return (images * column(STD, images) + column(MEAN, images)) * 255


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """Numbers as a tensor (C, 1, 1) of the dtype of `like`, on its device."""
    # The numbers are filled in: a copy from the CPU would wait for the GPU.
    return torch.stack([like.new_full((1, 1), value) for value in values])


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes (..., 3, H, W), uint8, bilinearly with antialiasing to (..., 3, *size)."""
    if tuple(image.shape[-2:]) == size:
        return image
    return v2.functional.resize(image, list(size), antialias=True)


def fit_long_side(size: tuple[int, int], long_side: int, *, multiple: int = 1) -> tuple[int, int]:
    """Scales (H, W) so that the longer side is `long_side`, and rounds each side to a multiple of `multiple`, not 0."""
    factor = long_side / max(size)
    height, width = (max(multiple, round(side * factor / multiple) * multiple) for side in size)
    return height, width


class RandomScaleCrop(v2.Transform):
    """Scales an image and its maps at random, pads them to the size of the crop, crops, mirrors and jitters colors.

    Images are padded with the mean color, maps with 255 (unknown).
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
    """Resizes an image and its maps to a square, mirrors them at random and jitters colors.

    Args:
        image_size: side of the square, pixels.
        color_jitter: strength of random brightness, contrast and saturation; 0 for none.
        border_crop: most pixels that a random crop removes from height and width before resizing.
        rotation: largest angle, in degrees, of a random rotation of one image in five, before resizing; pixels from
            outside the image are black, and 0 in maps.
    """

    ROTATED = 0.2
    """Probability that an image is rotated."""

    def __init__(self, image_size: int, *, color_jitter: float, border_crop: int = 0, rotation: float = 0) -> None:
        super().__init__()
        self.size = (image_size, image_size)
        self.border_crop = border_crop
        self.color = _jitter(color_jitter)
        self.flip = v2.RandomHorizontalFlip()
        turned = v2.RandomRotation(rotation, interpolation=v2.InterpolationMode.BILINEAR) if rotation else None
        self.rotate = v2.RandomApply([turned], p=self.ROTATED) if turned else v2.Identity()

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        if self.border_crop:
            height, width = sample["image"].shape[-2:]
            off = torch.randint(0, self.border_crop + 1, (2,)).tolist()
            sample = v2.RandomCrop((max(1, height - off[0]), max(1, width - off[1])))(sample)
        return self.color(self.flip(_resized_sample(self.rotate(sample), self.size)))


def _resized_sample(sample: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    # NEAREST instead of NEAREST_EXACT would shift a map by up to half a pixel against its antialiased image.
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


def _jitter(strength: float) -> v2.Transform:
    if strength == 0:
        return v2.Identity()
    return v2.ColorJitter(brightness=strength, contrast=strength, saturation=strength)


class TrainingImages(Dataset[dict[str, Any]]):
    """Augmented training images; item `epoch * len(dataset) + i` is image i with that epoch's augmentation.

    An item depends only on the seed, the epoch and the image, and neither on the number of loader workers nor on the
    items loaded before, so that a resumed training sees the same images as an uninterrupted one. It has the entries
    `image` (3, h, w), float32, normalized; each map (h, w), uint8; the targets; and `number`, the position in `rows`.

    Args:
        rows: arguments of `load` and `targets`, one for each image.
        load: row -> (image (H, W, 3) uint8, {name: map (H, W) uint8}).
        transform: joint transform of {"image": ..., name: ...}.
        seed: seed of the augmentation.
        targets: row -> further tensors of an item.
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


def normalized_input(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    """A whole image (H, W, 3), uint8 RGB -> a network's input (3, h, w) of `size` (h, w), float32, normalized."""
    return normalize_rgb(_resized(torch.from_numpy(image.copy()).permute(2, 0, 1), size))


def planned_batches(
    rows: Sequence[Row],
    *,
    size: Callable[[Row], tuple[int, int]],
    batch_size: int,
    pixels: float,
    like: Callable[[Row], int] = lambda row: 0,
) -> list[list[Row]]:
    """Groups rows into batches whose network inputs have the same size, without reading any image.

    The batches depend only on the rows, so that a resumed stage computes in the same batches as before.

    Args:
        size: row -> (H, W) of its network input.
        batch_size: most rows of a batch.
        pixels: most input pixels of a batch; a larger image is a batch of its own.
        like: sort key of the rows of one size, so that rows with similar keys share a batch.
    """
    groups: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        groups.setdefault(size(row), []).append(row)
    batches = []
    for (height, width), group in groups.items():
        length = max(1, min(batch_size, int(pixels / (height * width))))
        ordered = sorted(group, key=like)
        batches += [ordered[start : start + length] for start in range(0, len(ordered), length)]
    return batches


def read_ahead(
    batches: Sequence[Sequence[Row]], load: Callable[[Row], Item], *, threads: int
) -> Iterator[tuple[Sequence[Row], list[Item]]]:
    """Loads the rows of batches in threads, READ_AHEAD batches ahead of the consumer.

    Yields:
        The rows of a batch, and the results of `load` for them.
    """
    with ThreadPoolExecutor(max(1, min(threads, 8))) as pool:
        ahead: deque[tuple[Sequence[Row], list[Future[Item]]]] = deque()
        for batch in (*batches, *[()] * READ_AHEAD):
            ahead.append((batch, [pool.submit(load, row) for row in batch]))
            if len(ahead) > READ_AHEAD:
                ready, items = ahead.popleft()
                yield ready, [item.result() for item in items]


def whole_images(
    batches: Sequence[Sequence[Row]],
    *,
    read: Callable[[Row], np.ndarray],
    size: Callable[[Row], tuple[int, int]],
    threads: int,
) -> Iterator[tuple[Sequence[Row], Tensor]]:
    """Reads batches of whole images as network inputs, ahead of the consumer.

    Args:
        read: row -> image (H, W, 3), uint8.
        size: row -> (h, w) of its network input, the same within a batch.
        threads: number of reading threads, at most 8 of which are used.

    Yields:
        The rows of a batch, and their inputs (B, 3, h, w), float32, normalized.
    """

    def load(row: Row) -> Tensor:
        return normalized_input(read(row), size(row))

    for batch, inputs in read_ahead(batches, load, threads=threads):
        yield batch, torch.stack(inputs)


def multi_hot(indices: Sequence[int], num_classes: int) -> Tensor:
    """Class indices, counted from 0 -> (C,), float32, 1 at each index and 0 elsewhere."""
    target = torch.zeros(num_classes)
    target[list(indices)] = 1
    return target


def require_rows(rows: Sequence[Row], *, split: str, index: Path) -> Sequence[Row]:
    """Returns `rows`, the images of a split; InputError if there are none."""
    if not rows:
        raise InputError(f"{index}: no image of the split {split!r}; add ids to its list")
    return rows
