"""Settings that choose an entry of a table of methods, and the --help text that explains the entries."""

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
    """Annotation that restricts a string to the keys of a table: `Annotated[str, Choice(TABLE)]`.

    Like a Literal of the keys: the message about any other value lists them, and the JSON schema is their enum.
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
    """An entry of a table of methods with the text that explains it in --help."""

    @property
    def text(self) -> str: ...


class WithOptions(Protocol):
    """An entry of a table of methods that names the method-specific settings it reads."""

    @property
    def options(self) -> tuple[str, ...]: ...


def explained(table: Mapping[str, Explained]) -> list[str]:
    """The keys of a table of methods, each with its explanation: "cam (of the classifier's read-out)"."""
    return [f"{key} ({method.text})" if method.text else key for key, method in table.items()]


def with_baselines(table: Mapping[str, Explained]) -> str:
    """The --help text of a table of methods: its first entry is the paper's method, the others are baselines."""
    first, *baselines = explained(table)
    return f"{first}; baselines: {', '.join(baselines)}"


def readers(table: Mapping[str, WithOptions], option: str) -> str:
    """The names of the methods that read a setting, joined: "getam and attention_gradient"."""
    return enumerated([key for key, method in table.items() if option in method.options], "and")
