"""Bounds what an image file costs before its pixels: segments, chunks and directories that decoders read one by one.

Pillow reads them in Python when it opens a file, so their number is bounded before that.
"""

from __future__ import annotations

import os
import re
import struct
from typing import BinaryIO

from getam.settings.foreign import MAX_CHUNKS, MAX_FILLING, MAX_MARKERS, MAX_SCANS, MAX_VALUES

NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""What ends the pixels of a scan of a JPEG: a marker other than those within them."""

SEQUENTIAL = (0xC0, 0xC1)
ALONE, SCAN, END = 0x01, 0xDA, 0xD9
FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
"""Markers of a JPEG. The frame's says how its pixels are coded."""

TIFFS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
"""First bytes of a TIFF, or of a BigTIFF (+) -> order of its bytes."""

PLAIN = (1, 2, 7)
"""Types of a TIFF's fields that stay bytes, such as a color profile; those of numbers become Python's."""


def check_headers(file: BinaryIO) -> None:
    """Refuses an image of more headers than any encoder writes; the file's position stays at its start.

    Raises:
        ValueError: a JPEG has more than MAX_SCANS scans or MAX_MARKERS segments, a PNG more than MAX_CHUNKS chunks, a
            TIFF a field of more than MAX_VALUES numbers.
        struct.error: the directory of a TIFF ends early.
    """
    start = file.read(8)
    if start[:2] == b"\xff\xd8":
        _check_jpeg(file)
    elif start == b"\x89PNG\r\n\x1a\n":
        _check_png(file)
    elif start[:4] in TIFFS:
        _check_tiff(file, start)
    file.seek(0)


def _check_png(file: BinaryIO) -> None:
    for _ in range(MAX_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            return
        file.seek(int.from_bytes(header[:4]) + 4, os.SEEK_CUR)
    raise ValueError(f"more than {MAX_CHUNKS} chunks")


def _check_tiff(file: BinaryIO, start: bytes) -> None:
    order, is_big = TIFFS[start[:4]], start[:4].strip(b"IM\0") == b"+"
    if is_big:
        file.seek(struct.unpack(f"{order}Q", file.read(8))[0])
    else:
        file.seek(struct.unpack(f"{order}I", start[4:8])[0])
    (fields,) = struct.unpack(f"{order}{'Q' if is_big else 'H'}", file.read(8 if is_big else 2))
    form = struct.Struct(f"{order}{'HHQ8x' if is_big else 'HHI4x'}")
    if fields > 2**16:
        raise ValueError(f"a directory of {fields} fields")
    for _ in range(fields):
        name, kind, count = form.unpack(file.read(form.size))
        if kind not in PLAIN and count > MAX_VALUES:
            raise ValueError(f"field {name} of {count} values")


def _check_jpeg(file: BinaryIO) -> None:
    file.seek(2)
    scans = components = filling = 0
    sequential = False
    for _ in range(MAX_MARKERS):
        before = file.tell()
        marker = _next_marker(file)
        if not scans:
            filling += file.tell() - before - 2
            if filling > MAX_FILLING:
                raise ValueError(f"more than {MAX_FILLING} bytes between its segments")
        if marker in (END, None):
            return
        if marker == ALONE:
            continue
        length = int.from_bytes(file.read(2), "big")
        content = file.read(max(0, length - 2))
        if marker in FRAMES:
            sequential, components = marker in SEQUENTIAL, content[5] if len(content) > 5 else 0
        if marker == SCAN:
            scans += 1
            if sequential and content[:1] == bytes([components]):
                # A single scan has all pixels; the decoder reads no further one.
                return
            if scans > MAX_SCANS:
                raise ValueError(f"more than {MAX_SCANS} scans")
    raise ValueError(f"more than {MAX_MARKERS} segments")


def _next_marker(file: BinaryIO) -> int | None:
    """The number of the next marker of a JPEG, behind which the file stands then; None if there is none."""
    while chunk := file.read(2**16):
        if found := NEXT_MARKER.search(chunk):
            file.seek(found.end() - len(chunk), os.SEEK_CUR)
            return found.group()[1]
        if chunk.endswith(b"\xff") and len(chunk) > 1:
            file.seek(-1, os.SEEK_CUR)
    return None
