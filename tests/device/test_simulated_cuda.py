"""The simulated device itself: it computes, refuses what a GPU refuses, and counts what a GPU is waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.simulated_cuda import simulated_cuda
from torch import Tensor, nn

from getam.system.distributed import ImageDropout


def test_a_backward_pass_is_the_cpus() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    images = torch.randn(2, 3, 4, 4)
    expected = model(images)
    expected.square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad(set_to_none=True)
    with simulated_cuda():
        found = model.to("cuda")(images.to("cuda"))
        assert found.is_cuda
        assert found.device == torch.device("cuda", 0)
        found.square().sum().backward()
        assert torch.equal(found.detach().cpu(), expected.detach())
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            assert parameter.grad is not None
            assert parameter.grad.is_cuda
            assert gradient is not None
            assert torch.equal(parameter.grad.cpu(), gradient)


def test_a_view_shares_its_values() -> None:
    with simulated_cuda():
        x = torch.zeros(2, 3, device="cuda")
        x[1].add_(2)
        x[:, 0] = 5
        x[x > 4] = 1
        torch.add(x, 1, out=x)
        assert x.tolist() == [[2, 1, 1], [2, 3, 3]]


REFUSED: dict[str, Callable[[Tensor], Any]] = {
    "a tensor of the CPU": lambda x: x + torch.ones(2, 2),
    "a weight of the CPU": lambda x: F.linear(x, torch.ones(2, 2)),
    "a stack of both": lambda x: torch.stack([x, torch.zeros(2, 2)]),
    "an index of the device in the CPU": lambda x: torch.ones(2)[x.long()],
    "a target of the CPU": lambda x: F.cross_entropy(x, torch.zeros(2, dtype=torch.int64)),
    "numpy": lambda x: x.numpy(),
    "types that differ": lambda x: x @ x.bfloat16(),
    "a generator of the CPU": lambda x: x.bernoulli_(0.5, generator=torch.Generator().manual_seed(7)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_gpu_refuses(name: str) -> None:
    with simulated_cuda(), pytest.raises((RuntimeError, TypeError, AssertionError)):
        REFUSED[name](torch.ones(2, 2, device="cuda"))


def test_a_number_of_the_cpu_and_an_index_are_taken() -> None:
    with simulated_cuda():
        x = torch.ones(2, 2, device="cuda") * torch.tensor(3.0)
        assert x[torch.tensor([1])].tolist() == [[3, 3]]


WAITS: dict[str, tuple[Callable[[Tensor], Any], dict[str, int]]] = {
    "item": (lambda x: x.sum().item(), {"_local_scalar_dense": 1}),
    "a branch": (lambda x: bool((x > 0).any()), {"_local_scalar_dense": 1}),
    "tolist": (lambda x: x.tolist(), {"download": 1}),
    "cpu": (lambda x: x.cpu(), {"download": 1}),
    "copy_": (lambda x: torch.zeros(2, 2).copy_(x), {"download": 1}),
    "nonzero": (lambda x: x.nonzero(), {"nonzero": 1}),
    "unique": (lambda x: x.unique(), {"_unique2": 1}),
    "a mask": (lambda x: x[x > 0], {"index by a mask": 1}),
    "a list": (lambda x: x[[1, 0]], {"upload": 1}),
    "new_tensor": (lambda x: x.new_tensor([1, 2]), {"upload": 1}),
    "tensor": (lambda x: torch.tensor([1, 2], device="cuda"), {"upload": 1}),
    "to": (lambda x: torch.ones(2).to("cuda"), {"upload": 1}),
    "non_blocking": (lambda x: torch.ones(2).to("cuda", non_blocking=True), {}),
    "a filled mask": (lambda x: x.__setitem__(x > 0, 2), {}),
    "full": (lambda x: x.new_full((2,), 3), {}),
    "arithmetic": (lambda x: (x + 1).where(x > 0, 2).sort().values.argmax(), {}),
}


@pytest.mark.parametrize("name", WAITS)
def test_waits_are_counted(name: str) -> None:
    run, expected = WAITS[name]
    with simulated_cuda() as device:
        x = torch.ones(2, 2, device="cuda")
        device.forget()
        run(x)
        assert device.waits == expected


def test_autocast_rounds_by_cudas_lists() -> None:
    with simulated_cuda(), torch.autocast("cuda", torch.bfloat16):
        x = torch.ones(2, 2, device="cuda")
        assert (x @ x).dtype == torch.bfloat16
        assert (x @ x).softmax(1).dtype == torch.float32
        # The CPU's autocast is another.
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_dropout_draws_on_the_device() -> None:
    x = torch.ones(3, 100)
    torch.manual_seed(0)
    expected = ImageDropout(0.5)(x)
    with simulated_cuda() as device:
        x = x.to("cuda")
        device.forget()
        torch.manual_seed(0)
        dropped = ImageDropout(0.5)(x)
        assert not device.waits
        assert dropped.is_cuda
        assert torch.equal(dropped.cpu(), expected)


def test_afterwards_there_is_no_such_device() -> None:
    available = torch.cuda.is_available()
    with simulated_cuda():
        assert torch.cuda.is_available()
    model = nn.Linear(2, 2)
    weight = model.weight
    assert model.double().weight is weight, "modules convert their weights in place again"
    assert torch.ones(2).add(1).is_cpu
    assert torch.cuda.is_available() == available
