"""GETAM: gradient-weighted element-wise transformer attention maps (Eq. 1-3).

Let o = A V be the output of a block's attention. The class token's row a of A and its gradient g = dy/da are

    a[h, j] = softmax_j(q[h, 0] . k[h, j] / sqrt(d)),        g[h, j] = < dy/do[h, 0], V[h, j] >,

so that neither the forward nor the backward pass needs an attention matrix: both use fused attention, the row is one
softmax over N numbers for each head, and its gradient follows from the gradient of the attention output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any, Self

import torch
from torch import Tensor, nn

from getam.errors import InputError, chosen
from getam.labels.class_maps import over_maximum
from getam.maps.recorder import AttentionCall, AttentionRecorder, at_least_float32, full_precision
from getam.networks.backbones import find_backbone

Coupling = Callable[[Tensor, Tensor], Tensor]


def _released(attention: Tensor, gradient: Tensor) -> Tensor:
    """mean_h(ReLU(g * a)) * mean_h(ReLU(g)), as in the authors' code."""
    return (gradient * attention).relu().mean(-3) * gradient.relu().mean(-3)


def _paper(attention: Tensor, gradient: Tensor) -> Tensor:
    """ReLU(g * a) * ReLU(g), with g and a averaged over heads before (Eq. 2)."""
    attention, gradient = attention.mean(-3), gradient.mean(-3)
    return (gradient * attention).relu() * gradient.relu()


def _attention_gradient(attention: Tensor, gradient: Tensor) -> Tensor:
    """mean_h(ReLU(g * a)): attention times gradient, which is GETAM without its second factor."""
    return (gradient * attention).relu().mean(-3)


COUPLINGS: dict[str, Coupling] = {"released": _released, "paper": _paper, "attention_gradient": _attention_gradient}
"""Functions (attention, gradient) of a block -> map: both (..., heads, rows, columns) -> (..., rows, columns)."""

FUSIONS = ("sum", "product", "matmul")


def gradient_weighted_maps(
    scores: Tensor,
    calls: Sequence[AttentionCall],
    classes: Sequence[Sequence[int]],
    *,
    coupling: str,
    num_prefix_tokens: int,
    grid: tuple[int, int],
    retain_graph: bool,
    fusion: str = "sum",
) -> list[Tensor]:
    """GETAM maps from a recorded forward pass; one backward pass serves the k-th class of all images.

    Gradients are taken only with respect to the attention outputs, so that no weight accumulates a gradient.

    Args:
        scores: (B, C), logits of the forward pass.
        calls: the recorded attention calls of the blocks.
        classes: K_b class indices for each image, counted from 0.
        coupling: a key of COUPLINGS.
        num_prefix_tokens: number of tokens before the patches.
        grid: (n_h, n_w) of the patches.
        retain_graph: whether to keep the graph for another backward pass (in a training step).
        fusion: `sum` of the blocks' maps (Eq. 3), `product` of the blocks' maps, or `matmul`, the class token's row of
            the product of the blocks' whole matrices, the last block's first; the matrices are built one at a time.
            `product` and `matmul` divide each block's map by its maximum, since products of raw values would underflow.

    Returns:
        For each image (K_b, n_h, n_w), >= 0, detached, float32 at least; raw values for `sum`, otherwise in [0, 1].

    Raises:
        InputError: there is no such coupling, or the scores do not depend on the recorded blocks.
    """
    couple = chosen(COUPLINGS, coupling, name="coupling")
    patches = slice(num_prefix_tokens, None)
    maps = [scores.new_zeros((len(indices), *grid), dtype=at_least_float32(scores)) for indices in classes]
    rows = [call.class_row()[:, :, None, patches] for call in calls] if fusion != "matmul" else []
    outputs = [call.output for call in calls]
    for k, images, gradients in class_gradients(scores, classes, outputs, retain_graph=retain_graph):
        with full_precision(scores):
            if fusion == "matmul":
                fused = {b: _matmul_map(calls, gradients, b, couple)[patches] for b in images}
            else:
                blocks = _block_maps(calls, rows, gradients, couple, patches)
                total = (
                    reduce(torch.mul, map(_by_maximum, blocks)) if fusion == "product" else reduce(torch.add, blocks)
                )
                fused = {b: total[b] for b in images}
            for b, values in fused.items():
                maps[b][k] = values.view(grid)
    return maps


def _block_maps(
    calls: Sequence[AttentionCall],
    rows: Sequence[Tensor],
    gradients: Sequence[Tensor],
    couple: Coupling,
    patches: slice,
) -> Iterator[Tensor]:
    """Yields each block's map of a batch, (B, n), from its class token's rows (B, heads, 1, n) and their gradients."""
    for call, row, gradient in zip(calls, rows, gradients, strict=True):
        yield couple(row, call.class_row_gradient(gradient)[:, :, None, patches])[:, 0]


