"""Shapes of the demo data set: outlines of figures, telling parts, and their placement.

Outlines are (N, 2), x and y around the origin, at any scale; `pose` normalizes their area.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

OVERLAP = 0.05
"""Largest share of an earlier figure that a new figure may hide."""
CUT = 0.1
"""Largest share of a figure's area that the image border may cut off."""

Random = np.random.Generator
Layer = tuple[Sequence[np.ndarray], np.ndarray]
"""A filled shape: contours (N, 2), x and y, filled by the even-odd rule, and an RGB color (3,) in [0, 1]."""


def _turned(points: np.ndarray, angle: float) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    return points @ np.array(((cosine, sine), (-sine, cosine)))


def _polar(radius: np.ndarray, squash: float = 1.0) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, len(radius), endpoint=False)
    return np.stack((radius * np.cos(angle), squash * radius * np.sin(angle)), axis=1)


def _regular(corners: int, turn: float = 0.0) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False) + turn
    return np.stack((np.cos(angle), np.sin(angle)), axis=1)


def _rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array(((left, top), (right, top), (right, bottom), (left, bottom)))


def _ellipse(rng: Random) -> np.ndarray:
    return _regular(64) * (1, rng.uniform(0.62, 1))


def _rounded_rectangle(rng: Random) -> np.ndarray:
    circle = _regular(64, np.pi / 64)
    # This is a superellipse, |x|^n + |y|^n = 1, with n between 4 and 7.
    return np.sign(circle) * np.abs(circle) ** (2 / rng.uniform(4, 7)) * (1, rng.uniform(0.62, 1))


def _capsule(rng: Random) -> np.ndarray:
    circle = _regular(64, np.pi / 64)
    return circle + np.sign(circle) * (rng.uniform(0.3, 0.8), 0)


def _blob(rng: Random) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    waves = [rng.uniform(0.03, 0.16 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4)]
    return _polar(1 + np.sum(waves, axis=0), rng.uniform(0.75, 1))


def _star(rng: Random) -> np.ndarray:
    radius = np.ones(2 * int(rng.integers(4, 8)))
    radius[1::2] = rng.uniform(0.45, 0.7)
    return _polar(radius)


def _crescent(rng: Random) -> np.ndarray:
    angle = np.linspace(0.28 * np.pi, 1.72 * np.pi, 48)
    outer = np.stack((np.cos(angle), np.sin(angle)), axis=1)
    # The inner edge is a parabola from horn to horn.
    t = np.linspace(-1, 1, 24)[1:-1]
    depth = rng.uniform(0.5, 1.0)
    inner = np.stack((outer[0, 0] - depth * (1 - t**2), outer[0, 1] * t), axis=1)
    return np.concatenate((outer, inner))


def _polygon(rng: Random) -> np.ndarray:
    return _regular(int(rng.integers(3, 8))) * (1, rng.uniform(0.65, 1))


def irregular_polygon(rng: Random) -> np.ndarray:
    return _polar(rng.uniform(0.6, 1.1, int(rng.integers(5, 10))), rng.uniform(0.7, 1))


def _arrow(rng: Random) -> np.ndarray:
    shaft, neck = rng.uniform(0.25, 0.45), rng.uniform(-0.1, 0.3)
    upper = ((-1, shaft), (neck, shaft), (neck, 0.85), (1, 0))
    return np.array((*upper, *((x, -y) for x, y in upper[2::-1])))


def _gear(rng: Random) -> np.ndarray:
    root = rng.uniform(0.7, 0.85)
    return _polar(np.tile((1.0, 1.0, root, root), int(rng.integers(6, 11))))


BODIES: tuple[Callable[[Random], np.ndarray], ...] = (_ellipse, _rounded_rectangle, _capsule, _blob)
SALIENT_SHAPES: tuple[Callable[[Random], np.ndarray], ...] = (
    _star,
    _crescent,
    _polygon,
    irregular_polygon,
    _arrow,
    _gear,
)

WHITE, BLACK = np.array((0.97, 0.97, 0.97)), np.array((0.05, 0.05, 0.05))
CROSS = np.concatenate([_turned(np.array(((3, -1), (3, 1), (1, 1))), quarter * np.pi / 2) for quarter in range(4)])
SQUARE = _rectangle(-3, -3, 3, 3)

