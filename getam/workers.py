"""Pools of workers that write files beside a stage's own work."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor


class ThreadPool(ThreadPoolExecutor):
    """For work that leaves the interpreter: decoding, compressing, numpy and torch."""

    def __init__(self, workers: int) -> None:
        self.workers = max(1, workers)
        super().__init__(self.workers)


class ProcessPool(ProcessPoolExecutor):
    """For work that holds the interpreter, such as the dense CRF: one process a core.

    What is submitted has to be a module's function, and its arguments picklable.
    """

    def __init__(self, workers: int) -> None:
        self.workers = max(1, workers)
        # Not forked: the copy of a process whose torch has threads may hang.
        super().__init__(self.workers, mp_context=multiprocessing.get_context("spawn"), initializer=_set_up_process)


def _set_up_process() -> None:
    # The stage answers Ctrl-C for its workers, and ends them by ending.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
