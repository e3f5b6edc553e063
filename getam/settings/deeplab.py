"""Settings of the multi-stage path's segmentation network, and the table of architectures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from getam.errors import enumerated
from getam.settings.choices import Choice, readers
from getam.settings.decoder import DecoderSettings
from getam.settings.networks import TIMM, BackboneOptions, FineTuningSettings
from getam.settings.section import Digits, PositiveFloat, PositiveInt
from getam.settings.training import CropSettings, ScheduleSettings


@dataclass(frozen=True)
class Segmenter:
    """An architecture of the network that is trained on pseudo labels.

    Attributes:
        title: name in plots, tables and pages.
        options: the architecture-specific settings that this architecture reads.
        in_smp: whether segmentation-models-pytorch implements it under the same name; otherwise deeplab.model does.
        on_vit: whether its encoder is a ViT by timm's name, and not an encoder of segmentation-models-pytorch.
        three_rates: whether it takes exactly three atrous_rates.
        pools_batch: whether it applies batch norm to globally pooled features (one pixel an image), which in training
            needs batches of at least two images.
    """

    title: str
    options: tuple[str, ...] = ()
    in_smp: bool = True
    on_vit: bool = False
    three_rates: bool = False
    pools_batch: bool = False


OF_A_VIT = ("encoder_options", "final_norm", "decoder")
"""The settings that the architectures on a ViT's tokens read."""

SEGMENTERS = {
    "deeplabv2": Segmenter(
        "DeepLab",
        ("encoder_stages", "output_stride", "bottleneck_stride", "normalization", "atrous_rates"),
        in_smp=False,
    ),
    "deeplabv3plus": Segmenter("DeepLabV3+", ("output_stride", "atrous_rates"), three_rates=True, pools_batch=True),
    "upernet": Segmenter("UPerNet", pools_batch=True),
    "segformer": Segmenter("SegFormer"),
    "dpt": Segmenter("DPT", OF_A_VIT, in_smp=False, on_vit=True),
    "linear": Segmenter("Linear head", OF_A_VIT, in_smp=False, on_vit=True),
}
"""The architectures by the value of `deeplab.architecture`: the paper's first, then the alternatives."""


_ON_VITS = enumerated([name for name, known in SEGMENTERS.items() if known.on_vit], "and")


class DeepLabSettings(FineTuningSettings, ScheduleSettings):
    """train_deeplab: DeepLabv2, or another architecture, trained on pseudo labels."""

    architecture: Annotated[str, Choice(SEGMENTERS)] = Field(
        description="deeplabv2 (the paper's), another network of segmentation-models-pytorch ("
        + ", ".join(name for name, known in SEGMENTERS.items() if known.in_smp)
        + "), or a ViT with DPT's decoder (dpt) or a small convolutional head (linear)"
    )
    labels: Literal["pseudo", "truth"] = Field(
        description="what it is trained on: pseudo labels, or for comparison the ground truth of those images that "
        "have one (supervision F)"
    )
    encoder: str = Field(
        description="encoder of segmentation-models-pytorch: for deeplabv2 a ResNet (resnet18, resnet101, ...), for "
        "the others any that they take (mit_b2, tu-convnext_tiny, ...); "
        f"for {_ON_VITS} timm's name of a ViT (vit_small_patch14_dinov2)"
    )
    encoder_options: BackboneOptions = Field(
        description=f"of {readers(SEGMENTERS, 'encoder_options')}, keyword arguments for timm.create_model; {{}} for "
        "none"
    )
    final_norm: bool = Field(
        description=f"of {readers(SEGMENTERS, 'final_norm')}, whether the tokens are read after the ViT's final norm, "
        "as its own head does, or before it"
    )
    decoder: DecoderSettings
    encoder_stages: Annotated[Literal[2, 3, 4], Digits] = Field(
        description=f"of {readers(SEGMENTERS, 'encoder_stages')}, stages of the encoder: 4, or fewer to leave the "
        "widest out (tiny images on a CPU)"
    )
    output_stride: Annotated[Literal[8, 16], Digits] = Field(
        description=f"of {readers(SEGMENTERS, 'output_stride')}, image pixels a feature: 8 or 16"
    )
    bottleneck_stride: Literal["1x1", "3x3"] = Field(
        description=f"of {readers(SEGMENTERS, 'bottleneck_stride')}, convolution of a bottleneck that has the stride: "
        "1x1 (Caffe's ResNets, the paper's) or 3x3 (torchvision's, and its pretrained weights)"
    )
    normalization: Literal["imagenet", "caffe"] = Field(
        description=f"input of {readers(SEGMENTERS, 'normalization')}: ImageNet's mean and deviation, or caffe (BGR of "
        "0..255 less a mean), as imported weights need it"
    )
    atrous_rates: tuple[PositiveInt, ...] = Field(
        description="dilations of the ASPP's convolutions: any number of deeplabv2's summed ones, three of "
        "deeplabv3plus's",
        min_length=1,
    )
    scales: tuple[PositiveFloat, ...] = Field(
        description="further input scales whose scores are fused by maximum; [] for none"
    )
    frozen_batch_norm: bool = Field(
        description="keep the encoder's batch norm at its pretrained statistics; false from scratch"
    )
    full_resolution_loss: bool = Field(
        description="loss at the crop's resolution (true) or at the scores' resolution (false), which is lower in "
        "DeepLabv2 alone"
    )
    crop: CropSettings

    @property
    def network(self) -> str:
        """The encoder's name as fetch_weights takes it: that of a ViT begins with `tu-`."""
        return TIMM + self.encoder if SEGMENTERS[self.architecture].on_vit else self.encoder

    @property
    def network_options(self) -> dict[str, Any]:
        """The keyword arguments for timm that the architecture reads."""
        return self.encoder_options if SEGMENTERS[self.architecture].on_vit else {}

    @model_validator(mode="after")
    def _rates_are_the_architectures(self) -> DeepLabSettings:
        if SEGMENTERS[self.architecture].three_rates and len(self.atrous_rates) != 3:
            raise ValueError(
                f"atrous_rates: {self.architecture} takes three, not {list(self.atrous_rates)}; write [6, 12, 18]"
            )
        return self

    @model_validator(mode="after")
    def _normalization_is_read(self) -> DeepLabSettings:
        if self.normalization == "caffe" and "normalization" not in SEGMENTERS[self.architecture].options:
            raise ValueError(
                f"normalization: caffe is {readers(SEGMENTERS, 'normalization')}'s; write imagenet for "
                f"{self.architecture}"
            )
        return self


class DeepLabTrainingSettings(DeepLabSettings):
    """DeepLabSettings with the checks that concern a training, but not an imported network."""

    @model_validator(mode="after")
    def _encoder_is_a_vit(self) -> DeepLabTrainingSettings:
        # Other names are checked when the network is built, which is after days of classifier and maps.
        if SEGMENTERS[self.architecture].on_vit and re.match(r"(tu-|resnet\d|mit_b\d)", self.encoder):
            raise ValueError(
                f"encoder: {self.encoder} is no name of timm's ViTs, one of which {self.architecture} needs; write "
                "vit_small_patch14_dinov2 or another"
            )
        return self

    @model_validator(mode="after")
    def _frozen_is_pretrained(self) -> DeepLabTrainingSettings:
        if self.frozen_batch_norm and not self.pretrained:
            raise ValueError(
                "frozen_batch_norm: true keeps the statistics of pretrained weights, but pretrained is false; write "
                "false, or name weights"
            )
        return self
