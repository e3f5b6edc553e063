"""Writes the settings' reference from what the program itself reads.

The typed models of getam.settings give type, range and meaning of each setting, config.yaml gives its default value and
what the paper and the authors' program have, and the stages' arguments give the flags. Nothing of it is written twice.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

import deeplab.cli
import getam.cli
from getam.settings.config import Config, editor_schema
from getam.settings.flags import flag_name, leaves
from getam.settings.reading import BASE_CONFIG

MARKER = "<!-- settings -->"
"""The line of settings.md that the tables take the place of."""

LONGEST_DEFAULT = 60
"""Characters; what is longer is a mapping that config.yaml shows better."""


class Line(NamedTuple):
    """What config.yaml says of one setting."""

    value: Any
    comment: str


def reference() -> str:
    """A table for each section of config.yaml, as Markdown.

    Raises:
        ValueError: config.yaml and the models don't have the same settings.
    """
    text = BASE_CONFIG.read_text(encoding="utf-8")
    lines = dict(_lines(yaml.compose(text), yaml.safe_load(text), text.splitlines()))
    fields = dict(leaves(Config))
    if lines.keys() != fields.keys():
        differing = sorted(".".join(path) for path in lines.keys() ^ fields.keys())
        raise ValueError(f"config.yaml and getam.settings differ in {', '.join(differing)}")
    schema = editor_schema()
    titles = _section_comments(text)
    page = ["## The run as a whole {#run-as-a-whole}", "", *_table_head()]
    page += [_row(path, lines[path], schema, flags={}) for path in lines if len(path) == 1]
    for section in dict.fromkeys(path[0] for path in lines if len(path) > 1):
        stages = _stages_of(section)
        flags = {path: flag_name(path) for _, module in stages for path, _ in leaves(module.Arguments)}
        page += ["", f"## {section}", "", _escaped(titles.get(section, "")), ""]
        commands = ", ".join(f"`{command}`" for command, _ in stages)
        page += [f"Read by {commands}." if commands else "Read by the workflow; no command has these flags.", ""]
        page += _table_head()
        page += [_row(path, lines[path], schema, flags=flags) for path in lines if path[0] == section != path[-1]]
    return "\n".join(page) + "\n"


def _lines(node: yaml.Node, values: Any, text: list[str], prefix: tuple[str, ...] = ()) -> Iterator[tuple[Any, Line]]:
    """{path: line} of each setting, in the order of config.yaml; free-form mappings are one setting."""
    settings = {path for path, _ in leaves(Config)}
    assert isinstance(node, yaml.MappingNode)
    for key, value in node.value:
        path = (*prefix, key.value)
        if path in settings:
            yield path, Line(values[key.value], _comment(text[key.start_mark.line], key.start_mark.column))
        else:
            yield from _lines(value, values[key.value], text, path)


def _comment(line: str, column: int) -> str:
    # In a flow mapping of several settings the comment at the line's end is about the mapping, not about one of them.
    if "{" in line[:column]:
        return ""
    return line.partition(" # ")[2].strip()


def _section_comments(text: str) -> dict[str, str]:
    """{section: the comment above it}."""
    found = re.findall(r"((?:^# .*\n)+)^(\w+):", text, re.MULTILINE)
    return {name: " ".join(line.removeprefix("# ") for line in comment.splitlines()) for comment, name in found}


def _stages_of(section: str) -> list[tuple[str, Any]]:
    """(command, module) of the stages whose settings are a section of config.yaml."""
    found = []
    for package, commands in (("getam", getam.cli.STAGES), ("deeplab", deeplab.cli.STAGES)):
        for command in commands:
            module = importlib.import_module(f"{package}.stages.{command.replace('-', '_')}")
            if getattr(module, "SECTION", None) == section:
                found.append((f"{package} {command}", module))
    return found


def _table_head() -> list[str]:
    return ["| Setting | Type | Default | Meaning |", "| --- | --- | --- | --- |"]


def _row(path: tuple[str, ...], line: Line, schema: Mapping[str, Any], *, flags: Mapping[Any, str]) -> str:
    key = ".".join(path)
    part = _schema_of(path, schema)
    flag = f"<br>`{flags[path[1:]]}`" if path[1:] in flags else ""
    stated = "; ".join(re.findall(r"\(((?:paper|code)\b[^():]*:[^()]*(?:\([^()]*\)[^()]*)*)\)", line.comment))
    meaning = _escaped(part.get("description", "")) + (f"<br>*{_escaped(stated)}*" if stated else "")
    return f'| <span id="{key}"></span>`{key}`{flag} | {_type(part)} | {_default(line.value)} | {meaning} |'


def _schema_of(path: tuple[str, ...], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    part = schema
    for name in path:
        part = part["properties"][name]
        if "$ref" in part:
            part = schema["$defs"][part["$ref"].rpartition("/")[2]]
    return part


def _type(part: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in part:
        return " or ".join(_type(choice) for choice in part["anyOf"])
    if "const" in part:
        return f"`{part['const']}`"
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    match part.get("type"):
        case "array" if "prefixItems" in part:
            return f"{len(part['prefixItems'])} values, each {_type(part['prefixItems'][0])}"
        case "array":
            least = f", {part['minItems']} or more" if "minItems" in part else ""
            return f"list of: {_type(part['items'])}{least}"
        case "object":
            return "mapping"
        case "boolean":
            return "`true`, `false`"
        case "null":
            return "`null`"
        case "string":
            return "path" if part.get("format") == "path" else "text"
        case "integer" | "number" as name:
            return name + _range(part)
    return "any value"


def _range(part: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{_escaped(sign)}&nbsp;{part[name]}" for name, sign in signs.items() if name in part]
    return f" {', '.join(bounds)}" if bounds else ""


def _default(value: Any) -> str:
    if value == "":
        return "empty"
    text = value if isinstance(value, str) else json.dumps(value)
    return "see `config.yaml`" if len(text) > LONGEST_DEFAULT else f"`{text}`"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|").replace("*", "\\*")


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    if page.file.src_uri != "settings.md":
        return markdown
    if MARKER not in markdown:
        raise ValueError(f"docs/settings.md: the line {MARKER} is missing; the tables stand there")
    return markdown.replace(MARKER, reference())
