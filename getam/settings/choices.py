"""Settings that are a choice among the entries of a table of methods, and what --help says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from getam.errors import enumerated


@dataclass(frozen=True)
class Choice:
    """In `Annotated[str, Choice(TABLE)]`: the value is a key of the table.

    The message about another value lists the keys, and the JSON schema is an enum of them, as for a Literal.
    """

    table: Mapping[str, object]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"enum": [*self.table], "type": "string"}

    def _check(self, value: Any) -> str:
        if isinstance(value, str) and value in self.table:
            return value
        expected = enumerated([repr(key) for key in self.table], "or")
        raise PydanticKnownError("literal_error", {"expected": expected})


class Explained(Protocol):
    """An entry of a table of methods that --help explains."""

    @property
    def text(self) -> str: ...


class WithOptions(Protocol):
    """An entry of a table of methods that read some of their section's settings alone."""

    @property
    def options(self) -> tuple[str, ...]: ...


def explained(table: Mapping[str, Explained]) -> list[str]:
    """Each key of a table of methods with its explanation: "cam (of the classifier's read-out)"."""
    return [f"{key} ({method.text})" if method.text else key for key, method in table.items()]


def with_baselines(table: Mapping[str, Explained]) -> str:
    """The paper's method, which is the table's first, and the baselines that it is compared with."""
    first, *baselines = explained(table)
    return f"{first}; baselines: {', '.join(baselines)}"


def readers(table: Mapping[str, WithOptions], option: str) -> str:
    """The methods that read a setting: "getam and attention_gradient"."""
    return enumerated([key for key, method in table.items() if option in method.options], "and")
