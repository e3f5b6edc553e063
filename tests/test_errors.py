"""How messages word what other libraries say."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import torch

from getam.errors import InputError, reason_of
from getam.networks.pretrained import read_state

REASONS = {
    "one sentence": ("no such key.", "no such key"),
    "a code for a terminal": ("\x1b[1mfailed\x1b[0m to \x1b[31;1mload", "failed to load"),
    "several lines": ("size mismatch\n   for a: 1\n", "size mismatch for a: 1"),
    "whole sentences": (f"It failed. {'because ' * 30}of that. More.", "It failed"),
    "a sentence without end": (f"keys {'head.bias, ' * 99}", f"keys {'head.bias, ' * 26}".strip() + " ..."),
    "nothing": ("", "ValueError"),
}


@pytest.mark.parametrize("name", REASONS)
def test_a_reason_is_whole_and_plain(name: str) -> None:
    said, expected = REASONS[name]
    assert reason_of(ValueError(said)) == expected


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_torchs_message_is_not_cut_and_no_terminals_code_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(pickle.dumps(print))
    with pytest.raises(InputError) as caught:
        read_state(tmp_path / "a.pth")
    with pytest.raises(pickle.UnpicklingError) as torchs:
        torch.load(tmp_path / "a.pth", weights_only=True)
    found = re.fullmatch(r"(.*): is no file of weights \((.*)\); name a .* of weights", str(caught.value))
    assert found is not None
    assert f"{found[2]}." in " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(torchs.value)).split())
    # Torch's advice to read the file without its restrictions is no cure.
    assert "weights_only" not in found[2]
