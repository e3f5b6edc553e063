"""Reads saliency data sets in DUTS layout: a folder of images and a folder of masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from getam.datasets.index import files_by_id
from getam.errors import InputError
from getam.system.image_files import image_size, read_gray, read_image

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
SALIENT = 128
"""Lowest gray level of a salient pixel in a mask."""


class SaliencyPair(NamedTuple):
    """An image and its mask of salient pixels."""

    id: str
    image: Path
    mask: Path


def find_pairs(root: Path) -> list[SaliencyPair]:
    """The image/mask pairs of a folder in DUTS layout, sorted by id.

    `root` has one subfolder whose name ends with "Image" or "Images" (.jpg, .jpeg, .png) and one whose name
    ends with "Mask" or "Masks" (a .png with the same stem, which is the id), in upper or lower case. Hidden files and
    masks without an image are ignored.

    Raises:
        InputError: a folder or a mask is missing, or two files have the same id.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; point to a saliency data set such as DUTS-TR")
    images = files_by_id(_subfolder(root, "image"), IMAGE_SUFFIXES)
    masks = files_by_id(_subfolder(root, "mask"), frozenset({".png"}))
    if not images:
        raise InputError(f"{root}: no .jpg, .jpeg or .png in its image folder; put the images there")
    lacking = [image for image_id, image in images.items() if image_id not in masks]
    if lacking:
        first = ", ".join(str(image) for image in lacking[:5])
        raise InputError(
            f"{len(lacking)} of {len(images)} images have no mask, a .png of the same stem: {first}"
            f"{' ...' if len(lacking) > 5 else ''}; add the masks or remove the images"
        )
    return [SaliencyPair(image_id, image, masks[image_id]) for image_id, image in images.items()]


def check_pairs(pairs: Sequence[SaliencyPair]) -> None:
    """Compares the sizes of images and masks, reading only the files' headers.

    Raises:
        InputError: a mask has another size than its image.
    """
    for pair in pairs:
        image, mask = image_size(pair.image), image_size(pair.mask)
        if image != mask:
            raise InputError(f"{pair.mask}: the mask is {mask}, its image {image} (H, W); make them equal")


def read_pair(pair: SaliencyPair) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Reads a pair: the image (H, W, 3), uint8 RGB, and {"mask": (H, W), uint8 in {0, 1}}, see read_mask."""
    return read_image(pair.image), {"mask": read_mask(pair.mask)}


def read_mask(path: Path) -> np.ndarray:
    """Reads a mask of salient pixels: (H, W), uint8 in {0, 1}.

    Raises:
        InputError: the maximum is above 0 but below SALIENT, as in a mask of 0 and 1 instead of 0 and 255.
    """
    mask = read_gray(path)
    if 0 < mask.max() < SALIENT:
        raise InputError(f"{path}: its brightest value is {mask.max()}; masks hold 0 and 255, multiply it")
    return (mask >= SALIENT).astype(np.uint8)


def _subfolder(root: Path, ending: str) -> Path:
    found = sorted(
        folder for folder in root.iterdir() if folder.is_dir() and folder.name.lower().endswith((ending, f"{ending}s"))
    )
    if len(found) != 1:
        names = ", ".join(folder.name for folder in found) or "none"
        raise InputError(
            f"{root}: needs exactly one subfolder whose name ends with {ending.capitalize()}, found {names}; "
            f"arrange it like DUTS-TR (DUTS-TR-Image, DUTS-TR-Mask)"
        )
    return found[0]
