"""What a stage that runs a network takes of its machine: a GPU, where there is one."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from getam.errors import InputError
from getam.system import gpu
from getam.system.arguments.machine import MachineArguments

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class NetworkArguments(MachineArguments):
    """Flags of every stage that runs a network."""

    gpus: Annotated[int, Field(ge=0, le=1)] = Field(
        default=1, description="GPUs of this machine that are taken, if it has some; 0: none, as --device cpu [1]"
    )

    def prepare(self, *, seed: int = 0) -> torch.device:
        """Takes GPUs, sets the number of threads, torch's seed and cuDNN's deterministic kernels; gives the device.

        Waits where other jobs have taken all GPUs of the machine.

        Raises:
            InputError: `cuda` is asked for and there is none; the machine has fewer GPUs.
        """
        import torch

        wanted = self.gpus if self.device != "cpu" else 0
        # torchrun's processes share what was taken for all of them.
        if "LOCAL_RANK" not in os.environ and not gpu.take(wanted) and os.environ.get(gpu.NAMED) == "":
            wanted = 0
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda: torch sees no CUDA device; use --device cpu or check the driver")
        torch.set_num_threads(self.threads)
        torch.manual_seed(seed)
        cuda = wanted > 0 and torch.cuda.is_available()
        if cuda and not gpu.held() and "LOCAL_RANK" not in os.environ:
            logger.warning("nvidia-smi lists no GPU, but torch sees some: name them in %s for jobs to agree", gpu.NAMED)
        if cuda:
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        return torch.device("cuda" if cuda else "cpu")
