"""Settings of the saliency network and of the source of saliency maps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from getam.settings.networks import BackboneOptions, FineTuningSettings
from getam.settings.section import Fraction, ImageSize, PositiveInt, Section
from getam.settings.training import ScheduleSettings


class SaliencyMapSettings(Section):
    """predict_saliency: the value range of the saliency maps."""

    stretch: bool = Field(
        description="scale each map to its own range 0..255, as the authors' program does; an image without a salient "
        "object then has a map of full range too"
    )


class SaliencySettings(FineTuningSettings, ScheduleSettings):
    """train_saliency: a transformer salient-object-detection network (Mao et al. 2021)."""

    backbone: str = Field(description="timm name of a Swin transformer", min_length=1)
    backbone_options: BackboneOptions = Field(description="keyword arguments for timm.create_model; {} for none")
    image_size: ImageSize = Field(description="height and width that inputs are resized to, pixels")
    neck_width: PositiveInt = Field(description="channels of the neck")
    loss: Literal["weighted", "released"] = Field(
        description="structure loss: weighted (as published, its cross entropy too) or released (authors' code: a "
        "plain mean of the cross entropy)"
    )
    pairs: Annotated[int, Field(ge=0)] = Field(description="most image/mask pairs of each folder; 0: all")
    border_crop: Annotated[int, Field(ge=0)] = Field(
        description="most pixels that a random crop takes off a training image's height and width"
    )
    rotation: Annotated[float, Field(ge=0, le=180)] = Field(
        description="range of a random rotation, which every fifth training image gets, degrees"
    )
    color_jitter: Fraction = Field(description="strength of random brightness, contrast and saturation, 0 none")


class SaliencySourceSettings(SaliencySettings, SaliencyMapSettings):
    """The section saliency; only the workflow reads `source` and `folder`, not train_saliency."""

    source: Literal["train", "folder", "none"] = Field(
        description="train (a network is trained and predicts), folder (maps brought along) or none"
    )
    folder: str = Field(description="of the source folder: saliency maps, .png or .jpg, named by the images' ids")
