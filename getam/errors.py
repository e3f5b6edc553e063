"""Exceptions that end a command with one message instead of a traceback, and helpers that word such messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

Value = TypeVar("Value")


class InputError(Exception):
    """Bad input: the message names the file or key at fault and the cure.

    The command line prints the message alone, without a traceback, and exits with code 1.
    """


class Stopped(Exception):
    """A signal told a training to end; the training has saved its state where it could.

    Args:
        signal: number of the signal.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


class MachineError(InputError):
    """The machine failed (such as a full disk), not the input; unfinished folders keep their files for a resume."""


MAX_OFFENDERS = 20
"""Number of problems that a message lists; it only counts the remaining ones."""


TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""A code by which a library makes text bold or colored on a terminal."""

LONGEST_REASON = 300
"""Most characters of one sentence of a library's exception."""


def reason_of(error: BaseException) -> str:
    """What a library's exception says, on one line: its first whole sentences, without codes for a terminal.

    Of an OSError that has a number it is the system's own words, without the path; of one that says nothing, its type.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first, *others = re.split(r"(?<=[.;!?]) ", " ".join(TERMINAL_CODE.sub("", str(error)).split()))
    if len(first) > LONGEST_REASON:
        return f"{first[:LONGEST_REASON].rpartition(' ')[0] or first[:LONGEST_REASON]} ..."
    for sentence in others:
        if len(first) + len(sentence) > LONGEST_REASON / 3:
            break
        first += f" {sentence}"
    return first.rstrip(".") or type(error).__name__


NO_MEMORY = re.compile(
    "(can't|cannot) allocate memory|(out of|insufficient) memory|can't start new thread", re.IGNORECASE
)
"""What torch, OpenCV and the system say where there is no memory, of the machine or of a GPU, or a limit is reached."""


def want_of_memory(error: BaseException) -> str | None:
    """What an exception says of memory, or of the threads that a limit of memory allows, if that is its cause."""
    if isinstance(error, MemoryError):
        return reason_of(error)
    if not (found := NO_MEMORY.search(str(error))):
        return None
    # torch says first where in its sources the error is, and the system its number.
    before = re.split(r"[.\]] ", str(error)[: found.start()])[-1]
    return reason_of(RuntimeError(before + str(error)[found.start() :]))


def listed(problems: Sequence[str]) -> str:
    """Joins problems into one message: their number and the first MAX_OFFENDERS of them."""
    if len(problems) == 1:
        return problems[0]
    first = "\n  ".join(problems[:MAX_OFFENDERS])
    more = len(problems) - MAX_OFFENDERS
    return f"{len(problems)} problems:\n  {first}" + (f"\n  and {more} more" if more > 0 else "")


def chosen(table: Mapping[str, Value], key: str, *, name: str) -> Value:
    """Returns `table[key]`.

    Args:
        table: a table of methods.
        name: the setting or argument that the key comes from, for the message.

    Raises:
        InputError: the table has no such key; the message lists its keys.
    """
    if key not in table:
        raise InputError(f"{name}: {key!r} is none of {', '.join(table)}")
    return table[key]


def enumerated(words: Iterable[str], conjunction: str) -> str:
    """["a", "b", "c"] and "or" -> "a, b or c"."""
    *first, last = words
    return f"{', '.join(first)} {conjunction} {last}" if first else last
