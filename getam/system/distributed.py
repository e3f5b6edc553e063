"""Training in several processes: launching them with torchrun's agent, and the operations between them.

Without torchrun there is one process, and the operations return their inputs unchanged.
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
"""Timeout of collective operations; rank 0 validates and writes while the other processes wait."""

FAILURE_FILE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable with the file in which a process started by torchrun reports why it failed."""

PARENT = "GETAM_PARENT"
"""Environment variable with the id of the process that launched the processes of a training."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals upon which a training saves its state and ends; SIGHUP comes when a terminal or its connection is closed."""

SAVING_SECONDS = 600
"""Time that processes get, after a signal, to finish their step and save their state."""


def launch(module: str, words: Sequence[str], *, processes: int) -> None:
    """Runs `python -m module *words` in `processes` processes of this machine, like torchrun, until all have ended.

    Raises:
        InputError: a process has failed; the message is that of the first failure, or names the signal that killed it.
        Stopped: a signal told this process, or one of the others, to end.
    """
    os.environ[PARENT] = str(os.getpid())
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SAVING_SECONDS)
    # The processes must import the same sources as this one; `-P` below excludes the current folder.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Under nohup, SIGHUP stays ignored.
    handled = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
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
            signals_to_handle=",".join(number.name for number in handled),
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
            if failure.exitcode - 128 in STOP_SIGNALS:
                # Only one of the processes received the signal; all of them have saved the state and ended.
                raise Stopped(failure.exitcode - 128) from None
            if Path(failure.error_file).is_file():
                raise InputError(failure.message) from None
            ended = f"process {rank} of {processes} ended with exit code {failure.exitcode}; see above"
            raise InputError(ended) from None


@contextmanager
def _silence() -> Iterator[None]:
    """Silences torchrun's agent, whose many lines `launch` replaces by one message."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def report_failure(message: str) -> bool:
    """Passes a message to torchrun or `launch`, and returns whether one of them has started this process.

    The launching process then reports only the message of the first failure.
    """
    path = os.environ.get(FAILURE_FILE)
    if path is None:
        return False
    Path(path).write_text(json.dumps({"message": message, "timestamp": int(time.time())}), encoding="utf-8")
    return True


def start(device_type: str) -> None:
    """Under torchrun, joins the process group; on GPUs, each process uses the device of its local rank."""
    if "LOCAL_RANK" not in os.environ or dist.is_initialized():
        return
    parent = int(os.environ.get(PARENT, os.getppid()))
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)


def _end_with_parent(parent: int) -> None:
    # The parent holds the devices' locks: a process that outlived it would share its device with another job.
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process has rank 0, which alone writes files."""
    return rank() == 0


def mean_over_processes(values: Tensor) -> Tensor:
    """Mean of a tensor over the processes, each of which has its own values of the same shape; detached."""
    if world_size() == 1:
        return values.detach()
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def synchronized(model: nn.Module, device_type: str) -> nn.Module:
    """Replaces batch norms by ones whose training statistics are over the images of all processes.

    Weights, buffers and their names stay the same. Frozen batch norms, which are in evaluation mode, compute as
    before.
    """
    if device_type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, _SynchronizedBatchNorm.like(child))
    return model


class _Mean(torch.autograd.Function):
    """Differentiable `mean_over_processes`: the loss of each process depends on the values of all processes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return mean_over_processes(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return mean_over_processes(gradient)


class _SynchronizedBatchNorm(nn.BatchNorm2d):
    """SyncBatchNorm for CPUs, which torch's own does not support; all processes must have batches of equal size.

    Stages launch several processes only on GPUs. This class serves the tests, and torchrun started by hand on CPUs.
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
    """Dropout whose mask depends only on the random state and on the image's position in the global batch.

    With nn.Dropout, the masks and so the trained weights would depend on the number of processes.

    Args:
        p: probability that a value is dropped.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in, (B, ...); the identity in evaluation mode."""
        if not self.training or self.p == 0:
            return x
        # All processes have the same CPU random state, so they draw the same seed here.
        seed = int(torch.randint(2**31, ()))
        # empty_like would copy the memory format of x, which can depend on the number of images; the values of the
        # mask would then be drawn in another order.
        keep = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for number, mask in enumerate(keep, start=rank() * len(x)):
            generator = torch.Generator(x.device).manual_seed(mixed_seed(seed, number))
            mask.bernoulli_(1 - self.p, generator=generator)
        return x * keep / (1 - self.p)
