"""Several processes of one training, as torchrun starts them: who they are and what they share.

Without torchrun there is one process, and everything here leaves things as they are.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from getam.errors import InputError, Stopped
from getam.system.seeds import mixed_seed
from getam.system.version import ROOT

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: the first one validates and writes meanwhile."""

FAILURE_FILE = "TORCHELASTIC_ERROR_FILE"
"""Variable of the environment with the file where a process of torchrun says why it ended."""

PARENT = "GETAM_PARENT"
"""Variable of the environment with the number of the process that started those of a training."""

SAVING_SECONDS = 600
"""How long processes that were told to end may take for their step and their state."""


def launch(module: str, words: Sequence[str], *, processes: int) -> None:
    """Runs `python -m module *words` in so many processes of this machine, as torchrun does, until all have ended.

    Raises:
        InputError: a process has failed; with the message of the one that failed first, or what killed it.
        Stopped: this process was told to end, and the others with it.
    """
    os.environ[PARENT] = str(os.getpid())
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SAVING_SECONDS)
    # The same sources as this process's, and none of the current folder's.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory(prefix="getam-") as folder, _silence():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=f"getam-{uuid.uuid4()}",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-P", "-m", module, *words)
        except SignalException as stopped:
            raise Stopped(stopped.sigval) from None
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode < 0:
                killed = f"process {rank} of {processes} was killed by {signal.Signals(-failure.exitcode).name}"
                raise InputError(f"{killed}; make sure of memory, then run again: it goes on from its state") from None
            if failure.exitcode - 128 in (signal.SIGTERM, signal.SIGINT):
                # One process alone has received the signal, and all have saved the state.
                raise Stopped(failure.exitcode - 128) from None
            if Path(failure.error_file).is_file():
                raise InputError(failure.message) from None
            ended = f"process {rank} of {processes} ended with exit code {failure.exitcode}; see above"
            raise InputError(ended) from None


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps torchrun's agent from reporting in many lines what `launch` says in its one message."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def report_failure(message: str) -> bool:
    """Hands a message to torchrun or `launch`, if one of them started this process; gives whether it did.

    The process that launched several reports the first message alone.
    """
    path = os.environ.get(FAILURE_FILE)
    if path is None:
        return False
    Path(path).write_text(json.dumps({"message": message, "timestamp": int(time.time())}), encoding="utf-8")
    return True


def start(device_type: str) -> None:
    """Joins the processes that torchrun started; on GPUs each takes the device of its local rank."""
    if "LOCAL_RANK" not in os.environ or dist.is_initialized():
        return
    parent = int(os.environ.get(PARENT, os.getppid()))
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)


def _end_with_parent(parent: int) -> None:
    # The parent holds the lock of the device: a process that outlived it would share the device with another job.
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def mean_over_processes(values: Tensor) -> Tensor:
    """Mean over the processes of a tensor that each of them has, without a gradient."""
    if world_size() == 1:
        return values.detach()
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def synchronized(model: nn.Module, device_type: str) -> nn.Module:
    """`model` with batch norms whose statistics in training are those of all processes' images together.

    Weights, buffers and their names stay. Frozen batch norms, which are in evaluation mode, compute as before.
    """
    if device_type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, _SynchronizedBatchNorm.like(child))
    return model


class _Mean(torch.autograd.Function):
    """`mean_over_processes` with a gradient: each process's loss depends on the values of all processes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return mean_over_processes(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return mean_over_processes(gradient)


class _SynchronizedBatchNorm(nn.BatchNorm2d):
    """SyncBatchNorm for CPUs, where torch's own doesn't work; every process must have the same number of values.

    A stage starts several processes on GPUs alone. This serves the tests and those who start torchrun on CPUs by hand.
    """

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> _SynchronizedBatchNorm:
        converted = cls(norm.num_features, norm.eps, norm.momentum)
        converted.train(norm.training)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(converted, name, getattr(norm, name))
        return converted

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in, (B, C, H, W)."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        exact = x.float()
        mean: Tensor = _Mean.apply(exact.mean((0, 2, 3)))
        centered = exact - mean[:, None, None]
        variance: Tensor = _Mean.apply(centered.square().mean((0, 2, 3)))
        with torch.no_grad():
            count = world_size() * x.numel() / x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class ImageDropout(nn.Module):
    """Dropout whose mask depends on the random state and on the image's place in the whole batch.

    nn.Dropout would give other masks, and so another training, to another number of processes.

    Args:
        p: share of the values that are dropped.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in, (B, ...); the identity in evaluation mode."""
        if not self.training or self.p == 0:
            return x
        # All processes have the same random state on the CPU, and so the same seed here.
        seed = int(torch.randint(2**31, ()))
        # empty_like would take over the order in which x lies in memory, which can differ with the number of images;
        # the mask's values would then be drawn in another order.
        keep = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for number, mask in enumerate(keep, start=rank() * len(x)):
            generator = torch.Generator(x.device).manual_seed(mixed_seed(seed, number))
            mask.bernoulli_(1 - self.p, generator=generator)
        return x * keep / (1 - self.p)