def _matmul_map(calls: Sequence[AttentionCall], gradients: Sequence[Tensor], image: int, couple: Coupling) -> Tensor:
    """The class token's row (N,) of the product of an image's coupled matrices, the last block's first."""
    pairs = zip(reversed(calls), reversed(gradients), strict=True)
    return _class_row_of_product(couple(call.matrix(image), call.matrix_gradient(g, image)) for call, g in pairs)


def class_gradients(
    scores: Tensor, classes: Sequence[Sequence[int]], tensors: Sequence[Tensor], *, retain_graph: bool
) -> Iterator[tuple[int, list[int], tuple[Tensor, ...]]]:
    """Gradients of the scores of each image's k-th class with respect to `tensors`, for each k.

    The images of a batch do not interact, so one backward pass of the sum of their scores gives all their gradients.
    No GPU is waited for.

    Args:
        scores: (B, C).
        classes: K_b class indices for each image.
        retain_graph: whether to keep the graph after the last backward pass.

    Yields:
        k; the numbers of the images that have a k-th class; the gradient of each tensor, of the tensor's shape.

    Raises:
        InputError: the scores have no graph.
    """
    most = max((len(indices) for indices in classes), default=0)
    for k in range(most):
        images = [b for b, indices in enumerate(classes) if k < len(indices)]
        if not scores.requires_grad:
            raise InputError(
                "the model's scores depend on none of the blocks that maps are taken of; lower start_block"
            )
        chosen_scores = torch.zeros(scores.shape, dtype=scores.dtype)
        chosen_scores[images, [classes[b][k] for b in images]] = 1
        # A block above the one that the head reads does not influence the scores; its gradient is materialized as 0.
        gradients = torch.autograd.grad(
            scores,
            tensors,
            chosen_scores.to(scores.device, non_blocking=True),
            retain_graph=retain_graph or k + 1 < most,
            materialize_grads=True,
        )
        yield k, images, gradients


def _class_row_of_product(matrices: Iterator[Tensor]) -> Tensor:
    """Row 0, (N,), of the product of matrices (N, N), each divided by its maximum."""
    row: Tensor | None = None
    for matrix in matrices:
        row = _by_maximum(matrix[0] if row is None else row @ over_maximum(matrix, matrix.amax((-2, -1), keepdim=True)))
    assert row is not None
    return row


def _by_maximum(values: Tensor) -> Tensor:
    """Divides (..., n), >= 0, by the maximum over the last axis; rows of zeros stay zero."""
    return over_maximum(values, values.amax(-1, keepdim=True))


