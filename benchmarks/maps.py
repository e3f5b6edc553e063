"""GETAM maps of ViT-B/16, compared with the least work they need and with a loop over whole matrices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import timm
import torch
from reference.literal_maps import literal_getam_loop
from torch import Tensor

from benchmarks.measure import Check, Row, Run, deviation, extra_memory, faster, medians, seconds
from getam import AttentionMaps

COUPLING = "released"
START_BLOCK = 6
CLASSES = {1: [[3]], 4: [[3, 7, 11, 19]]}
"""Number of present classes -> the batch's classes."""

MOST_OVER_FLOOR = 1.1
LEAST_FASTER = {1: 2.3, 4: 3.2}
MOST_MEMORY = 1 / 8
MOST_DEVIATION = 1e-4


def rows(rounds: int) -> list[Row]:
    vit, images = inputs()
    runs: dict[str, Run] = {"plain forward": partial(forward, vit, images), "plain backward": backward(vit, images)}
    for count, classes in CLASSES.items():
        runs[f"ours, {count}"] = partial(ours, vit, images, classes)
        runs[f"loop, {count}"] = partial(loop, vit, images, classes)
    spent = medians(runs, rounds)
    table = []
    for count, classes in CLASSES.items():
        what = f"maps, ViT-B/16, 384x384, {count} class{'es' if count > 1 else ''}"
        own = spent[f"ours, {count}"]
        floor = spent["plain forward"] + count * spent["plain backward"] / 2
        its = spent[f"loop, {count}"]
        memory = (
            extra_memory(f"ours, {count}", partial(tiny, ours), partial(prepare, ours, classes)),
            extra_memory(f"loop, {count}", partial(tiny, loop), partial(prepare, loop, classes)),
        )
        table.append(
            Row(
                what=what,
                ours=seconds(own),
                other=f"plain forward + {count} x half a backward",
                its=seconds(floor),
                time=Check(own / floor, high=MOST_OVER_FLOOR, form="{:.2f}x the time"),
            )
        )
        table.append(
            Row(
                what=what,
                ours=seconds(own),
                other="loop over classes, whole matrices",
                its=seconds(its),
                time=faster(own, its, least=LEAST_FASTER[count]),
                memory=memory,
                most_memory=MOST_MEMORY,
                deviation=Check(
                    deviation(ours(vit, images, classes), loop(vit, images, classes)),
                    high=MOST_DEVIATION,
                    form="{:.0e}",
                ),
            )
        )
    return table


def inputs() -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    return timm.create_model("vit_base_patch16_384", num_classes=20).eval(), torch.randn(1, 3, 384, 384)


def tiny(compute: Any) -> Run:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=20).eval()
    return partial(compute, vit, torch.randn(1, 3, 32, 32), CLASSES[1])


def prepare(compute: Any, classes: Sequence[Sequence[int]]) -> Run:
    return partial(compute, *inputs(), classes)


def ours(vit: Any, images: Tensor, classes: Sequence[Sequence[int]]) -> list[Tensor]:
    with AttentionMaps(vit, coupling=COUPLING, start_block=START_BLOCK) as maps:
        return maps(images, classes)[1]


def loop(vit: Any, images: Tensor, classes: Sequence[Sequence[int]]) -> list[Tensor]:
    return literal_getam_loop(vit, images, classes, coupling=COUPLING, start_block=START_BLOCK)


def forward(vit: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        return vit(images)


def backward(vit: Any, images: Tensor) -> Run:
    """The backward pass from one score through all blocks to the embedded tokens, with frozen weights.

    The forward pass is done here, before the returned run.
    """
    weights = [(weight, weight.requires_grad) for weight in vit.parameters()]
    vit.requires_grad_(False)
    tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images)))).requires_grad_()
    last = tokens
    for block in vit.blocks:
        last = block(last)
    score = vit.forward_head(vit.norm(last))[0, 0]
    for weight, requires_grad in weights:
        weight.requires_grad_(requires_grad)
    return lambda: torch.autograd.grad(score, tokens, retain_graph=True)
