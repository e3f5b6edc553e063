"""Settings of class activation maps and of their refinement, and the table of map methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from getam.settings.choices import Choice, readers, with_baselines
from getam.settings.section import Block, Fraction, ImageSize, LongSide, PositiveFloat, PositiveInt, Precision, Section


@dataclass(frozen=True)
class MapMethod:
    """A method that makes class activation maps; its functions are in getam.maps.baselines.MAP_MAKERS.

    Attributes:
        name: title in plots and tables.
        text: explanation in --help; may be empty.
        options: the method-specific settings that this method reads.
        needs_vit: whether the method works on a ViT only, and not on a CNN.
        in_training_step: whether the end-to-end network can be trained with the method's maps.
        weighs_class_token: whether the maps are the attention from the class token to the patches.
    """

    name: str
    text: str = ""
    options: tuple[str, ...] = ()
    needs_vit: bool = True
    in_training_step: bool = False
    weighs_class_token: bool = False


MAP_METHODS = {
    "getam": MapMethod(
        "GETAM", "Eq. 1-3", ("coupling", "start_block", "fusion"), in_training_step=True, weighs_class_token=True
    ),
    "attention_gradient": MapMethod(
        "attention gradient",
        "its first factor alone",
        ("start_block", "fusion"),
        in_training_step=True,
        weighs_class_token=True,
    ),
    "rollout": MapMethod("rollout", options=("start_block",), weighs_class_token=True),
    "grad_cam": MapMethod("Grad-CAM"),
    "cam": MapMethod("CAM", "of the classifier's read-out", needs_vit=False, in_training_step=True),
}
"""The map methods by the value of `maps.method`: the paper's first, then the baselines."""


class ActivationSettings(Section):
    """How class activation maps are computed from the classifier."""

    method: Annotated[str, Choice(MAP_METHODS)] = Field(description=with_baselines(MAP_METHODS))
    coupling: Literal["released", "paper"] = Field(
        description=f"how {readers(MAP_METHODS, 'coupling')} averages heads: released (authors' code: after the "
        "products) or paper (before)"
    )
    start_block: Block = Field(description=f"first transformer block of {readers(MAP_METHODS, 'start_block')}")
    fusion: Literal["sum", "product", "matmul"] = Field(
        description=f"how {readers(MAP_METHODS, 'fusion')} join blocks: sum (Eq. 3), product of the maps, matmul of "
        "whole matrices"
    )
    propagation: Literal["none", "attention", "features", "both"] = Field(
        description="spreads maps over patches that the ViT holds alike: by mean attention of the last blocks "
        "(CLIP-ES), by cosine similarity of the last tokens, by both in this order, or none"
    )
    propagation_blocks: PositiveInt = Field(description="number of last blocks whose attention is averaged")
    propagation_threshold: Fraction = Field(
        description="share of a map's maximum: what spreads is inside the boxes around regions above it; 0: all"
    )
    propagation_power: PositiveFloat = Field(
        description="exponent of the cosine similarity, in propagation and in the boundary prior"
    )
    propagation_steps: PositiveInt = Field(description="number of steps by cosine similarity")
    boundary_prior: Annotated[float, Field(ge=0)] = Field(
        description="exponent of the boundary prior, by which propagated maps are multiplied: low at patches whose "
        "last tokens are like those along the image's edges; 0: none. For whole images, not for crops"
    )


class MapSettings(ActivationSettings):
    """dump_maps: class activation maps from the classifier."""

    image_size: ImageSize = Field(description="longer side of the network's input, pixels")
    scales: tuple[PositiveFloat, ...] = Field(
        description="inputs at these multiples of image_size; the maps of several are each divided by their maximum "
        "before they are averaged",
        min_length=1,
    )
    flip: bool = Field(description="average with the maps of the mirrored image")
    precision: Precision = Field(
        description="of the network; bfloat16 (autocast) is faster on a GPU, maps are float32 either way"
    )


class MapSourceSettings(MapSettings):
    """The section maps; only the workflow reads `source` and `folder`, not dump_maps."""

    source: Literal["classifier", "folder"] = Field(
        description="classifier (a classifier is trained and its maps are dumped) or folder (class maps brought along)"
    )
    folder: str = Field(description="of the source folder: class maps, .npy or .npz, named by the images' ids")


class RefineSettings(Section):
    """refine_maps: PAMR (Araslanov & Roth 2020)."""

    iterations: Annotated[int, Field(ge=0)] = Field(
        description="iterations of the affinity; 0: bilinear upsampling only"
    )
    dilations: tuple[PositiveInt, ...] = Field(description="dilations of the 3x3 neighborhoods, pixels", min_length=1)


class RefineMapsSettings(RefineSettings):
    """refine_maps: PAMR (Araslanov & Roth 2020) of whole photographs."""

    long_side: LongSide = Field(
        description="a photograph whose longer side has more pixels is refined scaled down to it, and its maps are "
        "enlarged again, which bounds memory and time; 0: never"
    )
    storage: Literal["float16", "quantized"] = Field(
        description="float16 (.npy) or quantized (.npz of a sixth of the size, which gives nearly the same labels)"
    )
