"""Images for networks: crops that keep image and maps together, batches of whole images in order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reference.literal_crops import LiteralCrop, literal_normalize
from support.images import turn
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from getam.datasets.images import (
    MEAN,
    STD,
    RandomScaleCrop,
    ResizeFlip,
    TrainingImages,
    denormalize_rgb,
    fit_long_side,
    multi_hot,
    normalize_rgb,
    planned_batches,
    read_ahead,
    require_rows,
    whole_images,
)
from getam.errors import InputError
from getam.settings.training import CropSettings
from getam.system.image_files import UNKNOWN, read_image
from getam.system.seeds import mixed_seed

HEIGHT, WIDTH, STEP = 40, 60, 4
MEAN_COLOR = (124, 116, 104)
CROP = CropSettings(long_side=(40, 90), size=48, color_jitter=0)


def coordinates() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """An image whose red is 4 x and whose green is 4 y, and two maps of x and y."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    return np.stack([STEP * x, STEP * y, np.full_like(x, 200)], axis=2), {"x": x, "y": y}


def sample_of(image: np.ndarray, maps: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {"image": tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1))} | {
        name: tv_tensors.Mask(torch.from_numpy(values)) for name, values in maps.items()
    }


def distances(sample: dict[str, Tensor], inside: Tensor) -> Tensor:
    """Source pixels between what image and maps show: (2, N), x and y."""
    image = sample["image"].float() / STEP
    return torch.stack([(image[0] - sample["x"])[inside], (image[1] - sample["y"])[inside]])


def test_scale_crop_keeps_image_and_maps_together_and_pads_both() -> None:
    padded = flipped = scaled_up = 0
    for seed in range(40):
        torch.manual_seed(seed)
        sample = RandomScaleCrop(CROP)(sample_of(*coordinates()))
        assert sample["image"].shape == (3, 48, 48)
        assert sample["image"].dtype == torch.uint8
        assert sample["x"].shape == sample["y"].shape == (48, 48)
        outside = sample["x"] == UNKNOWN
        assert torch.equal(outside, sample["y"] == UNKNOWN)
        assert torch.equal(outside, sample["image"][2] != 200)
        assert all((sample["image"][c][outside] == MEAN_COLOR[c]).all() for c in range(3))
        assert not outside.all()
        # Antialiased bilinear against nearest: a source pixel apart, and a half for rounding to gray levels.
        assert distances(sample, ~outside).abs().max() <= 1.5
        padded += bool(outside.any())
        row = sample["x"].long()[24]
        row = row[row != UNKNOWN]
        flipped += bool(row[0] > row[-1])
        scaled_up += bool(len(row.unique()) < len(row))
    assert 0 < padded < 40
    assert 0 < flipped < 40
    assert 0 < scaled_up < 40


@pytest.mark.parametrize("long_side", [48, 56, 64, 80])
def test_scaled_maps_lie_where_the_image_lies(long_side: int) -> None:
    torch.manual_seed(0)
    settings = CropSettings(long_side=(long_side, long_side), size=48, color_jitter=0)
    sample = RandomScaleCrop(settings)(sample_of(*coordinates()))
    mean = distances(sample, sample["x"] != UNKNOWN).mean(1)
    assert mean.abs().max() < 0.15


def test_scale_crop_covers_the_range_of_scales_and_positions() -> None:
    settings = CropSettings(long_side=(30, 33), size=33, color_jitter=0)
    widths, corners = Counter(), set()
    for seed in range(60):
        torch.manual_seed(seed)
        sample = RandomScaleCrop(settings)(sample_of(*coordinates()))
        rows, columns = (sample["x"] != UNKNOWN).nonzero(as_tuple=True)
        widths[int(columns.max() - columns.min()) + 1] += 1
        assert int(rows.max() - rows.min()) + 1 in (20, 21, 22)
        corners.add((int(rows.min()), int(columns.min())))
    assert set(widths) == {30, 31, 32, 33}
    assert len(corners) > 10


SIDES = st.integers(1, 130)


