"""The training loop: resumed runs bit for bit, schedules by hand, stops on a loss that is not finite."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, get_worker_info

import getam.system.version
import getam.training.batches
import getam.training.loop
from getam.errors import InputError, MachineError, Stopped
from getam.settings.training import ScheduleSettings
from getam.system.arguments.training import TrainingArguments
from getam.system.distributed import STOP_SIGNALS
from getam.training.batches import EpochBatches, killed_workers
from getam.training.folder import FINISHED, MADE_FROM, STATE, training_folder
from getam.training.log import BEST, PICTURES, TENSORBOARD, TrainingLog
from getam.training.loop import STATE_FILE, StepResult, Training, training_key
from getam.training.optimization import SCHEDULES, check_groups, decay_groups

LENGTH = 10
SETTINGS = ScheduleSettings(
    epochs=4,
    batch_size=3,
    accumulation=1,
    optimizer="adamw",
    schedule="one_cycle",
    momentum=0.9,
    learning_rate=0.05,
    warmup_epochs=0,
    gradient_clipping=0,
    precision="float32",
    weight_decay=0.01,
    seed=3,
)


class Numbers(Dataset[dict[str, Any]]):
    """Item `epoch * len + i`: four numbers that the epoch and i decide, as augmented images would be."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, number: int) -> dict[str, Any]:
        x = torch.randn(4, generator=torch.Generator().manual_seed(number))
        return {"x": x, "y": x.sum(), "number": number % LENGTH}


class Interrupted(Exception):
    """Stands for a killed process."""


def dropout_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))


def train(
    model: nn.Module,
    out: Path,
    *,
    minutes: float = 10,
    settings: ScheduleSettings = SETTINGS,
    key: str = "key",
    interrupt: tuple[int, int] | None = None,
    change: Callable[[Tensor, dict[str, Tensor]], Tensor] = lambda loss, batch: loss,
) -> tuple[list[dict[str, float]], list[tuple[int, list[int]]]]:
    """Gives the history and (epoch, image numbers) of each step; stops in step `interrupt` = (epoch, batch)."""
    seen: list[tuple[int, list[int]]] = []

    def step(model: nn.Module, batch: dict[str, Tensor], epoch: int) -> StepResult:
        if interrupt == (epoch, sum(e == epoch for e, _ in seen)):
            raise Interrupted
        seen.append((epoch, batch["number"].tolist()))
        error = (model(batch["x"])[:, 0] - batch["y"]).square().mean()
        return StepResult({"error": change(error, batch), "size": 0.01 * model(batch["x"]).square().mean()})

    training = Training(
        model,
        step,
        Numbers(),
        settings,
        groups=decay_groups(model, learning_rate=settings.learning_rate),
        arguments=TrainingArguments(threads=1, checkpoint_minutes=minutes, scalars_every=0),
        out=out,
        key=key,
        name="test",
        name_of=lambda number: f"img{number}",
    )
    return training.run(), seen


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_the_seed_decides_the_order_of_images(tmp_path: Path) -> None:
    orders = [
        train(dropout_model(), tmp_path / name, settings=SETTINGS.model_copy(update={"seed": seed}))[1]
        for name, seed in (("one", 3), ("again", 3), ("other", 4))
    ]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("interrupt", [(1, 0), (2, 2), (3, 1)])
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(
    tmp_path: Path, optimizer: str, interrupt: tuple[int, int]
) -> None:
    settings = SETTINGS.model_copy(update={"optimizer": optimizer})
    whole = dropout_model()
    whole_history, whole_seen = train(whole, tmp_path / "whole", settings=settings)
    with pytest.raises(Interrupted):
        train(dropout_model(), tmp_path / "parts", settings=settings, interrupt=interrupt)
    # Another process: other initial weights and another random state, which the saved state must replace.
    resumed = dropout_model(seed=99)
    history, seen = train(resumed, tmp_path / "parts", settings=settings)
    assert_same_weights(resumed, whole)
    assert history == whole_history
    assert seen == [step for step in whole_seen if step[0] >= interrupt[0]]


