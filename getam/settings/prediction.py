"""Settings of the stages that predict with a segmentation network."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from getam.settings.crf import CrfSettings
from getam.settings.section import ImageSize, LongSide, Section

Scale = Annotated[float, Field(gt=0, le=8)]
"""Multiple of an image's size; larger ones would take gigabytes for any photograph."""


class ViewSettings(Section):
    """The views of an image over which a segmentation network's probabilities are averaged."""

    scales: tuple[Scale, ...] = Field(description="inputs at these multiples of the image", min_length=1)
    squares: tuple[ImageSize, ...] = Field(
        description="inputs stretched to squares of these sides, pixels, in the place of scales; [] for none"
    )
    window: Annotated[int, Field(ge=0, le=4096)] = Field(
        description="side of the square windows, pixels of the input, in which it is segmented; 0: as a whole"
    )
    window_overlap: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="part of a window that the next one covers too, at least; scores are averaged there"
    )
    flip: bool = Field(description="average with the mirrored image")

    @model_validator(mode="after")
    def _window_is_an_image(self) -> ViewSettings:
        if 0 < self.window < 16:
            raise ValueError(f"window: {self.window} pixels are too few; write 16 or more, or 0 for none")
        return self


class PredictionSettings(ViewSettings):
    """predict_deeplab and predict_end_to_end: averaged probabilities over scales and flip, then CRF."""

    long_side: LongSide = Field(
        description="a photograph whose longer side has more pixels is segmented scaled down to it, and its labels are "
        "enlarged again, which bounds memory and time; 0: never"
    )
    crf: CrfSettings
