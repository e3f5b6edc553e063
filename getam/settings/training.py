"""Settings of crops and schedules, which all trainings share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from getam.settings.section import (
    Fraction,
    ImageSize,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Precision,
    Section,
    Seed,
)


class CropSettings(Section):
    """Augmentation of a training image: random scale, crop, flip and color jitter."""

    long_side: tuple[ImageSize, ImageSize] = Field(
        description="range of the image's longer side after random scaling, pixels"
    )
    size: ImageSize = Field(description="height and width of the random crop, pixels")
    color_jitter: Fraction = Field(description="strength of random brightness, contrast and saturation, 0 none")

    @model_validator(mode="after")
    def _ordered(self) -> CropSettings:
        if self.long_side[0] > self.long_side[1]:
            raise ValueError(f"long_side: {list(self.long_side)} is not a range; write [smallest, largest]")
        return self


class ScheduleSettings(Section):
    """Optimization settings that every training has."""

    epochs: PositiveInt = Field(description="passes over the training images")
    batch_size: PositiveInt = Field(description="images an optimizer step")
    accumulation: PositiveInt = Field(
        description="parts of equal size that a batch is computed in, one after the other, to save memory; their "
        "gradients are averaged, and means over pixels and batch norm's statistics are each part's own"
    )
    optimizer: Literal["adamw", "sgd"] = Field(description="adamw or sgd")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(description="momentum of sgd; first beta of adamw")
    schedule: Literal["one_cycle", "poly", "step"] = Field(
        description="learning rate: one_cycle (warm-up, then cosine to 0), poly ((1 - t)^0.9) or step (halved after "
        "0.4 and 0.8 of the training)"
    )
    learning_rate: PositiveFloat = Field(description="highest learning rate")
    warmup_epochs: NonNegativeFloat = Field(
        description="first epochs, or part of one, in which the learning rate rises linearly, whatever the schedule; "
        "0: none beside one_cycle's own"
    )
    weight_decay: NonNegativeFloat = Field(description="weight decay (decoupled in adamw)")
    gradient_clipping: NonNegativeFloat = Field(description="largest norm of all gradients together; 0: any")
    precision: Precision = Field(description="of the networks in training; bfloat16 (autocast) is faster on a GPU")
    seed: Seed = Field(description="seed of initial weights, shuffling and augmentation")
    # `gpus` describes the machine, not the result. exclude=True leaves it out of model_dump, and so out of a
    # training's key, model.json and the rule's params.
    gpus: Annotated[int, Field(ge=0)] = Field(
        default=1,
        exclude=True,
        description="GPUs of one machine that the training runs on, a process each; 0: the CPU; reruns nothing [1]",
    )

    @model_validator(mode="after")
    def _warm_up_ends(self) -> ScheduleSettings:
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs: {self.warmup_epochs:g} is more than the {self.epochs} epochs; write a smaller number"
            )
        return self
