"""Command-line flags from typed settings, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def flags(settings: BaseModel) -> list[str]:
    """The command-line words that give a stage these settings, in the order of the model's fields; no excluded ones.

    Nested sections give dotted flags; collections are written as JSON. `parse_flags` gives `settings` back.
    """
    words = []
    for path, field in leaves(type(settings)):
        if field.exclude:
            continue
        value: Any = settings
        for name in path:
            value = getattr(value, name)
        text = value if isinstance(value, str) else _as_text(value)
        # One word: Snakemake's quoting drops empty ones.
        words += [flag_name(path), text] if text else [f"{flag_name(path)}="]
    return words


def leaves(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Every setting of a model with its path of names; nested models are entered."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, (*prefix, name))
        else:
            yield (*prefix, name), field


def flag_name(path: tuple[str, ...]) -> str:
    """("maps", "start_block") -> --maps.start-block"""
    return "--" + ".".join(path).replace("_", "-")


def _as_text(value: Any) -> str:
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
