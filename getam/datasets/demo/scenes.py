"""Draws the demo data set, a seeded miniature of the weakly supervised problem that needs no download.

Each image shows one to three toys on a textured background. A toy is a body, whose shape and color are independent
of its class, with a small telling part, which determines the class: a classifier attends to the part, and pseudo
labels have to grow from there to the whole toy. The first toy is large and central, the others are small and
off-center, so that a saliency model finds the first and misses most of the others. The saliency training set
has other shapes and no telling parts: its masks separate large central figures from small distractors and contain
no information about the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from getam.datasets.demo.drawing import Random, background, blend, cover, finish, paint_body, random_color
from getam.datasets.demo.shapes import BODIES, PARTS, SALIENT_SHAPES, fit_part, has_room, irregular_polygon, pose
from getam.system.files import atomic_file, write_text
from getam.system.image_files import write_gray, write_labels

CLASSES: tuple[str, ...] = ("blip", "crux", "delta", "zebo", "halo", "tesso")
"""Invented class names; label value i in a mask is CLASSES[i - 1], 0 is background."""

ATTEMPTS = 100
"""Number of poses tried for a figure before it is left out for lack of room."""


def write_demo(
    root: Path,
    *,
    train_images: int,
    val_images: int,
    saliency_images: int,
    saliency_val_images: int,
    image_size: int,
    seed: int,
) -> None:
    """Writes the demo data set below `root`: a VOC tree, and saliency data in the folders DUTS-TR and DUTS-TE.

    Images are square with sides of `image_size` pixels. Each one has its own random generator, seeded by (seed,
    split, index), so that it stays the same when the numbers of images change.
    """
    for split_number, (split, count) in enumerate((("train", train_images), ("val", val_images))):
        ids = [f"{split}_{index:05d}" for index in range(count)]
        for index, image_id in enumerate(ids):
            rng = np.random.default_rng([seed, split_number, index])
            image, toys = draw_toys(rng, size=image_size)
            labels = np.zeros((image_size, image_size), np.uint8)
            for label, mask in toys:
                labels[mask] = label
            _write_jpeg(root / "JPEGImages" / f"{image_id}.jpg", image)
            write_labels(root / "SegmentationClass" / f"{image_id}.png", labels)
            write_text(root / "Annotations" / f"{image_id}.xml", _annotation(f"{image_id}.jpg", image_size, toys))
        write_text(root / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{name}\n" for name in ids))
    write_text(root / "classes.txt", "".join(f"{name}\n" for name in CLASSES))

    saliency_splits = (("DUTS-TR", saliency_images), ("DUTS-TE", saliency_val_images))
    for split_number, (split, count) in enumerate(saliency_splits, start=2):
        for index in range(count):
            image, mask = draw_salient(np.random.default_rng([seed, split_number, index]), size=image_size)
            _write_jpeg(root / split / f"{split}-Image" / f"{index:05d}.jpg", image)
            write_gray(root / split / f"{split}-Mask" / f"{index:05d}.png", mask.astype(np.uint8) * 255)


def draw_toys(rng: Random, *, size: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Draws an image with one to three toys.

    Returns:
        The image (H, W, 3), uint8 RGB; for each toy its label value in 1..6 and its visible pixels (H, W), bool. No
        two toys share a pixel, and no telling part is hidden.
    """
    image = background(rng, size, contrast=(0.6, 1.0), patterns=("plain", "stripes", "blobs"))
    ground = image.mean(axis=(0, 1))
    count = int(rng.choice((1, 2, 3), p=(0.45, 0.40, 0.15)))
    guarded = np.zeros((size, size), bool)
    toys: list[tuple[int, np.ndarray]] = []
    for number in range(count):
        # The more toys there are, the smaller the first one must be to leave room for the others.
        area = (0.13, 0.27 - 0.03 * count) if number == 0 else (0.055, 0.09)
        for _ in range(ATTEMPTS):
            outline = BODIES[rng.integers(len(BODIES))](rng)
            body = pose(rng, outline, size, area=area, central=number == 0)
            label = int(rng.integers(len(CLASSES))) + 1
            coverage = cover([body], size)
            mask = coverage > 0.5
            if not has_room(body, mask, [other for _, other in toys]) or (mask & guarded).any():
                continue
            if part := fit_part(rng, PARTS[label - 1], body, size):
                break
        else:
            continue
        image = paint_body(rng, image, body, coverage, ground)
        for contours, color in part:
            image = blend(image, cover(contours, size), color)
            guarded |= cover(contours, size) > 0
        toys = [(other, visible & ~mask) for other, visible in toys] + [(label, mask)]
    return finish(rng, image), toys


def draw_salient(rng: Random, *, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws an image of the saliency training set, with shapes that no toy has.

    Returns:
        The image (H, W, 3), uint8 RGB, and the mask (H, W), bool, of its large figures. Small off-center figures are
        distractors, which the mask leaves out.
    """
    image = background(rng, size, contrast=(0.4, 1.2), patterns=("plain", "stripes", "blobs", "plaid"))
    ground = image.mean(axis=(0, 1))
    second = bool(rng.random() < 0.13)
    distractors = int(rng.integers(1, 3)) if rng.random() < 0.7 else 0
    areas = [(0.12, 0.20 if second else 0.30)] + [(0.09, 0.12)] * second + [(0.03, 0.08)] * distractors
    salient = np.zeros((size, size), bool)
    masks: list[np.ndarray] = []
    for number, area in enumerate(areas):
        for _ in range(ATTEMPTS):
            outline = SALIENT_SHAPES[rng.integers(len(SALIENT_SHAPES))](rng)
            body = pose(rng, outline, size, area=area, central=number == 0)
            coverage = cover([body], size)
            mask = coverage > 0.5
            if has_room(body, mask, masks):
                break
        else:
            continue
        image = paint_body(rng, image, body, coverage, ground, textured=0.35)
        if rng.random() < 0.4:
            # A mark of any shape and color teaches the model that the marks on a figure belong to it.
            spot = ([irregular_polygon(rng)], random_color(rng, (0.1, 0.9), (0.1, 0.95)))
            for contours, color in fit_part(rng, [spot], body, size):
                image = blend(image, cover(contours, size), color)
        masks = [*masks, mask]
        salient = salient | mask if number <= second else salient & ~mask
    return finish(rng, image), salient


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    with atomic_file(path) as temporary:
        # Chroma is not subsampled, because a telling part is only a few pixels wide.
        Image.fromarray(image).save(temporary, quality=95, subsampling=0)


def _annotation(filename: str, size: int, toys: Sequence[tuple[int, np.ndarray]]) -> str:
    """VOC's XML annotation, with a 1-based, inclusive bounding box around the visible pixels of each toy."""
    annotation = ElementTree.Element("annotation")
    ElementTree.SubElement(annotation, "filename").text = filename
    shape = ElementTree.SubElement(annotation, "size")
    for name, value in (("width", size), ("height", size), ("depth", 3)):
        ElementTree.SubElement(shape, name).text = str(value)
    for label, mask in toys:
        entry = ElementTree.SubElement(annotation, "object")
        ElementTree.SubElement(entry, "name").text = CLASSES[label - 1]
        box = ElementTree.SubElement(entry, "bndbox")
        rows, columns = np.nonzero(mask)
        for name, edge in zip(
            ("xmin", "ymin", "xmax", "ymax"),
            (columns.min(), rows.min(), columns.max(), rows.max()),
            strict=True,
        ):
            ElementTree.SubElement(box, name).text = str(edge + 1)
    ElementTree.indent(annotation)
    return ElementTree.tostring(annotation, encoding="unicode") + "\n"
