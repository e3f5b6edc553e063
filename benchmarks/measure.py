"""Measures median times of alternating runs and peak memory in fresh processes, and checks them against limits."""

from __future__ import annotations

import gc
import logging
import math
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from getam.settings.config import Config, validate_config
from getam.settings.reading import BASE_CONFIG, read_yaml

THREADS = 1

PATIENCE = 25.0
"""Seconds after which a variant is not measured again, even if rounds are left: the whole table takes minutes."""

Run = Callable[[], object]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Check:
    """A measured value and the range that the project promises; infinite limits promise nothing."""

    value: float
    low: float = -math.inf
    high: float = math.inf
    form: str = "{:.2f}x"

    @property
    def met(self) -> bool:
        return self.low <= self.value <= self.high

    def __str__(self) -> str:
        text = self.form.format(self.value)
        low, high = f"{self.low:.3g}", f"{self.high:.3g}"
        if math.isinf(self.low) and math.isinf(self.high):
            return text
        if math.isinf(self.high):
            return f"{text} (≥ {low})"
        return f"{text} (≤ {high})" if math.isinf(self.low) else f"{text} ({low} to {high})"


@dataclass(frozen=True)
class Row:
    """One line of the table; values that were not measured or do not apply are None."""

    what: str
    ours: str
    other: str
    """The implementation that ours is compared with."""
    its: str
    time: Check
    memory: tuple[int | None, int | None] = (None, None)
    """Peak extra memory of ours and of the other, bytes."""
    most_memory: float = math.inf
    """The promised limit of our memory over the other's."""
    deviation: Check | None = None
    """Deviation of our results from the other's."""

    @property
    def memory_ratio(self) -> Check | None:
        ours, its = self.memory
        return Check(ours / its, high=self.most_memory, form="{:.3f}x") if ours is not None and its else None

    @property
    def met(self) -> bool:
        return all(check.met for check in (self.time, self.memory_ratio, self.deviation) if check is not None)

    @property
    def promised(self) -> bool:
        checks = (self.time, self.memory_ratio, self.deviation)
        return any(math.isfinite(check.low) or math.isfinite(check.high) for check in checks if check is not None)


def faster(ours: float, its: float, *, least: float = -math.inf) -> Check:
    return Check(its / ours, low=least, form="{:.1f}x faster")


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms" if value >= 0.1 else f"{1000 * value:.1f} ms"


def deviation(ours: Sequence[Tensor], its: Sequence[Tensor]) -> float:
    """The largest difference of maps (..., H, W) from the expected ones, relative to each map's largest value."""
    worst = []
    for found, expected in zip(ours, its, strict=True):
        scale = expected.abs().amax((-2, -1)).clamp_min(torch.finfo(expected.dtype).tiny)
        worst.append(((found - expected).abs().amax((-2, -1)) / scale).max())
    return float(torch.stack(worst).max())


def timed(run: Run) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def alternating(
    runs: Mapping[str, Callable[[], float]], rounds: int, *, patience: float = PATIENCE
) -> dict[str, list[float]]:
    """Times of each run in each round; runs alternate, so that other load on the machine affects all of them alike.

    Args:
        runs: functions that return the seconds they took.
        patience: total seconds after which a run is not repeated.
    """
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name, run in runs.items():
            if sum(spent[name]) < patience:
                spent[name].append(run())
                logger.info("round %d of %d: %s: %s", number + 1, rounds, name, seconds(spent[name][-1]))
    return spent


def medians(runs: Mapping[str, Run], rounds: int) -> dict[str, float]:
    """Median seconds of each run; the runs alternate."""
    spent = alternating({name: partial(timed, run) for name, run in runs.items()}, rounds)
    return {name: statistics.median(values) for name, values in spent.items()}


@dataclass(frozen=True)
class Cost:
    """Time and memory of one run in a fresh process; memory in bytes, None if the kernel doesn't tell it."""

    seconds: float
    before: int | None
    """Memory of the process when the run began."""
    peak: int | None


def in_fresh_process(small: Callable[[], Run], full: Callable[[], Run]) -> Cost:
    """Measures the run that `full` prepares, in a new process.

    Args:
        small: prepares a tiny run that comes first, so that libraries loaded on first use are not counted.
        full: prepares the run to measure. Both must be picklable: module-level functions or partials of them.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_cost, small, full).result()


def _cost(small: Callable[[], Run], full: Callable[[], Run]) -> Cost:
    torch.set_num_threads(THREADS)
    small()()
    run = full()
    gc.collect()
    before = _reset_peak()
    spent = timed(run)
    return Cost(spent, before, None if before is None else _status("VmHWM"))


def _reset_peak() -> int | None:
    """Resets the kernel's record of peak memory to the current memory of the process; returns that, bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return 1024 * int(match[1])


def extra_memory(what: str, small: Callable[[], Run], full: Callable[[], Run]) -> int | None:
    """Peak memory, bytes, of one run in a fresh process beyond what the process held before (inputs and model)."""
    cost = in_fresh_process(small, full)
    memory = None if cost.before is None or cost.peak is None else cost.peak - cost.before
    logger.info("memory: %s: %s", what, megabytes(memory))
    return memory


def megabytes(memory: int | None) -> str:
    return "-" if memory is None else f"{memory / 1e6:.0f} MB"


def config() -> Config:
    """The validated config.yaml."""
    return validate_config(read_yaml(BASE_CONFIG))