@pytest.mark.parametrize("number", STOP_SIGNALS)
@pytest.mark.parametrize("at", [(0, 0), (1, 1), (2, 2)])
def test_a_signal_saves_the_state_after_the_step_and_loses_nothing(
    tmp_path: Path, number: signal.Signals, at: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    whole = dropout_model()
    whole_history, whole_seen = train(whole, tmp_path / "whole")
    # Under nohup the tests ignore SIGHUP, and a training would too.
    request.addfinalizer(partial(signal.signal, number, signal.signal(number, signal.SIG_DFL)))
    handlers = [signal.getsignal(each) for each in STOP_SIGNALS]

    def tell(loss: Tensor, batch: dict[str, Tensor]) -> Tensor:
        told.append(batch["number"].tolist())
        if len(told) == at[0] * 3 + at[1] + 1:
            os.kill(os.getpid(), number)
        return loss

    told: list[list[int]] = []
    with pytest.raises(Stopped) as stopped:
        train(dropout_model(), tmp_path / "parts", change=tell)
    assert stopped.value.signal == number
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == handlers
    resumed = dropout_model(seed=99)
    history, seen = train(resumed, tmp_path / "parts")
    assert_same_weights(resumed, whole)
    assert history == whole_history
    # The step in which it came was the last.
    assert seen == whole_seen[at[0] * 3 + at[1] + 1 :]


def test_a_training_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    def tell(loss: Tensor, batch: dict[str, Tensor]) -> Tensor:
        os.kill(os.getpid(), signal.SIGHUP)
        return loss

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        history, _ = train(dropout_model(), tmp_path, change=tell)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert len(history) == SETTINGS.epochs


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    def tell(loss: Tensor, batch: dict[str, Tensor]) -> Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return loss

    with pytest.raises(KeyboardInterrupt):
        train(dropout_model(), tmp_path, change=tell)
    assert not (tmp_path / STATE / STATE_FILE).exists()


FILES = ("model.safetensors", "model.json")


def finish(out: Path, key: str = "key", *, keep: bool = True, text: str = "made", scored: object = None) -> bool:
    """A training that writes its files; gives whether it was finished before."""
    with training_folder(out, key, arguments=TrainingArguments(keep_finished=keep), scored=scored) as finished:
        if not finished:
            for name in FILES:
                (out / name).write_text(text)
    return finished


def test_what_a_workflow_took_no_note_of_is_not_trained_again(tmp_path: Path) -> None:
    assert not finish(tmp_path)
    assert not (tmp_path / STATE).exists()
    # Links, not copies.
    assert (tmp_path / FILES[0]).stat().st_nlink == 2
    for name in FILES:
        (tmp_path / name).unlink()
    before = time.time() - 1
    assert finish(tmp_path)
    assert [(tmp_path / name).read_text() for name in FILES] == ["made", "made"]
    assert all((tmp_path / name).stat().st_mtime > before for name in FILES)
    assert not (tmp_path / STATE).exists()


def test_other_settings_or_sources_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(tmp_path)
    assert not finish(tmp_path, "other", text="other")
    assert (tmp_path / FILES[0]).read_text() == "other"
    assert finish(tmp_path, "other")
    assert not finish(tmp_path, "other", scored=["other images"])
    assert not finish(tmp_path, "other")
    monkeypatch.setattr(getam.system.version, "source_hash", lambda module: "edited")
    assert not finish(tmp_path, "other")


def test_by_hand_nothing_is_kept(tmp_path: Path) -> None:
    finish(tmp_path, keep=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_what_is_no_note_of_a_finished_training_does_not_count(tmp_path: Path) -> None:
    assert not finish(tmp_path)
    note = tmp_path / FINISHED / MADE_FROM
    note.write_bytes(b"\xff")
    assert not finish(tmp_path)
    assert finish(tmp_path)
    note.unlink()
    os.mkfifo(note)
    assert not finish(tmp_path)
    assert finish(tmp_path)
    weights, elsewhere = tmp_path / FINISHED / FILES[0], tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("years")
    weights.unlink()
    weights.symlink_to(elsewhere / "precious")
    os.utime(elsewhere / "precious", (1, 1))
    assert not finish(tmp_path)
    assert (elsewhere / "precious").stat().st_mtime == 1


def test_what_was_stopped_is_not_finished(tmp_path: Path) -> None:
    def stopped() -> None:
        with training_folder(tmp_path, "key", arguments=TrainingArguments(keep_finished=True)):
            (tmp_path / STATE / STATE_FILE).touch()
            raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        stopped()
    assert (tmp_path / STATE / STATE_FILE).exists()
    assert not finish(tmp_path)


def test_one_process_trains_in_a_folder(tmp_path: Path) -> None:
    arguments = TrainingArguments()
    with (
        training_folder(tmp_path, "key", arguments=arguments),
        pytest.raises(InputError, match=r"\.state: another process is writing it; wait for it or stop it"),
        training_folder(tmp_path, "key", arguments=arguments),
    ):
        pass


def _flip(content: bytes) -> bytes:
    """One bit of the last tensor."""
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: b"", lambda c: b"x" * len(c), _flip])
def test_a_damaged_state_starts_the_training_anew(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    whole = dropout_model()
    train(whole, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(dropout_model(), tmp_path / "parts", interrupt=(2, 1))
    state = tmp_path / "parts" / STATE / STATE_FILE
    state.write_bytes(damage(state.read_bytes()))
    again = dropout_model()
    _, seen = train(again, tmp_path / "parts")
    assert len(seen) == 12
    assert_same_weights(again, whole)
    assert re.search("cannot be read|is damaged", caplog.text)
    assert "training starts anew" in caplog.text


def test_what_only_shows_a_training_does_not_end_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    (tmp_path / "pictures").write_text("in the way")
    model = dropout_model()

    def step(model: nn.Module, batch: dict[str, Tensor], epoch: int) -> StepResult:
        return StepResult({"error": model(batch["x"]).square().mean()}, lambda: np.zeros((2, 2, 3), np.uint8))

    Training(
        model,
        step,
        Numbers(),
        SETTINGS,
        groups=decay_groups(model, learning_rate=0.1),
        arguments=TrainingArguments(threads=1, scalars_every=1, pictures_every=1),
        out=tmp_path,
        key="key",
        name="test",
        name_of=str,
    ).run()
    assert caplog.text.count("the training is not shown any more") == 1


@pytest.mark.parametrize("name", [TENSORBOARD, PICTURES, BEST])
@pytest.mark.parametrize("step", [0, 3])
def test_what_a_training_shows_is_written_through_no_link(tmp_path: Path, name: str, step: int) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=rf"{name}: is a link, through which files elsewhere would be changed; remove"):
        TrainingLog(tmp_path, TrainingArguments(threads=1, scalars_every=1, pictures_every=1), step=step)
    assert list((tmp_path / "elsewhere").iterdir()) == []


class Killing(Numbers):
    """In a loader's process, item 3 ends as the kernel would end it for want of memory."""

    def __getitem__(self, number: int) -> dict[str, Any]:
        if get_worker_info() is not None and number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(number)


def test_a_killed_loader_is_said_in_one_message() -> None:
    loader = DataLoader(Killing(), batch_size=2, num_workers=1)
    message = "a process that loads images was killed, .*; use fewer threads: the same command goes on"
    with pytest.raises(MachineError, match=message), killed_workers():
        list(loader)
    with pytest.raises(RuntimeError, match="other"), killed_workers():
        raise RuntimeError("other")


class Broken(Numbers):
    """In a loader's process, an item ends with an error of torch's kind."""

    def __init__(self, error: str) -> None:
        super().__init__()
        self.error = error

    def __getitem__(self, number: int) -> dict[str, Any]:
        raise RuntimeError(self.error)


@pytest.mark.parametrize(
    "error",
    [
        "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)",
        "unable to write to file </torch_1_2_3>: No space left on device (28)",
    ],
)
def test_a_machine_without_shared_memory_is_said_in_one_message(error: str) -> None:
    message = (
        r"^/dev/shm: has no room for the images .*; give it more \(docker run --shm-size=8g\), or use fewer threads"
    )
    with pytest.raises(MachineError, match=message), killed_workers():
        list(DataLoader(Broken(error), batch_size=2, num_workers=1))


def test_a_defect_in_a_loader_is_no_killed_process() -> None:
    with pytest.raises(RuntimeError, match="a defect"), killed_workers():
        list(DataLoader(Broken("a defect"), batch_size=2, num_workers=1))


def test_a_folder_in_which_loaders_would_wait_for_ever_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Processes send images by sockets, whose paths have 107 characters at most.
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", None)  # type: ignore[attr-defined]
    message = r"processes that load images need /dev/shm and sockets in .*long \(AF_UNIX path too long\); .* set TMPDIR"
    with pytest.raises(MachineError, match=message), killed_workers():
        pass
    # A training without them doesn't care.
    with killed_workers(there_are=False):
        pass


def test_a_state_of_other_sources_is_gone_on_with_only_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Interrupted):
        train(dropout_model(), tmp_path, interrupt=(2, 1))
    monkeypatch.setattr(getam.system.version, "source_hash", lambda module: "edited")
    monkeypatch.setenv("GETAM_CODE_HASH", "false")
    with pytest.raises(Interrupted):
        train(dropout_model(), tmp_path, interrupt=(3, 0))
    assert "was saved by other sources; goes on by these" in caplog.text
    monkeypatch.setattr(getam.system.version, "source_hash", lambda module: "edited again")
    monkeypatch.setenv("GETAM_CODE_HASH", "true")
    _, seen = train(dropout_model(), tmp_path)
    assert len(seen) == 12
    assert "was saved by other sources: training starts anew" in caplog.text


