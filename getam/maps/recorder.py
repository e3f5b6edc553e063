"""The attention calls of a ViT's forward pass, as fused attention takes and gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import GluMlp, Mlp, SwiGLU
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from getam.errors import InputError

Forward = Callable[[Tensor], Tensor]


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
        with full_precision(query):
            precision = at_least_float32(query)
            scores = (query.to(precision) * self.scale) @ key.to(precision).transpose(-2, -1)
            if bias is not None:
                masked = bias.dtype == torch.bool
                scores = scores.masked_fill(~bias, -torch.inf) if masked else scores + bias.to(precision)
            return scores.softmax(-1)

    def class_row_gradient(self, output_gradient: Tensor) -> Tensor:
        """dy/da of the class token's row from dy/do (B, heads, N, d): (B, heads, N)."""
        with full_precision(self.value):
            value = self.value.to(at_least_float32(self.value))
            return (value @ output_gradient[:, :, 0, :, None].to(value.dtype))[..., 0]

    def matrix_gradient(self, output_gradient: Tensor, image: int) -> Tensor:
        """dy/dA of one image from dy/do (B, heads, N, d): (heads, N, N)."""
        with full_precision(self.value):
            value = self.value[image].to(at_least_float32(self.value))
            return output_gradient[image].to(value.dtype) @ value.transpose(-2, -1)


@contextmanager
def full_precision(like: Tensor) -> Iterator[None]:
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