@given(
    whole=st.tuples(SIDES, SIDES),
    low=st.integers(16, 200),
    span=st.integers(0, 60),
    side=st.integers(16, 120),
    jitter=st.sampled_from([0, 0.2, 1]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=200, deadline=None)
def test_a_crop_is_that_of_the_whole_image_scaled(
    whole: tuple[int, int], low: int, span: int, side: int, jitter: float, seed: int
) -> None:
    crop = CropSettings(long_side=(low, low + span), size=side, color_jitter=jitter)
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*whole, 3), dtype=np.uint8)
    maps = {"label": rng.integers(0, 256, whole, dtype=np.uint8)}
    expected = LiteralCrop(crop)(image, maps, seed=seed)
    torch.manual_seed(seed)
    found = RandomScaleCrop(crop)(sample_of(image, maps))
    assert torch.equal(found["label"], expected["label"])
    assert found["image"].dtype == (torch.float32 if jitter else torch.uint8)
    assert torch.equal(found["image"], found["image"].floor())
    # Some CPUs may add the three colors to gray otherwise in the arrangement of the literal version's pixels.
    off = (found["image"] - expected["image"].float()).abs()
    assert off.max() <= (2 if jitter else 0)
    assert off.count_nonzero() <= off.numel() // 1000


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (37, 53), (448, 448)])
def test_jitter_is_torchvisions(size: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    crop = CropSettings(long_side=(512, 512), size=512, color_jitter=0.7)
    for seed in range(12):
        torch.manual_seed(seed)
        expected = v2.ColorJitter(brightness=0.7, contrast=0.7, saturation=0.7)(image)
        after = torch.rand(1)
        torch.manual_seed(seed)
        off = (RandomScaleCrop(crop).color(image).int() - expected.int()).abs()
        assert off.max() <= 2
        assert off.count_nonzero() <= off.numel() // 1000
        assert torch.equal(torch.rand(1), after)


def photograph(height: int, width: int) -> np.ndarray:
    """Noise whose power falls with frequency as in photographs: (H, W, 3), uint8."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = np.inf
    colors = [np.fft.ifft2(np.fft.fft2(rng.standard_normal((height, width))) / frequency**1.2).real for _ in range(3)]
    return np.clip(128 + 40 * np.stack([color / color.std() for color in colors], 2), 0, 255).astype(np.uint8)


def from_a_file(path: Path, maps: dict[str, np.ndarray], crop: CropSettings, *, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return RandomScaleCrop(crop)({"image": path} | {name: tv_tensors.Mask(values) for name, values in maps.items()})


@pytest.mark.parametrize("name", ["small.jpg", "large.png"])
def test_a_photograph_from_its_file_is_that_decoded_whole(tmp_path: Path, name: str) -> None:
    height, width = (375, 500) if name == "small.jpg" else (750, 1000)
    Image.fromarray(photograph(height, width)).save(tmp_path / name)
    maps = {"label": np.arange(height * width, dtype=np.uint32).reshape(height, width).astype(np.uint8)}
    crop = CropSettings(long_side=(60, 300), size=96, color_jitter=0)
    for seed in range(8):
        expected = LiteralCrop(crop)(read_image(tmp_path / name), maps, seed=seed)
        assert_same_item(from_a_file(tmp_path / name, maps, crop, seed=seed), expected)


@pytest.mark.parametrize("turned", [1, 6])
def test_a_large_jpeg_from_its_file_is_near_that_decoded_whole(tmp_path: Path, turned: int) -> None:
    path, (height, width) = tmp_path / "large.jpg", (751, 1001)
    Image.fromarray(photograph(height, width)).save(path, quality=95)
    turn(path, turned)
    image = read_image(path)
    maps = {"label": photograph(*image.shape[:2])[..., 0]}
    crop = CropSettings(long_side=(100, 700), size=128, color_jitter=0)
    decoded = set()
    for seed in range(16):
        expected = LiteralCrop(crop)(image, maps, seed=seed)
        found = from_a_file(path, maps, crop, seed=seed)
        assert torch.equal(found["label"], expected["label"])
        mean = (found["image"].float() - expected["image"].float()).abs().mean()
        assert mean <= 4
        decoded.add("whole" if mean == 0 else "reduced")
    assert decoded == {"whole", "reduced"}


def test_items_from_files_are_crops_normalized(tmp_path: Path) -> None:
    paths = write_images(tmp_path, [(40, 60), (70, 50)])
    crop = CROP.model_copy(update={"color_jitter": 0.3})
    images = TrainingImages(paths, load=lambda path: (path, {}), transform=RandomScaleCrop(crop), seed=7)
    for number in range(6):
        expected = LiteralCrop(crop)(read_image(paths[number % 2]), {}, seed=mixed_seed(7, number))["image"]
        # Half a level, since a gray level may be another one, see above.
        off = (images[number]["image"] - literal_normalize(expected)).abs()
        assert off.gt(0.5 / 255).count_nonzero() <= off.numel() // 1000


def test_resize_flip_mirrors_image_and_maps_together() -> None:
    image, maps = coordinates()
    directions = Counter()
    for seed in range(12):
        torch.manual_seed(seed)
        sample = ResizeFlip(32, color_jitter=0)(sample_of(image, maps))
        assert sample["image"].shape == (3, 32, 32)
        assert sample["x"].shape == (32, 32)
        assert distances(sample, torch.ones(32, 32, dtype=torch.bool)).abs().max() <= 1.5
        directions["mirrored" if sample["x"][0, 0] > sample["x"][0, -1] else "straight"] += 1
        assert sample["y"][0, 0] < sample["y"][-1, 0]
    assert set(directions) == {"mirrored", "straight"}


def test_color_jitter_leaves_maps_alone() -> None:
    image, maps = coordinates()
    seen = set()
    for seed in range(8):
        samples = []
        for strength in (0.0, 0.5):
            torch.manual_seed(seed)
            samples.append(ResizeFlip(40, color_jitter=strength)(sample_of(image, maps)))
        plain, jittered = samples
        assert torch.equal(plain["x"], jittered["x"])
        seen.add(torch.equal(plain["image"], jittered["image"]))
    assert seen == {False}


@pytest.mark.parametrize(
    ("size", "long_side", "multiple", "expected"),
    [
        ((375, 500), 256, 1, (192, 256)),
        ((500, 375), 256, 1, (256, 192)),
        ((96, 96), 96, 8, (96, 96)),
        ((366, 500), 96, 8, (72, 96)),  # 70.3
        ((100, 30), 96, 16, (96, 32)),  # 28.8
        ((1000, 3), 64, 16, (64, 16)),  # 0.2: at least one
        ((1, 1000), 100, 1, (1, 100)),
        ((37, 53), 53, 16, (32, 48)),
        ((7, 5), 14, 1, (14, 10)),
    ],
)
def test_fit_long_side(size: tuple[int, int], long_side: int, multiple: int, expected: tuple[int, int]) -> None:
    assert fit_long_side(size, long_side, multiple=multiple) == expected


def test_normalize_and_its_inverse() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    normalized = normalize_rgb(levels)
    assert normalized.dtype == torch.float32
    for channel in range(3):
        expected = (200 / 255 - MEAN[channel]) / STD[channel]
        assert float(normalized[1, channel].flatten()[200]) == pytest.approx(expected, rel=1e-5)
    back = denormalize_rgb(normalized)
    assert torch.equal(back.round().to(torch.uint8), levels)
    assert (back - levels).abs().max() < 1e-3
    assert torch.allclose(normalize_rgb(levels[0]), normalized[0])  # (3, H, W) too


def test_multi_hot() -> None:
    assert multi_hot([0, 3], 5).tolist() == [1, 0, 0, 1, 0]
    assert multi_hot([], 3).tolist() == [0, 0, 0]
    assert multi_hot([1], 3).dtype == torch.float32


def test_require_rows_names_split_and_file() -> None:
    assert require_rows([1], split="train", index=Path("index.csv")) == [1]
    with pytest.raises(InputError, match=r"index\.csv: no image of the split 'train'"):
        require_rows([], split="train", index=Path("index.csv"))


def training_images(seed: int = 0) -> TrainingImages:
    def load(row: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        image, maps = coordinates()
        return (image + np.uint8(row)), maps

    settings = CROP.model_copy(update={"color_jitter": 0.4})
    return TrainingImages(
        range(6),
        load=load,
        transform=RandomScaleCrop(settings),
        targets=lambda row: {"classes": multi_hot([row], 6)},
        seed=seed,
    )


def assert_same_item(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[name])), name


def test_items_depend_on_seed_epoch_and_image_alone() -> None:
    images = training_images()
    straight = [images[number] for number in range(12)]
    assert set(straight[0]) == {"image", "x", "y", "number", "classes"}
    assert type(straight[0]["image"]) is Tensor
    torch.manual_seed(77)
    for number in (11, 3, 0, 7, 3):
        assert_same_item(training_images()[number], straight[number])
    for number in range(12):
        assert straight[number]["number"] == number % 6
        assert straight[number]["classes"].argmax() == number % 6
    assert not torch.equal(straight[1]["image"], straight[7]["image"]), "the second epoch repeats the first"


def test_another_seed_augments_otherwise() -> None:
    same = [torch.equal(training_images(seed=1)[n]["image"], training_images(seed=0)[n]["image"]) for n in range(6)]
    assert not any(same)


def test_items_leave_the_random_state_of_the_training_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    training_images()[4]
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_items_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    order = [8, 3, 11, 0, 5, 7]
    alone, several = (
        list(DataLoader(training_images(), batch_size=2, sampler=order, num_workers=number)) for number in (0, workers)
    )
    assert [batch["number"].tolist() for batch in alone] == [[2, 3], [5, 0], [5, 1]]
    for one, other in zip(alone, several, strict=True):
        assert_same_item(one, other)


def write_images(folder: Path, sizes: list[tuple[int, int]]) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = []
    for number, (height, width) in enumerate(sizes):
        paths.append(folder / f"{number}.png")
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(paths[-1])
    return paths


def test_planned_batches_hold_one_size_and_like_rows() -> None:
    a, b, c = (20, 30), (30, 20), (40, 60)  # c is a, scaled: one size for the network
    sizes = [a, a, a, b, b, a, c, b]
    like = [3, 1, 2, 1, 1, 2, 1, 0]
    batches = planned_batches(
        range(8),
        size=lambda row: fit_long_side(sizes[row], 30),
        batch_size=2,
        pixels=1e6,
        like=lambda row: like[row],
    )
    assert batches == [[1, 6], [2, 5], [0], [7, 3], [4]]


@pytest.mark.parametrize(("pixels", "length"), [(4 * 600, 4), (4 * 600 - 1, 3), (1, 1), (1e9, 5)])
def test_planned_batches_hold_so_many_pixels(pixels: float, length: int) -> None:
    batches = planned_batches(range(10), size=lambda row: (20, 30), batch_size=5, pixels=pixels)
    assert [len(batch) for batch in batches][:2] == [length, length]
    assert [row for batch in batches for row in batch] == list(range(10))


def test_read_ahead_is_two_batches_ahead() -> None:
    loaded: list[int] = []

    def load(row: int) -> int:
        loaded.append(row)
        return 10 * row

    batches = [[3 * number, 3 * number + 1, 3 * number + 2] for number in range(7)]
    given = []
    for number, (rows, items) in enumerate(read_ahead(batches, load, threads=2)):
        assert items == [10 * row for row in rows]
        # Not the whole data set.
        assert max(loaded) < 3 * (number + 3)
        given.append(rows)
    assert given == batches
    assert sorted(loaded) == list(range(21))


def test_whole_images_are_resized_and_normalized(tmp_path: Path) -> None:
    paths = write_images(tmp_path, [(20, 30), (40, 60), (30, 20)])
    sizes = [(20, 30), (20, 30), (30, 20)]
    batches = list(
        whole_images([[0, 1], [2]], read=lambda row: read_image(paths[row]), size=lambda row: sizes[row], threads=3)
    )
    assert [(rows, tuple(inputs.shape)) for rows, inputs in batches] == [
        ([0, 1], (2, 3, 20, 30)),
        ([2], (1, 3, 30, 20)),
    ]
    for (rows, inputs), place in ((batches[0], 0), (batches[1], 0)):
        pixels = torch.from_numpy(read_image(paths[rows[place]]).copy()).permute(2, 0, 1)
        assert torch.equal(inputs[place], normalize_rgb(pixels))


def test_whole_images_of_nothing_and_of_a_missing_file(tmp_path: Path) -> None:
    assert list(whole_images([], read=read_image, size=lambda row: (2, 2), threads=1)) == []
    paths = [*write_images(tmp_path, [(16, 16)]), tmp_path / "gone.png"]
    with pytest.raises(InputError, match=r"gone\.png: no such image"):
        list(whole_images([paths], read=read_image, size=lambda row: (16, 16), threads=2))
