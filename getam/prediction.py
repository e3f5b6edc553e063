"""Segmentation of whole images: probabilities averaged over scales and mirror images, then dense CRF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from getam.checkpoints import model_files
from getam.crf import write_crf_labels
from getam.files import write_labels
from getam.images import BATCH_PIXELS, fit_long_side, planned_batches, whole_images
from getam.index import IndexRow, read_photograph
from getam.progress import image_progress
from getam.settings import PredictionSettings
from getam.shards import new_shard

BATCH_SIZE = 16


@torch.no_grad()
def predict(
    network: Callable[[Tensor], Tensor],
    rows: Sequence[IndexRow],
    *,
    settings: PredictionSettings,
    multiple: int,
    classes: Sequence[str],
    model: Path,
    out: Path,
    device: torch.device,
    threads: int,
    what: str,
    facts: dict[str, Any] | None = None,
) -> None:
    """Writes <id>.png of each row, original resolution, and a manifest with the settings into the folder `out`.

    Args:
        network: images (B, 3, h, w), normalized, in evaluation mode -> logits (B, 1 + C, h', w') of any size.
        multiple: input sides are rounded to a multiple of this.
        classes: names, without background.
        model: folder of the network's weights.
        facts: further entries of the manifest.
    """

    def size(row: IndexRow) -> tuple[int, int]:
        return fit_long_side((row.height, row.width), max(row.height, row.width), multiple=multiple)

    pixels = BATCH_PIXELS[device.type] / max(settings.scales) ** 2
    batches = planned_batches(rows, size=size, batch_size=BATCH_SIZE, pixels=pixels)
    with (
        new_shard(
            out,
            ids=[row.id for row in rows],
            suffix=".png",
            classes=classes,
            settings=settings,
            threads=threads,
            in_processes=settings.crf.iterations > 0,
            inputs=[*model_files(model), *(row.image for row in rows)],
            facts=facts,
        ) as shard,
    ):
        todo = shard.unfinished(batches)
        inputs = whole_images(todo, read=read_photograph, size=size, threads=threads)
        for batch, images in image_progress(inputs, todo, what=what):
            probabilities = _averaged(network, images.to(device), settings, multiple)
            for row, values in zip(batch, probabilities, strict=True):
                full = (row.height, row.width)
                resized = F.interpolate(values[None], size=full, mode="bilinear", align_corners=False)[0]
                if settings.crf.iterations:
                    shard.submit(row.id, write_crf_labels, row.image, resized.cpu().numpy(), settings.crf)
                else:
                    shard.submit(row.id, _write, resized)


def _averaged(
    network: Callable[[Tensor], Tensor], images: Tensor, settings: PredictionSettings, multiple: int
) -> Tensor:
    """Mean softmax probabilities over scales and flip: (B, 3, H, W) -> (B, 1 + C, H, W)."""
    height, width = images.shape[2:]
    total = None
    for scale in settings.scales:
        size = fit_long_side((height, width), round(scale * max(height, width)), multiple=multiple)
        scaled = images
        if size != (height, width):
            scaled = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        for mirrored in (False, True) if settings.flip else (False,):
            logits = network(scaled.flip(-1) if mirrored else scaled)
            logits = F.interpolate(logits.float(), size=(height, width), mode="bilinear", align_corners=False)
            probabilities = logits.softmax(1)
            probabilities = probabilities.flip(-1) if mirrored else probabilities
            total = probabilities if total is None else total + probabilities
    assert total is not None
    return total / (len(settings.scales) * (2 if settings.flip else 1))


def _write(path: Path, probabilities: Tensor) -> None:
    write_labels(path, probabilities.argmax(0).to(torch.uint8).cpu().numpy())
