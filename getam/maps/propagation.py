"""Propagation of class maps over the patches that a ViT holds alike, before PAMR works on pixels.

M' = T M, for each class, where T is an affinity (N, N) of the N patches:

* `attention_affinity`: mean attention, doubly normalized, symmetric and squared (class-aware attention-based affinity,
  Lin et al. 2023, CLIP-ES).
* `feature_affinity`: cosine similarity of the last tokens to a power, the walk of AffinityNet (Ahn & Kwak 2018) without
  its trained network.

Only activations inside the boxes around a class's highest values spread (`in_boxes`), as in CLIP-ES.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import reduce
from typing import Any, Self

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from getam.labels.class_maps import over_maximum
from getam.maps.attention import ClassMaps
from getam.maps.recorder import AttentionObserver, full_precision
from getam.networks.backbones import find_backbone
from getam.networks.tokens import final_norm_of
from getam.settings.maps import ActivationSettings

NORMALIZATIONS = 3
"""Times that columns, then rows are divided by their sums (CLIP-ES: the same)."""


def attention_affinity(attention: Tensor) -> Tensor:
    """Affinity of patches from their mean attention (Lin et al. 2023, Eq. 9-10).

    T is the attention whose columns and rows have been divided by their sums in turn, three times (Sinkhorn 1964);
    then T <- (T + T^T) / 2, and T <- T T.

    Args:
        attention: (N, N), >= 0, floating: attention of the patches (rows) to the patches, averaged over heads and
            blocks.

    Returns:
        (N, N), symmetric, >= 0, of the same dtype; its rows sum to about 1.
    """
    matrix = attention
    for _ in range(NORMALIZATIONS):
        matrix = matrix / matrix.sum(0, keepdim=True)
        matrix = matrix / matrix.sum(1, keepdim=True)
    matrix = (matrix + matrix.T) / 2
    return matrix @ matrix


def feature_affinity(tokens: Tensor, *, power: float) -> Tensor:
    """Affinity of patches from their features: T_ij = max(0, cos(f_i, f_j))^power, rows divided by their sums.

    Args:
        tokens: (N, d), floating: the patch tokens.
        power: exponent, > 0; the higher, the fewer patches are alike.

    Returns:
        (N, N), >= 0, of the same dtype; rows sum to 1.
    """
    unit = F.normalize(tokens, dim=1)
    similarity = (unit @ unit.T).clamp(min=0) ** power
    return similarity / similarity.sum(1, keepdim=True)


def boundary_prior(tokens: Tensor, grid: tuple[int, int], *, power: float) -> Tensor:
    """How little each patch is like those along the image's edges, most of which are background.

    The edges are taken for background, as in "Geodesic saliency using background priors" (Wei et al. 2012). What is
    like them is told by a ViT's features: b_i = mean over the patches j along the edges of max(0, cos(f_i, f_j))^power,
    and the prior is 1 - b_i / max b.

    Args:
        tokens: f, (N, d), floating: the patch tokens, N = n_h * n_w.
        grid: (n_h, n_w).
        power: exponent of the similarity, > 0.

    Returns:
        (n_h, n_w), in [0, 1], of the same dtype; 0 at the patch that is most like the edges.
    """
    unit = F.normalize(tokens, dim=1).unflatten(0, grid)
    edges = torch.cat([unit[0], unit[-1], unit[:, 0], unit[:, -1]])
    like = ((unit @ edges.T).clamp(min=0) ** power).mean(2)
    return 1 - over_maximum(like, like.amax((0, 1), keepdim=True))


def propagate(maps: Tensor, affinity: Tensor, *, threshold: float = 0.0, steps: int = 1) -> Tensor:
    """Spreads class maps over alike patches: M' = T^steps (M inside its boxes).

    Args:
        maps: (K, n_h, n_w), >= 0, floating, a map for each class.
        affinity: T, (N, N) with N = n_h * n_w, of the same dtype, on the same device.
        threshold: see `in_boxes`; 0 lets everything spread.
        steps: number of products with T.

    Returns:
        (K, n_h, n_w), >= 0, of the maps' dtype.
    """
    spread = in_boxes(maps, threshold).flatten(1)
    for _ in range(steps):
        spread = spread @ affinity.T
    return spread.view_as(maps)


def in_boxes(maps: Tensor, threshold: float) -> Tensor:
    """Sets each map to zero outside the bounding boxes of the regions that reach a share of its maximum.

    The regions are the 8-connected components of {M >= threshold max M}. They are found on the CPU, for which a GPU is
    waited for.

    Args:
        maps: (K, n_h, n_w), >= 0.
        threshold: share of the maximum, in [0, 1]; 0 keeps the maps as they are.

    Returns:
        (K, n_h, n_w).
    """
    if threshold == 0 or not maps.numel():
        return maps
    high = (maps >= threshold * maps.amax((1, 2), keepdim=True)).byte().cpu().numpy()
    inside = np.zeros(high.shape, bool)
    for box, mask in zip(inside, high, strict=True):
        # The first of the components is the background.
        for left, top, width, height, _ in cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:]:
            box[top : top + height, left : left + width] = True
    return maps * torch.from_numpy(inside).to(maps.device, non_blocking=True)


class Propagation:
    """Context manager that observes a ViT's forward pass and then propagates the maps of its images.

    Matrices are built for one image and one block at a time, in float32 at least, on the images' device. The pass
    itself stays as it is.

    Args:
        backbone: a timm ViT.
        settings: propagation other than `none`: `attention`, `features`, or `both`, features after attention; then
            the maps are multiplied by the boundary prior to the power `boundary_prior`.

    Raises:
        InputError: see AttentionObserver.
    """

    def __init__(self, backbone: Any, settings: ActivationSettings) -> None:
        self.backbone, self.settings = backbone, settings
        self._attention: AttentionObserver | None = None
        if settings.propagation in ("attention", "both"):
            first = max(0, len(backbone.blocks) - settings.propagation_blocks)
            self._attention = AttentionObserver(backbone, first_block=first)
        self._tokens: list[Tensor] = []
        self._contexts = ExitStack()

    def __enter__(self) -> Self:
        self._tokens.clear()
        if self._attention is not None:
            self._contexts.enter_context(self._attention)
        if reads_features(self.settings):
            self._contexts.enter_context(self.backbone.blocks[-1].register_forward_hook(self._keep_tokens))
        return self

    def __exit__(self, *exception: object) -> None:
        self._contexts.close()

    def _keep_tokens(self, block: nn.Module, inputs: Any, output: Tensor) -> None:
        self._tokens.append(output.detach())

    def propagated(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The propagated maps of the images of the last forward pass, each (K_b, n_h, n_w); maps of no class stay."""
        # The boxes of all images are found together, so that a GPU is waited for only once.
        boxed = in_boxes(torch.cat(list(maps)), self.settings.propagation_threshold).split([len(each) for each in maps])
        results = []
        for image, values in enumerate(boxed):
            if len(values):
                with full_precision(values):
                    values = self._propagated(image, values)
            results.append(values)
        return results

    def _propagated(self, image: int, maps: Tensor) -> Tensor:
        settings, prefix = self.settings, self.backbone.num_prefix_tokens
        if self._attention is not None:
            calls = self._attention.calls
            total = reduce(torch.add, (call.matrix(image).mean(0)[prefix:, prefix:] for call in calls))
            affinity = attention_affinity((total / len(calls)).to(maps.dtype))
            maps = propagate(maps, affinity)
        if reads_features(settings):
            tokens = final_norm_of(self.backbone)(self._tokens[-1][image, prefix:].to(maps.dtype))
            if spreads_by_features(settings):
                affinity = feature_affinity(tokens, power=settings.propagation_power)
                maps = propagate(maps, affinity, steps=settings.propagation_steps)
            if settings.boundary_prior:
                prior = boundary_prior(tokens, (maps.shape[1], maps.shape[2]), power=settings.propagation_power)
                maps = maps * prior**settings.boundary_prior
        return maps


