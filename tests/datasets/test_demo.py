from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from getam.datasets.demo.scenes import CLASSES, draw_salient, draw_toys, write_demo
from getam.system.image_files import read_gray, read_image, read_labels

# The telling parts' hues in OpenCV's degrees: red, blue, yellow, green, magenta, cyan.
HUES = (0, 236, 53, 130, 310, 182)


def write(root: Path, *, train: int = 6, val: int = 3, saliency: int = 4, size: int = 48, seed: int = 0) -> Path:
    write_demo(
        root,
        train_images=train,
        val_images=val,
        saliency_images=saliency,
        saliency_val_images=2,
        image_size=size,
        seed=seed,
    )
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def drawings() -> list[tuple[np.ndarray, list[tuple[int, np.ndarray]]]]:
    return [draw_toys(np.random.default_rng([7, index]), size=96) for index in range(60)]


def saturation_and_hue(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    # Black has no hue; the grain gives it a random one.
    return np.where(hsv[..., 2] > 0.3, hsv[..., 1], 0), hsv[..., 0]


def test_same_seed_gives_the_same_bytes_and_another_seed_other_ones(demo: Path, tmp_path: Path) -> None:
    assert contents(write(tmp_path / "again")) == contents(demo)
    other = contents(write(tmp_path / "other", seed=1))
    assert all(other[name] != data for name, data in contents(demo).items() if name.endswith(".jpg"))


def test_counts_do_not_change_the_images(demo: Path, tmp_path: Path) -> None:
    fewer = contents(write(tmp_path / "fewer", train=2, val=1, saliency=1))
    everything = contents(demo)
    assert len(fewer) < len(everything)
    lists = {"ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/val.txt"}
    assert {name for name, data in fewer.items() if everything[name] != data} == lists


def test_splits_share_no_image(demo: Path) -> None:
    images = [data for name, data in contents(demo).items() if name.endswith(".jpg")]
    assert len(set(images)) == len(images) == 6 + 3 + 4 + 2


def test_lists_name_the_files(demo: Path) -> None:
    ids = [(demo / f"ImageSets/Segmentation/{split}.txt").read_text().splitlines() for split in ("train", "val")]
    assert [len(split) for split in ids] == [6, 3]
    for folder in ("JPEGImages", "SegmentationClass", "Annotations"):
        assert sorted(path.stem for path in (demo / folder).iterdir()) == sorted(ids[0] + ids[1])
    assert tuple((demo / "classes.txt").read_text().splitlines()) == CLASSES
    assert len(set(CLASSES)) == 6


def test_annotations_match_the_masks(demo: Path) -> None:
    for path in (demo / "Annotations").iterdir():
        labels = read_labels(demo / "SegmentationClass" / f"{path.stem}.png")
        root = ElementTree.parse(path).getroot()
        assert root.findtext("filename") == f"{path.stem}.jpg"
        assert (root.findtext("size/height"), root.findtext("size/width")) == ("48", "48")
        assert read_image(demo / "JPEGImages" / f"{path.stem}.jpg").shape == (48, 48, 3)
        boxed = np.zeros((48, 48), bool)
        for entry in root.findall("object"):
            label = CLASSES.index(entry.findtext("name") or "") + 1
            left, top, right, bottom = (
                int(entry.findtext(f"bndbox/{k}") or 0) for k in ("xmin", "ymin", "xmax", "ymax")
            )
            window = labels[top - 1 : bottom, left - 1 : right] == label
            # 1-based and inclusive: the class touches all four sides of its box.
            assert all(side.any() for side in (window[0], window[-1], window[:, 0], window[:, -1]))
            boxed[top - 1 : bottom, left - 1 : right] |= window
        np.testing.assert_array_equal(boxed, labels > 0)
        names = {entry.findtext("name") for entry in root.findall("object")}
        assert names == {CLASSES[label - 1] for label in np.unique(labels[labels > 0])}


def test_first_toy_is_large_and_central_others_small_and_apart(
    drawings: list[tuple[np.ndarray, list[tuple[int, np.ndarray]]]],
) -> None:
    assert {len(toys) for _, toys in drawings} == {1, 2, 3}
    assert {label for _, toys in drawings for label, _ in toys} == set(range(1, 7))
    for _, toys in drawings:
        for number, (_, mask) in enumerate(toys):
            low, high = (0.11, 0.26) if number == 0 else (0.045, 0.095)
            assert low <= mask.mean() <= high
            center = np.argwhere(mask).mean(axis=0) / 96
            assert (np.abs(center - 0.5).max() < 0.12) == (number == 0)
        assert np.sum([mask for _, mask in toys], axis=0).max() == 1


def test_every_toy_shows_its_small_telling_part(
    drawings: list[tuple[np.ndarray, list[tuple[int, np.ndarray]]]],
) -> None:
    for image, toys in drawings:
        saturation, hue = saturation_and_hue(image)
        for label, mask in toys:
            # Bodies have a saturation of at most 0.5, up to grain.
            telling = mask & (saturation > 0.75)
            assert 0.02 < telling.sum() / mask.sum() < 0.2
            turn = np.abs(hue[telling] - HUES[label - 1])
            assert np.median(np.minimum(turn, 360 - turn)) < 12


def test_saliency_masks_are_one_central_figure_or_two(demo: Path) -> None:
    for split, count in (("DUTS-TR", 4), ("DUTS-TE", 2)):
        images, masks = (sorted((demo / split / f"{split}-{kind}").iterdir()) for kind in ("Image", "Mask"))
        assert [path.stem for path in images] == [path.stem for path in masks]
        assert len(masks) == count
        for image, mask in zip(images, masks, strict=True):
            assert set(np.unique(read_gray(mask))) == {0, 255}
            assert read_image(image).shape == (48, 48, 3)
    shares = [draw_salient(np.random.default_rng([7, index]), size=48)[1].mean() for index in range(40)]
    assert min(shares) > 0.1
    assert max(shares) < 0.34


@pytest.mark.parametrize("size", [32, 160])
def test_shares_do_not_depend_on_the_size(size: int) -> None:
    for index in range(10):
        image, toys = draw_toys(np.random.default_rng([3, index]), size=size)
        assert image.shape == (size, size, 3)
        assert 0.11 < toys[0][1].mean() < 0.26
        assert all(0.04 < mask.mean() < 0.1 for _, mask in toys[1:])
