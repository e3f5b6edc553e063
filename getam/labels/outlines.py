"""Label images as outlines, in which other programs edit them, and back.

An outline is the border of a connected region of one label value, without the holes of the region: what lies in a hole
has outlines of its own. Painted from the largest to the smallest, the outlines give the label image again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from getam.system.image_files import UNKNOWN

BACKGROUND_NAME, UNKNOWN_NAME = "_background_", "__ignore__"
"""Names of background and of unknown pixels among outlines; labelme's own conversion to VOC's masks uses the same."""

LABEL_MAP = "labelmap.txt"
"""CVAT's list of the names and colors in VOC's masks."""


@dataclass(frozen=True)
class Outline:
    """The outline of a region.

    Attributes:
        value: label value of the region.
        points: (N, 2), N >= 1, x and y of the corners in pixels; whole numbers are the centers of pixels.
    """

    value: int
    points: np.ndarray


def value_of_name(name: str, classes: tuple[str, ...]) -> int | None:
    """The label value that a name stands for; None if it is none of the classes' nor one of those above."""
    values = {BACKGROUND_NAME: 0, UNKNOWN_NAME: UNKNOWN} | {known: i for i, known in enumerate(classes, start=1)}
    return values.get(name)


def name_of_value(value: int, classes: tuple[str, ...]) -> str:
    """The name of a label value: a class's, or one of those above."""
    return {0: BACKGROUND_NAME, UNKNOWN: UNKNOWN_NAME}.get(value) or classes[value - 1]


def outlines(labels: np.ndarray, *, tolerance: float) -> list[Outline]:
    """The outlines of a label image, largest first; of background, only those within other regions.

    Args:
        labels: (H, W), uint8.
        tolerance: pixels by which corners may be left out (Douglas & Peucker 1973); 0: `painted` gives the same image.
    """
    found: list[tuple[float, Outline]] = []
    for value, region in regions(labels):
        height, width = labels.shape
        at_border = region[[0, height - 1]].any() or region[:, [0, width - 1]].any()
        if value == 0 and at_border:
            continue
        [border], _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        covered = np.zeros_like(region)
        cv2.fillPoly(covered, [border], 1)
        corners = cv2.approxPolyDP(border, tolerance, True) if tolerance else border
        found.append((float(covered.sum()), Outline(value, corners[:, 0])))
    return [outline for _, outline in sorted(found, key=lambda entry: -entry[0])]


def regions(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields value and pixels (H, W), uint8 0 or 1, of each region.

    Regions touch along sides, not across corners, so that one lies either wholly inside of another's border or wholly
    outside of it.
    """
    for value in np.unique(labels):
        count, components = cv2.connectedComponents((labels == value).astype(np.uint8), connectivity=4)
        for number in range(1, count):
            yield int(value), (components == number).astype(np.uint8)


def painted(shapes: Iterable[Outline], size: tuple[int, int]) -> np.ndarray:
    """The label image (H, W), uint8, of outlines that are painted in their order on background.

    Args:
        size: (H, W).
    """
    labels = np.zeros(size, np.uint8)
    for shape in shapes:
        cv2.fillPoly(labels, [np.rint(shape.points).astype(np.int32)], shape.value)
    return labels
