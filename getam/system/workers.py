"""Pools of workers that write files beside a stage's own work."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class ThreadPool(ThreadPoolExecutor):
    """For work that leaves the interpreter: decoding, compressing, numpy and torch."""

    def __init__(self, workers: int) -> None:
        self.workers = max(1, workers)
        super().__init__(self.workers)


class ProcessPool(Executor):
    """For work that holds the interpreter, such as the dense CRF: one process a core.

    What is submitted has to be a module's function, and its arguments picklable. Where a process dies, for want of
    memory perhaps, the call that it was given and all calls that wait fail with BrokenProcessPool; calls that other
    processes are working on are finished.

    concurrent.futures.ProcessPoolExecutor is not used because it hangs for ever when one of its processes dies while
    another is being started. Its processes share their queues and one thread that watches them; here each process
    has a pipe of its own and a thread of its own, to which a dead process is the end of the pipe at any moment.
    """

    def __init__(self, workers: int) -> None:
        self.workers = max(1, workers)
        self._threads = ThreadPoolExecutor(self.workers, initializer=_block_interrupts)
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._broken = False

    def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        """Executor.submit. The first call that finds every process at work starts another one, up to `workers`."""
        return self._threads.submit(self._call, fn, args, kwargs)

    def _call(self, function: Callable[..., Result], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Result:
        if self._broken:
            raise BrokenProcessPool("another process of the pool has died")
        try:
            worker = self._idle.get_nowait()
        except Empty:
            worker = _Worker()
        try:
            return worker.call(function, args, kwargs)
        except BrokenProcessPool:
            self._broken = True
            raise
        finally:
            self._idle.put(worker)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the processes once the calls are done; without `wait` they end with this process."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        workers = []
        while wait and not self._idle.empty():
            workers.append(self._idle.get())
            workers[-1].close()
        for worker in workers:
            worker.join()


def _block_interrupts() -> None:
    # Ctrl-C reaches every process of a terminal, but is the stage's to answer; its workers end when it closes their
    # pipes. What a thread blocks is blocked in the processes that it starts, from their first moment. The tracker is
    # started before, since its start unblocks interrupts.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


class _Worker:
    """A process that answers one call after the other."""

    def __init__(self) -> None:
        # Not forked: the copy of a process whose torch has threads may hang.
        context = multiprocessing.get_context("spawn")
        self._connection, its_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(its_end,), daemon=True)
        self._process.start()
        # Then the pipe ends when the process does.
        its_end.close()

    def call(self, function: Callable[..., Result], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Result:
        """What the function gives or raises.

        Raises:
            BrokenProcessPool: the process has died.
        """
        try:
            self._connection.send((function, args, kwargs))
            result, error, text = self._connection.recv()
        except (EOFError, OSError):
            raise BrokenProcessPool("a process of the pool has died") from None
        if error is not None:
            raise error from RuntimeError(f"in a worker process:\n{text}")
        return result

    def close(self) -> None:
        """Lets the process end."""
        self._connection.close()

    def join(self) -> None:
        self._process.join()


def _serve(connection: Connection) -> None:
    """What a worker does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            function, args, kwargs = connection.recv()
        except (EOFError, OSError):
            return
        result, error, text = None, None, ""
        try:
            result = function(*args, **kwargs)
        except BaseException as raised:
            error, text = raised, traceback.format_exc()
        try:
            connection.send((result, error, text))
        except OSError:
            return
        except Exception as raised:
            # The result or the error cannot be pickled.
            connection.send((None, RuntimeError(str(error or raised)), text or traceback.format_exc()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
