"""Makes pseudo labels by any of the label methods: the paper's completion, or one of the baselines.

torch is imported only when the completion runs: the worker processes of crf and rrm import this module too, and start
seconds faster without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from getam.errors import InputError, chosen
from getam.labels.class_maps import Array, salient
from getam.labels.crf import crf_labels
from getam.labels.rrm import rrm_labels
from getam.settings.completion import LABEL_METHODS, LabelSettings


def make_labels(
    maps: Array,
    classes: Sequence[int],
    *,
    image: np.ndarray | None = None,
    saliency: Array | None = None,
    settings: LabelSettings,
) -> Array:
    """Pseudo label of one image by `settings.method`.

    Args:
        maps: (K, H, W), >= 0, of the image's classes; a numpy array, or a tensor if the method is `on_device` (see
            getam.settings.completion.LabelMethod). A tensor's values are not checked, which would wait for a GPU.
        classes: K class indices counted from 0, ascending (label value = index + 1).
        image: the image (H, W, 3), uint8 RGB, for a method that `reads_photograph`.
        saliency: the saliency map (H, W), uint8 in 0..255, for a method that `needs_saliency`; a tensor if `maps` is.

    Returns:
        (H, W), uint8: 0 background, label values, 255 unknown; a tensor if `maps` is. All of an image without a
        class is background.

    Raises:
        InputError: there is no such method, an array that it reads is missing, or the arrays do not fit; see
            complete_labels, crf_labels and rrm_labels.
    """
    make = chosen(LABEL_MAKERS, settings.method, name="completion.method")
    method = LABEL_METHODS[settings.method]
    inputs = {"photograph": (method.reads_photograph, image), "saliency map": (method.needs_saliency, saliency)}
    for name, (needed, array) in inputs.items():
        if needed and array is None:
            raise InputError(f"completion.method: {settings.method} reads the {name}, which was not given")
    if not classes:
        # The image label says that there is background alone, whatever is salient.
        blank = maps.sum(0)
        return blank.astype(np.uint8) if isinstance(blank, np.ndarray) else blank.byte()
    labels: Array = make(maps, classes, image, saliency, settings)
    return labels


def _completion(maps: Any, classes: Sequence[int], image: Any, saliency: Any, settings: LabelSettings) -> Any:
    from getam.labels.completion import complete_labels

    inside = salient(saliency, settings.saliency_threshold)
    return complete_labels(maps, classes, inside, **settings.completion_arguments())


def _dense_crf(maps: Any, classes: Sequence[int], image: Any, saliency: Any, settings: LabelSettings) -> Any:
    return crf_labels(image, maps, classes, settings.crf, gamma=settings.gamma, confidence=settings.crf_confidence)


def _reliable(maps: Any, classes: Sequence[int], image: Any, saliency: Any, settings: LabelSettings) -> Any:
    return rrm_labels(image, maps, classes, settings.rrm, settings.crf)


def _bands(maps: Any, classes: Sequence[int], image: Any, saliency: Any, settings: LabelSettings) -> Any:
    from getam.labels.bands import band_labels

    check = isinstance(maps, np.ndarray)
    return band_labels(maps, classes, high=settings.bands.high, low=settings.bands.low, check=check)


LABEL_MAKERS: dict[str, Callable[[Any, Sequence[int], Any, Any, LabelSettings], Any]] = {
    "activation": _completion,
    "crf": _dense_crf,
    "rrm": _reliable,
    "bands": _bands,
}
"""The functions of the methods in LABEL_METHODS: (maps, classes, image, saliency map, settings) -> labels."""
