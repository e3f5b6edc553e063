"""Reads weights that somebody else wrote: .safetensors, and .pth by torch's restricted reader, which runs no code.

Sizes are compared before anything is allocated, so that a small file cannot grow. Tensors that a copy into a network
would change without a word are refused: expanded, sparse, complex or quantized ones, those without data and those that
hold a number which is not finite.
"""

from __future__ import annotations

import os
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from getam.settings.foreign import GROWTH, HEADER_BYTES, open_regular

DIRECTORY_END = struct.Struct("<4s8xIIH")
"""The end of a .zip: its mark, size and place of the directory, length of a comment."""

LOCATOR, LARGE_END = struct.Struct("<4s4xQ4x"), struct.Struct("<4s36xQQ")
"""What torch.save writes before it: the place of a second end with larger numbers, and that end."""

GROWING = ("builtins bytearray", "__builtin__ bytearray", "_codecs encode")
"""Functions that torch's restricted reader calls with numbers of the file, and that make gigabytes of a few bytes. Old
pickles make Python's bytes by them, which are no weights."""

PICKLES = 4
"""Pickles of a file of an old torch up to its tensors: a number, a version, facts of the machine, and the weights."""

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
                _check_directory(file, size, archive.start_dir)
                unpacked = sum(each.file_size for each in archive.infolist())
                if unpacked > size:
                    raise ValueError(f"its parts unpack to {unpacked} bytes, which torch.save doesn't compress")
                for each in archive.infolist():
                    if each.filename.endswith("data.pkl"):
                        _check_functions(archive.read(each))
        else:
            file.seek(0)
            for _ in range(PICKLES):
                # What has fewer is no file of torch's, which torch itself says best.
                if file.tell() < size:
                    _check_functions(file)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def _check_functions(pickled: bytes | IO[bytes]) -> None:
    """Refuses a pickle that names one of GROWING; of a file, the one that begins where it stands, up to its end.

    Raises:
        ValueError: it does, or is no pickle.
    """
    for _, name, _ in pickletools.genops(pickled):
        if name in GROWING:
            raise ValueError(f"holds Python's {str(name).partition(' ')[2]}, which is no weight")


def _check_directory(file: BinaryIO, size: int, found: int) -> None:
    """Refuses a .zip whose directory is not in the one place where every reader looks for it.

    torch has another reader than Python, and a file with two directories would show each of them another one.

    Args:
        found: where Python's reader has found it.

    Raises:
        ValueError: torch may find another one.
        struct.error: the file is too short to have one.
    """

    def stated(form: struct.Struct, position: int) -> tuple[Any, ...]:
        file.seek(max(0, position))
        return form.unpack(file.read(form.size))

    position = size - DIRECTORY_END.size
    mark, length, place, comment = stated(DIRECTORY_END, position)
    is_whole = mark == b"PK\5\6" and not comment
    large, end = stated(LOCATOR, position - LOCATOR.size)
    if large == b"PK\6\7":
        position -= LOCATOR.size + LARGE_END.size
        mark, length, place = stated(LARGE_END, position)
        is_whole &= mark == b"PK\6\6" and end == position
    if not is_whole or place != found or place + length != position:
        raise ValueError("its directory is not where it says")


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
