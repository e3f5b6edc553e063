"""Fills the page of commands from the tables that the commands themselves print as their help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import deeplab.cli
import getam.cli

TABLES: dict[str, tuple[str, Mapping[str, str]]] = {
    "<!-- stages of getam -->": ("getam", getam.cli.STAGES),
    "<!-- tools of getam -->": ("getam", getam.cli.TOOLS),
    "<!-- stages of deeplab -->": ("deeplab", deeplab.cli.STAGES),
    "<!-- tools of deeplab -->": ("deeplab", deeplab.cli.TOOLS),
}
"""{comment in commands.md: program and {command: what it does}}."""


def command_table(program: str, commands: Mapping[str, str]) -> str:
    lines = ["| Command | What it does |", "| --- | --- |"]
    lines += [f"| `{program} {name}` | {text} |" for name, text in commands.items()]
    return "\n".join(lines)


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    if page.file.src_uri != "commands.md":
        return markdown
    for comment, (program, commands) in TABLES.items():
        if comment not in markdown:
            raise ValueError(f"docs/commands.md: the line {comment} is missing; the table of {program} stands there")
        markdown = markdown.replace(comment, command_table(program, commands))
    return markdown
