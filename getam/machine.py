"""What a stage may use of the machine: device, threads, log file. Never part of a result's settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from getam.errors import InputError

if TYPE_CHECKING:
    import torch


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

    def prepare(self, *, seed: int = 0) -> torch.device:
        """Sets the number of threads, torch's seed and, on a GPU, cuDNN's deterministic kernels; gives the device.

        Raises:
            InputError: `cuda` is asked for and there is none.
        """
        # Here and not above: the stages that run no network start seconds faster without torch.
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda: torch sees no CUDA device; use --device cpu or check the driver")
        torch.set_num_threads(self.threads)
        torch.manual_seed(seed)
        cuda = self.device != "cpu" and torch.cuda.is_available()
        if cuda:
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        return torch.device("cuda" if cuda else "cpu")
