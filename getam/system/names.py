"""Names that come from a data set, made fit for a plot or a terminal."""

from __future__ import annotations


def shown_name(name: str, *, most: int = 0) -> str:
    """A name on one line and of printable characters: neither a line feed nor what moves a terminal's cursor.

    Args:
        most: letters that it is cut to, in its middle: what tells two names apart may be at either end. 0: all.
    """
    name = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(name.split()))
    if not most or len(name) <= most:
        return name
    last = (most - 1) // 2
    return f"{name[: most - 1 - last]}\N{HORIZONTAL ELLIPSIS}{name[len(name) - last :]}"
