"""How long label makers take for batches of images: rounds in turn, so that what else the machine does hits all."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from getam.completion import complete_labels
from getam.crf import crf_labels
from getam.rrm import rrm_labels
from getam.settings import LabelSettings

ROUNDS = 3

METHODS = ("completion", "dense CRF", "RRM")


class Item(NamedTuple):
    """What an image's labels are made from."""

    photograph: np.ndarray
    """(H, W, 3), uint8."""
    maps: np.ndarray
    """(K, H, W), float32."""
    classes: list[int]
    saliency: np.ndarray
    """(H, W), uint8 in 0..255."""


def time_labels(
    items: Sequence[Item], settings: LabelSettings, *, batch_sizes: Sequence[int], device: torch.device
) -> dict[str, dict[int, float]]:
    """Median seconds an image of each of METHODS, by batch size.

    Completion runs on `device`, where its maps and saliency lie before the time begins and its labels stay; the other
    two know the CPU alone. Each takes a batch image by image and uses torch's threads, which the other two do not.

    Args:
        items: images, all of which every batch size labels; a batch that lacks some takes the first ones again.
    """
    batches = {size: _batches(items, size) for size in batch_sizes}
    makers: dict[str, Callable[[Sequence[Item]], None]] = {
        "completion": _completion(items, settings, device),
        "dense CRF": lambda batch: _each(
            batch,
            lambda item: crf_labels(item.photograph, item.maps, item.classes, settings.crf, gamma=settings.gamma),
        ),
        "RRM": lambda batch: _each(
            batch, lambda item: rrm_labels(item.photograph, item.maps, item.classes, settings.rrm, settings.crf)
        ),
    }
    assert tuple(makers) == METHODS
    for make in makers.values():
        # What is done once only, such as loading a library, is no image's.
        make(items[:1])
    seconds: dict[str, dict[int, list[float]]] = {name: {size: [] for size in batch_sizes} for name in makers}
    for _ in range(ROUNDS):
        for size, all in batches.items():
            for name, make in makers.items():
                start = time.perf_counter()
                for batch in all:
                    make(batch)
                seconds[name][size].append((time.perf_counter() - start) / (len(all) * size))
    return {
        name: {size: statistics.median(rounds) for size, rounds in by_size.items()} for name, by_size in seconds.items()
    }


def _batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """All items in batches of one size, the first ones again where the last batch lacks some."""
    starts = range(0, len(items), size)
    return [[items[number % len(items)] for number in range(start, start + size)] for start in starts]


def _completion(
    items: Sequence[Item], settings: LabelSettings, device: torch.device
) -> Callable[[Sequence[Item]], None]:
    there = {
        id(item): (torch.from_numpy(item.maps).to(device), torch.from_numpy(item.saliency.copy()).to(device))
        for item in items
    }

    def make(batch: Sequence[Item]) -> None:
        for item in batch:
            maps, saliency = there[id(item)]
            complete_labels(
                maps,
                item.classes,
                saliency > 255 * settings.saliency_threshold,
                alpha=settings.alpha,
                gamma=settings.gamma,
                conflict=settings.conflict,
                opening=settings.opening,
            )
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return make


def _each(batch: Sequence[Item], make: Callable[[Item], object]) -> None:
    for item in batch:
        make(item)


def cpu_name() -> str:
    """The processor's name, as far as the system says it."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
