"""What a stage may use of the machine: device, threads, log file. Never part of a result's settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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


def _from_environment(variable: str, default: str) -> Callable[[], Any]:
    return lambda: os.environ.get(variable, default)


class TrainingArguments(MachineArguments):
    """Flags of every training: how often it is saved and shown. Each can be set by a variable of the environment."""

    model_config = ConfigDict(validate_default=True)

    checkpoint_minutes: Annotated[float, Field(ge=0)] = Field(
        default_factory=_from_environment("GETAM_CHECKPOINT_MINUTES", "10"),
        description="the state is saved after so many minutes, beside every epoch's end; 0: after every step "
        "[GETAM_CHECKPOINT_MINUTES, 10]",
    )
    scalars_every: Annotated[int, Field(ge=0)] = Field(
        default_factory=_from_environment("GETAM_SCALARS_EVERY", "10"),
        description="steps between TensorBoard's scalars; 0: none [GETAM_SCALARS_EVERY, 10]",
    )
    pictures_every: Annotated[int, Field(ge=0)] = Field(
        default_factory=_from_environment("GETAM_PICTURES_EVERY", "200"),
        description="steps between pictures, of a training that has some; 0: none [GETAM_PICTURES_EVERY, 200]",
    )
    validate_every: Annotated[int, Field(ge=0)] = Field(
        default_factory=_from_environment("GETAM_VALIDATE_EVERY", "0"),
        description="epochs between scores on val's masks, of a training that has some; 0: none "
        "[GETAM_VALIDATE_EVERY, 0]",
    )

    def prepare(self, *, seed: int = 0) -> torch.device:
        """As MachineArguments.prepare; under torchrun also joins the other processes."""
        from getam import distributed

        device = super().prepare(seed=seed)
        distributed.start(device.type)
        return device
