"""The base class of all sections of settings, and the types that their values share."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Block = Annotated[int, Field(ge=0)]
Digits = BeforeValidator(lambda value: int(value) if isinstance(value, str) and value.isdigit() else value)
"""Accepts the text of a number for a Literal of numbers, since flags are text."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Matches a control character, such as the one that begins an escape of a terminal."""
Precision = Literal["float32", "bfloat16"]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
SMALLEST_IMAGE, LARGEST_IMAGE = 16, 4096
LongSide = Annotated[int, Field(ge=0, le=2**15)]
ImageSize = Annotated[int, Field(ge=SMALLEST_IMAGE, le=LARGEST_IMAGE)]

POSITIONAL: dict[str, JsonValue] = {"positional": True}
"""The `json_schema_extra` of a stage's argument that is positional, without a flag."""

SomeSection = TypeVar("SomeSection", bound="Section")


class Section(BaseModel):
    """Base of all sections: frozen; refuses unknown keys, NaN, infinities, booleans in place of numbers, and texts with
    control characters, which Snakemake would send to the terminal."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_booleans_as_numbers(cls, values: Any) -> Any:
        # pydantic accepts True as 1, but `epochs: yes` in a YAML file is a slip.
        if isinstance(values, Mapping):
            for name, value in values.items():
                field = cls.model_fields.get(name)
                if field is None:
                    continue
                typed_tuple = get_origin(field.annotation) is tuple and Any not in get_args(field.annotation)
                numeric = field.annotation in (int, float) or typed_tuple
                for element in value if isinstance(value, list | tuple) else [value]:
                    if isinstance(element, bool) and numeric:
                        raise ValueError(f"{name}: a number is needed, not {str(element).lower()}")
        return values

    @model_validator(mode="after")
    def _refuse_control_characters(self) -> Self:
        for name in type(self).model_fields:
            if any(map(CONTROL.search, _texts(getattr(self, name)))):
                raise ValueError(f"{name}: holds a control character; write it without")
        return self


def _texts(value: Any) -> Iterator[str]:
    """The texts of a value and of the lists and mappings in it; a section within looks after its own."""
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, list | tuple):
        yield from itertools.chain.from_iterable(map(_texts, value))
    elif isinstance(value, Mapping):
        yield from itertools.chain.from_iterable(map(_texts, (*value, *value.values())))


def section_of(model: type[SomeSection], arguments: BaseModel) -> SomeSection:
    """The section `model` with the values of the same names in a stage's arguments."""
    return model.model_validate({name: getattr(arguments, name) for name in model.model_fields})