PARTS: tuple[tuple[Layer, ...], ...] = (
    # blip: a red disc with a white center
    (([_regular(32)], np.array((0.88, 0.05, 0.08))), ([_regular(32) * 0.5], WHITE)),
    # crux: a blue cross
    (([CROSS], np.array((0.05, 0.15, 0.95))),),
    # delta: a yellow triangle with a black border
    (([_regular(3)], BLACK), ([_regular(3) * 0.66], np.array((1.0, 0.88, 0.0)))),
    # zebo: green and black stripes
    (([SQUARE], np.array((0.0, 0.75, 0.15))), ([_rectangle(-3, y, 3, y + 1.2) for y in (-1.8, 0.6)], BLACK)),
    # halo: a magenta ring, through which the body shows
    (([_regular(32), _regular(32) * 0.5], np.array((0.95, 0.0, 0.8))),),
    # tesso: a checker of cyan and black
    (
        ([SQUARE], np.array((0.0, 0.9, 0.95))),
        ([_rectangle(x - 1, y - 1, x + 1, y + 1) for x, y in ((-2, 0), (2, 0), (0, -2), (0, 2))], BLACK),
    ),
)
"""The telling part of each class, as layers from bottom to top; the first contour is the part's outline."""


def _area(points: np.ndarray) -> float:
    return float(cv2.contourArea(points.astype(np.float32)))


def pose(rng: Random, outline: np.ndarray, size: int, *, area: tuple[float, float], central: bool) -> np.ndarray:
    """Scales an outline to a random area, rotates it at random and places it in the image.

    Args:
        outline: (N, 2), see the module.
        size: side of the image, pixels.
        area: range of the outline's share of the image's area.
        central: whether it is placed near the center; otherwise it is placed away from the center.

    Returns:
        (N, 2), x and y in pixels.
    """
    scale = size * np.sqrt(rng.uniform(*area) / _area(outline))
    center = rng.uniform(0.44, 0.56, 2)
    while not central and np.abs(center - 0.5).max() < 0.22:
        center = rng.uniform(0.13, 0.87, 2)
    return _turned(outline * scale, rng.uniform(0, 2 * np.pi)) + center * size


def fit_part(rng: Random, part: Sequence[Layer], body: np.ndarray, size: int) -> list[Layer]:
    """Places a telling part within a body, as near to one of the body's ends as it fits.

    The part is scaled to 12 to 16 % of the body's area and rotated at random.

    Returns:
        The layers of the part in pixels; [] if the part does not fit into the body and the image.
    """
    outline = part[0][0][0]
    scale = np.sqrt(rng.uniform(0.12, 0.16) * _area(body) / _area(outline))
    margin = 0.06 * np.sqrt(_area(body))
    angle = rng.uniform(0, 2 * np.pi)
    middle = body.mean(axis=0)
    distance = np.linalg.norm(body - middle, axis=1)
    # An end is any point nearly as far from the middle as the farthest: a long body has two, a round one has many.
    end = body[rng.choice(np.flatnonzero(distance > 0.95 * distance.max()))]
    edge = body.astype(np.float32)
    for step in np.linspace(0.9, 0, 19):
        shift = middle + (end - middle) * step
        placed = _turned(outline * scale, angle) + shift
        inside = placed.min() > 0 and placed.max() < size
        if inside and all(cv2.pointPolygonTest(edge, (x, y), True) > margin for x, y in placed.tolist()):
            return [([_turned(c * scale, angle) + shift for c in contours], color) for contours, color in part]
    return []


def has_room(body: np.ndarray, mask: np.ndarray, others: Sequence[np.ndarray]) -> bool:
    """Whether a figure is nearly whole within the image and hides little of each earlier figure.

    Args:
        body: outline (N, 2), pixels.
        mask: (H, W), bool, pixels of the figure.
        others: masks (H, W), bool, of the earlier figures.
    """
    uncut = mask.sum() >= (1 - CUT) * _area(body)
    return bool(uncut and all((mask & other).sum() <= OVERLAP * other.sum() for other in others))
