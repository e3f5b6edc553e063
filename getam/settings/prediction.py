"""Settings of the stages that predict with a segmentation network."""

from __future__ import annotations

from pydantic import Field

from getam.settings.crf import CrfSettings
from getam.settings.section import ImageSize, PositiveFloat, Section


class PredictionSettings(Section):
    """predict_deeplab and predict_end_to_end: averaged probabilities over scales and flip, then CRF."""

    scales: tuple[PositiveFloat, ...] = Field(description="inputs at these multiples of the image", min_length=1)
    squares: tuple[ImageSize, ...] = Field(
        description="inputs stretched to squares of these sides, pixels, in the place of scales; [] for none"
    )
    flip: bool = Field(description="average with the mirrored image")
    crf: CrfSettings
