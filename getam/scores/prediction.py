"""Segmentation of whole images: averages probabilities over input sizes and mirror images, then applies dense CRF."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from getam.datasets.images import BATCH_PIXELS, fit_long_side, planned_batches, require_rows, whole_images
from getam.datasets.index import Index, IndexRow, read_photograph
from getam.datasets.shards import new_shard
from getam.datasets.working_size import most_probable, say_scaled_down, shrunk, working_size
from getam.labels.crf import LabelsOf, with_known_backend, write_crf_labels
from getam.labels.mean_field import mean_field
from getam.networks.checkpoints import model_files
from getam.scores.evaluation import ConfusionMatrix, mean_iou
from getam.settings.prediction import PredictionSettings, ViewSettings
from getam.system.image_files import read_labels, write_labels
from getam.system.progress import image_progress, progress

BATCH_SIZE = 16

logger = logging.getLogger(__name__)


def rows_to_predict(index: Index, split: str, *, source: Path) -> Sequence[IndexRow]:
    """The images of a split. A data set needs no val; a line in the log says that none is there.

    Args:
        source: index.csv.

    Raises:
        InputError: another split has no images.
    """
    if split != "val":
        return require_rows(index.split(split), split=split, index=source)
    if not (rows := index.split(split)):
        logger.warning("%s: no image of val: nothing is predicted, nor scored", source)
    return rows


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
    manifest_entries: dict[str, Any] | None = None,
    possible: Callable[[IndexRow], Sequence[int] | None] = lambda row: None,
    confidence: float = 0.0,
    kept: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Predicts each row and writes <id>.png, at original resolution, and a manifest with the settings into `out`.

    Args:
        network: normalized images (B, 3, h, w) -> logits (B, 1 + C, h', w') of any size; in evaluation mode.
        multiple: input sides are rounded to a multiple of this.
        classes: class names, without background.
        model: folder of the network's weights.
        what: name of the stage, for the log.
        manifest_entries: further entries of the manifest.
        possible: an image's class indices, counted from 0, which compete with the background; None: all.
        confidence: a pixel is unknown where the probability of its label, among those that compete, is below this.
        kept: label PNGs of ids that are not predicted but copied.
    """

    def size(row: IndexRow) -> tuple[int, int]:
        working = working_size(row, settings.long_side)
        return working if settings.squares else fit_long_side(working, max(working), multiple=multiple)

    say_scaled_down(rows, settings.long_side, what=what)
    if settings.crf.iterations:
        settings = settings.model_copy(update={"crf": with_known_backend(settings.crf)})
    in_processes = settings.crf.iterations > 0 and settings.crf.backend == "pydensecrf"
    budget = BATCH_PIXELS[device.type]
    predicted = [row for row in rows if row.id not in kept]
    if settings.squares:
        batch_size = max(1, min(BATCH_SIZE, budget // max(settings.squares) ** 2))
        batches = planned_batches(predicted, size=size, batch_size=batch_size, pixels=budget)
    else:
        batches = planned_batches(
            predicted, size=size, batch_size=BATCH_SIZE, pixels=budget / max(settings.scales) ** 2
        )
    with (
        new_shard(
            out,
            ids=[row.id for row in rows],
            suffix=".png",
            classes=classes,
            settings=settings,
            threads=threads,
            in_processes=in_processes,
            inputs=[*model_files(model), *kept.values(), *(row.image for row in predicted)],
            manifest_entries=manifest_entries,
        ) as shard,
    ):
        for id, path in kept.items():
            shutil.copyfile(path, shard.path(id))
        todo = shard.unfinished(batches)

        def written() -> Iterator[int]:
            for batch, images in whole_images(todo, read=read_photograph, size=size, threads=threads):
                averaged = averaged_probabilities(network, images.to(device, non_blocking=True), settings, multiple)
                for row, values in zip(batch, averaged, strict=True):
                    working = working_size(row, settings.long_side)
                    resized = F.interpolate(values[None], size=working, mode="bilinear", align_corners=False)[0]
                    indices = possible(row)
                    if indices is not None:
                        resized = torch.stack([resized[0], *(resized[index + 1] for index in indices)])
                        resized = resized / resized.sum(0, keepdim=True)
                    labels = LabelsOf(indices, confidence, (row.height, row.width))
                    if in_processes:
                        probabilities = resized.cpu().numpy()
                        yield shard.submit(row.id, write_crf_labels, row.image, probabilities, settings.crf, labels)
                        continue
                    if settings.crf.iterations:
                        photograph = torch.from_numpy(shrunk(read_photograph(row), working).copy())
                        photograph = photograph.to(device, non_blocking=True)
                        resized = mean_field(photograph, resized, settings.crf)
                    yield shard.submit(row.id, _write, resized, labels)
            yield from shard.wait()

        # Progress counts written files rather than network passes: the CRF may be the slower of the two.
        for _ in progress(written(), total=sum(map(len, todo)), unit="image", what=what, size=int):
            pass


@torch.no_grad()
def validation_miou(
    network: Callable[[Tensor], Tensor],
    rows: Sequence[IndexRow],
    *,
    multiple: int,
    num_classes: int,
    device: torch.device,
    threads: int,
) -> float | None:
    """mIoU, in [0, 1], of plain predictions (one scale, no flip, no CRF) on the rows with a mask, for validation.

    Args:
        network: normalized images (B, 3, h, w) -> logits (B, 1 + C, h', w') of any size; in evaluation mode.
        multiple: input sides are rounded to a multiple of this.
        num_classes: C, without background.

    Returns:
        None where no row has a mask, or background alone is there.
    """

    def size(row: IndexRow) -> tuple[int, int]:
        return fit_long_side((row.height, row.width), max(row.height, row.width), multiple=multiple)

    scored = [row for row in rows if row.mask is not None]
    batches = planned_batches(scored, size=size, batch_size=BATCH_SIZE, pixels=BATCH_PIXELS[device.type])
    inputs = whole_images(batches, read=read_photograph, size=size, threads=threads)
    matrix = ConfusionMatrix(num_classes + 1)
    for batch, images in image_progress(inputs, batches, what="mIoU on val"):
        logits = network(images.to(device, non_blocking=True)).float()
        for row, values in zip(batch, logits, strict=True):
            full = (row.height, row.width)
            resized = F.interpolate(values[None], size=full, mode="bilinear", align_corners=False)[0]
            assert row.mask is not None
            matrix.add(read_labels(row.mask), resized.argmax(0).byte().cpu().numpy())
    score: float | None = mean_iou(matrix.iou())["miou"]
    return score


def averaged_probabilities(
    network: Callable[[Tensor], Tensor], images: Tensor, views: ViewSettings, multiple: int
) -> Tensor:
    """Averages softmax probabilities over scales or squares, and over the flip: (B, 3, H, W) -> (B, 1 + C, H, W)."""
    height, width = images.shape[2:]
    longer = max(height, width)
    sizes = [fit_long_side((height, width), round(scale * longer), multiple=multiple) for scale in views.scales]
    if views.squares:
        sizes = [fit_long_side((side, side), side, multiple=multiple) for side in views.squares]
    run: Callable[[Tensor], Tensor] = network
    if views.window:
        side = max(multiple, round(views.window / multiple) * multiple)
        run = partial(_in_windows, network, side=side, overlap=views.window_overlap)
    total = None
    for size in sizes:
        scaled = images
        if size != (height, width):
            scaled = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        for mirrored in (False, True) if views.flip else (False,):
            logits = run(scaled.flip(-1) if mirrored else scaled)
            logits = F.interpolate(logits.float(), size=(height, width), mode="bilinear", align_corners=False)
            probabilities = logits.softmax(1)
            probabilities = probabilities.flip(-1) if mirrored else probabilities
            total = probabilities if total is None else total + probabilities
    assert total is not None
    return total / (len(sizes) * (2 if views.flip else 1))


def _in_windows(network: Callable[[Tensor], Tensor], images: Tensor, *, side: int, overlap: float) -> Tensor:
    """Logits of square windows that slide over the images, averaged where windows overlap.

    A side of the images that is shorter than the window is taken whole; images that fit into one window are segmented
    as without windows.

    Args:
        images: (B, 3, H, W).
        side: of a window, pixels.
        overlap: part of a window that the next one covers too, at least; the last one ends at the image's edge.

    Returns:
        Logits (B, 1 + C, H, W), float32; of a single window, as the network gives them.
    """
    height, width = images.shape[2:]
    tops, lefts = (window_starts(length, side, overlap) for length in (height, width))
    if len(tops) == len(lefts) == 1:
        return network(images)
    total: Tensor | None = None
    counts = images.new_zeros(height, width)
    for top in tops:
        for left in lefts:
            window = images[..., top : top + side, left : left + side]
            logits = F.interpolate(network(window).float(), size=window.shape[2:], mode="bilinear", align_corners=False)
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[..., top : top + side, left : left + side] += logits
            counts[top : top + side, left : left + side] += 1
    assert total is not None
    return total / counts


def window_starts(length: int, side: int, overlap: float) -> list[int]:
    """First pixels of the windows along a side of an image, which together cover all of it."""
    if length <= side:
        return [0]
    return [*range(0, length - side, max(1, round(side * (1 - overlap)))), length - side]


def _write(path: Path, probabilities: Tensor, labels: LabelsOf) -> None:
    if labels.size in (None, probabilities.shape[1:]):
        confident, winner = probabilities.max(0)
        write_labels(path, labels(winner.to(torch.uint8).cpu().numpy(), confident.cpu().numpy()))
    else:
        write_labels(path, labels(*most_probable(probabilities.cpu().numpy(), labels.size)))
