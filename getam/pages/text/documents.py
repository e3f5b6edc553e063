"""A text with tables, given as Markdown, to read in a terminal too, and as HTML, for Snakemake's report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from getam.pages.rendering import render
from getam.pages.text.tables import escape, markdown_table
from getam.system.files import write_text


class Items(NamedTuple):
    """A list, with the words before it if there are some."""

    lines: Sequence[str]
    lead: str = ""


class Grid(NamedTuple):
    """A table; the columns numbered in `right` are set to the right."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: set[int]


class Heading(NamedTuple):
    """The title of what follows, below the document's own."""

    text: str


class Document(NamedTuple):
    """A title and what follows; all texts are plain, and may hold anything."""

    title: str
    blocks: Sequence[str | Heading | Items | Grid]


def as_markdown(document: Document) -> str:
    lines = [f"# {escape(document.title)}", ""]
    for block in document.blocks:
        if isinstance(block, Grid):
            lines += markdown_table(block.headings, block.rows, block.right)
        elif isinstance(block, Heading):
            lines.append(f"## {escape(block.text)}")
        elif isinstance(block, Items):
            lines += [_inline(block.lead), ""] if block.lead else []
            lines += [f"- {_inline(line)}" for line in block.lines]
        else:
            lines.append(_inline(block))
        lines.append("")
    return "\n".join(lines)


def write_document(document: Document, path: Path, *, ending: str = "") -> str:
    """Writes the document beside `path`, as .html and as .md with more Markdown at its end; gives what both say."""
    markdown = as_markdown(document)
    write_text(path.with_suffix(".md"), markdown + ending)
    write_text(path.with_suffix(".html"), as_html(document))
    return markdown


def _inline(text: str) -> str:
    # Between blanks they quote nothing and begin no tag.
    return escape(text).replace(" &#62; ", " > ").replace(" &#60; ", " < ")


def as_html(document: Document) -> str:
    blocks = [(type(block).__name__, block) for block in document.blocks]
    return render("document.html", title=document.title, blocks=blocks)
