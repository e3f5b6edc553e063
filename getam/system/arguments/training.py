"""Machine flags of every training: GPUs, and how often it saves state, scalars and pictures. They change no result."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field

from getam.system import gpu
from getam.system.arguments.network import NetworkArguments

if TYPE_CHECKING:
    import torch


def _from_environment(variable: str, default: str) -> Callable[[], Any]:
    return lambda: os.environ.get(variable, default)


class TrainingArguments(NetworkArguments):
    """Flags of every training that are not settings. Most have an environment variable that sets their default."""

    model_config = ConfigDict(validate_default=True)

    gpus: Annotated[int, Field(ge=0)] = Field(
        default=1,
        description="GPUs of this machine to train on, if it has any, with one process each; 0: none, as --device cpu "
        "[1]",
    )
    checkpoint_minutes: Annotated[float, Field(ge=0)] = Field(
        default_factory=_from_environment("GETAM_CHECKPOINT_MINUTES", "5"),
        description="minutes between saves of the state, which is also saved after every epoch; 0: after every step "
        "[GETAM_CHECKPOINT_MINUTES, 5]",
    )
    scalars_every: Annotated[int, Field(ge=0)] = Field(
        default_factory=_from_environment("GETAM_SCALARS_EVERY", "10"),
        description="steps between scalars for TensorBoard; 0: none [GETAM_SCALARS_EVERY, 10]",
    )
    pictures_every: Annotated[int, Field(ge=0)] = Field(
        default_factory=_from_environment("GETAM_PICTURES_EVERY", "200"),
        description="steps between pictures for TensorBoard, if the training makes any; 0: none "
        "[GETAM_PICTURES_EVERY, 200]",
    )
    validate_every: Annotated[int, Field(ge=0)] = Field(
        default_factory=_from_environment("GETAM_VALIDATE_EVERY", "0"),
        description="epochs between scores on val's masks, if the training computes any; 0: none "
        "[GETAM_VALIDATE_EVERY, 0]",
    )
    code_hash: bool = Field(
        default_factory=_from_environment("GETAM_CODE_HASH", "true"),
        description="false: resume from a state even if other sources of getam saved it [GETAM_CODE_HASH, true]",
    )
    keep_finished: bool = Field(
        default_factory=_from_environment("GETAM_KEEP_FINISHED", "false"),
        description="keep links to a finished training's files, for a caller that may die before it records the end "
        "[GETAM_KEEP_FINISHED, false]",
    )

    def processes(self) -> int:
        """Number of processes to launch for this training.

        1 means that the training runs in this process: on the CPU, on a single GPU, or where torchrun has already
        launched the processes.
        """
        if self.gpus < 2 or self.device == "cpu" or "LOCAL_RANK" in os.environ or not gpu.devices():
            return 1
        return self.gpus

    def prepare(self, *, seed: int = 0) -> torch.device:
        """Does what NetworkArguments.prepare does; under torchrun it also joins the process group."""
        from getam.system import distributed

        device = super().prepare(seed=seed)
        distributed.start(device.type)
        return device
