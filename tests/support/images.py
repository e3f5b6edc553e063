"""Writes image files of unusual kinds for tests."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from PIL import Image


def save_gray(path: Path, bits: int) -> None:
    """Writes a gray PNG of less than 8 bits with one row, 0 and 1; Pillow writes such PNGs only with a palette."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)
    row = zlib.compress(bytes([0, 1 << (8 - 2 * bits)]))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b""))


def turn(path: Path, number: int) -> None:
    """Sets the EXIF orientation of a photograph to `number`."""
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = number
        image.save(path, exif=exif, quality=100)
