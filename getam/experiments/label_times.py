"""How long label makers take for batches of images: rounds in turn, so that what else the machine does hits all."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from getam.labels.methods import make_labels
from getam.settings.completion import LABEL_METHODS, LabelSettings

ROUNDS = 3


class Item(NamedTuple):
    """What an image's labels are made from."""

    photograph: np.ndarray
    """(H, W, 3), uint8."""
    maps: Any
    """(K, H, W), float32; numpy, or torch on a device."""
    classes: list[int]
    saliency: Any
    """(H, W), uint8 in 0..255; of the maps' kind."""


def time_labels(
    items: Sequence[Item], settings: LabelSettings, *, batch_sizes: Sequence[int], device: torch.device
) -> dict[str, dict[int, float]]:
    """Median seconds an image of each of LABEL_METHODS, by the method's name and the batch size.

    Methods that can run on `device`, of which completion is one: their maps and saliency lie there before the time
    begins, and their labels stay there. They use torch's threads. The others know the CPU alone, and one thread. Each
    takes a batch image by image.

    Args:
        items: images, all of which every batch size labels; a batch that lacks some takes the first ones again.
    """
    on_device = [
        item._replace(
            maps=torch.from_numpy(item.maps).to(device), saliency=torch.from_numpy(item.saliency.copy()).to(device)
        )
        for item in items
    ]
    batches = {
        key: {size: _batches(on_device if method.on_device else items, size) for size in batch_sizes}
        for key, method in LABEL_METHODS.items()
    }
    own = {key: settings.model_copy(update={"method": key}) for key in LABEL_METHODS}
    for key, by_size in batches.items():
        # What is done once only, such as loading a library, is no image's.
        _label(by_size[batch_sizes[0]][0][:1], own[key], device)
    seconds: dict[str, dict[int, list[float]]] = {key: {size: [] for size in batch_sizes} for key in LABEL_METHODS}
    for _ in range(ROUNDS):
        for size in batch_sizes:
            for key, by_size in batches.items():
                start = time.perf_counter()
                for batch in by_size[size]:
                    _label(batch, own[key], device)
                seconds[key][size].append((time.perf_counter() - start) / (len(by_size[size]) * size))
    return {
        LABEL_METHODS[key].name: {size: statistics.median(rounds) for size, rounds in by_size.items()}
        for key, by_size in seconds.items()
    }


def _batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """All items in batches of one size, the first ones again where the last batch lacks some."""
    starts = range(0, len(items), size)
    return [[items[number % len(items)] for number in range(start, start + size)] for start in starts]


def _label(batch: Sequence[Item], settings: LabelSettings, device: torch.device) -> None:
    for item in batch:
        make_labels(item.maps, item.classes, image=item.photograph, saliency=item.saliency, settings=settings)
    if LABEL_METHODS[settings.method].on_device and device.type == "cuda":
        torch.cuda.synchronize(device)


def cpu_name() -> str:
    """The processor's name, as far as the system says it."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
