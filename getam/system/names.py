"""Makes names from a data set safe to show in a plot or on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Returns a text, of one or more lines, with what is not printable as an escape, such as \\x1b.

    A terminal obeys escapes that it is sent: a name could set its title, clear it, or hide what follows.
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
        for letter in text
    )


def shown_name(name: str, *, most: int = 0) -> str:
    """Returns a name as a single line of printable characters, without line feeds or terminal escapes.

    Args:
        most: longest result, in characters; a longer name is cut in the middle, since two names may differ at either
            end. 0: any length.
    """
    name = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(name.split()))
    if not most or len(name) <= most:
        return name
    last = (most - 1) // 2
    return f"{name[: most - 1 - last]}\N{HORIZONTAL ELLIPSIS}{name[len(name) - last :]}"
