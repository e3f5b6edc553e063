"""Scores of saliency maps against masks: MAE, F-measure, S-measure, E-measure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from getam.datasets.duts import SaliencyPair, read_mask
from getam.datasets.images import BATCH_PIXELS, planned_batches, whole_images
from getam.networks.saliency import SaliencyNetwork, saliency_map
from getam.system.image_files import read_image
from getam.system.progress import image_progress

BATCH_SIZE = 16

EPSILON = np.spacing(1)
F_BETA = 0.3
"""beta^2 of the F-measure; below 1, it weights precision more than recall."""


def saliency_scores(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Scores the saliency maps of a data set, as they are (not stretched to their range).

    Args:
        pairs: maps (H, W), uint8, each with its mask (H, W), {0, 1}.

    Returns:
        mae: mean over images of mean |p - g|.
        max_f: maximum over the 256 thresholds of F (beta^2 = 0.3), from the precision and the recall averaged over
            images; an image's precision is 0 at a threshold that no pixel reaches.
        s_measure: mean over images of the structure measure (Fan et al. 2017).
        max_e: maximum over the 256 thresholds of the enhanced-alignment measure (Fan et al. 2018), averaged over
            images; it divides by n - 1 of n pixels as published, so that a perfect map scores slightly above 1.
    """
    errors, precisions, recalls, structures, alignments = [], [], [], [], []
    for values, mask in pairs:
        salient = mask > 0
        errors.append(np.abs(values / 255 - salient).mean())
        inside, everything = _above(values[salient]), _above(values)
        precisions.append(inside / np.maximum(everything, 1))
        recalls.append(inside / max(1, int(salient.sum())))
        structures.append(s_measure(values / 255, salient))
        alignments.append(e_measure(values, salient))
    precision, recall = np.mean(precisions, axis=0), np.mean(recalls, axis=0)
    f = (1 + F_BETA) * precision * recall / (F_BETA * precision + recall + 1e-8)
    return {
        "mae": float(np.mean(errors)),
        "max_f": float(f.max()),
        "s_measure": float(np.mean(structures)),
        "max_e": float(np.mean(alignments, axis=0).max()),
    }


@torch.no_grad()
def predicted_pairs(
    model: SaliencyNetwork,
    pairs: Sequence[SaliencyPair],
    *,
    image_size: int,
    stretch: bool,
    device: torch.device,
    threads: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Predicts each pair: yields (map, mask), both (H, W) at the mask's size, as `saliency_scores` takes them.

    Args:
        model: in evaluation mode, on the device.
        image_size: side of the network's input, pixels.
        stretch: see getam.networks.saliency.saliency_map.
        threads: number of images read at the same time.
    """

    def size(pair: SaliencyPair) -> tuple[int, int]:
        return image_size, image_size

    batches = planned_batches(pairs, size=size, batch_size=BATCH_SIZE, pixels=BATCH_PIXELS[device.type])
    inputs = whole_images(batches, read=lambda pair: read_image(pair.image), size=size, threads=threads)
    for batch, images in image_progress(inputs, batches, what="saliency scores"):
        for pair, logits in zip(batch, model(images.to(device)), strict=True):
            mask = read_mask(pair.mask)
            yield saliency_map(logits, mask.shape, stretch=stretch).cpu().numpy(), mask


def _above(values: np.ndarray) -> np.ndarray:
    """Counts the values (uint8) at or above each level 0..255: (256,), int64."""
    return np.bincount(values.ravel(), minlength=256)[::-1].cumsum()[::-1]


def s_measure(values: np.ndarray, salient: np.ndarray) -> float:
    """Structure measure (Fan et al. 2017): the mean of its object-aware and its region-aware similarity.

    Args:
        values: map (H, W) in [0, 1].
        salient: mask (H, W), bool.
    """
    share = salient.mean()
    if share in (0, 1):
        return float(values.mean() if share else 1 - values.mean())
    objects = share * _likeness(values[salient]) + (1 - share) * _likeness(1 - values[~salient])
    return float(max(0.0, 0.5 * objects + 0.5 * _regions(values, salient)))


def _likeness(values: np.ndarray) -> float:
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    return 2 * values.mean() / (values.mean() ** 2 + 1 + deviation + EPSILON)


def _regions(values: np.ndarray, salient: np.ndarray) -> float:
    """Structural similarity of the four parts into which the object's center divides the image, weighted by area.

    numpy rounds a center at .5 to the even number; Fan's MATLAB code rounds it up.
    """
    y, x = (int(center) + 1 for center in np.argwhere(salient).mean(0).round())
    total = 0.0
    for rows in (slice(0, y), slice(y, None)):
        for columns in (slice(0, x), slice(x, None)):
            part = salient[rows, columns]
            if part.size:
                total += part.size / salient.size * _similarity(values[rows, columns], part.astype(float))
    return total


def _similarity(a: np.ndarray, b: np.ndarray) -> float:
    degrees = a.size - 1 + EPSILON
    covariance = ((a - a.mean()) * (b - b.mean())).sum() / degrees
    variances = (((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()) / degrees
    numerator = 4 * a.mean() * b.mean() * covariance
    denominator = (a.mean() ** 2 + b.mean() ** 2) * variances
    if numerator == 0:
        return float(denominator == 0)
    return numerator / (denominator + EPSILON)


def e_measure(values: np.ndarray, salient: np.ndarray) -> np.ndarray:
    """Enhanced-alignment measure (Fan et al. 2018) at each threshold: (256,).

    At threshold t the binary map is {values >= t}. With a and g the binary map and the mask, each less its mean, the
    measure is the sum over the n pixels of (1 + 2 a g / (a^2 + g^2))^2 / 4, divided by n - 1.

    Args:
        values: map (H, W), uint8.
        salient: mask (H, W), bool.
    """
    size, objects = salient.size, int(salient.sum())
    inside, everything = _above(values[salient]), _above(values)
    if objects == 0:
        total = size - everything.astype(float)
    elif objects == size:
        total = everything.astype(float)
    else:
        total = np.zeros(256)
        # All pixels with the same (prediction, truth) have the same term, so four products a threshold are enough.
        outside = everything - inside
        counts = {(1, 1): inside, (1, 0): outside, (0, 1): objects - inside, (0, 0): size - objects - outside}
        for (predicted, true), count in counts.items():
            a, g = predicted - everything / size, true - objects / size
            total += count * (1 + 2 * a * g / (a**2 + g**2 + EPSILON)) ** 2 / 4
    return total / (size - 1 + EPSILON)
