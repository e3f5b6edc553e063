"""The exceptions that end a command with one message instead of a traceback."""

from __future__ import annotations

from collections.abc import Sequence


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
