"""Tables as text: aligned for a terminal or a log, and as Markdown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def aligned_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[int] = (),
    least: Sequence[int] = (),
    ruled: bool = True,
) -> str:
    """A table of plain text, without a line feed at its end.

    Args:
        headings: of the columns; none for a table of rows alone.
        right: the columns that are flush right, counted from 0.
        least: letters that the first columns are wide at least, so that tables below each other are aligned.
        ruled: whether a line is drawn below the headings.
    """
    table = [headings, *rows] if headings else rows
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
    """A table's lines; cells may hold any text, and the columns numbered in `right` are set to the right."""
    rules = ["---:" if column in right else "---" for column in range(len(headings))]
    lines = [[escape(heading) for heading in headings], rules]
    lines += [[escape(cell) for cell in cells] for cells in rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def escape(text: str) -> str:
    """Text on one line that adds no markup, tag or table cell to Markdown: class names come from the data set."""
    # Character references do this in every dialect; what a backslash escapes differs between them.
    text = " ".join(text.split()).replace("&", "&amp;")
    return "".join(f"&#{ord(character)};" if character in r"|`<>*[]\~$" else character for character in text)
