"""The folder of reference arrays and real photographs, and helpers for reading them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from support.workplace import PROJECT
from torch import Tensor

SHARED = Path(os.environ.get("GETAM_SHARED", PROJECT.parent / "shared"))


def part(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The part of a state dict that belongs to one module, with the prefix `name` removed from its keys."""
    return {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}


Shapes = Callable[[str], dict[str, Sequence[int]]]


Procedural = Callable[[Mapping[str, Sequence[int]]], dict[str, Tensor]]
