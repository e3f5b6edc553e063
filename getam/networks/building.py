"""Bounds what is allocated for a network that a model.json describes, since anybody may have written that file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from getam.errors import InputError, reason_of
from getam.networks.checkpoints import DESCRIPTION, WEIGHTS

MOST_TIMES = 4
"""Most bytes, and tensors, that building a network allocates for each one in its weights' file."""

SPARE, SPARE_TENSORS = 2**29, 2**12
"""Bytes and tensors beyond that: the stages of a ResNet that are built and left out are in no file."""

UNFIT = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError, OSError)
"""Exceptions that libraries raise for settings of which no network can be built."""


@contextmanager
def built_from(folder: Path) -> Iterator[None]:
    """Within this context a network is built by the model.json of a folder.

    Raises:
        InputError: the folder has no weights, the network would be far larger than they are, or cannot be built.
    """
    weights, path = folder / WEIGHTS, folder / DESCRIPTION
    if not weights.is_file():
        raise InputError(f"{weights}: no such file; run the training that writes it")
    try:
        with _Budget(MOST_TIMES * weights.stat().st_size + SPARE, MOST_TIMES * _tensors_in(weights) + SPARE_TENSORS):
            yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except _OverBudget:
        raise InputError(
            f"{path}: describes a network far larger than {WEIGHTS} beside it; copy both files of one training"
        ) from None
    except UNFIT as error:
        raise InputError(f"{path}: no network can be built of it ({reason_of(error)}); train the model again") from None


def _tensors_in(weights: Path) -> int:
    """The number of tensors in a file; 0 if it is damaged, which is said when it is loaded."""
    try:
        with safe_open(weights, framework="pt") as file:
            return len(file.keys())
    except (SafetensorError, OSError):
        return 0


class _OverBudget(Exception):
    """A network would take more memory than it may."""


class _Budget(TorchDispatchMode):
    """Raises _OverBudget before an operation of torch that would make more bytes, or more tensors, than are left."""

    def __init__(self, size: int, tensors: int) -> None:
        super().__init__()
        self.size, self.tensors = size, tensors

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        size = _new_bytes(func, args, kwargs or {})
        self.size -= size
        self.tensors -= size > 0
        if min(self.size, self.tensors) < 0:
            raise _OverBudget
        return func(*args, **(kwargs or {}))


def _new_bytes(func: Any, args: Any, kwargs: dict[str, Any]) -> int:
    """The bytes of the new tensors that an operation makes, reckoned on tensors without memory."""
    schema = func._schema
    if any(each.alias_info is not None for each in schema.returns):
        return 0
    args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
    if any(each.name == "device" for each in schema.arguments):
        kwargs = {**kwargs, "device": torch.device("meta")}
    try:
        results = func(*args, **kwargs)
    except (RuntimeError, NotImplementedError, TypeError):
        # The size depends on values, such as the number of those that a mask selects: never more than were given.
        return 0
    return sum(each.numel() * each.element_size() for each in tree_leaves(results) if isinstance(each, Tensor))
