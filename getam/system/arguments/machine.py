"""Flags for what a stage may use of the machine: threads, device, log file. No result depends on them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_THREADS = 1024
"""Most threads of a stage; no machine has many more, and more than a system allows would end it halfway."""

CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""File in a container with its limit of CPU time: the microseconds of each period, or `max`, and the period."""


def usable_cores() -> int:
    """Cores that this process may use: a job or a container may have fewer than the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # There is no such file outside of containers, and `max` is no number.
    with suppress(OSError, ValueError):
        time, period = map(int, CPU_LIMIT.read_text().split())
        cores = min(cores, max(1, time // period))
    return min(cores, MOST_THREADS)


class MachineArguments(BaseModel):
    """Flags that every stage takes besides its settings; they change its speed, not what it writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] = Field(
        default_factory=usable_cores, description="CPU threads [all cores that the job may use]"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where networks run; auto: a GPU where there is one"
    )
    log: Path | None = Field(default=None, description="file for the log, in addition to standard error")

    def set_threads(self) -> None:
        """Limits torch to `threads` threads, for stages that compute with torch but run no network."""
        # torch is imported here so that the stages without it start seconds faster.
        import torch

        torch.set_num_threads(self.threads)
