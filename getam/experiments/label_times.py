"""Measures how long label methods take for batches of images.

The methods take turns in every round, so that other load on the machine affects all of them alike.
"""

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
    """The inputs from which an image's labels are made."""

    photograph: np.ndarray
    """(H, W, 3), uint8."""
    maps: Any
    """(K, H, W), float32, in [0, 1]; a numpy array, or a tensor on a device."""
    classes: list[int]
    saliency: Any
    """(H, W), uint8 in 0..255; an array or a tensor like `maps`."""


def time_labels(
    items: Sequence[Item], settings: LabelSettings, *, batch_sizes: Sequence[int], device: torch.device
) -> dict[str, dict[int, float]]:
    """Measures every label method: {name: {batch size: median seconds an image}}.

    Methods that can run on `device`, such as completion, use torch's threads; their maps and saliency lie on the device
    before the clock starts, and their labels stay there. The others run on the CPU, on one thread. Every method labels
    the images of a batch one after the other.

    Args:
        items: the images; every batch size labels all of them. An incomplete last batch is filled with the first ones.
        settings: settings of the label methods; `method` is ignored.
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
    settings_of = {key: settings.model_copy(update={"method": key}) for key in LABEL_METHODS}
    for key, by_size in batches.items():
        # A first run outside of the clock does what is done only once, such as loading a library.
        _label(by_size[batch_sizes[0]][0][:1], settings_of[key], device)
    seconds: dict[str, dict[int, list[float]]] = {key: {size: [] for size in batch_sizes} for key in LABEL_METHODS}
    for _ in range(ROUNDS):
        for size in batch_sizes:
            for key, by_size in batches.items():
                start = time.perf_counter()
                for batch in by_size[size]:
                    _label(batch, settings_of[key], device)
                seconds[key][size].append((time.perf_counter() - start) / (len(by_size[size]) * size))
    return {
        LABEL_METHODS[key].name: {size: statistics.median(rounds) for size, rounds in by_size.items()}
        for key, by_size in seconds.items()
    }


def _batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Cuts the items into batches of one size; an incomplete last batch is filled with the first items."""
    starts = range(0, len(items), size)
    return [[items[number % len(items)] for number in range(start, start + size)] for start in starts]


def _label(batch: Sequence[Item], settings: LabelSettings, device: torch.device) -> None:
    for item in batch:
        make_labels(item.maps, item.classes, image=item.photograph, saliency=item.saliency, settings=settings)
    if LABEL_METHODS[settings.method].on_device and device.type == "cuda":
        torch.cuda.synchronize(device)


def cpu_name() -> str:
    """The name of the processor; only its architecture where the system does not tell the name."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
