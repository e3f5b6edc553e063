"""Documents as Markdown and HTML, and tables as text."""

from __future__ import annotations

import html
from pathlib import Path

import getam.pages.rendering
from getam.pages.text.documents import Document, Grid, Heading, Items, as_html, as_markdown
from getam.pages.text.tables import aligned_table

HOSTILE = "<script>alert(1)</script>&amp;|`x`{{ 7 + 7 }}"


def test_every_text_of_a_document_is_text() -> None:
    blocks = [HOSTILE, Heading(HOSTILE), Items([HOSTILE], lead=HOSTILE), Grid((HOSTILE, "b"), [(HOSTILE, "1")], {1})]
    document = Document(HOSTILE, blocks)
    page, text = as_html(document), as_markdown(document)
    for content in (page, text):
        assert "<script" not in content
        # In title and heading of the page, and once in each place of the blocks.
        assert content.count("{{ 7 + 7 }}") == (8 if content is page else 7)
    assert "&amp;amp;" in page
    assert page.count("<table>") == page.count("<ul>") == page.count("<h2>") == 1


def test_a_document_is_laid_out_as_its_blocks_are() -> None:
    document = Document("A title", ["Words.", Heading("Below"), Items(["a", "b"]), Grid(("k", "n"), [("x", "1")], {1})])
    assert as_markdown(document).splitlines() == [
        "# A title", "", "Words.", "", "## Below", "", "- a", "- b", "", "| k | n |", "| --- | ---: |", "| x | 1 |",
    ]  # fmt: skip
    body = as_html(document).split("<h1>")[1]
    assert body.splitlines() == [
        "A title</h1>",
        "<p>Words.</p>",
        "<h2>Below</h2>",
        "<ul><li>a</li><li>b</li></ul>",
        "<table>",
        '<tr><th>k</th><th class="right">n</th></tr>',
        '<tr><td>x</td><td class="right">1</td></tr>',
        "</table>",
    ]


def test_columns_are_as_wide_as_their_longest_text() -> None:
    rows = [("a", "1.000", "x"), ("longer", "10.00", "")]
    assert aligned_table(("", "value", "note"), rows, right={1}).splitlines() == [
        "        value  note",
        "------  -----  ----",
        "a       1.000  x",
        "longer  10.00",
    ]
    assert aligned_table(("", "value", "note"), rows, right={1}, ruled=False).splitlines()[1] == "a       1.000  x"


def test_tables_below_each_other_are_aligned_by_least_widths() -> None:
    assert aligned_table((), [("a", "1"), ("longer than that", "2")], right={1}, least=(8, 4)).splitlines() == [
        "a                    1",
        "longer than that     2",
    ]
    assert aligned_table((), [("a", "1")], least=(8,)) == "a         1"
    assert aligned_table((), []) == ""


def test_escapes_of_a_terminal_are_shown_in_documents_and_tables() -> None:
    document = Document("a\x1b[2J", [Grid(("b\x1b[2J",), [("c\u202e",)], set()), "d\x9b1m", Items(["e\x07"])])
    shown = (r"b\x1b[2J", r"c\u202e", r"d\x9b1m", r"e\x07")
    page = as_html(document)
    # Markdown's own backslashes and brackets are character references.
    for text in (page, html.unescape(as_markdown(document))):
        assert all(name in text for name in shown)
        assert all(line.isprintable() for line in text.splitlines())
    assert aligned_table(("b\x1b",), [("\x07",)]).splitlines() == [r"b\x1b", "-----", r"\x07"]


def test_every_page_has_a_policy() -> None:
    folder = Path(getam.pages.rendering.__file__).with_name("templates")
    for path in folder.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        has_one = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; ' in text
        assert has_one != text.startswith('{% extends "sheet.html" %}'), path
