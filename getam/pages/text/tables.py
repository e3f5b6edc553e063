"""Formats tables as text: aligned for a terminal or a log, or as Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from getam.system.names import printable


def aligned_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[int] = (),
    least: Sequence[int] = (),
    ruled: bool = True,
) -> str:
    """Formats a plain-text table, without a newline at its end.

    Args:
        headings: headings of the columns; empty for a table without a heading line.
        right: numbers of the right-aligned columns, counted from 0.
        least: minimum widths of the first columns, in letters, by which several tables are aligned with each other.
        ruled: whether a line is drawn below the headings.
    """
    table = [[printable(cell) for cell in cells] for cells in ([headings, *rows] if headings else rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    widths = [max(width, *least[column : column + 1], 0) for column, width in enumerate(widths)]
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]
    if headings and ruled:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int]) -> list[str]:
    """Formats a Markdown table as lines. Cells may contain any text; `right` numbers the right-aligned columns."""
    rules = ["---:" if column in right else "---" for column in range(len(headings))]
    lines = [[escape(heading) for heading in headings], rules]
    lines += [[escape(cell) for cell in cells] for cells in rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def escape(text: str) -> str:
    """Escapes text for one line of Markdown, so that untrusted class names add no markup, tag or table cell."""
    # Character references work in every dialect of Markdown; what a backslash escapes differs between them.
    text = printable(" ".join(text.split())).replace("&", "&amp;")
    return "".join(f"&#{ord(character)};" if character in r"|`<>*[]\~$" else character for character in text)
