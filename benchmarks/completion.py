"""Label completion compared with the dense CRF that it replaces, on the same labels."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.measure import Row, Run, config, extra_memory, faster, medians, seconds
from getam.labels.completion import complete_labels
from getam.labels.crf import dense_crf
from getam.system.image_files import UNKNOWN

SIZE = (375, 500)
TINY = (15, 20)
CLASSES = (4, 11)
LEAST_FASTER = 40.0


def rows(rounds: int) -> list[Row]:
    spent = medians({"completion": completion(), "dense CRF": crf()}, rounds)
    return [
        Row(
            what=f"completion, {SIZE[1]}x{SIZE[0]}, {len(CLASSES)} classes",
            ours=seconds(spent["completion"]),
            other="dense CRF, 10 iterations, same labels",
            its=seconds(spent["dense CRF"]),
            time=faster(spent["completion"], spent["dense CRF"], least=LEAST_FASTER),
            memory=(
                extra_memory("completion", partial(completion, TINY), completion),
                extra_memory("dense CRF", partial(crf, TINY), crf),
            ),
        )
    ]


def completion(size: tuple[int, int] = SIZE) -> Run:
    settings = config().completion
    *maps, saliency = _blobs(len(CLASSES) + 1, size, seed=0)
    return partial(
        complete_labels,
        np.exp(maps),  # positive everywhere, as refined maps are
        CLASSES,
        (saliency > 0).astype(np.uint8),
        alpha=settings.alpha,
        gamma=settings.gamma,
        conflict=settings.conflict,
    )


def crf(size: tuple[int, int] = SIZE) -> Run:
    labels = np.asarray(completion(size)())
    masks = [(labels == 0) | (labels == UNKNOWN), *(labels == index + 1 for index in CLASSES)]
    probabilities = np.where(np.stack(masks), 0.7, 0.15).astype(np.float32)
    # With smooth colors and little noise the CRF takes as long as on photographs; more noise would fill its lattice.
    noise = np.random.default_rng(2).normal(0, 2, (*size, 3))
    image = (128 + 60 * _blobs(3, size, seed=1).transpose(1, 2, 0) + noise).clip(0, 255).astype(np.uint8)
    settings = config().deeplab_prediction.crf.model_copy(update={"iterations": 10})
    return partial(dense_crf, image, probabilities, settings)


def _blobs(count: int, size: tuple[int, int], *, seed: int) -> np.ndarray:
    """Makes smooth random fields around 0: (count, *size), float32."""
    coarse = torch.randn(1, count, 9, 12, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=size, mode="bicubic")[0].numpy()
