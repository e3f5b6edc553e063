"""Pairs of images and masks in DUTS layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from getam.datasets.duts import check_pairs, find_pairs, read_pair
from getam.errors import InputError


def duts(root: Path, *, images: Sequence[str], masks: Sequence[str], names: Sequence[str]) -> Path:
    for name, files in zip(names, (images, masks), strict=True):
        (root / name).mkdir(parents=True)
        for file in files:
            (root / name / file).touch()
    return root


@pytest.mark.parametrize("names", [("DUTS-TR-Image", "DUTS-TR-Mask"), ("images", "masks")])
def test_pairs_are_sorted_by_id(tmp_path: Path, names: tuple[str, str]) -> None:
    root = duts(
        tmp_path / "set",
        images=("b.JPG", "a.2.png", "a.jpeg", ".hidden.jpg", "notes.txt"),
        masks=("b.png", "a.2.png", "a.PNG", "more.png"),
        names=names,
    )
    image, mask = (root / name for name in names)
    assert find_pairs(root) == [
        ("a", image / "a.jpeg", mask / "a.PNG"),
        ("a.2", image / "a.2.png", mask / "a.2.png"),
        ("b", image / "b.JPG", mask / "b.png"),
    ]


@pytest.mark.parametrize(
    ("images", "masks", "names", "message"),
    [
        (("a.jpg", "b.jpg"), ("a.png",), ("Image", "Mask"), r"1 of 2 images .*b\.jpg; add the masks"),
        (("a.jpg",), ("a.jpg",), ("Image", "Mask"), r"a\.jpg; add the masks"),
        (("a.gif",), ("a.png",), ("Image", "Mask"), "put the images there"),
        (("a.jpg", "a.png"), ("a.png",), ("Image", "Mask"), r"a\.jpg and a\.png have one id"),
        (("a.jpg",), ("a.png",), ("TR-Image", "TE-Image"), "found TE-Image, TR-Image"),
        (("a.jpg",), ("a.png",), ("Image", "Labels"), "ends with Mask, found none"),
    ],
)
def test_folders_that_are_not_pairs_are_refused(
    tmp_path: Path, images: Sequence[str], masks: Sequence[str], names: Sequence[str], message: str
) -> None:
    root = duts(tmp_path / "set", images=images, masks=masks, names=names)
    with pytest.raises(InputError, match=message):
        find_pairs(root)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        find_pairs(tmp_path / "nowhere")


def test_pairs_are_checked_before_training(tmp_path: Path) -> None:
    root = duts(tmp_path / "set", images=("a.png",), masks=("a.png",), names=("Image", "Mask"))
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(root / "Image" / "a.png")
    Image.fromarray(np.array([[0, 127, 128, 255, 0, 0]] * 4, np.uint8)).save(root / "Mask" / "a.png")
    (pair,) = find_pairs(root)
    check_pairs([pair])
    assert read_pair(pair)[1]["mask"][0].tolist() == [0, 0, 1, 1, 0, 0]
    Image.fromarray(np.ones((4, 6), np.uint8)).save(root / "Mask" / "a.png")
    with pytest.raises(InputError, match="its brightest value is 1; masks hold 0 and 255"):
        read_pair(pair)
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(root / "Mask" / "a.png")
    with pytest.raises(InputError, match=r"a\.png: the mask is \(4, 5\), its image \(4, 6\)"):
        check_pairs([pair])
