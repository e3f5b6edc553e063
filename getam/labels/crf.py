"""Dense CRF (Krähenbühl & Koltun 2011) on class probabilities, by pydensecrf or torch, and pseudo labels from it.

The module imports numpy but not torch, so that the processes of a pool, in which pydensecrf runs, start seconds faster.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from getam.datasets.working_size import most_probable, shrunk
from getam.errors import InputError
from getam.labels.class_maps import divide_by_maximum, label_values, probabilities
from getam.settings.crf import CrfSettings
from getam.system.image_files import UNKNOWN, read_image, write_labels

logger = logging.getLogger(__name__)


def with_known_backend(settings: CrfSettings) -> CrfSettings:
    """The settings with the backend that computes here in the place of `auto`, which the log says too.

    A stage records these, so that its files say what made them.

    Raises:
        InputError: the backend is pydensecrf, which is not installed.
    """
    backend = _backend(settings)
    chosen = ", which crf.backend: auto takes where pydensecrf is not installed" if backend == "torch" else ""
    logger.info("dense CRF by %s%s", backend, chosen if settings.backend == "auto" else "")
    return settings.model_copy(update={"backend": backend})


def _backend(settings: CrfSettings) -> Literal["pydensecrf", "torch"]:
    if settings.backend == "torch":
        return "torch"
    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError as error:
        if settings.backend == "auto":
            return "torch"
        # pydensecrf2 holds C code by a Cython that knows no later Python.
        builds = sys.version_info < (3, 13)
        cure = "install it by pip install 'getam[crf]', which takes a C++ compiler," if builds else "use Python 3.12"
        raise InputError(
            f"crf.backend: pydensecrf can't be imported ({error}); {cure} or write torch, which gives the same labels"
        ) from None
    return "pydensecrf"


def dense_crf(image: np.ndarray, probabilities: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """Refines class probabilities by mean-field inference in a dense CRF on the image, on the CPU.

    Args:
        image: (H, W, 3), uint8 RGB.
        probabilities: (K, H, W), float32, summing to 1 over K.

    Returns:
        (K, H, W), float32, summing to 1 over K.

    Raises:
        InputError: the settings' backend is pydensecrf, which is not installed.
    """
    if _backend(settings) == "torch":
        import torch

        from getam.labels.mean_field import mean_field

        # The arrays are copied because torch warns of read-only ones.
        return mean_field(torch.tensor(image), torch.tensor(probabilities), settings).numpy()

    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import unary_from_softmax

    count, height, width = probabilities.shape
    crf = dcrf.DenseCRF2D(width, height, count)
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probabilities)))
    crf.addPairwiseGaussian(sxy=settings.gaussian_xy, compat=settings.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=settings.bilateral_xy,
        srgb=settings.bilateral_rgb,
        rgbim=np.array(image, order="C"),  # The image is copied because pydensecrf refuses read-only arrays.
        compat=settings.bilateral_weight,
    )
    return np.asarray(crf.inference(settings.iterations), np.float32).reshape(count, height, width)


def crf_labels(
    image: np.ndarray,
    maps: np.ndarray,
    classes: Sequence[int],
    settings: CrfSettings,
    *,
    gamma: float,
    confidence: float = 0.0,
) -> np.ndarray:
    """Pseudo label of one image without saliency: argmax of the dense CRF on background and class scores.

    Each map is divided by its maximum; the CRF's input is [(1 - max_c M_c)^gamma, M_1 .. M_K] (Eq. 4), divided by its
    sum. Only the background and the classes of the image's labels compete.

    Args:
        image: (H, W, 3), uint8 RGB.
        maps: (K, H, W), >= 0.
        classes: K class indices counted from 0, ascending (label value = index + 1).
        settings: settings of the CRF.
        gamma: exponent of the background score.
        confidence: a pixel is unknown where the CRF's probability of its label is below this, as in CLIP-ES (0.95).

    Returns:
        (H, W), uint8: 0 background, label values, 255 unknown.

    Raises:
        InputError: shapes disagree, the maps hold NaN, infinity or a negative value, or the classes are not
            ascending from 0 to 253.
    """
    values = label_values(maps.shape, classes, image.shape[:2], partner="image")
    refined = dense_crf(image, probabilities(divide_by_maximum(maps), gamma), settings)
    labels = np.array([0, *values], np.uint8)[refined.argmax(0)]
    labels[refined.max(0) < confidence] = UNKNOWN
    return labels


@dataclass(frozen=True)
class LabelsOf:
    """Label values of the most probable of those classes that compete, and the background.

    Attributes:
        classes: class indices counted from 0, in the order of the probabilities after the background; None: all.
        confidence: a pixel is unknown where its probability is below this.
        size: (H, W) of the labels, where the probabilities are smaller; None: theirs.
    """

    classes: Sequence[int] | None = None
    confidence: float = 0.0
    size: tuple[int, int] | None = None

    def __call__(self, winner: np.ndarray, probability: np.ndarray) -> np.ndarray:
        """Labels (H, W), uint8, of the number of the most probable class (H, W), uint8, and its probability (H, W)."""
        if self.classes is not None:
            winner = np.array([0, *(index + 1 for index in self.classes)], np.uint8)[winner]
        return np.where(probability < self.confidence, np.uint8(UNKNOWN), winner)


def write_crf_labels(
    path: Path, image: Path, probabilities: np.ndarray, settings: CrfSettings, labels: LabelsOf
) -> None:
    """Refines probabilities (K, h, w) by the dense CRF on an image, and writes their labels as a PNG (H, W).

    The CRF works at the size of the probabilities, the image's or a smaller one.
    """
    photograph = shrunk(read_image(image), probabilities.shape[1:])
    refined = dense_crf(photograph, probabilities, settings)
    write_labels(path, labels(*most_probable(refined, labels.size or refined.shape[1:])))
