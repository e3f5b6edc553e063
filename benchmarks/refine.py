"""PAMR of an image's present classes, compared with the version that stacks all neighbors."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from reference.stacked_pamr import stacked_pamr
from torch import Tensor

from benchmarks.measure import Check, Row, Run, deviation, extra_memory, faster, medians, seconds
from getam.maps.pamr import pamr

SIDE = 512
ITERATIONS = 10
DILATIONS = (1, 2, 4, 8, 12, 24)
PRESENT, ALL = 2, 20

LEAST_FASTER = 5.0
LEAST_FASTER_THAN_ALL = 30.0
MOST_MEMORY = 1 / 3
MOST_DEVIATION = 1e-5


def rows(rounds: int) -> list[Row]:
    runs: dict[str, Run] = {
        "ours": prepare(pamr, PRESENT),
        f"stacked, {PRESENT}": prepare(stacked_pamr, PRESENT),
        f"stacked, {ALL}": prepare(stacked_pamr, ALL),
    }
    spent = medians(runs, rounds)
    memory = [
        extra_memory(name, partial(prepare, compute, PRESENT, side=64), partial(prepare, compute, PRESENT))
        for name, compute in (("ours", pamr), (f"stacked, {PRESENT}", stacked_pamr))
    ]
    found, expected = (prepare(compute, PRESENT)() for compute in (pamr, stacked_pamr))
    what, own = f"PAMR, {SIDE}x{SIDE}, {PRESENT} classes", spent["ours"]
    few, many = spent[f"stacked, {PRESENT}"], spent[f"stacked, {ALL}"]
    return [
        Row(
            what=what,
            ours=seconds(own),
            other="stacked neighbors",
            its=seconds(few),
            time=faster(own, few, least=LEAST_FASTER),
            memory=(memory[0], memory[1]),
            most_memory=MOST_MEMORY,
            deviation=Check(deviation([found], [expected]), high=MOST_DEVIATION, form="{:.0e}"),
        ),
        Row(
            what=what,
            ours=seconds(own),
            other=f"stacked neighbors, all {ALL} classes",
            its=seconds(many),
            time=faster(own, many, least=LEAST_FASTER_THAN_ALL),
        ),
    ]


def inputs(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Makes an image (1, 3, side, side) in 0..255 and masks (1, count, side, side) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    image = 255 * torch.rand(1, 3, side, side, generator=generator)
    return image, torch.rand(1, count, side, side, generator=generator)


def prepare(compute: Any, count: int, side: int = SIDE) -> partial[Any]:
    return partial(compute, *inputs(count, side), iterations=ITERATIONS, dilations=DILATIONS)
