"""GETAM maps on a GPU: images a second and memory, bfloat16 autocast beside float32."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor

from benchmarks.measure import Check, Row, alternating, deviation, faster, timed
from getam import AttentionMaps

BACKBONES: Mapping[str, Mapping[str, Any]] = {
    "vit_base_patch16_384": {},
    "vit_base_r50_s16_384": {},
    "deit_base_patch16_384": {},
    "deit_base_distilled_patch16_384": {},
}
"""timm names and options."""

BATCHES = (16, 32)
START_BLOCK = 6
WARM_UP = 3
REPEATS = 5
"""Batches a timing."""


def rows(
    rounds: int,
    *,
    device: str = "cuda",
    backbones: Mapping[str, Mapping[str, Any]] = BACKBONES,
    batches: tuple[int, ...] = BATCHES,
    image_size: int = 384,
    start_block: int = START_BLOCK,
) -> list[Row]:
    table = []
    # float32 is to mean float32: unlike matrix products, cuDNN's convolutions take TF32 by default.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for name, options in backbones.items():
            torch.manual_seed(0)
            vit = timm.create_model(name, num_classes=20, img_size=image_size, **options).eval().to(device)
            for batch in batches:
                images = torch.randn(batch, 3, image_size, image_size, device=device)
                table.append(_row(name, vit, images, start_block, rounds))
    return table


def _row(name: str, vit: Any, images: Tensor, start_block: int, rounds: int) -> Row:
    compute = {precision: partial(maps, vit, images, start_block, precision) for precision in ("float32", "bfloat16")}
    exact, blurred = (run() for run in compute.values())
    deviates = Check(deviation(blurred, exact), form="{:.0e}")
    del exact, blurred
    for run in compute.values():
        for _ in range(WARM_UP):
            run()
    memory = {precision: _extra_memory(run, images) for precision, run in compute.items()}
    spent = alternating({f"{name}, {p}": partial(_seconds, run, images) for p, run in compute.items()}, rounds)
    its, own = (statistics.median(values) for values in spent.values())
    return Row(
        what=f"maps, {name}, batch {len(images)}, bfloat16",
        ours=f"{len(images) / own:.0f} img/s",
        other="float32",
        its=f"{len(images) / its:.0f} img/s",
        time=faster(own, its),
        memory=(memory["bfloat16"], memory["float32"]),
        deviation=deviates,
    )


def maps(vit: Any, images: Tensor, start_block: int, precision: str) -> list[Tensor]:
    # One class, two classes, one class, ...: 1.5 an image, as in VOC.
    classes = [[number % 20, (number + 7) % 20][: 1 + number % 2] for number in range(len(images))]
    with (
        torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"),
        AttentionMaps(vit, coupling="released", start_block=start_block) as attention_maps,
    ):
        return attention_maps(images, classes)[1]


def _seconds(run: partial[list[Tensor]], images: Tensor) -> float:
    """Of one batch."""

    def repeat() -> None:
        for _ in range(REPEATS):
            run()
        _synchronize(images)

    _synchronize(images)
    return timed(repeat) / REPEATS


def _synchronize(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)


def _extra_memory(run: partial[list[Tensor]], images: Tensor) -> int | None:
    """Bytes beyond inputs and model."""
    if not images.is_cuda:
        return None
    torch.cuda.synchronize(images.device)
    torch.cuda.reset_peak_memory_stats(images.device)
    before = torch.cuda.memory_allocated(images.device)
    run()
    torch.cuda.synchronize(images.device)
    return torch.cuda.max_memory_allocated(images.device) - before
