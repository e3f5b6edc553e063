"""Dense CRF (Krähenbühl & Koltun 2011) on class probabilities, by pydensecrf."""

from __future__ import annotations

import numpy as np
import pydensecrf.densecrf as dcrf
from pydensecrf.utils import unary_from_softmax

from getam.settings import CrfSettings


def dense_crf(image: np.ndarray, probabilities: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """Refines probabilities by mean-field inference.

    Args:
        image: (H, W, 3), uint8 RGB.
        probabilities: (K, H, W), float32, summing to 1 over K.

    Returns:
        (K, H, W), float32, summing to 1 over K.
    """
    count, height, width = probabilities.shape
    crf = dcrf.DenseCRF2D(width, height, count)
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probabilities)))
    crf.addPairwiseGaussian(sxy=settings.gaussian_xy, compat=settings.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=settings.bilateral_xy,
        srgb=settings.bilateral_rgb,
        rgbim=np.array(image, order="C"),  # pydensecrf takes no read-only image
        compat=settings.bilateral_weight,
    )
    return np.asarray(crf.inference(settings.iterations), np.float32).reshape(count, height, width)
