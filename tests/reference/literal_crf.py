"""Mean-field inference in a dense CRF with whole kernel matrices, and the permutohedral lattice point by point."""

from __future__ import annotations

import itertools

import numpy as np


def features(image: np.ndarray, xy: float, rgb: float | None = None) -> np.ndarray:
    """Features (N, 2) or (N, 5) of an image (H, W, 3): positions, and colors if there is a deviation of them."""
    height, width = image.shape[:2]
    rows = []
    for y, x in itertools.product(range(height), range(width)):
        rows.append([x / xy, y / xy, *([] if rgb is None else image[y, x] / rgb)])
    return np.array(rows, np.float64)


def gaussian_kernel(points: np.ndarray) -> np.ndarray:
    """exp(-|f_i - f_j|^2 / 2) of all pairs of points (N, d): (N, N)."""
    differences = points[:, None] - points[None]
    return np.exp(-(differences**2).sum(-1) / 2)


def lattice_kernel(points: np.ndarray) -> np.ndarray:
    """The kernel (N, N) by which a permutohedral lattice (Adams et al. 2010) filters values at points (N, d)."""
    dimension = points.shape[1]
    vertices: dict[tuple[int, ...], np.ndarray] = {}
    simplices = [_simplex(point) for point in points]
    for number, simplex in enumerate(simplices):
        for vertex, weight in simplex.items():
            vertices.setdefault(vertex, np.zeros(len(points)))[number] += weight
    for axis in range(dimension + 1):
        step = np.ones(dimension + 1, int)
        step[axis] = -dimension
        vertices = {
            vertex: value + sum(vertices.get(tuple(int(c) for c in vertex + sign * step), 0.0) for sign in (1, -1)) / 2
            for vertex, value in vertices.items()
        }
    rows = [sum(weight * vertices[vertex] for vertex, weight in simplex.items()) for simplex in simplices]
    return np.stack(rows) / (1 + 2.0**-dimension)


def _simplex(point: np.ndarray) -> dict[tuple[int, ...], float]:
    """The vertices of the simplex in which a point (d,) lies, with its barycentric weights."""
    dimension = len(point)
    side = dimension + 1
    # The columns are an orthonormal basis of the plane on which coordinates sum to 0.
    basis = np.zeros((side, dimension))
    for column in range(dimension):
        basis[: column + 1, column] = 1
        basis[column + 1, column] = -(column + 1)
        basis[:, column] /= np.sqrt((column + 1) * (column + 2))
    # Rounded, so that coordinates that are equal by their formula are equal.
    place = (np.sqrt(2 / 3) * side * basis @ point).round(9)
    corner = side * np.round(place / side).astype(int)
    # Of equals, which are on the border of several simplices, the first coordinate counts as the largest.
    descending = np.argsort(corner - place, kind="stable")
    excess = corner.sum() // side
    # The coordinates that were rounded furthest are rounded the other way, so that all sum to 0.
    corner[descending[side - max(excess, 0) :]] -= side
    corner[descending[: max(-excess, 0)]] += side
    descending = np.argsort(corner - place, kind="stable")
    vertices = np.tile(corner, (side, 1)) + np.arange(side)[:, None]
    for remainder in range(side):
        vertices[remainder, descending[side - remainder :]] -= side
    equations = np.concatenate([vertices.T, np.ones((1, side))])
    weights = np.linalg.lstsq(equations, np.append(place, 1), rcond=None)[0]
    return {tuple(vertex): float(weight) for vertex, weight in zip(vertices.tolist(), weights, strict=True)}


def mean_field(probabilities: np.ndarray, kernels: list[tuple[float, np.ndarray]], iterations: int) -> np.ndarray:
    """Refines probabilities (K, N) by kernels, each a weight and a matrix (N, N), which is normalized symmetrically."""
    unary = np.log(np.clip(probabilities.astype(np.float64), 1e-5, 1))
    refined = _softmax(unary)
    for _ in range(iterations):
        messages = unary.copy()
        for weight, kernel in kernels:
            norm = 1 / np.sqrt(kernel.sum(1))
            messages += weight * ((refined * norm) @ kernel.T) * norm
        refined = _softmax(messages)
    return refined


def _softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max(0))
    return exponentials / exponentials.sum(0)
