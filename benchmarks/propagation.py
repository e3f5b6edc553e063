"""Propagation of GETAM maps of ViT-B/16, compared with the maps alone and with whole matrices of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor

from benchmarks.measure import Check, Row, Run, deviation, extra_memory, faster, medians, seconds
from getam import AttentionMaps
from getam.maps.propagation import PropagatedMaps
from getam.settings.maps import ActivationSettings

START_BLOCK = 6
BLOCKS = 8
THRESHOLD = 0.4
IMAGES = 4

MOST_OF_MAPS = 1.25
LEAST_FASTER = 1.3
MOST_MEMORY = 1 / 2
MOST_DEVIATION = 1e-4

SETTINGS = ActivationSettings(
    method="getam",
    coupling="released",
    start_block=START_BLOCK,
    fusion="sum",
    propagation="attention",
    propagation_blocks=BLOCKS,
    propagation_threshold=THRESHOLD,
    propagation_power=4,
    propagation_steps=1,
    boundary_prior=0,
)


def rows(rounds: int) -> list[Row]:
    runs = {name: prepare(compute, IMAGES) for name, compute in COMPUTED.items()}
    spent = medians(runs, rounds)
    memory = {
        name: extra_memory(name, partial(tiny, compute), partial(prepare, compute, IMAGES))
        for name, compute in COMPUTED.items()
    }
    what = f"maps and their propagation by attention, ViT-B/16, {IMAGES} images of 384x384"
    own = spent["ours"]
    return [
        Row(
            what=what,
            ours=seconds(own),
            other="the maps alone",
            its=seconds(spent["maps"]),
            time=Check(own / spent["maps"], high=MOST_OF_MAPS, form="{:.2f}x the time"),
        ),
        Row(
            what=what,
            ours=seconds(own),
            other="whole matrices of the batch, by a second pass",
            its=seconds(spent["literal"]),
            time=faster(own, spent["literal"], least=LEAST_FASTER),
            memory=(memory["ours"], memory["literal"]),
            most_memory=MOST_MEMORY,
            deviation=Check(deviation(prepare(ours, 1)(), prepare(literal, 1)()), high=MOST_DEVIATION, form="{:.0e}"),
        ),
    ]


def prepare(compute: Any, count: int) -> Any:
    torch.manual_seed(0)
    vit = timm.create_model("vit_base_patch16_384", num_classes=20).eval()
    return partial(compute, vit, torch.randn(count, 3, 384, 384), [[3]] * count)


def tiny(compute: Any) -> Run:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=20).eval()
    return partial(compute, vit, torch.randn(1, 3, 32, 32), [[3]])


def maps_alone(vit: Any, images: Tensor, classes: Sequence[Sequence[int]]) -> list[Tensor]:
    with AttentionMaps(vit, start_block=START_BLOCK) as maps:
        return maps(images, classes)[1]


def ours(vit: Any, images: Tensor, classes: Sequence[Sequence[int]]) -> list[Tensor]:
    with PropagatedMaps(AttentionMaps(vit, start_block=START_BLOCK), SETTINGS) as maps:
        return maps(images, classes)[1]


@torch.no_grad()
def literal(vit: Any, images: Tensor, classes: Sequence[Sequence[int]]) -> list[Tensor]:
    """CLIP-ES's affinity from timm's explicit attention, all blocks and images at once."""
    found = maps_alone(vit, images, classes)
    matrices: list[Tensor] = []
    handles = [
        block.attn.attn_drop.register_forward_hook(lambda module, inputs, matrix: matrices.append(matrix))
        for block in vit.blocks
    ]
    for block in vit.blocks:
        block.attn.fused_attn = False
    vit(images)
    for block, handle in zip(vit.blocks, handles, strict=True):
        block.attn.fused_attn = True
        handle.remove()
    matrix = torch.stack(matrices[-BLOCKS:]).mean((0, 2))[:, 1:, 1:]
    for _ in range(3):
        matrix = matrix / matrix.sum(1, keepdim=True)
        matrix = matrix / matrix.sum(2, keepdim=True)
    matrix = (matrix + matrix.transpose(1, 2)) / 2
    matrix = matrix @ matrix
    results = []
    for values, affinity in zip(found, matrix, strict=True):
        boxed = values * in_boxes_of_scipy(values)
        results.append((boxed.flatten(1) @ affinity.T).view_as(values))
    return results


def in_boxes_of_scipy(values: Tensor) -> Tensor:
    """The boxes by scipy's labels of regions, (K, n_h, n_w), 0 or 1."""
    from scipy import ndimage

    inside = torch.zeros_like(values)
    for box, single in zip(inside, values, strict=True):
        regions, _ = ndimage.label((single >= THRESHOLD * single.max()).numpy(), structure=torch.ones(3, 3).numpy())
        for place in ndimage.find_objects(regions):
            box[place] = 1
    return inside


COMPUTED = {"maps": maps_alone, "ours": ours, "literal": literal}
