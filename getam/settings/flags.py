"""Conversion between typed settings and command-line flags."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def flags(settings: BaseModel) -> list[str]:
    """The command-line words that pass these settings to a stage, in the order of the model's fields.

    Nested sections become dotted flags, collections are written as JSON, and fields with `exclude=True` are left out.
    `parse_flags` is the inverse.
    """
    words = []
    for path, field in leaves(type(settings)):
        if field.exclude:
            continue
        value: Any = settings
        for name in path:
            value = getattr(value, name)
        text = value if isinstance(value, str) else as_text(value)
        # An empty value is joined to its flag by "=", because Snakemake's quoting drops empty words.
        words += [flag_name(path), text] if text else [f"{flag_name(path)}="]
    return words


def leaves(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Yields (path of field names, field) for every setting of a model, nested models included."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, (*prefix, name))
        else:
            yield (*prefix, name), field


def flag_name(path: tuple[str, ...]) -> str:
    """("maps", "start_block") -> --maps.start-block"""
    return "--" + ".".join(path).replace("_", "-")


def as_text(value: Any) -> str:
    """A flag's value as a word of the command line; lists and objects as JSON."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, Path) else json.dumps(value, sort_keys=True)


def nest(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """{("maps", "flip"): x} -> {"maps": {"flip": x}}"""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        branch = tree
        for name in path[:-1]:
            branch = branch.setdefault(name, {})
        branch[path[-1]] = value
    return tree
