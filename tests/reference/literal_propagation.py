"""Propagation of maps patch by patch, with loops."""

from __future__ import annotations

import math

import numpy as np


def literal_attention_affinity(attention: np.ndarray) -> np.ndarray:
    """T (N, N) of attention (N, N): columns, then rows divided by their sums, three times; symmetric; squared."""
    count = len(attention)
    matrix = [[float(value) for value in row] for row in attention]
    for _ in range(3):
        columns = [sum(matrix[i][j] for i in range(count)) for j in range(count)]
        matrix = [[matrix[i][j] / columns[j] for j in range(count)] for i in range(count)]
        matrix = [[value / sum(row) for value in row] for row in matrix]
    matrix = [[(matrix[i][j] + matrix[j][i]) / 2 for j in range(count)] for i in range(count)]
    return np.array(
        [[sum(matrix[i][k] * matrix[k][j] for k in range(count)) for j in range(count)] for i in range(count)]
    )


def literal_feature_affinity(tokens: np.ndarray, power: float) -> np.ndarray:
    """T (N, N) of tokens (N, d): positive cosines to a power, rows divided by their sums."""
    lengths = [math.sqrt(sum(float(x) ** 2 for x in token)) for token in tokens]
    affinity = np.zeros((len(tokens), len(tokens)))
    for i, one in enumerate(tokens):
        for j, other in enumerate(tokens):
            cosine = sum(float(x) * float(y) for x, y in zip(one, other, strict=True)) / (lengths[i] * lengths[j])
            affinity[i, j] = max(0.0, cosine) ** power
        affinity[i] /= sum(affinity[i])
    return affinity


def literal_boundary_prior(tokens: np.ndarray, grid: tuple[int, int], power: float) -> np.ndarray:
    """1 - b_i / max b (h, w) of tokens (h * w, d), b_i the mean similarity to the edges; a corner lies at two."""
    height, width = grid
    rows = [(y, x) for y in (0, height - 1) for x in range(width)]
    columns = [(y, x) for x in (0, width - 1) for y in range(height)]
    lengths = [math.sqrt(sum(float(v) ** 2 for v in token)) for token in tokens]
    like = np.zeros(grid)
    for y, x in np.ndindex(*grid):
        i = y * width + x
        for row, column in rows + columns:
            j = row * width + column
            cosine = sum(float(v) * float(w) for v, w in zip(tokens[i], tokens[j], strict=True))
            like[y, x] += max(0.0, cosine / (lengths[i] * lengths[j])) ** power
    return 1 - like / like.max()


def literal_boxes(values: np.ndarray, threshold: float) -> np.ndarray:
    """Which cells of a map (h, w) are in the box of a region, 8-connected, of cells >= threshold times the maximum."""
    high = values >= threshold * values.max()
    inside = np.zeros(values.shape, bool)
    seen: set[tuple[int, int]] = set()
    for start in np.ndindex(*values.shape):
        if not high[start] or start in seen:
            continue
        region, todo = [], [start]
        seen.add(start)
        while todo:
            y, x = todo.pop()
            region.append((y, x))
            for neighbor in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                ny, nx = neighbor
                if 0 <= ny < values.shape[0] and 0 <= nx < values.shape[1] and high[neighbor] and neighbor not in seen:
                    seen.add(neighbor)
                    todo.append(neighbor)
        rows, columns = zip(*region, strict=True)
        inside[min(rows) : max(rows) + 1, min(columns) : max(columns) + 1] = True
    return inside


def literal_propagate(maps: np.ndarray, affinity: np.ndarray, threshold: float, steps: int) -> np.ndarray:
    """Maps (K, h, w) times T, `steps` times, from what lies in the boxes."""
    results = []
    for values in maps:
        spread = np.where(literal_boxes(values, threshold), values, 0.0).ravel()
        for _ in range(steps):
            spread = np.array([sum(row[j] * spread[j] for j in range(len(spread))) for row in affinity])
        results.append(spread.reshape(values.shape))
    return np.stack(results)