def test_finished_state_trains_no_further(tmp_path: Path) -> None:
    model = dropout_model()
    history, _ = train(model, tmp_path)
    again = dropout_model(seed=1)
    repeated, seen = train(again, tmp_path)
    assert seen == []
    assert repeated == history
    assert_same_weights(again, model)


def test_other_key_starts_anew(tmp_path: Path) -> None:
    whole = dropout_model()
    train(whole, tmp_path / "whole", key="new")
    with pytest.raises(Interrupted):
        train(dropout_model(seed=5), tmp_path / "state", key="old", interrupt=(2, 1))
    model = dropout_model()
    _, seen = train(model, tmp_path / "state", key="new")
    assert [epoch for epoch, _ in seen] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert_same_weights(model, whole)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_names_the_images(tmp_path: Path, value: float) -> None:
    model = dropout_model()
    before_bad: list[dict[str, Tensor]] = []

    def spoil(loss: Tensor, batch: dict[str, Tensor]) -> Tensor:
        if 7 not in batch["number"].tolist():
            return loss
        before_bad.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return loss * value

    with pytest.raises(InputError, match=r"not finite \(error (nan|inf), size .*\) in epoch 1 .*img7.*learning rate"):
        train(model, tmp_path, settings=SETTINGS.model_copy(update={"batch_size": 5}), change=spoil)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before_bad[0][name]), "the bad batch reached the weights"


