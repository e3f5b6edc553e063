"""Machine flags of the stages that run a network, which take a GPU if the machine has one."""

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
        default=1, description="GPUs of this machine to use, if it has any; 0: none, as --device cpu [1]"
    )

    def prepare(self, *, seed: int = 0) -> torch.device:
        """Takes GPUs, sets torch's threads, seed and deterministic cuDNN kernels, and returns the device.

        Waits while other jobs hold the GPUs that it needs.

        Raises:
            InputError: `--device cuda` without a CUDA device, or more GPUs asked for than the machine has.
        """
        import torch

        wanted = self.gpus if self.device != "cpu" else 0
        # Under torchrun, the launching process has already taken the GPUs for all of its processes.
        if "LOCAL_RANK" not in os.environ and not gpu.take(wanted) and os.environ.get(gpu.NAMED) == "":
            wanted = 0
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda: torch sees no CUDA device; use --device cpu or check the driver")
        if wanted:
            check_torch_sees_gpus()
        torch.set_num_threads(self.threads)
        torch.manual_seed(seed)
        cuda = wanted > 0 and torch.cuda.is_available()
        if cuda and not gpu.held() and "LOCAL_RANK" not in os.environ:
            logger.warning("nvidia-smi lists no GPU, but torch sees some: name them in %s for jobs to agree", gpu.NAMED)
        if cuda:
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        return torch.device("cuda" if cuda else "cpu")


def check_torch_sees_gpus() -> None:
    """Refuses to compute on the CPU, for days perhaps, beside GPUs that this process has taken.

    Raises:
        InputError: nvidia-smi lists GPUs, of which this process has taken some, and torch sees none.
    """
    import torch

    # Names that somebody gave are for jobs to agree on, not a sign that there are devices.
    if gpu.held() and gpu.NAMED not in os.environ and not torch.cuda.is_available():
        raise InputError(
            f"there is a GPU, but torch {torch.__version__} (for CUDA {torch.version.cuda}) sees none beside the "
            f"driver {gpu.driver_version()}; install a torch for that driver, or use --device cpu"
        )
