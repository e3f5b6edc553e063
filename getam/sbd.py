"""SBD, the Semantic Boundaries Dataset (Hariharan et al. 2011): masks of further VOC images, as MATLAB files.

<root>/cls/<id>.mat     one struct GTcls a file, its field Segmentation the mask (H, W), 0..20
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import scipy.io

from getam.errors import InputError

FOLDER, SUFFIX = "cls", ".mat"

MAX_BYTES = 64_000_000
"""Largest .mat file, packed or unpacked; SBD's have a few hundred kilobytes unpacked."""

HEADER = 128
"""Bytes before the first element of a MATLAB 5 file; the last two tell the order of bytes."""

COMPRESSED = 15
"""Type of an element that zlib has packed."""


def is_sbd(folder: Path) -> bool:
    return (folder / FOLDER).is_dir()


def sbd_masks(folder: Path) -> dict[str, Path]:
    """{id: .mat file} of SBD's folder `dataset`, sorted."""
    files = sorted((folder / FOLDER).glob(f"*{SUFFIX}"))
    if not files:
        raise InputError(f"{folder / FOLDER}: no {SUFFIX} files; name the folder `dataset` of SBD's archive")
    return {path.stem: path for path in files}


def read_sbd_mask(path: Path) -> np.ndarray:
    """The mask of a cls/<id>.mat: (H, W), uint8 label values.

    Raises:
        InputError: the file is missing, is no MATLAB 5 file of SBD's layout, or unpacks to more than MAX_BYTES.
    """
    refusal, cure = f"{path}: is no class mask of SBD", "replace the file or take its id off the list"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {cure}") from None
    try:
        _check_size(content)
        variables = scipy.io.loadmat(io.BytesIO(content), variable_names=["GTcls"])
        values = np.asarray(variables["GTcls"][0, 0]["Segmentation"])
    # Damaged bytes lead scipy's reader to exceptions of every kind.
    except Exception as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{refusal} ({type(error).__name__}: {reason}); {cure}") from None
    if values.ndim != 2 or not values.size or values.dtype.kind not in "ui":
        raise InputError(f"{refusal} (GTcls.Segmentation is {values.dtype} {values.shape}, not whole numbers); {cure}")
    if values.min() < 0 or values.max() > 255:
        raise InputError(f"{refusal} (values from {values.min()} to {values.max()}); {cure}")
    return values.astype(np.uint8)


def _check_size(content: bytes) -> None:
    """Unpacks no more than MAX_BYTES to see that the file holds no more."""
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    order = {b"IM": "<", b"MI": ">"}[content[HEADER - 2 : HEADER]]
    position, left = HEADER, MAX_BYTES
    while position < len(content):
        kind, length = struct.unpack_from(f"{order}II", content, position)
        position += 8
        if kind == COMPRESSED:
            left -= len(zlib.decompressobj().decompress(content[position : position + length], left + 1))
        if left < 0:
            raise ValueError(f"unpacks to more than {MAX_BYTES} bytes")
        position += length
