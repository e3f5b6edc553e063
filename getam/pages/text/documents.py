"""Documents of text and tables, written as Markdown (for people and terminals) and as HTML (for Snakemake's report)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from getam.pages.rendering import render
from getam.pages.text.tables import escape, markdown_table
from getam.system.files import write_text


class Items(NamedTuple):
    """A bulleted list, with an introductory line if `lead` is not empty."""

    lines: Sequence[str]
    lead: str = ""


class Grid(NamedTuple):
    """A table; `right` holds the numbers of the right-aligned columns, counted from 0."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: set[int]


class Heading(NamedTuple):
    """A second-level heading."""

    text: str


class Code(NamedTuple):
    """Lines of Python, shown as they are."""

    text: str


class Document(NamedTuple):
    """A title and blocks. All strings are plain text and may contain anything; they are escaped on output."""

    title: str
    blocks: Sequence[str | Heading | Items | Grid | Code]


def as_markdown(document: Document) -> str:
    lines = [f"# {escape(document.title)}", ""]
    for block in document.blocks:
        if isinstance(block, Grid):
            lines += markdown_table(block.headings, block.rows, block.right)
        elif isinstance(block, Heading):
            lines.append(f"## {escape(block.text)}")
        elif isinstance(block, Code):
            # A fence that the text itself cannot close.
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
            lines += [f"{fence}python", block.text, fence]
        elif isinstance(block, Items):
            lines += [_inline(block.lead), ""] if block.lead else []
            lines += [f"- {_inline(line)}" for line in block.lines]
        else:
            lines.append(_inline(block))
        lines.append("")
    return "\n".join(lines)


def write_document(document: Document, path: Path, *, ending: str = "") -> str:
    """Writes the document as .md and .html, under the name of `path` with these suffixes; returns it as Markdown.

    Args:
        ending: Markdown that is appended to the .md file alone.
    """
    markdown = as_markdown(document)
    write_text(path.with_suffix(".md"), markdown + ending)
    write_text(path.with_suffix(".html"), as_html(document))
    return markdown


def _inline(text: str) -> str:
    # Between spaces, > and < start neither a quote nor a tag, so they stay readable.
    return escape(text).replace(" &#62; ", " > ").replace(" &#60; ", " < ")


def as_html(document: Document) -> str:
    blocks = [(type(block).__name__, block) for block in document.blocks]
    return render("document.html", title=document.title, blocks=blocks)
