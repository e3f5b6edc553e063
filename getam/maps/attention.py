"""GETAM: gradient-weighted element-wise transformer attention maps (Eq. 1-3).

With o = A V the output of a block's attention, the class token's row a of A and its gradient g = dy/da are

    a[h, j] = softmax_j(q[h, 0] . k[h, j] / sqrt(d)),        g[h, j] = < dy/do[h, 0], V[h, j] >,

so neither the forward nor the backward pass needs an attention matrix: fused attention serves both, the row is one
softmax over N numbers a head, and its gradient comes from the gradient of the attention output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from types import TracebackType
from typing import Any, Self

import torch
import torch.nn.functional as F
from timm.layers import GluMlp, Mlp, SwiGLU
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from getam.errors import InputError, chosen
from getam.labels.class_maps import over_maximum
from getam.networks.backbones import find_backbone

Forward = Callable[[Tensor], Tensor]
Coupling = Callable[[Tensor, Tensor], Tensor]

_fused_attention = F.scaled_dot_product_attention


@dataclass(frozen=True)
class AttentionCall:
    """What one fused attention call of a block took and gave; tensors without a graph but for `output`.

    Its methods compute in float32 at least, whatever autocast says: bfloat16 blurs large scores by several percent.
    """

    query: Tensor
    """(B, heads, N, d)"""
    key: Tensor
    """(B, heads, N, d)"""
    value: Tensor
    """(B, heads, N, d)"""
    scale: float
    """What query times key is multiplied by, 1 / sqrt(d) as a rule."""
    bias: Tensor | None
    """Added to the scores (relative positions), or False where a token is masked; broadcasts to (B, heads, N, N)."""
    output: Tensor
    """A V before the projection, in the graph: (B, heads, N, d), or its first rows where no others were computed."""

    def class_row(self) -> Tensor:
        """The class token's row of A over all tokens: (B, heads, N), each row sums to 1."""
        return self._attention(self.query[:, :, :1], None if self.bias is None else self.bias[..., :1, :])[:, :, 0]

    def matrix(self, image: int) -> Tensor:
        """The whole of A for one image: (heads, N, N). This is what the class row saves: memory of N^2."""
        bias = self.bias
        if bias is not None and bias.ndim == 4 and len(bias) > 1:
            bias = bias[image : image + 1]
        return self._attention(self.query[image : image + 1], bias, image)[0]

    def _attention(self, query: Tensor, bias: Tensor | None, image: int | None = None) -> Tensor:
        key = self.key if image is None else self.key[image : image + 1]
        with _exact(query):
            precision = at_least_float32(query)
            scores = (query.to(precision) * self.scale) @ key.to(precision).transpose(-2, -1)
            if bias is not None:
                masked = bias.dtype == torch.bool
                scores = scores.masked_fill(~bias, -torch.inf) if masked else scores + bias.to(precision)
            return scores.softmax(-1)

    def class_row_gradient(self, output_gradient: Tensor) -> Tensor:
        """dy/da of the class token's row from dy/do (B, heads, N, d): (B, heads, N)."""
        with _exact(self.value):
            value = self.value.to(at_least_float32(self.value))
            return (value @ output_gradient[:, :, 0, :, None].to(value.dtype))[..., 0]

    def matrix_gradient(self, output_gradient: Tensor, image: int) -> Tensor:
        """dy/dA of one image from dy/do (B, heads, N, d): (heads, N, N)."""
        with _exact(self.value):
            value = self.value[image].to(at_least_float32(self.value))
            return output_gradient[image].to(value.dtype) @ value.transpose(-2, -1)


@contextmanager
def _exact(like: Tensor) -> Iterator[None]:
    # Autocast would take the products back to bfloat16.
    with torch.no_grad(), torch.autocast(like.device.type, enabled=False):
        yield


def at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


