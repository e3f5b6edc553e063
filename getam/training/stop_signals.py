"""SIGTERM, SIGINT and SIGHUP in a training, which finishes its step and saves its state before it exits."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Any

from getam.system.distributed import STOP_SIGNALS

logger = logging.getLogger(__name__)


class StopSignals:
    """Context manager that records STOP_SIGNALS; a second Ctrl-C raises KeyboardInterrupt at once.

    `received` is the number of the last signal, 0 before the first.
    """

    def __init__(self) -> None:
        self.received = 0
        self._handlers_before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        # Python allows only the main thread to set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                # Under nohup, a training outlives its terminal.
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._handlers_before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: object) -> None:
        # Under torchrun a single Ctrl-C arrives twice: from the terminal and from the launching process.
        if self.received and number == signal.SIGINT and "LOCAL_RANK" not in os.environ:
            raise KeyboardInterrupt
        logger.info("%s: saves the state after this step and ends", signal.Signals(number).name)
        self.received = number


def ignore_stop_signals(worker: int) -> None:
    """Initializes a loader worker (of this number) to ignore stop signals: the training needs it to finish its step."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
