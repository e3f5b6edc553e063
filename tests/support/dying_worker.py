"""Runs `getam` with a worker process that dies at a given moment: python dying_worker.py MOMENT <words of getam>.

The worker kills itself, or is killed by the process that starts it, so that the moment does not depend on chance.
"""

from __future__ import annotations

import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import getam.cli
import getam.stages.complete_labels

MOMENTS = (
    "the first has just been started",
    "the first, while the second is being started",
    "the second has just been started",
    "it imports",
    "it makes its first labels",
    "it has written its first labels",
)
INTERRUPTED = "it imports and is interrupted"
"""A further moment, at which no worker dies."""

KILLED = Path("killed")
CLAIMED = Path("claimed")


def kill(process: int | None) -> None:
    # The kernel uses the same signal when memory runs out.
    assert process is not None
    os.kill(process, signal.SIGKILL)


def watch_starts(moment: str) -> None:
    """Makes the current process kill workers that it starts, at the given moment."""
    start, started, lock = BaseProcess.start, [], threading.Lock()

    def watched(process: BaseProcess) -> None:
        start(process)
        with lock:
            started.append(process)
            number = len(started)
        if (moment, number) in ((MOMENTS[0], 1), (MOMENTS[2], 2)):
            kill(process.pid)
        if (moment, number) == (MOMENTS[1], 2):
            kill(started[0].pid)
            multiprocessing.connection.wait([started[0].sentinel])
            KILLED.touch()
            # The pause gives whoever watches the first worker time to act before the second counts as started.
            time.sleep(1)

    BaseProcess.start = watched  # type: ignore[method-assign]


def die_once() -> None:
    """Kills the current worker, unless another one has been killed already."""
    try:
        CLAIMED.touch(exist_ok=False)
    except FileExistsError:
        return
    kill(os.getpid())


def dying(function: Callable[..., Any], *, before: bool) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        if before:
            die_once()
        result = function(*arguments, **keywords)
        die_once()
        return result

    return call


def in_worker(moment: str) -> None:
    stage = getam.stages.complete_labels
    if moment == MOMENTS[1]:
        # Workers wait until the first one is killed.
        while not KILLED.exists():
            time.sleep(0.01)
    elif moment == MOMENTS[3]:
        die_once()
    elif moment == MOMENTS[4]:
        stage.make_labels = dying(stage.make_labels, before=True)
    elif moment == MOMENTS[5]:
        stage.write_labels = dying(stage.write_labels, before=False)
    elif moment == INTERRUPTED:
        os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    watch_starts(sys.argv[1])
    sys.exit(getam.cli.command("getam", getam.cli.STAGES, sys.argv[2:]))
elif __name__ == "__mp_main__":
    in_worker(sys.argv[1])
