"""Records the inputs and outputs of fused attention in a ViT's forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
import torch.nn.functional as F
from timm.layers import GluMlp, Mlp, SwiGLU
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from getam.errors import InputError

Forward = Callable[[Tensor], Tensor]

_fused_attention = F.scaled_dot_product_attention
"""torch's function, bound here so that calls from this module and the comparison in _Interceptor mean the same one."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """What the attention matrix A of one call of fused attention follows from, without a graph.

    The methods compute in float32 at least, also under autocast, since bfloat16 changes large scores by several
    percent.
    """

    query: Tensor
    """(B, heads, N, d)"""
    key: Tensor
    """(B, heads, N, d)"""
    scale: float
    """Factor of the product of query and key, usually 1 / sqrt(d)."""
    bias: Tensor | None
    """Added to the scores if floating (relative positions); if bool, False masks. Broadcasts to (B, heads, N, N)."""

    def class_row(self) -> Tensor:
        """The class token's row of A over all tokens: (B, heads, N), summing to 1 over N."""
        return self._attention(self.query[:, :, :1], None if self.bias is None else self.bias[..., :1, :])[:, :, 0]

    def matrix(self, image: int) -> Tensor:
        """The whole matrix A of one image, (heads, N, N), whose N^2 memory class_row avoids."""
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


@dataclass(frozen=True, kw_only=True)
class AttentionCall(Attention):
    """One call of fused attention with its output, through which gradients reach it."""

    value: Tensor
    """(B, heads, N, d)"""
    output: Tensor
    """A V before the projection, with a graph: (B, heads, N, d), or only the first rows if no others were computed."""

    def class_row_gradient(self, output_gradient: Tensor) -> Tensor:
        """The gradient dy/da of the class token's row, (B, heads, N), from dy/do (B, heads, N, d)."""
        with full_precision(self.value):
            value = self.value.to(at_least_float32(self.value))
            return (value @ output_gradient[:, :, 0, :, None].to(value.dtype))[..., 0]

    def matrix_gradient(self, output_gradient: Tensor, image: int) -> Tensor:
        """The gradient dy/dA of one image, (heads, N, N), from dy/do (B, heads, N, d)."""
        with full_precision(self.value):
            value = self.value[image].to(at_least_float32(self.value))
            return output_gradient[image].to(value.dtype) @ value.transpose(-2, -1)


@contextmanager
def full_precision(like: Tensor) -> Iterator[None]:
    """Disables gradients, and autocast, which would compute products in bfloat16, on the device of `like`."""
    with torch.no_grad(), torch.autocast(like.device.type, enabled=False):
        yield


