"""What a stage may use of the machine: device, threads, log file. Never part of a result's settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class MachineArguments(BaseModel):
    """Flags that every stage takes beside its settings; they change how fast it runs, not what it writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threads: Annotated[int, Field(ge=1)] = Field(
        default_factory=lambda: os.cpu_count() or 1, description="CPU threads [all cores]"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where networks run; auto: a GPU where there is one"
    )
    log: Path | None = Field(default=None, description="file that gets the log, beside standard error")

    def set_threads(self) -> None:
        """Gives torch so many threads; for stages that compute with it, but run no network."""
        # Here and not above: the stages that need no torch start seconds faster.
        import torch

        torch.set_num_threads(self.threads)
