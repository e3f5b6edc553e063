"""What the typed settings of every section have in common: the base class and the types of their values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Block = Annotated[int, Field(ge=0)]
Digits = BeforeValidator(lambda value: int(value) if isinstance(value, str) and value.isdigit() else value)
"""Lets a choice among numbers be given as text, as flags are."""
Precision = Literal["float32", "bfloat16"]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
ImageSize = Annotated[int, Field(ge=16, le=4096)]

POSITIONAL: dict[str, JsonValue] = {"positional": True}
"""As the `json_schema_extra` of a stage's argument: it has no flag."""

SomeSection = TypeVar("SomeSection", bound="Section")


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, no NaN, no truth value where a number belongs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_booleans_as_numbers(cls, values: Any) -> Any:
        # pydantic takes True for 1; in a YAML file `epochs: yes` is a slip.
        if isinstance(values, Mapping):
            for name, value in values.items():
                field = cls.model_fields.get(name)
                if field is None:
                    continue
                several = get_origin(field.annotation) is tuple and Any not in get_args(field.annotation)
                numbers = field.annotation in (int, float) or several
                for one in value if isinstance(value, list | tuple) else [value]:
                    if isinstance(one, bool) and numbers:
                        raise ValueError(f"{name}: a number is needed, not {str(one).lower()}")
        return values


def section_of(model: type[SomeSection], arguments: BaseModel) -> SomeSection:
    """The part of a stage's arguments that are its settings."""
    return model.model_validate({name: getattr(arguments, name) for name in model.model_fields})