class PropagatedMaps(ClassMaps):
    """The maps of another method, propagated by what the same forward pass shows.

    Args:
        maps: the method whose maps are propagated, outside its context; if features are read, one that lets the last
            block compute its patch tokens.
        settings: see Propagation.

    Raises:
        InputError: the model contains no ViT with a class token, or several; see AttentionObserver.
    """

    def __init__(self, maps: ClassMaps, settings: ActivationSettings) -> None:
        super().__init__(maps.model)
        self._maps = maps
        self._propagation = Propagation(find_backbone(maps.model), settings)

    def __enter__(self) -> Self:
        super().__enter__()
        self._maps.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._maps.__exit__(*exception)
        super().__exit__(*exception)

    def _compute(self, images: Tensor, classes: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
        with self._propagation:
            scores, maps = self._maps(images, classes)
        return scores, self._propagation.propagated(maps)


def spreads_by_features(settings: ActivationSettings) -> bool:
    """Whether maps are propagated by the last block's patch tokens."""
    return settings.propagation in ("features", "both")


def reads_features(settings: ActivationSettings) -> bool:
    """Whether propagated maps need the last block's patch tokens, for their propagation or the boundary prior."""
    return spreads_by_features(settings) or (settings.propagation != "none" and settings.boundary_prior > 0)
