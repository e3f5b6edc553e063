"""Weights of somebody who means harm: small files that would grow, tensors that are no plain weights, odd states."""

from __future__ import annotations

import codecs
import io
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.bounded import said
from torch import Tensor, nn
from torch.optim import AdamW

from getam.errors import InputError
from getam.networks.checkpoints import _checksum, load_state, read_tensors, save_state
from getam.networks.pretrained import read_state
from getam.training.loop import Position

HEADER = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


def deflated(path: Path) -> None:
    """Zeros that torch.save stores, compressed by somebody else."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(60_000_000)}, buffer)
    with zipfile.ZipFile(buffer) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))


def named(path: Path, tensors: dict[Any, Tensor]) -> None:
    torch.save(tensors, path)


def two_directories(path: Path) -> None:
    """Compressed weights, and a second directory, which Python reads and torch doesn't, where they are small."""
    deflated(path)
    content = path.read_bytes()
    end = content.rindex(b"PK\5\6")
    length, start = struct.unpack_from("<II", content, end + 12)
    second, position = bytearray(content[start : start + length]), 0
    while position < length:
        struct.pack_into("<I", second, position + 24, 10)
        position += 46 + sum(struct.unpack_from("<HHH", second, position + 28))
    path.write_bytes(content[:end] + second + content[end:])


