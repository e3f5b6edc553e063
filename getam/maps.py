"""GETAM: gradient-weighted element-wise transformer attention maps (Eq. 1-3), and the CAM baseline beside them.

With o = A V the output of a block's attention, the class token's row a of A and its gradient g = dy/da are

    a[h, j] = softmax_j(q[h, 0] . k[h, j] / sqrt(d)),        g[h, j] = < dy/do[h, 0], V[h, j] >,

so neither the forward nor the backward pass needs an attention matrix: fused attention serves both, the row is one
softmax over N numbers a head, and its gradient comes from the gradient of the attention output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from getam.errors import InputError

_fused_attention = F.scaled_dot_product_attention


@dataclass(frozen=True)
class AttentionRow:
    """One block's attention as GETAM needs it."""

    probabilities: Tensor
    """The class token's row over all tokens: (B, heads, N), each row sums to 1, detached."""
    values: Tensor
    """V: (B, heads, N, d), detached."""
    output: Tensor
    """The attention's output before projection, in the graph: (B, heads, N, d)."""


class _Recorder(TorchFunctionMode):
    """Sees each fused attention call that a block makes, whatever norms or rotations come before it."""

    def __init__(self, record: Callable[[Tensor, Tensor, Tensor, float | None, Tensor], None]) -> None:
        super().__init__()
        self.record = record

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if function is _fused_attention:
            named = dict(
                zip(
                    ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale"),
                    args,
                    strict=False,
                )
            )
            named |= kwargs
            self.record(named["query"], named["key"], named["value"], named.get("scale"), result)
        return result


