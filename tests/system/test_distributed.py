"""Several processes: batch norm and dropout as of one, trainings that do not depend on their number."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from getam.errors import InputError
from getam.settings.training import ScheduleSettings
from getam.system import distributed
from getam.system.arguments.training import TrainingArguments
from getam.system.distributed import ImageDropout, mean_over_processes, rank, synchronized, world_size
from getam.training.loop import StepResult, Training
from getam.training.optimization import decay_groups

SETTINGS = ScheduleSettings(
    epochs=5,
    batch_size=4,
    accumulation=1,
    optimizer="adamw",
    schedule="one_cycle",
    momentum=0.9,
    learning_rate=0.02,
    weight_decay=0.01,
    warmup_epochs=0,
    gradient_clipping=0.5,
    precision="float32",
    seed=3,
)
LENGTH = 16


class Pictures(Dataset[dict[str, Any]]):
    """Items that the epoch and the number decide, as augmented images would be."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, number: int) -> dict[str, Any]:
        x = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(number))
        return {"x": x, "y": x.mean(), "number": number % LENGTH}


def toy() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        # A bias before a batch norm has no gradient but rounding, which AdamW makes steps of.
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        ImageDropout(0.3),
        nn.Conv2d(8, 1, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def train_toy(out: Path, accumulation: int = 1) -> dict[str, Any]:
    """20 steps of a network with batch norm, dropout and clipping; gives losses of each part and final weights."""
    TrainingArguments(threads=1, device="cpu").prepare(seed=1)
    model, losses = toy(), []

    def step(network: nn.Module, batch: dict[str, Tensor], epoch: int) -> StepResult:
        found = network(batch["x"])[:, 0]
        # As the maps of a double backward: gradients of what no weight is, in between.
        torch.autograd.grad(found.sum(), found, retain_graph=True)
        loss = (found - batch["y"]).square().mean()
        losses.append(float(mean_over_processes(loss)))
        return StepResult({"error": loss})

    training = Training(
        model,
        step,
        Pictures(),
        SETTINGS.model_copy(update={"accumulation": accumulation}),
        groups=decay_groups(model, learning_rate=SETTINGS.learning_rate),
        arguments=TrainingArguments(threads=1, scalars_every=0),
        out=out,
        key="key",
        name="toy",
        name_of=str,
    )
    history = training.run()
    weights = {name: value.tolist() for name, value in model.state_dict().items()}
    return {"losses": losses, "history": history, "weights": weights}


def in_two_processes(path: Path, accumulation: int) -> None:
    """Runs this file as torchrun's two processes would be run; the first writes to `path`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(path), str(accumulation)],
            env=environment | {"RANK": str(number), "LOCAL_RANK": str(number)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_train_as_one(tmp_path: Path, accumulation: int) -> None:
    alone = train_toy(tmp_path / "alone", accumulation)
    in_two_processes(tmp_path / "two.json", accumulation)
    together = json.loads((tmp_path / "two.json").read_text())
    assert together["world_size"] == 2
    assert len(alone["losses"]) == len(together["losses"]) == 20 * accumulation
    assert together["losses"] == pytest.approx(alone["losses"], rel=1e-5, abs=1e-6)
    assert [e["error"] for e in together["history"]] == pytest.approx([e["error"] for e in alone["history"]], rel=1e-5)
    assert together["weights"].keys() == alone["weights"].keys()
    for name, value in alone["weights"].items():
        torch.testing.assert_close(torch.tensor(together["weights"][name]), torch.tensor(value), rtol=1e-4, atol=1e-5)


def test_without_torchrun_nothing_changes() -> None:
    assert (rank(), world_size()) == (0, 1)
    values = torch.ones(2, requires_grad=True)
    assert torch.equal(mean_over_processes(values), values)
    assert not mean_over_processes(values).requires_grad


def test_frozen_batch_norm_stays() -> None:
    model = toy()
    expected = model.eval()(torch.ones(2, 3, 6, 6))
    names = list(model.state_dict())
    weights = [id(parameter) for parameter in model.parameters()]
    converted = synchronized(model, "cpu")
    assert not converted.training
    assert type(converted[1]) is not nn.BatchNorm2d
    assert list(converted.state_dict()) == names
    assert [id(parameter) for parameter in converted.parameters()] == weights
    assert torch.equal(converted(torch.ones(2, 3, 6, 6)), expected)


def test_dropout_goes_by_the_place_in_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    dropout = ImageDropout(0.5)
    x = torch.ones(4, 100)
    torch.manual_seed(0)
    whole = dropout(x)
    assert set(whole.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(whole[0], whole[1])
    assert 0.35 < (whole == 0).float().mean() < 0.65
    for number in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        torch.manual_seed(0)
        assert torch.equal(dropout(x[:2]), whole[2 * number : 2 * number + 2])
    images = torch.ones(2, 3, 5, 7).to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    last = dropout(images)
    torch.manual_seed(0)
    assert torch.equal(dropout(images.contiguous()), last)
    assert torch.equal(dropout.eval()(x), x)


def test_batch_that_cannot_be_shared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getam.training.loop.world_size", lambda: 3)
    with pytest.raises(InputError, match=r"batch_size: 4 images .* 3 processes; use another number"):
        train_toy(tmp_path)
    monkeypatch.setattr("getam.training.loop.world_size", lambda: 2)
    with pytest.raises(InputError, match=r"2 processes in 4 parts each; change one of batch_size and accumulation"):
        train_toy(tmp_path, 4)


if __name__ == "__main__":
    found = train_toy(Path(sys.argv[1]).parent / "together", int(sys.argv[2]))
    if rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(found | {"world_size": world_size()}))
