"""Settings of the dense CRF, which refines pseudo labels and predictions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from getam.settings.section import NonNegativeFloat, PositiveFloat, Section


class CrfSettings(Section):
    """Dense CRF (Krähenbühl & Koltun 2011) on predicted probabilities."""

    iterations: Annotated[int, Field(ge=0)] = Field(description="mean-field iterations; 0: no CRF")
    gaussian_xy: PositiveFloat = Field(description="standard deviation of the smoothness kernel, pixels")
    gaussian_weight: NonNegativeFloat = Field(description="weight of the smoothness kernel")
    bilateral_xy: PositiveFloat = Field(description="position deviation of the appearance kernel, pixels")
    bilateral_rgb: PositiveFloat = Field(description="color deviation of the appearance kernel, 0..255 levels")
    bilateral_weight: NonNegativeFloat = Field(description="weight of the appearance kernel")
    backend: Literal["auto", "pydensecrf", "torch"] = Field(
        description="what computes it: pydensecrf (the extra getam[crf]; on the CPU), torch (the same to rounding; "
        "predictions on their device), or auto (pydensecrf where it is installed, else torch)"
    )
