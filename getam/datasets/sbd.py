"""Reads SBD, the Semantic Boundaries Dataset (Hariharan et al. 2011): class masks of VOC images as MATLAB files.

<root>/cls/<id>.mat     a struct GTcls, whose field Segmentation is the mask (H, W), 0..20
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from getam.datasets.index import files_by_id
from getam.errors import InputError
from getam.settings.foreign import ARRAY_AXES, MAT_BYTES, MAT_ELEMENTS, read_bytes, refusing

FOLDER, SUFFIX = "cls", ".mat"

HEADER = 128
"""Length of a MATLAB 5 file's header in bytes; its last two bytes give the byte order."""

COMPRESSED = 15
"""Data type of an element that is compressed by zlib."""

NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Data types of numeric elements -> numpy's types."""

STRUCT, NUMERIC = 2, range(6, 16)
"""Classes of arrays."""


def is_sbd(folder: Path) -> bool:
    """Whether a folder is SBD's folder `dataset`."""
    return (folder / FOLDER).is_dir()


def sbd_masks(folder: Path) -> dict[str, Path]:
    """The .mat files of SBD's folder `dataset` by id, sorted; InputError if there are none."""
    files = files_by_id(folder / FOLDER, frozenset({SUFFIX}))
    if not files:
        raise InputError(f"{folder / FOLDER}: no {SUFFIX} files; name the folder `dataset` of SBD's archive")
    return files


def read_sbd_mask(path: Path) -> np.ndarray:
    """Reads the mask of a cls/<id>.mat: (H, W), uint8 label values.

    Raises:
        InputError: the file is missing, is no MATLAB 5 file in SBD's layout, or decompresses to more than MAT_BYTES.
    """
    cure = "replace the file or take its id off the list"
    try:
        content = read_bytes(path, MAT_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {cure}") from None
    except ValueError as error:
        raise InputError(f"{path}: is no class mask of SBD ({error}); {cure}") from None
    with refusing(path, "is no class mask of SBD", cure=cure):
        return _segmentation(memoryview(content))


Order = Literal["<", ">"]


class _Matrix(NamedTuple):
    """The header of a MATLAB array, and an iterator over the elements of its content."""

    kind: int
    shape: tuple[int, ...]
    name: bytes
    parts: Iterator[tuple[int, memoryview]]


def _segmentation(content: memoryview) -> np.ndarray:
    """Reads GTcls.Segmentation from the bytes of a MATLAB 5 file.

    scipy is not used because damaged bytes make it crash the whole process.
    """
    mark = bytes(content[HEADER - 2 : HEADER])
    if mark not in (b"IM", b"MI"):
        raise ValueError("not a MATLAB 5 file")
    order: Order = "<" if mark == b"IM" else ">"
    left = MAT_BYTES
    for kind, packed in _elements(content[HEADER:], order):
        if kind == COMPRESSED:
            unpacked = zlib.decompressobj().decompress(packed, left + 1)
            left -= len(unpacked)
            if left < 0:
                raise ValueError(f"unpacks to more than {MAT_BYTES} bytes")
            _, packed = _next(_elements(memoryview(unpacked), order))
        variable = _matrix(packed, order)
        if variable.name == b"GTcls":
            return _labels(_matrix(_field(variable, b"Segmentation", order), order), order)
    raise ValueError("no variable GTcls")


def _elements(content: memoryview, order: Order) -> Iterator[tuple[int, memoryview]]:
    """Yields the data type and the bytes of each element."""
    position = 0
    for _ in range(MAT_ELEMENTS):
        if position >= len(content):
            return
        kind, length = struct.unpack_from(f"{order}II", content, position)
        start = position + 8
        if kind >> 16:
            # A small element: length and type share a word, and the bytes follow in the next word.
            kind, length, start = kind & 0xFFFF, kind >> 16, position + 4
        if start + length > len(content) or (start == position + 4 and length > 4):
            raise ValueError("it ends early")
        yield kind, content[start : start + length]
        position = start + length
        if kind != COMPRESSED:
            position += -position % 8
    raise ValueError(f"has more than {MAT_ELEMENTS} elements beside each other")


def _next(parts: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
    part = next(parts, None)
    if part is None:
        raise ValueError("it ends early")
    return part


def _matrix(content: memoryview, order: Order) -> _Matrix:
    parts = _elements(content, order)
    (_, flags), (_, shape), (_, name) = _next(parts), _next(parts), _next(parts)
    (kind,) = struct.unpack_from(f"{order}I", flags)
    if len(shape) > 4 * ARRAY_AXES:
        raise ValueError(f"an array has {len(shape) // 4} dimensions")
    return _Matrix(kind & 0xFF, struct.unpack(f"{order}{len(shape) // 4}i", shape), bytes(name), parts)


def _field(variable: _Matrix, wanted: bytes, order: Order) -> memoryview:
    if variable.kind != STRUCT or any(length != 1 for length in variable.shape):
        raise ValueError("GTcls is not one struct")
    (_, width), (_, names) = _next(variable.parts), _next(variable.parts)
    (length,) = struct.unpack(f"{order}i", width)
    if length < 1:
        raise ValueError("GTcls has no field names")
    for start in range(0, len(names), length):
        _, content = _next(variable.parts)
        if bytes(names[start : start + length]).split(b"\0")[0] == wanted:
            return content
    raise ValueError(f"GTcls has no field {wanted.decode()}")


def _labels(values: _Matrix, order: Order) -> np.ndarray:
    kind, content = _next(values.parts)
    if values.kind not in NUMERIC or len(values.shape) != 2 or kind not in NUMBERS:
        raise ValueError("GTcls.Segmentation holds no numbers of two dimensions")
    flat = np.frombuffer(content, np.dtype(NUMBERS[kind]).newbyteorder(order))
    if not flat.size or min(values.shape) < 1 or flat.size != values.shape[0] * values.shape[1]:
        raise ValueError(f"GTcls.Segmentation is not of its own size {values.shape}")
    # Zeroes are few bytes of a compressed file: a mask of another type than bytes is checked without large copies.
    if flat.dtype != np.uint8 and not all(
        ((part >= 0) & (part <= 255) & (part == np.floor(part))).all() for part in np.array_split(flat, 64)
    ):
        raise ValueError("GTcls.Segmentation holds others than whole numbers of 0 to 255")
    return flat.astype(np.uint8).reshape(values.shape, order="F")
