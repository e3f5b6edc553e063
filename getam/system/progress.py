"""Progress of long work: a bar on a terminal, plain lines with rate and remaining time in a log."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Batch = TypeVar("Batch", bound=tuple[Any, ...])

LINE_SECONDS = 15.0
"""At most one plain line in this many seconds, and one at the end."""

logger = logging.getLogger(__name__)


def set_up_logging(log: Path | None) -> None:
    """Sends log records to standard error and, where given, to the file `log` (written anew)."""
    handlers: list[logging.Handler] = [_AroundBars(sys.stderr)]
    if log is not None and _is_first():
        log.parent.mkdir(parents=True, exist_ok=True)
        # The first of a training's processes writes on where the one that started them began.
        log.open("a" if "LOCAL_RANK" in os.environ else "w").close()
        handlers.append(_LogFile(log, mode="a", encoding="utf-8"))
    logging.basicConfig(
        level=logging.INFO if _is_first() else logging.WARNING,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=handlers,
        force=True,
    )
    logging.captureWarnings(True)
    # It has a handler of its own, which would say everything twice.
    logging.getLogger("huggingface_hub").handlers.clear()


def _is_first() -> bool:
    """Whether this is the one process, or the first of those that torchrun started: the others only warn."""
    return os.environ.get("RANK", "0") == "0"


class _LogFile(logging.FileHandler):
    """Is given up where it cannot be written, with one warning: a full disk is no reason to end a training."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        logging.getLogger().removeHandler(self)
        logger.warning("%s: cannot be written (%s); the log goes on without it", self.baseFilename, error)


class _AroundBars(logging.StreamHandler):
    """Writes a record above a bar that is being drawn rather than through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=self.stream)


def progress(
    items: Iterable[Item], *, total: int, unit: str, what: str, size: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """Passes `items` on while showing how far it is.

    Args:
        total: number of units.
        unit: what an item is, e.g. "image".
        what: what is being done, e.g. "dump_maps".
        size: units that an item counts for, e.g. the length of a batch.
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
        # Nothing is done yet where the first item is still being written.
        if done and (now - last >= LINE_SECONDS or done == total):
            last = now
            rate = done / max(now - started, 1e-9)
            remaining = (total - done) / rate
            logger.info(
                "%s: %d/%d %s, %s a second, %.0f s left", what, done, total, plural, three_digits(rate), remaining
            )
    bar.close()


def three_digits(value: float) -> str:
    """A number, not negative, with three significant digits and no exponent: 1230, 45.6, 0.0789."""
    rounded = f"{value:.2e}"
    decimals = max(0, 2 - int(rounded.partition("e")[2]))
    return f"{float(rounded):.{decimals}f}"


def image_progress(batches: Iterable[Batch], rows: Sequence[Sequence[Any]], *, what: str) -> Iterator[Batch]:
    """`progress` that counts images: `batches` are tuples of a batch's rows and more, `rows` all of their rows."""
    return progress(batches, total=sum(map(len, rows)), unit="image", what=what, size=lambda batch: len(batch[0]))
