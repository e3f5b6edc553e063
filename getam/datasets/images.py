"""Prepares images for networks: joint augmentation for training, batches of whole images for inference."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from getam.errors import InputError
from getam.settings.training import CropSettings
from getam.system.image_files import UNKNOWN, image_size, read_image
from getam.system.seeds import mixed_seed

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's RGB values in [0, 1]; all inputs are normalized by them, as in the authors' code."""

MEAN_COLOR = np.array([round(255 * value) for value in MEAN], np.uint8)[:, None, None]
"""The color of what a crop shows beside its image: (3, 1, 1)."""

BATCH_PIXELS = {"cpu": 2 * 512 * 512, "cuda": 16 * 512 * 512}
"""Most input pixels of an inference batch by device type; larger batches on a CPU cost memory and gain no speed."""

READ_AHEAD = 2
"""Number of batches that are read while the network processes one."""

Row = TypeVar("Row")
Item = TypeVar("Item")
Maps = Mapping[str, np.ndarray]


def normalize_rgb(images: Tensor) -> Tensor:
    """(..., 3, H, W), uint8 RGB -> the same shape, float32, normalized by ImageNet's mean and deviation."""
    return _normalize_in_place(images.to(torch.float32, copy=True))


def _normalize_in_place(levels: Tensor) -> Tensor:
    # A new array an operation would take several times as long as the operation, most of it for fresh memory.
    return levels.div_(255).sub_(column(MEAN, levels)).div_(column(STD, levels))


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

    Images are padded with the mean color, maps with 255 (unknown). Random numbers, pixels and maps are, byte for byte,
    those of the whole image and whole maps scaled and then put through v2.RandomCrop, v2.RandomHorizontalFlip and
    v2.ColorJitter. An image may be given as a path instead, so that no more of it is decoded than the scale needs:
    `read_image` says which images that concerns, the only ones that differ from those decoded whole.

    Everything is uint8, but the image float32 of whole levels where colors are jittered.
    """

    def __init__(self, settings: CropSettings) -> None:
        super().__init__()
        self.low, self.high = settings.long_side
        self.side = settings.size
        self.color = _jitter(settings.color_jitter)

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        image = sample["image"]
        whole = image_size(image) if isinstance(image, Path) else tuple(image.shape[-2:])
        size = fit_long_side(whole, int(torch.randint(self.low, self.high + 1, ())))
        start = [self._drawn_start(side) for side in size]
        mirrored = bool(torch.rand(1) < 0.5)
        if isinstance(image, Path):
            image = _channels_first(read_image(image, least=size))
        rows, columns = (slice(max(0, first), first + self.side) for first in start)
        seen = _resized(image, size)[..., rows, columns].numpy()
        crops = {"image": self._placed(seen, start, mirrored, fill=MEAN_COLOR)}
        for name in sample.keys() - crops.keys():
            values = sample[name].numpy()
            # Whole rows first, since a look-up of every pixel takes longer.
            seen = values[_nearest(values.shape[0], size[0])[rows]]
            seen = seen.take(_nearest(values.shape[1], size[1])[columns], axis=1)
            crops[name] = self._placed(seen, start, mirrored, fill=UNKNOWN)
        return crops | {"image": self.color(crops["image"])}

    def _drawn_start(self, side: int) -> int:
        """Where the crop begins on a side of the scaled image; negative on one that is shorter than the crop."""
        padding = max(0, self.side - side)
        room = side + 2 * padding - self.side
        return (int(torch.randint(0, room + 1, ())) if room else 0) - padding

    def _placed(self, seen: np.ndarray, start: Sequence[int], mirrored: bool, *, fill: int | np.ndarray) -> Tensor:
        """The crop (..., side, side) from the part (..., h, w) of the scaled image that it shows."""
        height, width = seen.shape[-2:]
        top, left = (max(0, -first) for first in start)
        crop = np.empty((*seen.shape[:-2], self.side, self.side), np.uint8)
        if (height, width) != (self.side, self.side):
            crop[:] = fill
        straight = crop[..., ::-1] if mirrored else crop
        straight[..., top : top + height, left : left + width] = seen
        return torch.from_numpy(crop)


def _nearest(old: int, new: int) -> np.ndarray:
    """The pixels of a side of a map that the side shows when it is scaled from `old` to `new` pixels: (new,), int64.

    NEAREST instead of NEAREST_EXACT would shift a map by up to half a pixel against its antialiased image.
    """
    # A formula of our own would be rounded otherwise at some sizes.
    pixels = torch.arange(old, dtype=torch.float32)[None, None]
    return F.interpolate(pixels, size=new, mode="nearest-exact")[0, 0].long().numpy()


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
        sample = self.flip(_resized_sample(self.rotate(sample), self.size))
        return sample | {"image": self.color(sample["image"])}


def _resized_sample(sample: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    # See _nearest.
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


class _Jitter(v2.ColorJitter):
    """v2.ColorJitter's brightness, contrast and saturation of an image (3, H, W) alone: float32 of whole levels.

    These are its levels exactly: they stay in one array and are rounded down after each step, as v2 rounds to bytes.
    """

    FACTORS = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")

    def forward(self, image: Tensor) -> Tensor:
        drawn = self.make_params([])
        levels = image.as_subclass(Tensor).to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        for step in drawn["fn_idx"].tolist():
            factor = drawn[self.FACTORS[step]]
            if factor is None:
                continue
            if step == 0:
                levels.mul_(factor)
            else:
                gray = _gray(levels)
                levels.mul_(factor).add_(gray.mean() if step == 1 else gray, alpha=1 - factor)
            if factor > 1:
                # Between an image and black or gray there is nothing to clamp.
                levels.clamp_(0, 255)
            levels.floor_()
        return levels


def _gray(levels: Tensor) -> Tensor:
    red, green, blue = levels
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def _jitter(strength: float) -> v2.Transform:
    if strength == 0:
        return v2.Identity()
    return _Jitter(brightness=strength, contrast=strength, saturation=strength)


def _channels_first(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


class TrainingImages(Dataset[dict[str, Any]]):
    """Augmented training images; item `epoch * len(dataset) + i` is image i with that epoch's augmentation.

    An item depends only on the seed, the epoch and the image, and neither on the number of loader workers nor on the
    items loaded before, so that a resumed training sees the same images as an uninterrupted one. It has the entries
    `image` (3, h, w), float32, normalized; each map (h, w), uint8; the targets; and `number`, the position in `rows`.

    Args:
        rows: arguments of `load` and `targets`, one for each image.
        load: row -> (image (H, W, 3) uint8, or its path for a RandomScaleCrop; {name: map (H, W) uint8}).
        transform: joint transform of {"image": ..., name: ...}.
        seed: seed of the augmentation.
        targets: row -> further tensors of an item.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        load: Callable[[Row], tuple[np.ndarray | Path, Maps]],
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
        sample: dict[str, Any] = {
            "image": image if isinstance(image, Path) else tv_tensors.Image(_channels_first(image))
        }
        sample |= {name: tv_tensors.Mask(torch.from_numpy(np.array(values))) for name, values in maps.items()}
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed looks for every kind of device, and seeds those in use, which nothing would restore.
            torch.default_generator.manual_seed(mixed_seed(self.seed, number))
            sample = self.transform(sample)
        item: dict[str, Any] = {name: value.as_subclass(Tensor) for name, value in sample.items()}
        item["image"] = _normalize_in_place(item["image"].float())
        return item | {"number": number % len(self.rows)} | (self.targets(row) if self.targets else {})


def normalized_input(image: np.ndarray, size: tuple[int, int]) -> Tensor:
    """A whole image (H, W, 3), uint8 RGB -> a network's input (3, h, w) of `size` (h, w), float32, normalized."""
    return normalize_rgb(_resized(_channels_first(image), size))


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
