"""Reads weights that somebody else wrote: .safetensors, and .pth by torch's restricted reader, which runs no code.

Sizes are compared before anything is allocated, so that a small file cannot grow. Tensors that a copy into a network
would change without a word are refused: expanded, sparse, complex or quantized ones, those without data and those that
hold a number which is not finite.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from getam.settings.foreign import GROWTH, HEADER_BYTES, open_regular

ROOM = 2**20
"""Bytes that the directory of a .pth file and its small tensors may take beside what GROWTH allows."""


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a .safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        Exception: it is damaged; safetensors and torch raise various ones.
    """
    with open_regular(path) as file:
        if (length := int.from_bytes(file.read(8), "little")) > HEADER_BYTES:
            raise ValueError(f"its header has {length} bytes")
    with safe_open(path, framework="pt") as content:
        return {name: content.get_tensor(name) for name in content.keys()}, content.metadata() or {}  # noqa: SIM118


def read_pth(path: Path) -> Any:
    """What a .pth file holds: tensors, and numbers, texts and collections of them.

    Raises:
        FileNotFoundError: there is no such file.
        Exception: it is damaged, or holds more than it may; torch raises various ones.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(4) == b"PK\x03\x04":
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(each.file_size for each in archive.infolist())
            if unpacked > size:
                raise ValueError(f"its parts unpack to {unpacked} bytes, which torch.save doesn't compress")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuses tensors of a file that are no plain weights.

    Raises:
        ValueError: a name is no text to print; a tensor is of another kind than the module says, or of a size beyond
            its storage; all together have more than GROWTH times the size of the file; a number is not finite.
    """
    total = 0
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not name.isprintable():
            raise ValueError(f"the name of a tensor is {name!a:.50}")
        problem = _problem(tensor)
        if problem is not None:
            raise ValueError(f"{name} {problem}")
        total += tensor.numel() * tensor.element_size()
    if total > GROWTH * path.stat().st_size + ROOM:
        raise ValueError(f"its tensors take {total} bytes, the file {path.stat().st_size}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{name} holds a number that is not finite")


def _problem(tensor: Tensor) -> str | None:
    """What is wrong with a tensor beside its numbers."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        return f"is {str(tensor.layout if tensor.layout != torch.strided else tensor.dtype).removeprefix('torch.')}"
    if tensor.device.type != "cpu":
        return f"has no data (device {tensor.device.type})"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"is of the size {tuple(tensor.shape)}, beyond what is stored of it"
    return None
