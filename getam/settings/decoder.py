"""Settings of the decoders that make a segmentation of a ViT's tokens."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from getam.settings.section import Digits, PositiveInt, Section

Scale = Annotated[Literal[4, 2, 1], Digits]


def _tap(value: Any) -> Any:
    if isinstance(value, int | str) and (str(value).isdigit() or re.fullmatch(r"stage\d", str(value))):
        return value
    raise ValueError("write the number of a block, or stage0, stage1, ... of a hybrid")


Tap = Annotated[Annotated[int, Field(ge=0)] | str, BeforeValidator(_tap), Digits]


class DecoderSettings(Section):
    """DPT decoder (Ranftl et al. 2021) on a ViT's tokens; of the linear head only the width."""

    taps: tuple[Tap, Tap, Tap] = Field(
        description="what the decoder reads beside the last block: three transformer blocks, ascending; of a hybrid "
        "the first may be its ResNet's stages: stage0, stage1, 8"
    )
    channels: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        description="channels of the three reassembled feature maps; the last one's are the backbone's width"
    )
    scales: tuple[Scale, Scale, Scale] = Field(
        description="size of the three feature maps in token grids, 4, 2 or 1; the head works at twice the first"
    )
    width: Annotated[int, Field(ge=16)] = Field(
        description="channels of the fusion blocks, or of the linear head's convolutions"
    )

    @model_validator(mode="after")
    def _ascending(self) -> DecoderSettings:
        # The ResNet's stages run before the transformer blocks, so they get negative positions.
        order = [int(tap[5:]) - 10 if isinstance(tap, str) else tap for tap in self.taps]
        if not order[0] < order[1] < order[2]:
            raise ValueError(f"taps: {list(self.taps)} is not ascending; name three different ones in order")
        return self
