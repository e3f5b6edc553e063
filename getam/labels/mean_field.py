"""Mean-field inference in a dense CRF by torch, on the device of its inputs.

It computes what pydensecrf computes, to the rounding of float32: both kernels are filtered in a permutohedral lattice
(Adams, Baek & Davis 2010), and normalized symmetrically.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from getam.errors import InputError
from getam.settings.crf import CrfSettings

LEAST_PROBABILITY = 1e-5
"""Probabilities are clipped to this before their logarithm is taken, as pydensecrf's unary_from_softmax does."""


@torch.no_grad()
def mean_field(image: Tensor, probabilities: Tensor, settings: CrfSettings) -> Tensor:
    """Refines class probabilities by mean-field inference in a dense CRF on the image.

    Each iteration gives Q = softmax(log P + sum_k w_k D_k^-1/2 K_k D_k^-1/2 Q): K_k is a Gaussian kernel between all
    pairs of pixels, in position, or in position and color; D_k holds the sums of its rows, and w_k is its weight.

    Args:
        image: (H, W, 3), uint8 RGB.
        probabilities: P, (K, H, W), float32, summing to 1 over K; on the image's device.

    Returns:
        (K, H, W), float32, summing to 1 over K.

    Raises:
        InputError: the kernels are so narrow that no lattice of the image can be numbered.
    """
    count, height, width = probabilities.shape
    rows, columns = (torch.arange(side, dtype=torch.float32, device=image.device) for side in (height, width))
    position = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)]).flatten(1)
    color = image.permute(2, 0, 1).flatten(1).float()
    kernels = [
        _Kernel(position / settings.gaussian_xy, settings.gaussian_weight),
        _Kernel(
            torch.cat([position / settings.bilateral_xy, color / settings.bilateral_rgb]), settings.bilateral_weight
        ),
    ]
    # Pixels come first, since a lattice gathers all classes of a pixel together.
    unary = probabilities.flatten(1).T.clamp(LEAST_PROBABILITY, 1).log().contiguous()
    refined = _softmax(unary)
    for _ in range(settings.iterations):
        refined = _softmax(sum((kernel(refined) for kernel in kernels), unary))
    return refined.T.reshape(count, height, width)


def _softmax(values: Tensor) -> Tensor:
    """The softmax over the second dimension of (N, K)."""
    # On a CPU, torch takes ten times as long for rows of less than 16 numbers as for columns of them.
    return values.softmax(1) if values.shape[1] >= 16 else values.T.softmax(0).T.contiguous()