class _Recorder(TorchFunctionMode):
    """Sees each fused attention call that a block makes, whatever norms or rotations come before it."""

    def __init__(self, attend: Callable[[dict[str, Any]], Tensor]) -> None:
        super().__init__()
        self.attend = attend

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is not _fused_attention:
            return function(*args, **kwargs)
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
        return self.attend(dict(zip(names, args, strict=False)) | kwargs)


class AttentionRecorder:
    """Context manager that keeps the attention calls of a ViT's one forward pass inside it.

    Args:
        backbone: a timm ViT: has `blocks`, `num_prefix_tokens` and a class token as its first token.
        start_block: first block to record.
        detach_below: cut the graph below `start_block`, so that a backward pass ends there. For maps alone; a
            training step needs the whole graph.
        class_rows_alone: of the recorded calls, gradients are taken at the class token's row alone. Then, with the cut,
            the first recorded block's projection and MLP need a graph for that token alone.
        prefix_alone: the scores depend on the last block's prefix tokens alone, and gradients are taken at class rows:
            the last block's patches then need neither queries nor projection nor MLP.

    `calls` holds an AttentionCall a block from start_block on (two where a block attends twice in parallel), after a
    forward pass inside the context.

    Raises:
        InputError: no such block; in the forward pass, a block that runs twice, that makes no call of fused attention,
            or more than it has attention modules (differential attention: no one matrix is its attention).
    """

    def __init__(
        self,
        backbone: Any,
        *,
        start_block: int,
        detach_below: bool,
        class_rows_alone: bool = False,
        prefix_alone: bool = False,
    ) -> None:
        blocks = len(backbone.blocks)
        if not 0 <= start_block < blocks:
            raise InputError(f"start_block: {start_block} is no block; the backbone has blocks 0 to {blocks - 1}")
        self.backbone = backbone
        self.start_block = start_block
        self.detach_below = detach_below
        self.class_rows_alone = class_rows_alone
        self.prefix_alone = prefix_alone
        self.calls: list[AttentionCall] = []
        self._ran: set[int] = set()
        self._block: int | None = None
        self._before_block = 0
        self._handles: list[RemovableHandle] = []
        self._flags: list[tuple[nn.Module, str, bool]] = []
        self._forwards: list[tuple[nn.Module, Any]] = []
        self._mode = _Recorder(self._attend)

    def __enter__(self) -> AttentionRecorder:
        self.calls, self._ran = [], set()
        for number, block in enumerate(self.backbone.blocks):
            if number < self.start_block:
                continue
            self._handles.append(block.register_forward_pre_hook(self._enter_block(number)))
            # Only fused attention is seen; timm's explicit form would build the matrix anyway.
            attentions = [module for module in block.modules() if hasattr(module, "fused_attn")]
            for module in attentions:
                self._set(module, "fused_attn", True)
            self._handles.append(block.register_forward_hook(self._leave_block(number, max(1, len(attentions)))))
        if getattr(self.backbone, "grad_checkpointing", False):
            # A checkpointed block runs without a graph and would leave nothing to differentiate.
            self._set(self.backbone, "grad_checkpointing", False)
        if self.detach_below and self.class_rows_alone:
            self._narrow(self.backbone.blocks[self.start_block], _differentiated_at_first)
        if self.prefix_alone:
            self._narrow(self.backbone.blocks[-1], partial(_computed_at_first, self.backbone.num_prefix_tokens))
        self._mode.__enter__()
        return self

    def _narrow(self, block: Any, narrowed: Callable[[Forward], Forward]) -> None:
        for module in (getattr(getattr(block, "attn", None), "proj", None), getattr(block, "mlp", None)):
            # Of these it is known that they treat each token apart.
            if isinstance(module, nn.Linear | Mlp | GluMlp | SwiGLU):
                self._forwards.append((module, vars(module).get("forward")))
                module.forward = narrowed(module.forward)  # type: ignore[method-assign]

    def _set(self, module: nn.Module, name: str, value: bool) -> None:
        self._flags.append((module, name, bool(getattr(module, name))))
        setattr(module, name, value)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mode.__exit__(kind, error, trace)
        for handle in self._handles:
            handle.remove()
        for module, name, value in self._flags:
            setattr(module, name, value)
        for module, forward in reversed(self._forwards):
            if forward is None:
                del module.forward
            else:
                module.forward = forward
        self._handles, self._flags, self._forwards, self._block = [], [], [], None

    def _enter_block(self, number: int) -> Callable[..., Any]:
        def hook(block: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
            if number in self._ran:
                raise InputError(
                    f"block {number} ({type(block).__name__}) ran twice in one forward pass; give a model that runs "
                    "its ViT once for an image"
                )
            self._ran.add(number)
            self._block, self._before_block = number, len(self.calls)
            if self.detach_below and number == self.start_block:
                return (inputs[0].detach().requires_grad_(), *inputs[1:])
            return None

        return hook

    def _leave_block(self, number: int, attentions: int) -> Callable[..., None]:
        def hook(block: nn.Module, inputs: Any, output: Any) -> None:
            self._block = None
            calls = len(self.calls) - self._before_block
            if calls != attentions:
                raise InputError(
                    f"block {number} ({type(block).__name__}) made {calls or 'no'} fused attention "
                    f"call{'s' if calls > 1 else ''} where {attentions} of softmax self-attention "
                    f"{'is' if attentions == 1 else 'are'} needed; choose another backbone"
                )

        return hook

    def _attend(self, taken: dict[str, Any]) -> Tensor:
        if self._block is None:
            return _fused_attention(**taken)
        query, key, value, bias = (taken.get(name) for name in ("query", "key", "value", "attn_mask"))
        assert isinstance(query, Tensor)
        assert isinstance(key, Tensor)
        assert isinstance(value, Tensor)
        beyond = 0
        if self.prefix_alone and self._block == len(self.backbone.blocks) - 1:
            rows = self.backbone.num_prefix_tokens
            beyond = query.shape[2] - rows
            taken = taken | {"query": query[:, :, :rows]}
            if isinstance(bias, Tensor) and bias.shape[-2] > 1:
                taken["attn_mask"] = bias[..., :rows, :]
        output = _fused_attention(**taken)
        if taken.get("is_causal"):
            bias = query.new_ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
        scale = taken.get("scale")
        self.calls.append(
            AttentionCall(
                query=query.detach(),
                key=key.detach(),
                value=value.detach(),
                scale=query.shape[-1] ** -0.5 if scale is None else scale,
                bias=bias.detach() if isinstance(bias, Tensor) else None,
                output=output,
            )
        )
        return F.pad(output, (0, 0, 0, beyond)) if beyond else output


def _differentiated_at_first(forward: Forward) -> Forward:
    """`forward` of tokens (B, N, d) whose result has a graph at the first token alone."""

    def narrowed(tokens: Tensor) -> Tensor:
        with torch.no_grad():
            others = forward(tokens)[:, 1:]
        return torch.cat([forward(tokens[:, :1]), others], dim=1)

    return narrowed


def _computed_at_first(count: int, forward: Forward) -> Forward:
    """`forward` of the first tokens; 0 for the others of (B, N, d)."""
    return lambda tokens: F.pad(forward(tokens[:, :count]), (0, 0, 0, tokens.shape[1] - count))


def _released(attention: Tensor, gradient: Tensor) -> Tensor:
    """mean_h(ReLU(g * a)) * mean_h(ReLU(g)), the authors' code."""
    return (gradient * attention).relu().mean(-3) * gradient.relu().mean(-3)


def _paper(attention: Tensor, gradient: Tensor) -> Tensor:
    """ReLU(g * a) * ReLU(g) with g and a averaged over heads first, Eq. 2."""
    attention, gradient = attention.mean(-3), gradient.mean(-3)
    return (gradient * attention).relu() * gradient.relu()


def _attention_gradient(attention: Tensor, gradient: Tensor) -> Tensor:
    """mean_h(ReLU(g * a)): attention x gradient, GETAM without its second factor."""
    return (gradient * attention).relu().mean(-3)


COUPLINGS: dict[str, Coupling] = {"released": _released, "paper": _paper, "attention_gradient": _attention_gradient}
"""How a block's attention and its gradient make a map: both (..., heads, rows, columns) -> (..., rows, columns)."""

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
    """GETAM maps from a recorded forward pass; the k-th class of all images shares one backward.

    Nothing is accumulated on any weight: gradients are taken with respect to the attention outputs alone.

    Args:
        scores: (B, C) logits of the forward pass.
        classes: K_b class indices for each image, counted from 0.
        coupling: a key of COUPLINGS.
        retain_graph: keep the graph for a further backward pass (a training step).
        fusion: `sum` over the recorded blocks (Eq. 3); `product` of the blocks' maps; `matmul`: the class token's row
            of the product of the blocks' whole matrices, last block first, which builds them one at a time. A product
            of raw values would underflow, so `product` and `matmul` divide each block's by its maximum.

    Returns:
        For each image (K_b, n_h, n_w), >= 0, detached; raw for `sum`, in [0, 1] otherwise.
    """
    couple = chosen(COUPLINGS, coupling, name="coupling")
    patches = slice(num_prefix_tokens, None)
    maps = [scores.new_zeros((len(indices), *grid), dtype=at_least_float32(scores)) for indices in classes]
    rows = [call.class_row()[:, :, None, patches] for call in calls] if fusion != "matmul" else []
    outputs = [call.output for call in calls]
    for k, images, gradients in class_gradients(scores, classes, outputs, retain_graph=retain_graph):
        with _exact(scores):
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
    """Each block's map of a whole batch, (B, n): its class rows (B, heads, 1, n) coupled with their gradients."""
    for call, row, gradient in zip(calls, rows, gradients, strict=True):
        yield couple(row, call.class_row_gradient(gradient)[:, :, None, patches])[:, 0]


def _matmul_map(calls: Sequence[AttentionCall], gradients: Sequence[Tensor], image: int, couple: Coupling) -> Tensor:
    """The class token's row, (N,), of the product of an image's matrices, the last block's first."""
    pairs = zip(reversed(calls), reversed(gradients), strict=True)
    return _class_row_of_product(couple(call.matrix(image), call.matrix_gradient(g, image)) for call, g in pairs)


def class_gradients(
    scores: Tensor, classes: Sequence[Sequence[int]], tensors: Sequence[Tensor], *, retain_graph: bool
) -> Iterator[tuple[int, list[int], tuple[Tensor, ...]]]:
    """Gradients of the k-th class of every image with respect to `tensors`, in as few backward passes as that takes.

    Images of a batch don't touch one another, so their scores are summed.

    Yields:
        k; the images that have a k-th class; a gradient for each tensor, of its shape.
    """
    most = max((len(indices) for indices in classes), default=0)
    for k in range(most):
        images = [b for b, indices in enumerate(classes) if k < len(indices)]
        if not scores.requires_grad:
            raise InputError(
                "the model's scores depend on none of the blocks that maps are taken of; lower start_block"
            )
        with torch.enable_grad():
            chosen = scores[images, [classes[b][k] for b in images]].sum()
        # A tensor that no score depends on, in a block above the head's, has a gradient of 0.
        yield (
            k,
            images,
            torch.autograd.grad(chosen, tensors, retain_graph=retain_graph or k + 1 < most, materialize_grads=True),
        )


def _class_row_of_product(matrices: Iterator[Tensor]) -> Tensor:
    """Row 0 of the product of matrices (N, N), each divided by its maximum: (N,)."""
    row: Tensor | None = None
    for matrix in matrices:
        row = _by_maximum(matrix[0] if row is None else row @ over_maximum(matrix, matrix.amax((-2, -1), keepdim=True)))
    assert row is not None
    return row


def _by_maximum(values: Tensor) -> Tensor:
    """(..., n), >= 0 -> the same divided by its maximum, 0 where that is 0."""
    return over_maximum(values, values.amax(-1, keepdim=True))


class ClassMaps(ABC):
    """Maps of the named classes by one method, as a context manager that leaves the model as it was.

    Inside the context the model is in evaluation mode and its weights require no gradient; at exit requires_grad and
    modes are restored, and no `.grad` is left anywhere.

    Args:
        model: gives scores (B, C) for images (B, 3, H, W).
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
        """Scores and maps of the named classes.

        Args:
            images: (B, 3, H, W), normalized as the model expects.
            classes: for each image its K_b classes, counted from 0 as in the scores.

        Returns:
            scores (B, C), detached; for each image its maps (K_b, n_h, n_w) in the order of `classes`, >= 0, float32
            at least.

        Raises:
            InputError: used outside its context; lists and images differ in number; a class index beyond the scores.
        """
        name = type(self).__name__
        if not self._entered:
            raise InputError(f"{name}: is a context manager; write `with {name}(model) as maps: maps(images, classes)`")
        if len(classes) != len(images):
            raise InputError(f"classes: {len(classes)} lists for {len(images)} images; give one list an image")
        with torch.inference_mode(False):
            # A tensor of inference mode can have no graph.
            return self._compute(images.clone() if images.is_inference() else images, classes)

    @abstractmethod
    def _compute(self, images: Tensor, classes: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
        """What __call__ gives, for arguments that agree in number."""


class AttentionMaps(ClassMaps):
    """GETAM maps of a timm ViT, or of any model that contains exactly one.

        with AttentionMaps(model, coupling="released", start_block=0) as maps:
            y, m = maps(images, classes)

    Inside the context the model's weights require no gradient and its graph begins at `start_block`; at exit the
    model is as it was: hooks removed, requires_grad, mode and fused-attention flags restored, no `.grad` anywhere.

    Args:
        model: gives scores (B, C) for images (B, 3, H, W); it is run in evaluation mode.
        coupling: `released` (authors' code) or `paper` (Eq. 2); `attention_gradient` is the baseline without the
            second gradient factor.
        start_block: first block whose map is summed (Eq. 3).
        fusion: `sum` (Eq. 3), `product` or `matmul`, see `gradient_weighted_maps`.

    Raises:
        InputError: no ViT with a class token in the model, or more than one; no such block, coupling or fusion; in a
            call, blocks whose attention is no softmax self-attention over one class token and the patches.
    """

    def __init__(self, model: nn.Module, coupling: str = "released", start_block: int = 0, fusion: str = "sum") -> None:
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
            prefix_alone=fusion != "matmul" and reads_prefix_alone(model),
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
    """Refuses what is no (B, C) scores for B lists of classes, and classes that they have not."""
    if not (isinstance(scores, Tensor) and scores.ndim == 2 and len(scores) == len(classes)):
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise InputError(f"the model gives {shape} for {len(classes)} images where scores (B, C) are needed")
    count = scores.shape[1]
    for b, indices in enumerate(classes):
        for index in indices:
            if not 0 <= index < count:
                raise InputError(f"classes: image {b} has class index {index}, the model's are 0 to {count - 1}")


def token_grid(backbone: Any, images: Tensor, calls: Sequence[AttentionCall]) -> tuple[int, int]:
    """(n_h, n_w) of the patches, once it is clear that the recorded attention is over all of them.

    Raises:
        InputError: nothing was recorded, or the tokens are not the prefix tokens and the patches (patches dropped,
            windows, merged tokens).
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
    """Whether a model is known to make its scores of the last block's prefix tokens: a timm ViT with that head."""
    pooled = getattr(model, "attn_pool", None) is not None
    return hasattr(model, "blocks") and getattr(model, "global_pool", None) == "token" and not pooled