def test_history_is_the_mean_loss_of_each_epoch(tmp_path: Path) -> None:
    losses: list[float] = []

    def watch(loss: Tensor, batch: dict[str, Tensor]) -> Tensor:
        losses.append(float(loss.detach()))
        return loss

    history, _ = train(dropout_model(), tmp_path, change=watch)
    assert [set(epoch) for epoch in history] == [{"error", "size"}] * 4
    for epoch, entry in enumerate(history):
        assert entry["error"] == pytest.approx(sum(losses[3 * epoch : 3 * epoch + 3]) / 3, rel=1e-12)


def test_the_log_says_how_many_images_a_second_were_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(getam.training.loop, "time", SimpleNamespace(monotonic=lambda: now))

    def lasting(seconds: float) -> Callable[[Tensor, dict[str, Tensor]], Tensor]:
        def change(loss: Tensor, batch: dict[str, Tensor]) -> Tensor:
            nonlocal now
            now += seconds
            return loss

        return change

    settings = SETTINGS.model_copy(update={"epochs": 2})
    with caplog.at_level(logging.INFO, logger="getam.training.loop"):
        with pytest.raises(Interrupted):
            train(dropout_model(), tmp_path, minutes=0, settings=settings, interrupt=(1, 2), change=lasting(2))
        train(dropout_model(), tmp_path, minutes=0, settings=settings, change=lasting(4))
    ends = [re.sub(r"loss [\d.]+", "loss x", line) for line in caplog.messages if "images a second" in line]
    # Three batches of three images in 6 s; of the second epoch the last batch alone, in 4 s.
    assert ends == [
        "test: epoch 1/2, error loss x, size loss x, 6.0 s, 1.50 images a second",
        "test: epoch 2/2, error loss x, size loss x, 4.0 s, 0.750 images a second",
    ]


