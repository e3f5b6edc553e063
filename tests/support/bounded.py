"""Calls a reader of foreign bytes in a process of its own that has a bounded memory."""

from __future__ import annotations

import resource
from pathlib import Path

from support.forks import NETWORKS

SECONDS = 120
"""Time after which such a process counts as endless: many times what the slowest takes on a busy machine."""


def limit_memory(megabytes: int) -> None:
    """Lets this process take so much memory beside what it has; more is a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def said(module: str, call: str, *, memory: int) -> str:
    """What a call says in a process with `memory` MB beside those of its imports.

    Args:
        module: module that the call's functions are in.
        call: an expression with the names of `module` and with Path.

    Returns:
        The message of an InputError; otherwise the result.
    """
    code = "\n".join(
        [
            "from support.bounded import limit_memory",
            f"from {module} import *",
            "from pathlib import Path",
            "from getam.errors import InputError",
            f"limit_memory({memory})",
            "try:",
            f"    print({call})",
            "except InputError as error:",
            "    print(error)",
        ]
    )
    result = NETWORKS.run(code, seconds=SECONDS)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