def at_least_float32(tensor: Tensor) -> torch.dtype:
    """float64 for a float64 tensor, otherwise float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


class _Interceptor(TorchFunctionMode):
    """Replaces each call of fused attention by `attend`, regardless of the code around it (norms, rotations).

    Args:
        attend: keyword arguments of scaled_dot_product_attention -> its output.
    """

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
    """Context manager that records the attention calls of one forward pass of a ViT.

    After a forward pass inside the context, `calls` holds one AttentionCall for each block from `start_block` on, or
    two for a block with two parallel attentions.

    Args:
        backbone: a timm ViT, with `blocks`, `num_prefix_tokens` and a class token as its first token.
        start_block: first block to record, counted from 0.
        detach_below: whether to cut the graph below `start_block`, so that a backward pass ends there. A training step
            needs the whole graph of the trainable blocks.
        class_rows_alone: whether gradients are needed only at the class token's row of each recorded call. Together
            with the cut, the first recorded block's projection and MLP then need a graph for this token only.
        prefix_alone: whether the scores depend only on the last block's prefix tokens, and gradients are needed only
            at class rows. The last block then computes queries, projection and MLP for prefix tokens only.

    Raises:
        InputError: there is no such block; in the forward pass, a block runs twice, makes no call of fused attention,
            or makes more calls than it has attention modules (as differential attention does, which is not given by
            one matrix).
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
        self._narrowings = ExitStack()
        self._mode = _Interceptor(self._attend)

    def __enter__(self) -> AttentionRecorder:
        self.calls, self._ran = [], set()
        for number, block in enumerate(self.backbone.blocks):
            if number < self.start_block:
                continue
            self._handles.append(block.register_forward_pre_hook(self._enter_block(number)))
            # The interceptor sees only fused attention; timm's explicit form would build the whole matrix anyway.
            attentions = [module for module in block.modules() if hasattr(module, "fused_attn")]
            for module in attentions:
                self._set(module, "fused_attn", True)
            self._handles.append(block.register_forward_hook(self._leave_block(number, max(1, len(attentions)))))
        if getattr(self.backbone, "grad_checkpointing", False):
            # A checkpointed block runs without a graph, so that its output could not be differentiated.
            self._set(self.backbone, "grad_checkpointing", False)
        if self.detach_below and self.class_rows_alone:
            block = self.backbone.blocks[self.start_block]
            self._narrowings.enter_context(_narrowed_forwards(block, _differentiated_at_first))
        if self.prefix_alone:
            narrow = partial(_computed_at_first, self.backbone.num_prefix_tokens)
            self._narrowings.enter_context(_narrowed_forwards(self.backbone.blocks[-1], narrow))
        self._mode.__enter__()
        return self

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
        self._narrowings.close()
        self._handles, self._flags, self._block = [], [], None

    def _enter_block(self, number: int) -> Callable[..., Any]:
        def hook(block: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
            if number in self._ran:
                raise InputError(
                    f"block {number} ({type(block).__name__}) ran twice in one forward pass; give a model that runs "
                    "its ViT once for an image"
                )
            self._ran.add(number)
            self._block, self._before_block = number, len(self.calls)
            # Where all blocks below are frozen there is no graph to cut: it begins here too.
            if number == self.start_block and (self.detach_below or not inputs[0].requires_grad):
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

    def _attend(self, arguments: dict[str, Any]) -> Tensor:
        if self._block is None:
            return _fused_attention(**arguments)
        query, key, value, bias = (arguments.get(name) for name in ("query", "key", "value", "attn_mask"))
        assert isinstance(query, Tensor)
        assert isinstance(key, Tensor)
        assert isinstance(value, Tensor)
        omitted_rows = 0
        if self.prefix_alone and self._block == len(self.backbone.blocks) - 1:
            rows = self.backbone.num_prefix_tokens
            omitted_rows = query.shape[2] - rows
            arguments = arguments | {"query": query[:, :, :rows]}
            if isinstance(bias, Tensor) and bias.shape[-2] > 1:
                arguments["attn_mask"] = bias[..., :rows, :]
        output = _fused_attention(**arguments)
        self.calls.append(AttentionCall(**_matrix_of(query, key, bias, arguments), value=value.detach(), output=output))
        return F.pad(output, (0, 0, 0, omitted_rows)) if omitted_rows else output


def _matrix_of(query: Tensor, key: Tensor, bias: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Attention of a call of fused attention."""
    if arguments.get("is_causal"):
        bias = query.new_ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    scale = arguments.get("scale")
    return {
        "query": query.detach(),
        "key": key.detach(),
        "scale": query.shape[-1] ** -0.5 if scale is None else scale,
        "bias": bias.detach() if isinstance(bias, Tensor) else None,
    }


class AttentionObserver:
    """Context manager that keeps what the attention matrices of a ViT's forward pass follow from, and changes nothing.

    After a forward pass inside the context, `calls` holds one Attention for each fused attention of the blocks from
    `first_block` on. It sees whole queries, even if an AttentionRecorder inside its context computes a part alone.

    Args:
        backbone: a timm ViT.
        first_block: counted from 0.

    Raises:
        InputError: in the forward pass, a block makes no call of fused attention.
    """

    def __init__(self, backbone: Any, *, first_block: int) -> None:
        self.blocks = [*backbone.blocks][first_block:]
        self.calls: list[Attention] = []
        self._contexts = ExitStack()
        self._inside: ExitStack | None = None

    def __enter__(self) -> Self:
        self.calls = []
        for block in self.blocks:
            self._contexts.enter_context(block.register_forward_pre_hook(self._enter_block))
            self._contexts.enter_context(block.register_forward_hook(self._leave_block))
            for module in block.modules():
                if hasattr(module, "fused_attn"):
                    self._contexts.callback(setattr, module, "fused_attn", module.fused_attn)
                    module.fused_attn = True
        return self

    def __exit__(self, *exception: object) -> None:
        if self._inside is not None:
            # A block has failed.
            self._inside.close()
            self._inside = None
        self._contexts.close()

    def _enter_block(self, block: nn.Module, inputs: Any) -> None:
        # The mode that is entered last is called first: before one that shortens the query.
        self._inside = ExitStack()
        self._inside.enter_context(_Interceptor(self._observe))
        self._before = len(self.calls)

    def _leave_block(self, block: nn.Module, inputs: Any, output: Any) -> None:
        assert self._inside is not None
        self._inside.close()
        self._inside = None
        if len(self.calls) == self._before:
            raise InputError(
                f"propagation: a block ({type(block).__name__}) made no fused attention call; choose another backbone, "
                "or features"
            )

    def _observe(self, arguments: dict[str, Any]) -> Tensor:
        self.calls.append(
            Attention(**_matrix_of(arguments["query"], arguments["key"], arguments.get("attn_mask"), arguments))
        )
        return _fused_attention(**arguments)


@contextmanager
def _narrowed_forwards(block: Any, narrow: Callable[[Forward], Forward]) -> Iterator[None]:
    """Inside the context, a block's projection and MLP run `narrow(forward)` instead of their `forward`.

    The maps need the results, or the gradients, of these layers at only a few tokens. In a ViT-B block, projection and
    MLP are about three quarters of the weights that act on every token: narrowing them saves most of the last block's
    forward pass, and most of the graph and the backward pass of the first recorded block. A forward hook cannot do
    this, because it runs after the layer has computed all tokens.
    """
    replaced: list[tuple[nn.Module, Any]] = []
    try:
        for module in (getattr(getattr(block, "attn", None), "proj", None), getattr(block, "mlp", None)):
            # These layers are known to process each token separately.
            if isinstance(module, nn.Linear | Mlp | GluMlp | SwiGLU):
                replaced.append((module, vars(module).get("forward")))
                module.forward = narrow(module.forward)  # type: ignore[method-assign]
        yield
    finally:
        for module, forward in reversed(replaced):
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _differentiated_at_first(forward: Forward) -> Forward:
    """Wraps a per-token `forward`, (B, N, d) -> (B, N, d), so that only the first token's result has a graph."""

    def narrowed(tokens: Tensor) -> Tensor:
        with torch.no_grad():
            others = forward(tokens)[:, 1:]
        return torch.cat([forward(tokens[:, :1]), others], dim=1)

    return narrowed


def _computed_at_first(count: int, forward: Forward) -> Forward:
    """Wraps a per-token `forward`, (B, N, d) -> (B, N, d), to compute the first `count` tokens; the others are 0."""
    return lambda tokens: F.pad(forward(tokens[:, :count]), (0, 0, 0, tokens.shape[1] - count))
