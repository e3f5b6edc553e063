"""Settings of the stage that labels the training images by the network that was trained on them."""

from __future__ import annotations

from pydantic import Field

from getam.settings.prediction import PredictionSettings
from getam.settings.section import Fraction


class RelabelSettings(PredictionSettings):
    """relabel: the pseudo labels of a further round, predicted by the segmenter of the round before."""

    confidence: Fraction = Field(
        description="a pixel is unknown where the probability of its label, among the background and the image's "
        "classes, is below this; 0: never"
    )