class ClassMaps(ABC):
    """Base of the map methods: a context manager that computes class maps and leaves the model unchanged.

    Inside the context the model is in evaluation mode and its weights require no gradient. At exit requires_grad and
    modes are restored, and no `.grad` is left on any tensor.

    Args:
        model: maps images (B, 3, H, W) to scores (B, C).
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._training: list[tuple[nn.Module, bool]] = []
        self._requires_grad: list[tuple[nn.Parameter, bool]] = []
        self._entered = False

    def __enter__(self) -> Self:
        if self._entered:
            raise InputError(f"{type(self).__name__}: is entered already; make another one for a context inside it")
        self._training = [(module, module.training) for module in self.model.modules()]
        self._requires_grad = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        self.model.eval()
        for parameter, _ in self._requires_grad:
            parameter.requires_grad_(False)
        self._entered = True
        return self

    def __exit__(self, *exception: object) -> None:
        for parameter, requires_grad in self._requires_grad:
            parameter.requires_grad_(requires_grad)
        for module, training in self._training:
            module.training = training
        self._training, self._requires_grad, self._entered = [], [], False

    def __call__(self, images: Tensor, classes: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
        """Computes the scores of images and the maps of the given classes.

        Args:
            images: (B, 3, H, W), normalized as the model expects.
            classes: for each image its K_b class indices, counted from 0 as in the scores.

        Returns:
            Scores (B, C), detached; for each image its maps (K_b, n_h, n_w) in the order of `classes`, >= 0, float32
            at least.

        Raises:
            InputError: the object is called outside its context, the numbers of lists and images differ, or a class
                index is beyond the scores.
        """
        name = type(self).__name__
        if not self._entered:
            raise InputError(f"{name}: is a context manager; write `with {name}(model) as maps: maps(images, classes)`")
        if len(classes) != len(images):
            raise InputError(f"classes: {len(classes)} lists for {len(images)} images; give one list an image")
        with torch.inference_mode(False):
            # Inference tensors cannot have a graph, so they are cloned.
            return self._compute(images.clone() if images.is_inference() else images, classes)

    @abstractmethod
    def _compute(self, images: Tensor, classes: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
        """Implements __call__, for as many lists of classes as images."""


class AttentionMaps(ClassMaps):
    """GETAM maps of a timm ViT, or of any model that contains exactly one (Eq. 1-3).

        with AttentionMaps(model, coupling="released", start_block=0) as maps:
            y, m = maps(images, classes)

    Inside the context the model's weights require no gradient and its graph begins at `start_block`. At exit hooks are
    removed, requires_grad, modes and fused-attention flags are restored, and no `.grad` is left on any tensor.

    Args:
        model: maps images (B, 3, H, W) to scores (B, C); it is run in evaluation mode.
        coupling: `released` (authors' code) or `paper` (Eq. 2); `attention_gradient` is the baseline without the
            second gradient factor.
        start_block: first block whose map is summed (Eq. 3), counted from 0.
        fusion: `sum` (Eq. 3), `product` or `matmul`, see `gradient_weighted_maps`.
        patch_tokens: whether the last block computes its patch tokens even if the scores need none of them, for who
            reads them in the same pass.

    Raises:
        InputError: the model contains no ViT with a class token, or several; there is no such block, coupling or
            fusion; in a call, the attention of a block is no softmax self-attention over prefix tokens and all patches.
    """

    def __init__(
        self,
        model: nn.Module,
        coupling: str = "released",
        start_block: int = 0,
        fusion: str = "sum",
        *,
        patch_tokens: bool = False,
    ) -> None:
        super().__init__(model)
        chosen(COUPLINGS, coupling, name="coupling")
        if fusion not in FUSIONS:
            raise InputError(f"fusion: {fusion!r} is none of {', '.join(FUSIONS)}")
        self.backbone: Any = find_backbone(model)
        self.coupling = coupling
        self.start_block = start_block
        self.fusion = fusion
        self._recorder = AttentionRecorder(
            self.backbone,
            start_block=start_block,
            detach_below=True,
            class_rows_alone=fusion != "matmul",
            prefix_alone=fusion != "matmul" and not patch_tokens and reads_prefix_alone(model),
        )

    def _compute(self, images: Tensor, classes: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
        with torch.enable_grad(), self._recorder:
            scores = self.model(images)
        calls, self._recorder.calls = self._recorder.calls, []
        check_scores(scores, classes)
        maps = gradient_weighted_maps(
            scores,
            calls,
            classes,
            coupling=self.coupling,
            num_prefix_tokens=self.backbone.num_prefix_tokens,
            grid=token_grid(self.backbone, images, calls),
            retain_graph=False,
            fusion=self.fusion,
        )
        return scores.detach(), maps


def check_scores(scores: object, classes: Sequence[Sequence[int]]) -> None:
    """Checks that a model's output is scores (B, C) for B lists of classes, each from 0 to C - 1.

    Raises:
        InputError: the output is something else, or a class index is out of range.
    """
    if not (isinstance(scores, Tensor) and scores.ndim == 2 and len(scores) == len(classes)):
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise InputError(f"the model gives {shape} for {len(classes)} images where scores (B, C) are needed")
    count = scores.shape[1]
    for b, indices in enumerate(classes):
        for index in indices:
            if not 0 <= index < count:
                raise InputError(f"classes: image {b} has class index {index}, the model's are 0 to {count - 1}")


def token_grid(backbone: Any, images: Tensor, calls: Sequence[AttentionCall]) -> tuple[int, int]:
    """The patch grid (n_h, n_w) of a forward pass, after a check that its attention was over all patches.

    Raises:
        InputError: no call was recorded, or the tokens are not the prefix tokens and all patches of each image (because
            of dropped patches, windows or merged tokens).
    """
    if not calls:
        raise InputError("the model's forward pass didn't run the ViT's blocks; nothing was recorded")
    grid: tuple[int, int] = backbone.patch_embed.dynamic_feat_size(tuple(images.shape[2:]))
    expected = backbone.num_prefix_tokens + grid[0] * grid[1]
    for call in calls:
        if len(call.query) != len(images):
            raise InputError(
                f"the ViT saw {len(call.query)} pictures for {len(images)} images; give a model that shows it each once"
            )
        if not call.query.shape[2] == call.key.shape[2] == expected:
            raise InputError(
                f"attention over {call.key.shape[2]} tokens where {backbone.num_prefix_tokens} prefix tokens and "
                f"{grid[0]}x{grid[1]} patches make {expected}; choose a backbone that attends to all patches"
            )
    return grid


def reads_prefix_alone(model: Any) -> bool:
    """Whether a model's scores depend only on the last block's prefix tokens, as in a timm ViT with token pooling."""
    pooled = getattr(model, "attn_pool", None) is not None
    return hasattr(model, "blocks") and getattr(model, "global_pool", None) == "token" and not pooled
