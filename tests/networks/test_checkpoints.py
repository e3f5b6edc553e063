"""Checkpoints: round trips, strict refusals that name the key, and never a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import SGD, AdamW

import getam.networks.checkpoints
import getam.system.version
from getam.errors import InputError
from getam.networks.checkpoints import (
    DESCRIPTION,
    WEIGHTS,
    load_state,
    load_weights,
    read_description,
    save_model,
    save_state,
)
from getam.settings.section import Section
from getam.system.files import read_json, write_json


class ToySettings(Section):
    """What a model needs to be built again."""

    width: int
    pretrained: bool


def small_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()


def assert_same(one: nn.Module, other: nn.Module) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
        assert tensor.dtype == other.state_dict()[name].dtype


class Payload:
    """What a pickle of it does when read: makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_model_round_trip(tmp_path: Path) -> None:
    model = small_model()
    trained(model, SGD(model.parameters(), lr=0.1))  # batch norm has statistics and a counter
    settings = ToySettings(width=4, pretrained=True)
    save_model(tmp_path, model, {"kind": "toy", "settings": settings.model_dump(), "classes": ["dog", "Katze"]})
    assert sorted(path.name for path in tmp_path.iterdir()) == [DESCRIPTION, WEIGHTS]
    # Built again from its own weights, a model fetches none.
    expected = (ToySettings(width=4, pretrained=False), ("dog", "Katze"))
    assert read_description(tmp_path, kind="toy", settings=ToySettings) == expected
    assert read_json(tmp_path / DESCRIPTION)["version"] == getam.system.version.VERSION
    other = small_model(seed=1)
    load_weights(tmp_path, other)
    assert_same(other, model)


def test_tensors_that_are_not_contiguous_are_saved(tmp_path: Path) -> None:
    model = nn.Linear(3, 4)
    model.weight = nn.Parameter(torch.arange(12.0).view(3, 4).T)
    save_model(tmp_path, model, {"kind": "toy"})
    other = nn.Linear(3, 4)
    load_weights(tmp_path, other)
    assert_same(other, model)


def _without(state: dict[str, Tensor]) -> None:
    del state["1.running_mean"]


def _with_more(state: dict[str, Tensor]) -> None:
    state["3.weight"] = torch.zeros(1)


def _with_other_shape(state: dict[str, Tensor]) -> None:
    state["2.weight"] = torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("change", "key"),
    [(_without, "1.running_mean"), (_with_more, "3.weight"), (_with_other_shape, "2.weight")],
)
def test_weights_that_do_not_fit_are_refused_by_key(tmp_path: Path, change: Any, key: str) -> None:
    save_model(tmp_path, small_model(), {"kind": "toy"})
    state = load_file(tmp_path / WEIGHTS)
    change(state)
    save_file(state, tmp_path / WEIGHTS)
    model, untouched = small_model(seed=1), small_model(seed=1)
    with pytest.raises(InputError) as raised:
        load_weights(tmp_path, model)
    assert repr(key) in str(raised.value)
    assert str(tmp_path / WEIGHTS) in str(raised.value)
    assert_same(model, untouched)


def test_first_of_several_differing_keys_is_named(tmp_path: Path) -> None:
    save_model(tmp_path, nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)), {"kind": "toy"})
    with pytest.raises(InputError, match=r"first at '0\.weight'"):
        load_weights(tmp_path, small_model())


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "text"])
def test_damaged_weights_are_refused(tmp_path: Path, damage: str) -> None:
    save_model(tmp_path, small_model(), {"kind": "toy"})
    path = tmp_path / WEIGHTS
    content = path.read_bytes()
    path.write_bytes(
        {"cut": content[:-1], "header": b"\xff" * 8 + content[8:], "empty": b"", "text": b"not weights"}[damage]
    )
    with pytest.raises(InputError, match=r"model\.safetensors: not a readable safetensors file"):
        load_weights(tmp_path, small_model())


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.safetensors: no such file"):
        load_weights(tmp_path, small_model())
    with pytest.raises(InputError, match=r"model\.json: no such file"):
        read_description(tmp_path, kind="toy", settings=ToySettings)