class Call:
    """Pickles as a call that torch's restricted reader allows."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


GROWING: dict[str, tuple[Callable[[Path], object], str]] = {
    "an expanded tensor": (
        lambda path: named(path, {"a": torch.zeros(1).expand(300_000_000)}),
        "beyond what is stored",
    ),
    "compressed": (deflated, "bytes, which torch.save doesn't compress"),
    "one storage for all": (
        lambda path: named(path, dict.fromkeys((f"t{n}" for n in range(1000)), torch.zeros(1_000_000))),
        "its tensors take 4000000000 bytes",
    ),
    "a buffer of gigabytes": (
        lambda path: torch.save({"a": Call(bytearray, 2 * 10**9)}, path),
        "holds Python's bytearray, which is no weight",
    ),
    "a buffer in an old file": (
        lambda path: torch.save({"a": Call(bytearray, 9)}, path, _use_new_zipfile_serialization=False),
        "holds Python's bytearray, which is no weight",
    ),
    "a text that is encoded": (
        lambda path: torch.save({"a": Call(codecs.encode, b"a" * 9, "hex")}, path),
        "holds Python's encode, which is no weight",
    ),
    "two directories": (two_directories, "its directory is not where it says"),
    "sparse": (lambda path: named(path, {"a": torch.zeros(9, 9).to_sparse()}), "a is sparse_coo"),
    "compressed sparse": (lambda path: named(path, {"a": torch.zeros(9, 9).to_sparse_csr()}), "is no file of weights"),
    "without data": (lambda path: named(path, {"a": torch.zeros(9, device="meta")}), "a has no data (device meta)"),
    "complex": (lambda path: named(path, {"a": torch.zeros(9, dtype=torch.complex64)}), "a is complex64"),
    "not a number": (
        lambda path: named(path, {"a": torch.tensor([1.0, float("nan")])}),
        "a holds a number that is not",
    ),
    "infinite": (lambda path: named(path, {"a": torch.tensor([float("-inf")])}), "a holds a number that is not finite"),
    "no name": (lambda path: named(path, {3: torch.zeros(1)}), "the name of a tensor is 3"),
    "a name that moves the cursor": (lambda path: named(path, {"\x1b[2J": torch.zeros(1)}), r"is '\x1b[2J'"),
}


LARGE = ("an expanded tensor", "compressed", "one storage for all", "a buffer of gigabytes", "two directories")


@pytest.mark.parametrize("name", GROWING)
def test_weights_that_grow_or_would_change_are_refused(tmp_path: Path, name: str) -> None:
    make, message = GROWING[name]
    path = tmp_path / "a.pth"
    make(path)
    assert path.stat().st_size < 5_000_000
    if name in LARGE:
        answer = said("getam.networks.pretrained", f"read_state(Path({str(path)!r})).keys()", memory=700)
    else:
        with pytest.raises(InputError) as raised:
            read_state(path)
        answer = str(raised.value)
    assert answer.startswith(f"{path}: is no file of weights (")
    assert message in answer
    assert answer.endswith("name a .safetensors or .pth file of weights")
    assert len(answer.splitlines()) == 1


@pytest.mark.parametrize("legacy", [False, True])
def test_tied_weights_and_files_of_old_are_read(tmp_path: Path, legacy: bool) -> None:
    tied = torch.rand(700_000)
    state = {"a": tied, "b": tied, "half": torch.rand(3).half(), "count": torch.tensor(3), "mask": tied > 0.5}
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    read = read_state(tmp_path / "a.pth")
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())


PICKLES = {
    "empty stack": b"\x80\x02.",
    "pop of nothing": b"\x80\x020.",
    "unknown memo": b"\x80\x02h\x05.",
    "cut number": b"\x80\x02J\x01",
    "append to nothing": b"\x80\x02]K\x01\x85K\x01R.",
    "items of a number": b"\x80\x02K\x01(K\x01K\x02u.",
    "a giant text": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "a tensor of text": pickle.dumps(Call(torch._utils._rebuild_tensor_v2, "a", "b", (1,), (1,), False, {}), 2),
    "a sparse one of gigabytes": pickle.dumps(
        Call(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (10**15,), (1,), False), 2
    ),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_malformed_pickle_within_is_one_message(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.pth"
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, buffer)
    with zipfile.ZipFile(buffer) as whole, zipfile.ZipFile(path, "w") as changed:
        for entry in whole.namelist():
            changed.writestr(entry, PICKLES[name] if entry.endswith("data.pkl") else whole.read(entry))
    for content in (path.read_bytes(), PICKLES[name]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.pth: is no file of weights \(.+\); name a \.safetensors"):
            read_state(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": {**HEADER["a"], "shape": [10**12]}}, "not a readable"),
        ({"a": {**HEADER["a"], "dtype": "C64", "data_offsets": [0, 8]}}, "not a readable"),
        ({"\x1b]0;title\x07": HEADER["a"]}, r"the name of a tensor is '\x1b]0;title\x07'"),
        (2**60, "its header has 1152921504606846976 bytes"),
        (b"[" * 100_000, "not a readable"),
    ],
)
def test_a_header_of_safetensors_is_compared_with_the_file(tmp_path: Path, header: Any, message: str) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = header if isinstance(header, int) else len(text)
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + text + bytes(4))
    with pytest.raises(InputError) as raised:
        read_tensors(path)
    assert message in str(raised.value)


# States


def model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def progress(**changes: Any) -> str:
    return json.dumps({"epoch": 1, "batch": 0, "sums": {}, "history": [{"loss": 1.0}], "best": 0.5} | changes)


STATES: dict[str, Callable[[dict[str, Tensor], dict[str, str]], object]] = {
    "a weight less": lambda tensors, _: tensors.pop("model.bias"),
    "a weight more": lambda tensors, _: tensors.update({"model.more": torch.zeros(1)}),
    "another shape": lambda tensors, _: tensors.update({"model.bias": torch.zeros(3)}),
    "no random state": lambda tensors, _: tensors.pop("random"),
    "a short random state": lambda tensors, _: tensors.update({"random": torch.zeros(9, dtype=torch.uint8)}),
    "a random state of fractions": lambda tensors, _: tensors.update({"random": tensors["random"].float()}),
    "no number": lambda tensors, _: tensors.update({"optimizer.x.step": torch.tensor(1.0)}),
    "no entry": lambda tensors, _: tensors.update({"optimizer.0": torch.tensor(1.0)}),
    "a parameter too many": lambda tensors, _: tensors.update({"optimizer.9.exp_avg": torch.zeros(1)}),
    "a parameter before the first": lambda tensors, _: tensors.update({"optimizer.-1.step": torch.tensor(1.0)}),
    "an entry less": lambda tensors, _: tensors.pop("optimizer.0.exp_avg_sq"),
    "an entry of another shape": lambda tensors, _: tensors.update({"optimizer.0.exp_avg": torch.zeros(5)}),
    "steps of whole numbers": lambda tensors, _: tensors.update({"optimizer.0.step": torch.tensor(1)}),
    "steps before the first": lambda tensors, _: tensors.update({"optimizer.0.step": torch.tensor(-1.0)}),
    "a square below 0": lambda tensors, _: tensors["optimizer.0.exp_avg_sq"].neg_().sub_(1),
    "a weight that is no number": lambda tensors, _: tensors["model.bias"].fill_(float("nan")),
    "a weight with an imaginary part": lambda tensors, _: tensors.update({"model.bias": torch.zeros(2) * 1j}),
    "progress is no object": lambda _, metadata: metadata.update(progress="[]"),
    "progress is no JSON": lambda _, metadata: metadata.update(progress="{"),
    "progress is deep": lambda _, metadata: metadata.update(progress="[" * 100_000),
    "no progress": lambda _, metadata: metadata.pop("progress"),
    "an epoch that is text": lambda _, metadata: metadata.update(progress=progress(epoch="first")),
    "a sum that is text": lambda _, metadata: metadata.update(progress=progress(sums={"loss": "x"})),
    "a history that is a number": lambda _, metadata: metadata.update(progress=progress(history=3)),
    "an epoch below 0": lambda _, metadata: metadata.update(progress=progress(epoch=-1, history=[])),
    "an epoch beyond the last": lambda _, metadata: metadata.update(progress=progress(epoch=4, history=[{}] * 4)),
    "a batch beyond the last": lambda _, metadata: metadata.update(progress=progress(batch=6)),
    "a batch behind the last epoch": lambda _, metadata: metadata.update(
        progress=progress(epoch=3, history=[{}] * 3, batch=1)
    ),
    "a history of another length": lambda _, metadata: metadata.update(progress=progress(history=[])),
    "a history that is no JSON": lambda _, metadata: metadata.update(progress=progress(history=[{"loss": math.nan}])),
    "an endless sum": lambda _, metadata: metadata.update(progress=progress(sums={"loss": math.inf})),
}


@pytest.mark.parametrize("name", STATES)
def test_a_tampered_state_touches_nothing(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "state.safetensors"
    trained = model()
    optimizer = AdamW(trained.parameters())
    trained(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    save_state(path, trained, optimizer, key="key", progress=json.loads(progress()))
    tensors, metadata = load_file(path), {"key": "key", "code": "", "progress": progress()}
    STATES[name](tensors, metadata)
    # Who tampers with a state gives it a fitting checksum.
    metadata["checksum"] = _checksum(tensors, metadata.get("progress", ""))
    save_file(tensors, path, metadata)
    again, untouched = model(), model()
    fresh = AdamW(again.parameters())
    random = torch.get_rng_state()
    assert load_state(path, again, fresh, Position, key="key", fits=lambda found: found.is_within(3, 5)) is None
    assert "training starts anew" in caplog.text
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), untouched.parameters(), strict=True))
    assert not fresh.state_dict()["state"]


def test_an_untouched_state_is_restored(tmp_path: Path) -> None:
    trained = model()
    optimizer = AdamW(trained.parameters())
    save_state(tmp_path / "state.safetensors", trained, optimizer, key="key", progress=json.loads(progress()))
    path = tmp_path / "state.safetensors"
    restored = load_state(path, trained, optimizer, Position, key="key", fits=lambda found: found.is_within(3, 5))
    assert restored == Position(epoch=1, history=[{"loss": 1.0}], best=0.5)
    # The state before a validation, and the one after the last epoch.
    assert Position(epoch=2, batch=5, history=[{}] * 2).is_within(3, 5)
    assert Position(epoch=3, history=[{}] * 3).is_within(3, 5)
