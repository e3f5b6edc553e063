"""Settings of the end-to-end network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from getam.errors import enumerated
from getam.settings.completion import LabelSettings
from getam.settings.decoder import DecoderSettings
from getam.settings.maps import MAP_METHODS, ActivationSettings, RefineSettings
from getam.settings.networks import BackboneSettings
from getam.settings.patches import check_crop
from getam.settings.section import NonNegativeFloat, PositiveFloat, Section
from getam.settings.training import CropSettings, ScheduleSettings


class EnergySettings(Section):
    """Dense energy loss (RRM): Gaussian kernel in color and position."""

    weight: NonNegativeFloat = Field(description="weight of the loss; 0: none")
    sigma_rgb: PositiveFloat = Field(description="color deviation, 0..255 levels")
    sigma_xy: PositiveFloat = Field(description="position deviation, pixels of the full image")
    scale: Annotated[float, Field(gt=0, le=1)] = Field(description="resolution at which the energy is computed")


class EndToEndSettings(BackboneSettings, ScheduleSettings):
    """train_end_to_end: double-backward training of a classifier and a decoder (section 4.3)."""

    classifier_epochs: Annotated[int, Field(ge=0)] = Field(
        description="first epochs that train the classifier alone (paper: half of all)"
    )
    crop: CropSettings
    architecture: Literal["dpt", "linear"] = Field(
        description="decoder: dpt (the paper's), or a small convolutional head on the last block's tokens (linear)"
    )
    decoder: DecoderSettings
    maps: ActivationSettings
    refine: RefineSettings
    completion: LabelSettings
    energy: EnergySettings
    decoder_learning_rate: PositiveFloat = Field(description="highest learning rate of the decoder")
    map_epsilon: NonNegativeFloat = Field(
        description="added to each map's maximum before completion divides by it (authors' code: 1e-5, which fades "
        "maps of tiny values)"
    )
    segmentation_rate: PositiveFloat = Field(
        description="factor of all learning rates from the epoch on in which segmentation begins"
    )
    saliency_target: Literal["background", "released"] = Field(
        description="target of p_background: background (1 - S), or released (authors' code: 1 but where completion "
        "mined a class outside the saliency)"
    )
    saliency_weight: NonNegativeFloat = Field(description="weight of BCE(p_background, 1 - S) (paper: 0.1)")

    @model_validator(mode="after")
    def _readout_of_a_vit(self) -> EndToEndSettings:
        if self.readout == "pool":
            raise ValueError("readout: pool is a CNN's, and the decoder reads a ViT's tokens; write project or token")
        return self

    @model_validator(mode="after")
    def _whole_patches(self) -> EndToEndSettings:
        check_crop(self, self.crop.size)
        return self

    @model_validator(mode="after")
    def _maps_of_a_step(self) -> EndToEndSettings:
        if not MAP_METHODS[self.maps.method].in_training_step:
            known = enumerated([key for key, method in MAP_METHODS.items() if method.in_training_step], "or")
            raise ValueError(f"maps.method: a training step makes no {self.maps.method}; write {known}")
        return self

    @model_validator(mode="after")
    def _phases(self) -> EndToEndSettings:
        if self.classifier_epochs >= self.epochs:
            raise ValueError(
                f"classifier_epochs: {self.classifier_epochs} leaves none of the {self.epochs} epochs for segmentation"
            )
        return self


class CheckpointSettings(Section):
    """import_checkpoint: one of the authors' checkpoints, used in place of a trained end-to-end network."""

    file: str = Field(description="the authors' .pth file; empty: train_end_to_end trains")
    backbone: str = Field(
        description="its backbone, timm's name or the authors': vitb, deit, deit_distilled, vitb_hybrid"
    )
