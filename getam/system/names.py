"""Makes names from a data set safe to show in a plot, on a terminal or in a spreadsheet."""

from __future__ import annotations

import re

BLANKS = r"['\0-\x08\v\f\x0e- \x7f-\xa0\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff]*"
FORMULAS = r"[=+\-@\uff1d\uff0b\uff0d\uff20]"
"""What a spreadsheet may pass over at the start of a text, and the letters by which it reads one as a formula; the last
four are wide ones, of Chinese and Japanese. The audit page's verdicts.js has the same."""

WORDS_HERE = re.compile(rf"(^|[;\t\r\n])(?={BLANKS}{FORMULAS})")
"""Where a formula may begin: where cells end at semicolons or tabs, as in some languages, also behind one, or behind a
line feed, which stands within no quotes then."""

APOSTROPHES = re.compile(rf"(^|[;\t\r\n])'(?={BLANKS}{FORMULAS})")


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


def is_formula(text: str) -> bool:
    """Whether a spreadsheet may read a text, or what stands in it behind a semicolon, as a formula."""
    return WORDS_HERE.search(text) is not None


def as_words(text: str) -> str:
    """A text as a cell of a table, with an apostrophe before what a spreadsheet would read as a formula."""
    return WORDS_HERE.sub(r"\1'", text)


def from_words(text: str) -> str:
    """The text that `as_words` has made a cell of."""
    return APOSTROPHES.sub(r"\1", text)
