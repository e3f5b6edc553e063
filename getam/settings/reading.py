"""Reading of configurations: YAML files, the merging of overlays, and messages about invalid values."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from getam.errors import InputError, reason_of
from getam.settings.foreign import YAML_BYTES, YAML_DEPTH, YAML_DIGITS, YAML_NODES, read_text

_INSTALLED = Path(__file__).resolve().parents[1] / "project"

PROJECT = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parents[1]
"""The folder of config.yaml, configs/ and workflow/: the checkout, or in an installed package a copy of them."""

BASE_CONFIG = PROJECT / "config.yaml"
"""The home of all default values."""


def recipe_file(path: Path) -> Path:
    """The project's recipe where a path such as configs/dinov2.yaml is not one in the working folder."""
    return PROJECT / path if path.parts[:1] == ("configs",) and not path.exists() else path


NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
"""What YAML calls whole numbers and others."""


class _BoundedError(yaml.YAMLError):
    """A document would grow beyond the bounds of getam.settings.foreign when its aliases are followed."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which YAML's readers keep the last one without a word.

    A document that grows by its aliases is refused too, before anything is made of it.
    """

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _measure(node, {}, depth=1)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value!r} stands in line {lines[key.value]} and again in line {line}; join the two"
                )
            lines[key.value] = line
        return super().construct_mapping(node, deep)


def _measure(node: yaml.Node, known: dict[int, int | None], *, depth: int) -> int:
    """The number of values below a node, with each alias counted as all that it stands for.

    Args:
        known: the number of each node that was measured, by its identity; None while it is being measured.

    Raises:
        _BoundedError: there are more than YAML_NODES, they lie deeper than YAML_DEPTH, a number is longer than
            YAML_DIGITS, or a node holds itself.
    """
    count = known.get(id(node), 0)
    if count is None:
        raise _BoundedError("an alias stands for what it stands in; write the values out")
    if not count:
        if node.tag in NUMBERS and len(node.value) > YAML_DIGITS:
            raise _BoundedError(f"a number of {len(node.value)} characters; write a shorter one")
        if depth > YAML_DEPTH:
            raise _BoundedError(f"values within values, more than {YAML_DEPTH} deep; take some away")
        known[id(node)] = None
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        below = (each for part in parts for each in (part if isinstance(part, tuple) else (part,)))
        count = 1 + sum(_measure(each, known, depth=depth + 1) for each in below)
        known[id(node)] = count
    if count > YAML_NODES:
        raise _BoundedError(f"more than {YAML_NODES} values, its aliases followed; take some away")
    return count


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a configuration or an overlay without checking its keys; see `recipe_file` for those of the project.

    Raises:
        InputError: the file cannot be read, is too large, is not YAML, or is not a mapping.
    """
    path = recipe_file(path)
    try:
        values = yaml.load(read_text(path, YAML_BYTES), Loader=_Loader)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name an existing configuration") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name an existing configuration") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    # PyYAML makes dates, numbers and sets of texts that look like some, and fails in as many ways; it reads nested
    # values by recursion.
    except Exception as error:
        raise InputError(f"{path}: not valid YAML: {reason_of(error)}; correct the file") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold sections (`completion:` and so on), like config.yaml")
    return values


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """Words a validation error, a line for each offending key: dotted name, fault, for an unknown key the nearest."""
    lines = []
    problems = error.errors()
    for problem in problems:
        # pydantic counts a list's bad elements as missing; they are named themselves.
        if problem["type"] == "too_short" and any(other["loc"][:-1] == problem["loc"] for other in problems):
            continue
        location = [str(part) for part in problem["loc"]]
        key = ".".join(location)
        if problem["type"] == "extra_forbidden":
            known = _keys(model, location[:-1])
            near = difflib.get_close_matches(location[-1], known, n=1)
            cure = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            lines.append(f"{key}: unknown key; {cure}")
        elif problem["type"] in ("string_type", "path_type") and isinstance(problem["input"], int | float | date):
            kind = {bool: "a truth value", date: "a date"}.get(type(problem["input"]), "a number")
            lines.append(
                f'{key}: is {kind} to YAML, not a text; write it into a file, in quotes: {location[-1]}: "..." '
                f"(given: {problem['input']})"
            )
        elif problem["type"] == "missing":
            lines.append(f"{key}: missing; give it a value")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            value = problem["input"]
            suffix = "" if isinstance(value, Mapping) else f" (given: {value!r})"
            lines.append(f"{key}: {message}{suffix}" if key else f"{message}{suffix}")
    return "\n".join(lines) if len(lines) == 1 else "\n  " + "\n  ".join(lines)


def _keys(model: type[BaseModel], location: list[str]) -> list[str]:
    for name in location:
        field = model.model_fields.get(name)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return list(model.model_fields)


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` updated with `overlay`, recursively; a setting in FREE_FORM is replaced as a whole."""
    merged = dict(base)
    for name, value in overlay.items():
        below = merged.get(name)
        nested = isinstance(value, Mapping) and isinstance(below, Mapping) and name not in FREE_FORM
        merged[name] = merge(below, value) if nested else value  # type: ignore[arg-type]
    return merged


FREE_FORM = frozenset({"backbone_options", "encoder_options", "backbones"})
"""Settings whose values are mappings with arbitrary keys."""