@pytest.mark.parametrize("content", [{"kind": "deeplab"}, {}, [], "classifier"])
def test_description_of_another_kind_is_refused(tmp_path: Path, content: Any) -> None:
    write_json(tmp_path / DESCRIPTION, content)
    with pytest.raises(InputError, match=r"model\.json: does not describe a classifier"):
        read_description(tmp_path, kind="classifier", settings=ToySettings)


def test_settings_of_another_version_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / DESCRIPTION, {"kind": "toy", "settings": {"wide": 4}})
    with pytest.raises(InputError, match=r"model\.json: its settings are not this version's"):
        read_description(tmp_path, kind="toy", settings=ToySettings)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    pickled = tmp_path / "payload.pt"
    torch.save({"0.weight": Payload(trace)}, pickled)
    (tmp_path / WEIGHTS).write_bytes(pickled.read_bytes())
    (tmp_path / "state.safetensors").write_bytes(pickled.read_bytes())
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_weights(tmp_path, small_model())
    model = small_model()
    assert load_state(tmp_path / "state.safetensors", model, SGD(model.parameters()), dict, key="key") is None
    torch.save(small_model().state_dict(), pickled)
    (tmp_path / WEIGHTS).write_bytes(pickled.read_bytes())
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_weights(tmp_path, small_model())
    assert not trace.exists()


# Of the machine, or in the words of safetensors.
@pytest.mark.parametrize("error", [OSError, SafetensorError])
def test_failed_save_leaves_the_old_model(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model()
    save_model(tmp_path, model, {"kind": "toy"})

    def fail(tensors: dict[str, Tensor], path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise error("disk is full")

    monkeypatch.setattr(getam.networks.checkpoints, "save_file", fail)
    with pytest.raises(InputError, match="disk is full"):
        save_model(tmp_path, small_model(seed=1), {"kind": "other"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [DESCRIPTION, WEIGHTS]
    assert read_json(tmp_path / DESCRIPTION)["kind"] == "toy"
    other = small_model(seed=2)
    load_weights(tmp_path, other)
    assert_same(other, model)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_state_round_trip(tmp_path: Path, kind: str) -> None:
    def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
        if kind == "adamw":
            return AdamW(model.parameters(), lr=0.1)
        return SGD(model.parameters(), lr=0.1, momentum=0.9)

    model = small_model()
    optimizer = optimizer_of(model)
    trained(model, optimizer)
    path = tmp_path / "state.safetensors"
    save_state(path, model, optimizer, key="key", progress={"epoch": 3, "history": [{"loss": 0.1}]})
    expected = torch.rand(4)
    trained(model, optimizer)

    other = small_model(seed=1)
    other_optimizer = optimizer_of(other)
    assert load_state(path, other, other_optimizer, dict, key="key") == {"epoch": 3, "history": [{"loss": 0.1}]}
    assert torch.equal(torch.rand(4), expected), "the random state was not restored"
    trained(other, other_optimizer)
    assert_same(other, model)


def test_state_of_another_key_touches_nothing(tmp_path: Path) -> None:
    model = small_model()
    optimizer = AdamW(model.parameters())
    trained(model, optimizer)
    path = tmp_path / "state.safetensors"
    save_state(path, model, optimizer, key="key", progress={"epoch": 1})
    other, untouched = small_model(seed=1), small_model(seed=1)
    random_state = torch.get_rng_state()
    assert load_state(path, other, AdamW(other.parameters()), dict, key="another") is None
    assert load_state(tmp_path / "none.safetensors", other, AdamW(other.parameters()), dict, key="key") is None
    assert_same(other, untouched)
    assert torch.equal(torch.get_rng_state(), random_state)
