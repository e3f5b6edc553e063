"""Flags for what a stage may use of the machine: threads, device, log file. No result depends on them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_THREADS = 1024
"""Most threads of a stage; no machine has many more, and more than a system allows would end it halfway."""


class MachineArguments(BaseModel):
    """Flags that every stage takes besides its settings; they change its speed, not what it writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] = Field(
        default_factory=lambda: min(os.cpu_count() or 1, MOST_THREADS), description="CPU threads [all cores]"
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
