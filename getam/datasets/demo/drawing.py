"""Painting functions of the demo data set.

Images are (H, W, 3), float32 RGB in [0, 1]; coverages are (H, W), float32 in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

SUPERSAMPLING = 4

Random = np.random.Generator


def cover(contours: Sequence[np.ndarray], size: int, *, rim: float = 0.0) -> np.ndarray:
    """Rasterizes contours with antialiasing: the share of each pixel's area inside them, (size, size).

    Args:
        contours: each (N, 2), x and y in pixels; filled by the even-odd rule.
        rim: above 0, the area within this many pixels of the contours instead.
    """
    fine = np.zeros((size * SUPERSAMPLING, size * SUPERSAMPLING), np.uint8)
    corners = [np.round(points * SUPERSAMPLING).astype(np.int32) for points in contours]
    if rim:
        cv2.polylines(fine, corners, isClosed=True, color=255, thickness=max(1, round(2 * rim * SUPERSAMPLING)))
    else:
        cv2.fillPoly(fine, corners, color=255)
    return cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def blend(image: np.ndarray, coverage: np.ndarray, color: np.ndarray) -> np.ndarray:
    return image + coverage[..., None] * (color.astype(np.float32) - image)


def random_color(rng: Random, saturation: tuple[float, float], value: tuple[float, float]) -> np.ndarray:
    """A random color of any hue: (3,), RGB in [0, 1]."""
    hsv = np.array([[(rng.uniform(0, 360), rng.uniform(*saturation), rng.uniform(*value))]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float64)


def paint_body(
    rng: Random,
    image: np.ndarray,
    body: np.ndarray,
    coverage: np.ndarray,
    ground: np.ndarray,
    *,
    textured: float = 0.0,
) -> np.ndarray:
    """Paints a slightly shaded body with a darker rim, textured with probability `textured` and plain otherwise.

    Body colors are pale, so that a body is not mistaken for a telling part, and differ from the mean color `ground` of
    the background.
    """
    size = len(image)
    color = random_color(rng, (0.1, 0.5), (0.4, 0.95))
    while np.abs(color - ground).max() < 0.2:
        color = random_color(rng, (0.1, 0.5), (0.4, 0.95))
    fill: np.ndarray = np.broadcast_to(color.astype(np.float32), image.shape)
    if rng.random() < textured:
        texture = background(rng, size, contrast=(0.3, 1.2), patterns=("stripes", "blobs", "plaid"))
        fill = np.clip(fill + 0.8 * (texture - texture.mean(axis=(0, 1))), 0, 1)
    rim = np.minimum(cover([body], size, rim=0.01 * size), coverage)
    shaded = fill * (1 + 0.08 * _ramp(rng, size)[..., None])
    return blend(blend(image, coverage, shaded), rim, 0.6 * color)


def _ramp(rng: Random, size: int) -> np.ndarray:
    """A linear gradient in a random direction: (H, W), about -1 to 1."""
    line = np.linspace(-1, 1, size, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    return np.float32(np.cos(angle)) * line + np.float32(np.sin(angle)) * line[:, None]


def _noise(rng: Random, size: int, cells: int, channels: int) -> np.ndarray:
    """Smooth noise with `cells` bumps a side and unit variance at the nodes: (H, W, channels)."""
    nodes = rng.standard_normal((cells, cells, channels), dtype=np.float32)
    return cv2.resize(nodes, (size, size), interpolation=cv2.INTER_CUBIC).reshape(size, size, channels)


def background(rng: Random, size: int, *, contrast: tuple[float, float], patterns: Sequence[str]) -> np.ndarray:
    """A textured background: a gradient between two colors, noise in three octaves, and one of `patterns`."""
    first, second = (random_color(rng, (0.1, 0.6), (0.25, 0.85)).astype(np.float32) for _ in range(2))
    mix = np.clip(0.5 + 0.5 * _ramp(rng, size), 0, 1)[..., None]
    texture = _pattern(rng, size, str(rng.choice(patterns)))[..., None] * rng.normal(0, 0.09, 3).astype(np.float32)
    for cells, strength in ((5, 0.06), (12, 0.06), (28, 0.05)):
        tint = _noise(rng, size, cells, 3)
        texture = texture + strength * (0.6 * _noise(rng, size, cells, 1) + 0.4 * tint)
    return np.clip(first + mix * (second - first) + rng.uniform(*contrast) * texture, 0, 1)


def _pattern(rng: Random, size: int, name: str) -> np.ndarray:
    """A pattern that covers the image: (H, W), -1 to 1."""
    if name == "blobs":
        return np.tanh(3 * _noise(rng, size, int(rng.integers(5, 14)), 1)[..., 0])
    waves = [np.sin(rng.uniform(8, 30) * _ramp(rng, size) + rng.uniform(0, 2 * np.pi)) for _ in range(2)]
    return {"plain": np.zeros_like(waves[0]), "stripes": waves[0], "plaid": waves[0] * waves[1]}[name]


def finish(rng: Random, image: np.ndarray) -> np.ndarray:
    """Adds noise like a camera's and converts to (H, W, 3), uint8."""
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    return np.round(np.clip(image + 0.012 * grain, 0, 1) * 255).astype(np.uint8)