def test_batch_larger_than_the_data_takes_all_of_it(tmp_path: Path) -> None:
    _, seen = train(dropout_model(), tmp_path, settings=SETTINGS.model_copy(update={"batch_size": 64}))
    assert [sorted(numbers) for _, numbers in seen] == [list(range(LENGTH))] * 4


@pytest.mark.parametrize("schedule", ["one_cycle", "poly"])
def test_learning_rates_of_the_groups_follow_the_schedule(tmp_path: Path, schedule: str) -> None:
    # A gradient of 1 everywhere: momentum after n steps is (1 - 0.9^n) / 0.1, so a step tells its learning rate.
    slow, fast = nn.Parameter(torch.zeros((), dtype=torch.float64)), nn.Parameter(torch.zeros((), dtype=torch.float64))
    model = nn.Module()
    model.slow, model.fast = slow, fast
    values: list[tuple[float, float]] = []

    def step(model: nn.Module, batch: dict[str, Tensor], epoch: int) -> StepResult:
        values.append((slow.item(), fast.item()))
        return StepResult({"sum": slow + fast})

    settings = SETTINGS.model_copy(
        update={"optimizer": "sgd", "schedule": schedule, "weight_decay": 0.0, "batch_size": 2, "epochs": 4}
    )
    Training(
        model,
        step,
        Numbers(),
        settings,
        groups=[{"params": [slow], "lr": 0.1}, {"params": [fast], "lr": 1.0}],
        arguments=TrainingArguments(threads=1, scalars_every=0),
        out=tmp_path,
        key="key",
        name="test",
        name_of=str,
    ).run()
    values.append((slow.item(), fast.item()))
    assert len(values) == 21
    for n in range(20):
        momentum = (1 - 0.9 ** (n + 1)) / 0.1
        for group, peak in enumerate((0.1, 1.0)):
            rate = (values[n][group] - values[n + 1][group]) / momentum
            assert rate == pytest.approx(peak * SCHEDULES[schedule](n / 20), rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "t", "factor"),
    [
        ("one_cycle", 0.0, 0.04),
        ("one_cycle", 0.125, 0.52),
        ("one_cycle", 0.25, 1.0),
        ("one_cycle", 0.625, 0.5),
        ("one_cycle", 1 - 1e-6, 0.0),
        ("poly", 0.0, 1.0),
        ("poly", 0.5, 0.5**0.9),
        ("poly", 1 - 1e-9, 0.0),
    ],
)
def test_schedule_values(schedule: str, t: float, factor: float) -> None:
    assert SCHEDULES[schedule](t) == pytest.approx(factor, abs=1e-6)


def test_one_cycle_is_continuous_and_has_one_peak() -> None:
    factors = [SCHEDULES["one_cycle"](n / 1000) for n in range(1000)]
    peak = factors.index(max(factors))
    assert peak == 250
    assert factors[:251] == sorted(factors[:251])
    assert factors[250:] == sorted(factors[250:], reverse=True)
    assert max(abs(a - b) for a, b in itertools.pairwise(factors)) < 0.01


def batches_of(epoch: int, *, seed: int = 1, start: int = 0) -> list[list[int]]:
    return list(EpochBatches(50, epoch=epoch, seed=seed, batch_size=5, start=start))


