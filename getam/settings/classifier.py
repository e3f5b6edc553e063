"""Settings of the classifier."""

from __future__ import annotations

from pydantic import model_validator

from getam.settings.networks import BackboneSettings
from getam.settings.patches import check_crop
from getam.settings.training import CropSettings, ScheduleSettings


class ClassifierSettings(BackboneSettings, ScheduleSettings):
    """train_classifier: a ViT, or a CNN for the CAM baseline, trained on image labels."""

    crop: CropSettings

    @model_validator(mode="after")
    def _stem(self) -> ClassifierSettings:
        if self.readout == "pool" and self.stem_channels:
            raise ValueError("stem_channels: a CNN (readout pool) has its own stem; write []")
        return self

    @model_validator(mode="after")
    def _whole_patches(self) -> ClassifierSettings:
        check_crop(self, self.crop.size)
        return self
