"""Settings of the embedded demo data set."""

from __future__ import annotations

from pydantic import Field

from getam.settings.section import ImageSize, PositiveInt, Section, Seed


class DemoSettings(Section):
    """make_demo: the embedded demo data set."""

    train_images: PositiveInt = Field(description="images of the train split")
    val_images: PositiveInt = Field(description="images of the val split")
    saliency_images: PositiveInt = Field(description="image/mask pairs to train the saliency network on")
    saliency_val_images: PositiveInt = Field(description="image/mask pairs to score the saliency network on")
    image_size: ImageSize = Field(description="height and width of every image, pixels")
    seed: Seed = Field(description="seed of the generator")
