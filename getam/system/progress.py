"""Logging, and the progress of long work: a bar on a terminal, lines with rate and remaining time in a log."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from getam.settings.foreign import LONGEST_LINE
from getam.system.names import printable
from getam.system.opening import open_itself
from getam.system.streams import give_up

Item = TypeVar("Item")
Batch = TypeVar("Batch", bound=tuple[Any, ...])

LINE_SECONDS = 15.0
"""Least time between two progress lines; the last line is always written."""

logger = logging.getLogger(__name__)


def set_up_logging(log: Path | None) -> None:
    """Sends log records to standard error and, unless None, to the file `log`, which is overwritten."""
    handlers: list[logging.Handler] = [_AroundBars(sys.stderr)]
    if log is not None and _is_first():
        log.parent.mkdir(parents=True, exist_ok=True)
        # Under torchrun, the process of rank 0 appends to the log that the launching process has begun.
        open(log, "a" if "LOCAL_RANK" in os.environ else "w", opener=open_itself).close()
        handlers.append(_LogFile(log, mode="a", encoding="utf-8"))
    formatter = _Printable("%(asctime)s %(message)s", "%H:%M:%S")
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO if _is_first() else logging.WARNING, handlers=handlers, force=True)
    logging.captureWarnings(True)
    # huggingface_hub installs a handler of its own, which would print every record twice.
    logging.getLogger("huggingface_hub").handlers.clear()


def _is_first() -> bool:
    """Whether this process has rank 0 (also without torchrun); the others log warnings only and draw no bars."""
    return os.environ.get("RANK", "0") == "0"


class _Printable(logging.Formatter):
    """Shows what is not printable as an escape, and the beginning alone of a very long line.

    A record may hold names from a data set or from a file of weights, which may be of any length.
    """

    def format(self, record: logging.LogRecord) -> str:
        lines = super().format(record).split("\n")
        shown = (line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} ..." for line in lines)
        return printable("\n".join(shown))


class _LogFile(logging.FileHandler):
    """A log file that is dropped with one warning once a write fails: a full disk must not end a training."""

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding=self.encoding, opener=open_itself)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        logging.getLogger().removeHandler(self)
        # What is still to be written would fail at exit again, of which Python 3.13 prints a traceback.
        with contextlib.suppress(OSError):
            self.close()
        logger.warning("%s: cannot be written (%s); the log goes on without it", self.baseFilename, error)


class _AroundBars(logging.StreamHandler):
    """A handler that prints records above a progress bar instead of through it.

    It is dropped once a write fails: a closed terminal, an ended `tee` or a full disk must not end a training.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=self.stream)
        except OSError as error:
            logging.getLogger().removeHandler(self)
            give_up(self.stream)
            logger.warning("standard error: cannot be written (%s); the work goes on without it", error.strerror)


def progress(
    items: Iterable[Item], *, total: int, unit: str, what: str, size: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """Yields `items` and shows the progress through them.

    Args:
        total: number of units in all items.
        unit: name of the unit that is counted, e.g. "image".
        what: name of the work, e.g. "dump_maps".
        size: item -> number of units that it counts for, e.g. the length of a batch.
    """
    started = last = time.monotonic()
    done = 0
    plural = f"{unit}es" if unit.endswith("ch") else f"{unit}s"
    # `disable=None` draws no bar where standard error is not a terminal.
    bar = tqdm(
        total=total, unit=unit, desc=what, disable=None if _is_first() else True, leave=False, dynamic_ncols=True
    )
    for item in items:
        yield item
        done += size(item)
        bar.update(size(item))
        now = time.monotonic()
        # An item may count for 0 units, for example while the first file is still being written.
        if done and (now - last >= LINE_SECONDS or done == total):
            last = now
            rate = done / max(now - started, 1e-9)
            remaining = (total - done) / rate
            logger.info(
                "%s: %d/%d %s, %s a second, %.0f s left", what, done, total, plural, three_digits(rate), remaining
            )
    bar.close()


def three_digits(value: float) -> str:
    """Formats a non-negative number with three significant digits and no exponent: 1230, 45.6, 0.0789."""
    rounded = f"{value:.2e}"
    decimals = max(0, 2 - int(rounded.partition("e")[2]))
    return f"{float(rounded):.{decimals}f}"


def image_progress(batches: Iterable[Batch], rows: Sequence[Sequence[Any]], *, what: str) -> Iterator[Batch]:
    """`progress` counted in images.

    Args:
        batches: tuples whose first element holds the rows of the batch.
        rows: the rows of every batch, for the total.
        what: name of the work.
    """
    return progress(batches, total=sum(map(len, rows)), unit="image", what=what, size=lambda batch: len(batch[0]))
