"""Pools of threads and of processes that compute and write files in parallel with a stage's main thread."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class ThreadPool(ThreadPoolExecutor):
    """Threads for work that releases the GIL: decoding, compressing, numpy and torch."""

    def __init__(self, workers: int) -> None:
        self.workers = max(1, workers)
        super().__init__(self.workers)


class ProcessPool(Executor):
    """Processes for work that holds the GIL, such as the dense CRF.

    Submitted functions must be defined at module level, and their arguments must be picklable. If a process dies, for
    example for lack of memory, its current call and all waiting calls fail with BrokenProcessPool; calls that run in
    other processes are finished.

    concurrent.futures.ProcessPoolExecutor is not used because it hangs for ever when one of its processes dies while
    another is being started: its processes share their queues and one thread that watches them. Here each process
    has its own pipe and its own thread, so that the death of a process always shows as the end of its pipe.
    """

    def __init__(self, workers: int) -> None:
        self.workers = max(1, workers)
        self._threads = ThreadPoolExecutor(self.workers, initializer=_block_interrupts)
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._broken = False

    def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        """Executor.submit. A call that finds all processes busy starts another one, up to `workers`."""
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
        """Ends the processes after their calls; with `wait=False` they run until this process ends."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        workers = []
        while wait and not self._idle.empty():
            workers.append(self._idle.get())
            workers[-1].close()
        for worker in workers:
            worker.join()


def _block_interrupts() -> None:
    # Ctrl-C reaches every process of a terminal, but only the stage should handle it; its workers end when it closes
    # their pipes. A process inherits the signal mask of the thread that starts it, so SIGINT is blocked from the
    # process's first moment on. The resource tracker is started before, because starting it unblocks SIGINT.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


class _Worker:
    """A process that executes one call at a time."""

    def __init__(self) -> None:
        # Processes are spawned, because a fork of a process in which torch runs threads may hang.
        context = multiprocessing.get_context("spawn")
        self._connection, its_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(its_end,), daemon=True)
        self._process.start()
        # With this copy closed, the process holds the only one, and the pipe ends when the process does.
        its_end.close()

    def call(self, function: Callable[..., Result], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Result:
        """Calls the function in the process, and returns its result or raises its exception.

        Raises:
            BrokenProcessPool: the process has died.
        """
        request = _pickled((function, args, kwargs))
        try:
            self._connection.send_bytes(request)
            answer = self._connection.recv_bytes()
        except (EOFError, OSError):
            # Nothing else is within the `try`: an error of a pickle's own is no death of the process.
            raise BrokenProcessPool("a process of the pool has died") from None
        result, error, text = pickle.loads(answer)
        if error is not None:
            raise error from RuntimeError(f"in a worker process:\n{text}")
        return result

    def close(self) -> None:
        """Closes the pipe, upon which the process ends."""
        self._connection.close()

    def join(self) -> None:
        self._process.join()


def _serve(connection: Connection) -> None:
    """Main function of a worker process: executes calls until the pipe is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            request = connection.recv_bytes()
        except (EOFError, OSError):
            return
        result, error, text = None, None, ""
        try:
            function, args, kwargs = pickle.loads(request)
            result = function(*args, **kwargs)
        except BaseException as raised:
            error, text = raised, traceback.format_exc()
        try:
            connection.send_bytes(_answer(result, error, text))
        except OSError:
            return


def _pickled(content: object) -> bytes:
    """Pickles what goes through a pipe, as bytes of its own.

    ForkingPickler gives a view of a BytesIO. An error holds the frame that has it, and with the two in one cycle Python
    3.12 crashes when it collects them.
    """
    return bytes(ForkingPickler.dumps(content))


def _answer(result: object, error: BaseException | None, text: str) -> bytes:
    """Pickles what a call has given; in its place a RuntimeError with the same text if that cannot be pickled.

    An error is also read back here, because some exceptions can be pickled but not be made again from the pickle: those
    whose __init__ takes other arguments than they pass to Exception's.
    """
    try:
        answer = _pickled((result, error, text))
        if error is not None:
            pickle.loads(answer)
    except Exception as raised:
        answer = _pickled((None, RuntimeError(str(error or raised)), text or traceback.format_exc()))
    return answer


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
