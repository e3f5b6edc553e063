"""Eq. 1-3 with the whole attention matrix in the graph, as the equations are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


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
