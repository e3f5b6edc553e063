"""Eq. 1-3 with the whole attention matrix in the graph, as the equations are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def literal_getam(
    backbone: Any,
    images: Tensor,
    head: Callable[[Tensor], Tensor],
    image: int,
    category: int,
    *,
    coupling: str,
    start_block: int,
) -> Tensor:
    """The map of one class of one image: the sum over blocks of gradient and attention, token by token.

    Args:
        backbone: a timm ViT in evaluation mode.
        images: (B, 3, H, W).
        head: scores (B, C) from the tokens after the last block, before the final norm.

    Returns:
        (n_h * n_w,).
    """
    tokens = backbone.norm_pre(backbone.patch_drop(backbone._pos_embed(backbone.patch_embed(images))))
    matrices = []
    for block in backbone.blocks:
        update, matrix = _attend(block.attn, block.norm1(tokens))
        matrices.append(matrix)
        tokens = tokens + block.ls1(update)
        tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
    gradients = torch.autograd.grad(head(tokens)[image, category], matrices)

    prefix = backbone.num_prefix_tokens
    result = images.new_zeros(matrices[0].shape[-1] - prefix)
    for matrix, gradient in list(zip(matrices, gradients, strict=True))[start_block:]:
        # Row 0 is the class token's: what it attends to.
        result += couple(matrix[image, :, 0, prefix:].detach(), gradient[image, :, 0, prefix:], coupling=coupling)
    return result


def couple(attention: Tensor, gradient: Tensor, *, coupling: str) -> Tensor:
    """One block's contribution from the class token's row: (heads, n) and (heads, n) -> (n,)."""
    heads, count = attention.shape
    result = attention.new_zeros(count)
    for j in range(count):
        a = [float(attention[h, j]) for h in range(heads)]
        g = [float(gradient[h, j]) for h in range(heads)]
        if coupling == "released":
            product = sum(max(g[h] * a[h], 0) for h in range(heads)) / heads
            result[j] = product * sum(max(g[h], 0) for h in range(heads)) / heads
        else:
            mean_a, mean_g = sum(a) / heads, sum(g) / heads
            result[j] = max(mean_g * mean_a, 0) * max(mean_g, 0)
    return result


def _attend(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Self-attention with its matrix: tokens (B, N, d) -> output (B, N, d), matrix (B, heads, N, N)."""
    batch, count, width = tokens.shape
    heads = attention.num_heads
    q, k, v = attention.qkv(tokens).view(batch, count, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    matrix = (q @ k.transpose(-2, -1) / (width // heads) ** 0.5).softmax(-1)
    output = (matrix @ v).transpose(1, 2).reshape(batch, count, width)
    return attention.proj(output), matrix


def literal_getam_loop(
    vit: Any,
    images: Tensor,
    classes: Sequence[Sequence[int]],
    *,
    coupling: str,
    start_block: int,
    model: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """The maps as the authors' program makes them: one backward a class, into all weights, through all blocks.

    As there, every block's whole matrices are coupled, whether it is summed or not, and within the graph, which holds
    what that takes until the last class is done.

    Args:
        vit: a stock timm ViT whose weights require gradients; left as it was.
        images: (B, 3, H, W).
        classes: for each image its K_b classes, counted from 0.
        model: images -> scores (B, C), by way of the vit; the vit itself where none is given.

    Returns:
        For each image (K_b, n_h, n_w).
    """
    grid = vit.patch_embed.dynamic_feat_size(tuple(images.shape[2:]))
    prefix = vit.num_prefix_tokens
    maps = [images.new_zeros((len(indices), *grid)) for indices in classes]
    with _whole_matrices(vit) as matrices:
        scores = (model or vit)(images)
        for image, indices in enumerate(classes):
            for k, category in enumerate(indices):
                vit.zero_grad()
                for matrix in matrices:
                    matrix.grad = None
                scores[image, category].backward(retain_graph=True)
                blocks = [_couple_matrices(m[image], m.grad[image], coupling=coupling) for m in matrices]
                maps[image][k] = torch.stack(blocks[start_block:]).sum(0)[0, prefix:].view(grid)
    return [values.detach() for values in maps]


@contextmanager
def _whole_matrices(vit: Any) -> Iterator[list[Tensor]]:
    """Collects each block's matrix (B, heads, N, N) of a forward pass inside, with its gradient retained."""
    matrices: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, matrix: Tensor) -> None:
        matrix.retain_grad()
        matrices.append(matrix)

    training = vit.training
    fused = [block.attn.fused_attn for block in vit.blocks]
    gradients = [(parameter, parameter.grad) for parameter in vit.parameters()]
    # timm's explicit attention sends the matrix through this dropout, which passes it on in evaluation mode.
    hooks = [block.attn.attn_drop.register_forward_hook(keep) for block in vit.blocks]
    try:
        vit.eval()
        for block in vit.blocks:
            block.attn.fused_attn = False
        yield matrices
    finally:
        vit.train(training)
        for block, flag in zip(vit.blocks, fused, strict=True):
            block.attn.fused_attn = flag
        for hook in hooks:
            hook.remove()
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _couple_matrices(attention: Tensor, gradient: Tensor, *, coupling: str) -> Tensor:
    """One block's whole matrices, (heads, N, N) each -> (N, N)."""
    if coupling == "released":
        return (gradient * attention).relu().mean(0) * gradient.relu().mean(0)
    attention, gradient = attention.mean(0), gradient.mean(0)
    return (gradient * attention).relu() * gradient.relu()


def literal_maps_of(
    model: Any, images: Tensor, image: int, category: int, *, coupling: str, start_block: int
) -> Tensor:
    """The map of one class of one image by the model's own forward pass, with its explicit attention in the graph.

    What each block's attention matrix is comes from timm alone: the tensor that multiplies V after `attn_drop`.

    Args:
        model: a timm ViT in evaluation mode, or a module around one; gives scores (B, C).
        images: (B, 3, H, W).

    Returns:
        (n_h * n_w,).
    """
    vit = next(module for module in model.modules() if hasattr(module, "blocks"))
    attentions = [m for block in list(vit.blocks)[start_block:] for m in block.modules() if hasattr(m, "attn_drop")]
    matrices: list[Tensor] = []
    handles = [m.attn_drop.register_forward_hook(lambda *call: matrices.append(call[2])) for m in attentions]
    flags = [(m, m.fused_attn) for m in model.modules() if hasattr(m, "fused_attn")]
    try:
        for module, _ in flags:
            module.fused_attn = False
        score = model(images)[image, category]
    finally:
        for module, fused in flags:
            module.fused_attn = fused
        for handle in handles:
            handle.remove()
    assert len(matrices) == len(attentions)
    # Zero for a block that the score doesn't depend on.
    gradients = torch.autograd.grad(score, matrices, materialize_grads=True)

    prefix = vit.num_prefix_tokens
    result = images.new_zeros(matrices[0].shape[-1] - prefix)
    for matrix, gradient in zip(matrices, gradients, strict=True):
        torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix[..., 0]))
        result += couple(matrix[image, :, 0, prefix:].detach(), gradient[image, :, 0, prefix:], coupling=coupling)
    return result
