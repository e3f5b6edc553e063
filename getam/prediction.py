"""Segmentation of whole images: probabilities averaged over scales and mirror images, then dense CRF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from getam.crf import dense_crf
from getam.files import write_labels
from getam.images import fit_long_side, whole_images
from getam.index import IndexRow
from getam.progress import progress
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
    out: Path,
    device: torch.device,
    threads: int,
    what: str,
) -> None:
    """Writes <id>.png of each row, original resolution, and a manifest with the settings into the folder `out`.

    Args:
        network: images (B, 3, h, w), normalized, in evaluation mode -> logits (B, 1 + C, h', w') of any size.
        multiple: input sides are rounded to a multiple of this.
        classes: names, without background.
    """
    batches = whole_images(
        rows,
        path=lambda row: row.image,
        size=lambda size: fit_long_side(size, max(size), multiple=multiple),
        batch_size=BATCH_SIZE,
        threads=threads,
    )
    with (
        new_shard(out, ids=[r.id for r in rows], suffix=".png", classes=classes, settings=settings) as folder,
        ThreadPoolExecutor(threads) as pool,
    ):
        pending: list[Future[None]] = []
        for batch, photographs, inputs in progress(
            batches, total=len(rows), unit="image", what=what, size=lambda item: len(item[0])
        ):
            probabilities = _averaged(network, inputs.to(device), settings, multiple)
            for row, photograph, values in zip(batch, photographs, probabilities, strict=True):
                pending.append(pool.submit(_write, folder / f"{row.id}.png", photograph, values.cpu(), settings))
            while len(pending) > 4 * BATCH_SIZE:
                pending.pop(0).result()
        for future in pending:
            future.result()


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


def _write(path: Path, photograph: np.ndarray, probabilities: Tensor, settings: PredictionSettings) -> None:
    size = photograph.shape[:2]
    if tuple(probabilities.shape[1:]) != size:
        probabilities = F.interpolate(probabilities[None], size=size, mode="bilinear", align_corners=False)[0]
    values = probabilities.numpy()
    if settings.crf.iterations:
        values = dense_crf(photograph, values, settings.crf)
    write_labels(path, values.argmax(0).astype(np.uint8))
