"""RRM's reliable labels (Zhang et al. 2020, "Reliability Does Matter"): pixels on which maps and two dense CRFs agree.

The module imports numpy but not torch, so that the processes of a pool start seconds faster.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from getam.labels.class_maps import divide_by_maximum, label_values, probabilities, with_background
from getam.labels.crf import dense_crf
from getam.settings.completion import RrmSettings
from getam.settings.crf import CrfSettings
from getam.system.image_files import UNKNOWN


def rrm_labels(
    image: np.ndarray, maps: np.ndarray, classes: Sequence[int], settings: RrmSettings, crf: CrfSettings
) -> np.ndarray:
    """Pseudo label of one image without saliency; pixels about which maps and CRFs are in doubt are unknown.

    Two dense CRFs run on [(1 - max_c M_c)^gamma, M_1 .. M_K], divided by its sum. The CRF with the low
    `foreground_gamma` finds the classes, the CRF with the high `background_gamma` finds the background, and
    `reliable_labels` combines them.

    Args:
        image: (H, W, 3), uint8 RGB.
        maps: (K, H, W), >= 0.
        classes: K class indices counted from 0, ascending (label value = index + 1).
        settings: settings of RRM.
        crf: settings of both CRFs.

    Returns:
        (H, W), uint8: 0 background, label values, 255 unknown.

    Raises:
        InputError: shapes disagree, the maps hold NaN, infinity or a negative value, or the classes are not
            ascending from 0 to 253.
    """
    values = label_values(maps.shape, classes, image.shape[:2], partner="image")
    maps = divide_by_maximum(maps)
    foreground = dense_crf(image, probabilities(maps, settings.foreground_gamma), crf)
    background = dense_crf(image, probabilities(maps, settings.background_gamma), crf)
    return reliable_labels(maps, foreground, background, values, settings)


def reliable_labels(
    maps: np.ndarray, foreground: np.ndarray, background: np.ndarray, values: Sequence[int], settings: RrmSettings
) -> np.ndarray:
    """Combines maps M, the classes of one CRF (P_f) and the background of another (P_b).

    A pixel is background if argmax P_b is background, else the class argmax P_f if that is a class, else unknown. It
    also becomes unknown unless the maps and the CRFs are both sure:

        The maps are sure if the winner k = argmax of [B, M_1 .. M_K], B = (1 - max_c M_c)^background_gamma, is the
        argmax of P_f at some pixel of the image, and if
            M_k > v[int(quantile |v|)] for a class, v the sorted values > `activation` of M_k at the pixels it wins, or
            B > confidence for the background.
        The CRFs are sure if max(P_b[0], P_f[1], .., P_f[K]) >= confidence.

    Args:
        maps: (K, H, W), in [0, 1].
        foreground: P_f, (1 + K, H, W), probabilities of background and classes.
        background: P_b, (1 + K, H, W), probabilities of background and classes.
        values: K label values.
        settings: settings of RRM.

    Returns:
        (H, W), uint8: 0 background, label values, 255 unknown.
    """
    scores = with_background(maps, settings.background_gamma)
    winner, found = scores.argmax(0), foreground.argmax(0)
    sure = np.zeros(winner.shape, bool)
    for k in np.unique(found):
        own = winner == k
        least = settings.confidence if k == 0 else _quantile(scores[k][own], settings)
        sure |= own & (scores[k] > least)
    sure &= np.maximum(background[0], foreground[1:].max(0, initial=0)) >= settings.confidence

    labels = np.array([UNKNOWN, *values], np.uint8)[found]
    labels[background.argmax(0) == 0] = 0
    labels[~sure] = UNKNOWN
    return labels


def _quantile(activations: np.ndarray, settings: RrmSettings) -> float:
    """The threshold above which a class's activations are sure; infinity if none is above `settings.activation`."""
    ranked = np.sort(activations[activations > settings.activation])
    rank = int(settings.quantile * len(ranked))
    return float(ranked[rank]) if rank < len(ranked) else np.inf