def test_batches_permute_each_epoch() -> None:
    orders = [[number for batch in batches_of(epoch) for number in batch] for epoch in range(3)]
    for epoch, order in enumerate(orders):
        assert sorted(order) == list(range(50 * epoch, 50 * (epoch + 1)))
        assert batches_of(epoch) == batches_of(epoch)
    images = {tuple(number % 50 for number in order) for order in orders}
    assert len(images) == 3, "epochs repeat an order"
    assert batches_of(0, seed=2) != batches_of(0)


def test_batches_go_on_where_they_stopped() -> None:
    assert batches_of(1, start=4) == batches_of(1)[4:]
    assert len(EpochBatches(52, epoch=0, seed=0, batch_size=5, start=4)) == 6


def test_batches_tell_large_seeds_apart() -> None:
    assert batches_of(0, seed=4096) != batches_of(0, seed=0)


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_share_each_batch(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(EpochBatches(50, epoch=0, seed=1, batch_size=6))
    monkeypatch.setattr(getam.training.batches, "world_size", lambda: 2)
    monkeypatch.setattr(getam.training.batches, "rank", lambda: rank)
    assert list(EpochBatches(50, epoch=0, seed=1, batch_size=6)) == [b[3 * rank : 3 * rank + 3] for b in whole]


def test_decay_groups_cover_each_trained_weight_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2), nn.Linear(2, 2))
    model[4].requires_grad_(False)
    groups = decay_groups(model, learning_rate=0.3)
    covered = [id(parameter) for group in groups for parameter in group["params"]]
    trained = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(covered) == sorted(trained)
    assert {id(p) for p in groups[0]["params"]} == {id(model[0].weight), id(model[3].weight)}
    assert "weight_decay" not in groups[0]
    assert groups[1]["weight_decay"] == 0.0
    assert {group["lr"] for group in groups} == {0.3}


@pytest.mark.parametrize(
    ("grouped", "message"),
    [
        (["0.weight", "0.bias", "1.weight"], r"1\.bias is in none$"),
        (["0.weight", "0.bias", "1.weight", "1.bias", "0.bias"], r"0\.bias is in 2$"),
        (["0.weight", "0.weight"], r"0\.weight is in 2; 0\.bias is in none; 1\.weight is in none and 1 more$"),
    ],
)
def test_a_weight_in_no_group_or_in_two_is_refused(grouped: list[str], message: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    weights = dict(model.named_parameters())
    groups = [{"params": [weights[name]], "lr": 0.1} for name in grouped]
    with pytest.raises(ValueError, match=message):
        check_groups(model, groups)


def test_a_frozen_weight_needs_no_group() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    check_groups(model, decay_groups(model, learning_rate=0.1))
    with pytest.raises(ValueError, match=r"1\.weight is in none; 1\.bias is in none$"):
        check_groups(model, [])


def test_training_key_tells_settings_and_data_apart() -> None:
    model = dropout_model()
    key = training_key(model, SETTINGS, [("dog", "cat"), [("dog",)], {"a": 1, "b": 2}])
    assert key == training_key(dropout_model(seed=1), SETTINGS, [("dog", "cat"), [("dog",)], {"b": 2, "a": 1}])
    other = SETTINGS.model_copy(update={"seed": 4})
    assert key != training_key(model, other, [("dog", "cat"), [("dog",)], {"a": 1, "b": 2}])
    assert key != training_key(model, SETTINGS, [("cat", "dog"), [("dog",)], {"a": 1, "b": 2}])
    assert key != training_key(model, SETTINGS, [("dog", "cat"), [("cat",)], {"a": 1, "b": 2}])


def test_training_key_tells_first_weights_apart() -> None:
    model, key = dropout_model(), training_key(dropout_model(), SETTINGS, [])
    model[0].initialization = {"name": "linear", "source": "weights.pth", "sha256": "1"}
    pretrained = training_key(model, SETTINGS, [])
    model[0].initialization |= {"sha256": "2"}
    assert len({key, pretrained, training_key(model, SETTINGS, [])}) == 3