class _Kernel:
    """A Gaussian kernel of deviation 1 between N points in d dimensions, symmetrically normalized, times a weight.

    It filters in a permutohedral lattice. Each point lies in a simplex of d + 1 vertices. Values are summed at the
    vertices by the points' barycentric weights, blurred by (1/2, 1, 1/2) along each of the d + 1 axes, and read at the
    points by the same weights.

    The lattice takes 16 (d + 1) bytes a point and 12 (d + 1) a vertex, and while it is made about 50 (d + 1) a point.
    """

    def __init__(self, features: Tensor, weight: float) -> None:
        """Makes the lattice.

        Args:
            features: (d, N), float32.
        """
        dimension, points = features.shape
        corner, rank, weights = _simplices(features)
        codes, steps = _codes(corner, rank)
        codes, order = codes.T.flatten().sort(stable=True)
        first = torch.ones_like(codes, dtype=torch.bool)
        torch.ne(codes[1:], codes[:-1], out=first[1:])
        numbers = first.cumsum(0, dtype=torch.int32) - 1
        self._vertices = torch.empty_like(numbers).scatter_(0, order, numbers).reshape(points, dimension + 1)
        self._vertex_weights = weights.T.contiguous()
        self._points = (order // (dimension + 1)).int()
        self._point_weights = self._vertex_weights.flatten()[order]
        starts = first.nonzero().flatten()
        vertices = codes[starts]
        # A last vertex, of no point, stands in the place of neighbors that are not there. Its value is 0.
        self._starts = F.pad(starts.int(), (0, 1), value=len(order))
        self._neighbors = [_neighbors(vertices, step) for step in steps]
        blur = torch.tensor([1, 0.5, 0.5]).to(features.device, non_blocking=True)
        self._blur = blur.repeat(len(self._starts), 1)

        # The lattice's own scale, which pydensecrf takes out, cancels here.
        scale = self(features.new_ones(points, 1)).add(1e-20).rsqrt()
        self._vertex_weights *= weight * scale
        self._point_weights *= scale.flatten()[self._points]

    def __call__(self, values: Tensor) -> Tensor:
        """Filters values (N, K)."""
        values = _weighted_sums(values, self._points, self._point_weights, self._starts)
        for neighbors in self._neighbors:
            values = _weighted_sums(values, neighbors, self._blur)
        return _weighted_sums(values, self._vertices, self._vertex_weights)


def _weighted_sums(values: Tensor, rows: Tensor, weights: Tensor, starts: Tensor | None = None) -> Tensor:
    """Weighted sums of rows of values (N, K): of those in each row of `rows`, or between two of its `starts`."""
    return F.embedding_bag(rows, values, starts, mode="sum", per_sample_weights=weights)


def _simplices(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The simplex of the lattice in which each point lies.

    Args:
        features: (d, N), float32.

    Returns:
        Its vertex of remainder 0, int64, d + 1 coordinates that sum to 0; the rank of the point's distance to it in
        each coordinate, int64, 0 for the largest; and the point's barycentric weights at the vertices of remainders
        0 to d, float32. All are (d + 1, N).
    """
    dimension, points = features.shape
    side = dimension + 1
    elevated = features.new_empty(side, points)
    total = features.new_zeros(points)
    for axis in range(dimension, 0, -1):
        scaled = features[axis - 1] * (math.sqrt(2 / 3) * side / math.sqrt(axis * (axis + 1)))
        elevated[axis] = total - axis * scaled
        total = total + scaled
    elevated[0] = total

    rounded = (elevated / side).round()
    distance = elevated - side * rounded
    rank = rounded.sum(0).long().repeat(side, 1)
    for axis in range(side):
        for other in range(axis + 1, side):
            nearer = distance[axis] < distance[other]
            rank[axis] += nearer
            rank[other] += ~nearer
    # A point whose rounded coordinates do not sum to 0 is brought back to the plane on which they do.
    turns = (rank < 0).long() - (rank > dimension).long()
    rank += side * turns
    corner = side * (rounded.long() + turns)

    ascending = torch.empty_like(elevated).scatter_(0, dimension - rank, (elevated - corner) / side)
    weights = ascending - ascending.roll(1, 0)
    weights[0] += 1
    return corner, rank, weights


def _codes(corner: Tensor, rank: Tensor) -> tuple[Tensor, list[int]]:
    """A number for each vertex of the simplices, which differs between vertices.

    The vertex of remainder r is `corner` + r, less d + 1 in the coordinates of the r highest ranks. The number's digits
    are d of its coordinates, from which the last one follows.

    Args:
        corner, rank: see `_simplices`.

    Returns:
        (d + 1, N), int64, for remainders 0 to d; and what a step along each axis of the lattice adds to a number.

    Raises:
        InputError: the numbers exceed 64 bits.
    """
    side = len(corner)
    dimension = side - 1
    strides, capacity = [], 1
    lowest, highest = corner[:-1].aminmax(dim=1)
    for spread in (highest - lowest).tolist():
        strides.append(capacity)
        # A vertex is up to d from a corner, and its neighbor d further: no digits of the two differ by more than this.
        capacity *= spread + 3 * dimension + 1
    if capacity >= 2**63:
        raise InputError(
            "crf: the standard deviations are too small for an image of this size and its colors; write larger ones in "
            "gaussian_xy, bilateral_xy and bilateral_rgb"
        )
    stride = torch.tensor([*strides, 0]).to(corner.device, non_blocking=True)[:, None]
    codes = torch.empty_like(corner)
    codes[0] = (corner * stride).sum(0)
    by_rank = torch.empty_like(corner).scatter_(0, rank, stride.expand_as(corner))
    for remainder in range(1, side):
        codes[remainder] = codes[remainder - 1] + sum(strides) - side * by_rank[side - remainder]
    return codes, [sum(strides) - side * digit for digit in [*strides, 0]]


def _neighbors(codes: Tensor, step: int) -> Tensor:
    """The places of each vertex and of those one step before and after it; M, the number of vertices, for none.

    Args:
        codes: the vertices' numbers, ascending, (M,).

    Returns:
        (M + 1, 3), int32; the last row is M.
    """
    count = len(codes)
    wanted = codes + step
    after = torch.searchsorted(codes, wanted, out_int32=True)
    found = codes[after.clamp(max=count - 1)] == wanted
    places = torch.full((count + 1, 3), count, dtype=torch.int32, device=codes.device)
    places[:, 0] = torch.arange(count + 1, device=codes.device)
    places[:count, 2] = after.where(found, count)
    # Vertices without a neighbor write to the last place, which is put right again; a mask would wait for a GPU.
    places[:, 1].scatter_(0, places[:count, 2].long(), places[:count, 0])
    places[count, 1] = count
    return places
