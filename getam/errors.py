"""The exceptions that end a command with one message instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

Value = TypeVar("Value")


class InputError(Exception):
    """Bad input: the message names the file or key at fault and the cure.

    The command line prints the message alone, without a traceback, and exits with code 1.
    """


class Stopped(Exception):
    """A training was told to end by a signal; what it could save is saved.

    Args:
        signal: its number.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


class MachineError(InputError):
    """The machine failed, not what it was given: an unfinished folder keeps the files that it has."""


MAX_OFFENDERS = 20
"""Problems that a message lists before it only counts them."""


def listed(problems: Sequence[str]) -> str:
    """One message of all problems: the first of them and how many there are."""
    if len(problems) == 1:
        return problems[0]
    shown = "\n  ".join(problems[:MAX_OFFENDERS])
    more = len(problems) - MAX_OFFENDERS
    return f"{len(problems)} problems:\n  {shown}" + (f"\n  and {more} more" if more > 0 else "")


def chosen(table: Mapping[str, Value], key: str, *, name: str) -> Value:
    """The entry of a table of methods, or a message that lists the table's keys.

    Args:
        name: the setting or argument that the key comes from, for the message.
    """
    if key not in table:
        raise InputError(f"{name}: {key!r} is none of {', '.join(table)}")
    return table[key]


def enumerated(words: Iterable[str], conjunction: str) -> str:
    """["a", "b", "c"] and "or" -> "a, b or c"."""
    *first, last = words
    return f"{', '.join(first)} {conjunction} {last}" if first else last