class AttentionRecorder:
    """Context manager that keeps the class token's attention rows of one forward pass of a ViT.

    Args:
        backbone: a timm ViT: has `blocks`, `num_prefix_tokens` and a class token as its first token.
        start_block: first block to record.
        detach_below: cut the graph below `start_block`, so that a backward pass ends there. For maps alone; a
            training step needs the whole graph.

    `rows` holds one AttentionRow a block from start_block on, after a forward pass inside the context.
    """

    def __init__(self, backbone: Any, *, start_block: int, detach_below: bool) -> None:
        blocks = len(backbone.blocks)
        if not 0 <= start_block < blocks:
            raise InputError(f"start_block: {start_block} is no block; the backbone has blocks 0 to {blocks - 1}")
        self.backbone = backbone
        self.start_block = start_block
        self.detach_below = detach_below
        self.rows: list[AttentionRow] = []
        self._inside = False
        self._handles: list[RemovableHandle] = []
        self._fused: list[tuple[nn.Module, bool]] = []
        self._mode = _Recorder(self._record)

    def __enter__(self) -> AttentionRecorder:
        self.rows = []
        for number, block in enumerate(self.backbone.blocks):
            if number < self.start_block:
                continue
            cut = self.detach_below and number == self.start_block
            self._handles.append(block.register_forward_pre_hook(self._enter_block(cut)))
            self._handles.append(block.register_forward_hook(self._leave_block))
            for module in block.modules():
                # Only fused attention is seen; timm's explicit form would build the matrix anyway.
                if hasattr(module, "fused_attn"):
                    self._fused.append((module, bool(module.fused_attn)))
                    module.fused_attn = True
        self._mode.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mode.__exit__(kind, error, trace)
        for handle in self._handles:
            handle.remove()
        for module, fused in self._fused:
            module.fused_attn = fused  # type: ignore[assignment]
        self._handles, self._fused, self._inside = [], [], False

    def _enter_block(self, cut: bool) -> Callable[..., Any]:
        def hook(block: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
            self._inside = True
            if cut:
                self.rows = []
                return (inputs[0].detach().requires_grad_(), *inputs[1:])
            return None

        return hook

    def _leave_block(self, block: nn.Module, inputs: Any, output: Any) -> None:
        self._inside = False

    def _record(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, output: Tensor) -> None:
        if not self._inside:
            return
        # Like fused attention itself, in float32 at least: bfloat16 blurs large scores by several percent.
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            scale = query.shape[-1] ** -0.5 if scale is None else scale
            precision = _at_least_float32(query)
            scores = (query[:, :, :1].to(precision) * scale) @ key.to(precision).transpose(-2, -1)
            probabilities = scores[:, :, 0].softmax(-1)
        self.rows.append(AttentionRow(probabilities.detach(), value.detach(), output))


def _released(attention: Tensor, gradient: Tensor) -> Tensor:
    """mean_h(ReLU(g * a)) * mean_h(ReLU(g)), the authors' code: (B, heads, n) -> (B, n)."""
    return (gradient * attention).relu().mean(1) * gradient.relu().mean(1)


def _paper(attention: Tensor, gradient: Tensor) -> Tensor:
    """ReLU(g * a) * ReLU(g) with g and a averaged over heads first, Eq. 2: (B, heads, n) -> (B, n)."""
    attention, gradient = attention.mean(1), gradient.mean(1)
    return (gradient * attention).relu() * gradient.relu()


COUPLINGS = {"released": _released, "paper": _paper}


def getam(
    scores: Tensor,
    rows: Sequence[AttentionRow],
    classes: Sequence[Sequence[int]],
    *,
    coupling: str,
    num_prefix_tokens: int,
    grid: tuple[int, int],
    retain_graph: bool,
) -> list[Tensor]:
    """GETAM maps from a recorded forward pass; the k-th class of all images shares one backward.

    Nothing is accumulated on any weight: gradients are taken with respect to the attention outputs alone.

    Args:
        scores: (B, C) logits of the forward pass.
        classes: K_b class indices for each image, counted from 0.
        retain_graph: keep the graph for a further backward pass (a training step).

    Returns:
        For each image (K_b, n_h, n_w): Eq. 3's sum over the recorded blocks, raw, >= 0, detached.
    """
    couple = COUPLINGS[coupling]
    most = max((len(indices) for indices in classes), default=0)
    maps = [scores.new_zeros((len(indices), *grid), dtype=_at_least_float32(scores)) for indices in classes]
    outputs = [row.output for row in rows]
    for k in range(most):
        images = [b for b, indices in enumerate(classes) if k < len(indices)]
        with torch.enable_grad():
            chosen = scores[images, [classes[b][k] for b in images]].sum()
        gradients = torch.autograd.grad(chosen, outputs, retain_graph=retain_graph or k + 1 < most)
        # Autocast would take the products back to bfloat16.
        with torch.no_grad(), torch.autocast(scores.device.type, enabled=False):
            total: Tensor | float = 0.0
            for row, gradient in zip(rows, gradients, strict=True):
                values = row.values.to(_at_least_float32(row.values))
                g = (values @ gradient[:, :, 0, :, None].to(values.dtype))[..., 0]
                patches = slice(num_prefix_tokens, None)
                total = total + couple(row.probabilities[..., patches].to(g.dtype), g[..., patches])
            assert isinstance(total, Tensor)
            for b in images:
                maps[b][k] = total[b].view(grid)
    return maps


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


class AttentionMaps:
    """GETAM maps of a timm ViT, or of any model that contains exactly one.

        with AttentionMaps(model, coupling="released", start_block=0) as maps:
            y, m = maps(images, classes)

    Inside the context the model's weights require no gradient and its graph begins at `start_block`; at exit the
    model is as it was: hooks removed, requires_grad, mode and fused-attention flags restored, no `.grad` anywhere.

    Args:
        model: gives scores (B, C) for images (B, 3, H, W); it is run in evaluation mode.
        coupling: `released` (authors' code) or `paper` (Eq. 2).
        start_block: first block whose map is summed (Eq. 3).

    Raises:
        InputError: no ViT with a class token in the model, or more than one; no such block.
    """

    def __init__(self, model: nn.Module, coupling: str = "released", start_block: int = 0) -> None:
        if coupling not in COUPLINGS:
            raise InputError(f"coupling: {coupling!r} is none of {', '.join(COUPLINGS)}")
        self.model = model
        self.backbone: Any = find_backbone(model)
        self.coupling = coupling
        self.start_block = start_block
        self._recorder = AttentionRecorder(self.backbone, start_block=start_block, detach_below=True)
        self._training: list[tuple[nn.Module, bool]] = []
        self._requires_grad: list[tuple[nn.Parameter, bool]] = []

    def __enter__(self) -> AttentionMaps:
        self._training = [(module, module.training) for module in self.model.modules()]
        self._requires_grad = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        self.model.eval()
        for parameter, _ in self._requires_grad:
            parameter.requires_grad_(False)
        return self

    def __exit__(self, *exception: object) -> None:
        for parameter, requires_grad in self._requires_grad:
            parameter.requires_grad_(requires_grad)
        for module, training in self._training:
            module.training = training
        self._training, self._requires_grad = [], []

    def __call__(self, images: Tensor, classes: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
        """Scores and maps of the named classes.

        Args:
            images: (B, 3, H, W), normalized as the model expects.
            classes: for each image its K_b classes, counted from 0 as in the scores.

        Returns:
            scores (B, C), detached; for each image its maps (K_b, n_h, n_w) in the order of `classes`, >= 0.

        Raises:
            InputError: lists and images differ in number, or a class index is beyond the scores.
        """
        if len(classes) != len(images):
            raise InputError(f"classes: {len(classes)} lists for {len(images)} images; give one list an image")
        with torch.enable_grad(), self._recorder:
            scores = self.model(images)
        rows, self._recorder.rows = self._recorder.rows, []
        if not rows:
            raise InputError("the model's blocks made no fused attention call; GETAM needs softmax self-attention")
        for b, indices in enumerate(classes):
            for index in indices:
                if not 0 <= index < scores.shape[1]:
                    raise InputError(
                        f"classes: image {b} has class index {index}, the model's are 0 to {scores.shape[1] - 1}"
                    )
        maps = getam(
            scores,
            rows,
            classes,
            coupling=self.coupling,
            num_prefix_tokens=self.backbone.num_prefix_tokens,
            grid=self.backbone.patch_embed.dynamic_feat_size(tuple(images.shape[2:])),
            retain_graph=False,
        )
        return scores.detach(), maps


def find_backbone(model: nn.Module) -> nn.Module:
    """The one module of a model that is a timm ViT with a class token."""
    found = [m for m in model.modules() if hasattr(m, "blocks") and getattr(m, "cls_token", None) is not None]
    if not found:
        raise InputError(f"{type(model).__name__} holds no ViT with a class token; choose a backbone that has one")
    if len(found) > 1:
        raise InputError(f"{type(model).__name__} holds {len(found)} ViTs; give AttentionMaps the one that classifies")
    return found[0]


def cam(model: Any, images: Tensor, classes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Class activation maps of a ViTClassifier's own read-out: the baseline (K_b, n_h, n_w) for each image, >= 0."""
    with torch.no_grad():
        maps = model.activation_map(images)
    return [maps[b, list(indices)] for b, indices in enumerate(classes)]
