"""Reads and writes images, label PNGs and saliency maps. Photographs are turned upright as their EXIF data asks."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from getam.errors import InputError
from getam.system.files import atomic_file

UNKNOWN = 255
"""Label value of a pixel whose class is not known (`void` in VOC's ground truth)."""

MAX_PIXELS = 64_000_000
"""Largest image that is decoded; a bigger one is refused as a decompression bomb."""

# Pillow's own limit is switched off: it would print a warning in addition to the message about MAX_PIXELS.
Image.MAX_IMAGE_PIXELS = None

ORIENTATION = 0x0112
"""EXIF tag of an image's orientation."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that turns the image upright; orientations from 5 on swap height and width."""

DAMAGED = (OSError, SyntaxError, ValueError, TypeError, struct.error, zlib.error)
"""Exceptions that Pillow raises for a damaged file."""

NOTE = "getam"
"""Keyword of a text in a label PNG."""

GRAY = 0
"""Color type of a gray image in a PNG header."""

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
"""The formats that are decoded, regardless of file names; some other decoders of Pillow start external programs."""


def read_image(path: Path) -> np.ndarray:
    """Decodes an image of FORMATS to RGB and turns it upright: (H, W, 3), uint8. Gray, palette and CMYK are converted.

    Raises:
        InputError: the file is missing, damaged, too large, or has more than 8 bits a channel.
    """
    with _open_image(path) as image:
        return upright_rgb(image)


def upright_rgb(image: Image.Image) -> np.ndarray:
    """The pixels of an image of 8 bits a channel, turned upright as EXIF asks: (H, W, 3), uint8 RGB."""
    turn = TURNS.get(_orientation(image))
    return np.asarray((image if turn is None else image.transpose(turn)).convert("RGB"))


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of the upright image, read from the file's header without decoding the pixels."""
    with _open_image(path, decode=False) as image:
        return (image.width, image.height) if _orientation(image) >= 5 else (image.height, image.width)


def orientation(path: Path) -> int:
    """The EXIF orientation of an image: 1 if it is upright, otherwise a key of TURNS."""
    with _open_image(path, decode=False) as image:
        return _orientation(image)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION)
    except DAMAGED:
        # The pixels may be intact although the EXIF data is damaged.
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def check_drawn_upright(path: Path, size: tuple[int, int], drawn: tuple[int, int], *, what: str) -> None:
    """Refuses a photograph whose annotation was drawn on the stored pixels, before the turn that EXIF asks for.

    Args:
        size: (H, W) of the upright photograph.
        drawn: (H, W) of the annotation.
        what: name of the annotation, for the message.

    Raises:
        InputError: the annotation has the photograph's size with sides swapped, and EXIF swaps them.
    """
    if drawn != size and drawn == size[::-1] and (turn := orientation(path)) >= 5:
        raise InputError(
            f"{path}: EXIF orientation {turn} turns the photograph, but {what} is of its stored pixels; save the "
            "photograph without that tag"
        )


def read_gray(path: Path) -> np.ndarray:
    """Decodes an 8-bit image, such as a saliency map, to gray: (H, W), uint8."""
    with _open_image(path) as image:
        return np.asarray(image.convert("L"))


def read_saliency(path: Path) -> np.ndarray:
    """Decodes a user's saliency map: (H, W), uint8.

    Raises:
        InputError: the image has colors, as a rendered heat map has; otherwise as read_gray.
    """
    with _open_image(path) as image:
        if image.mode not in ("L", "1"):
            colors = np.asarray(image.convert("RGB"))
            if (colors != colors[..., :1]).any():
                raise InputError(f"{path}: has colors; a saliency map is gray, 0 to 255: save it as such")
        return np.asarray(image.convert("L"))


def check_saliency_range(folder: Path, brightest: int) -> None:
    """Refuses a folder of saliency maps in 0..1 instead of 0..255.

    Args:
        brightest: maximum over all maps of the folder, since a single map may well be that dark.
    """
    if brightest == 1:
        raise InputError(f"{folder}: the brightest value of its maps is 1; maps hold 0 to 255, multiply them by 255")


def read_labels(path: Path) -> np.ndarray:
    """Decodes a label PNG (palette or gray): (H, W), uint8 label values, 255 unknown.

    Raises:
        InputError: the image is no PNG, has colors without a palette, or is gray with fewer than 8 bits.
    """
    with _open_image(path) as image:
        if image.format != "PNG":
            raise InputError(
                f"{path}: a mask must be a PNG, this one is {image.format}, which changes label values; make it anew "
                "as PNG"
            )
        # Pillow scales gray values of fewer than 8 bits to 0..255.
        depth, kind = _png_header(path)
        if kind == GRAY and depth < 8:
            raise InputError(f"{path}: a {depth}-bit gray PNG, whose values are read scaled; save it with 8 bits")
        if image.mode not in ("P", "L"):
            raise InputError(
                f"{path}: a mask must be a palette or gray PNG whose pixels are label values, this one is "
                f"{image.mode}; convert its colors to label values first"
            )
        return np.asarray(image)


def _png_header(path: Path) -> tuple[int, int]:
    """Bits per channel and color type of a PNG."""
    with path.open("rb") as file:
        header = file.read(26)
    return header[24], header[25]


def read_palette(path: Path) -> np.ndarray | None:
    """The palette of a label PNG: (N, 3), uint8 RGB, N <= 256; None if it has none."""
    with _open_image(path, decode=False) as image:
        palette = image.getpalette("RGB")
    return None if palette is None else np.array(palette, np.uint8).reshape(-1, 3)


@contextmanager
def _open_image(path: Path, *, decode: bool = True) -> Iterator[Image.Image]:
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path}: {image.width}x{image.height} pixels, more than {MAX_PIXELS}; scale it down")
            if image.mode.startswith(("I", "F")):
                raise InputError(f"{path}: more than 8 bits a channel ({image.mode}); convert it to 8 bits")
            if decode:
                image.load()
            yield image
    except FileNotFoundError:
        raise InputError(f"{path}: no such image; add the file or take its id off the list") from None
    except DAMAGED as error:
        raise InputError(f"{path}: cannot be decoded ({error}); replace the file or take its id off the list") from None


def write_gray(path: Path, values: np.ndarray) -> None:
    """Writes (H, W) uint8 as an 8-bit gray PNG."""
    with atomic_file(path) as temporary:
        Image.fromarray(values, mode="L").save(temporary)


def write_labels(path: Path, labels: np.ndarray, *, note: str | None = None) -> None:
    """Writes (H, W) uint8 label values as a palette PNG in the VOC colors; `note` is a text beside the pixels."""
    image = Image.fromarray(labels, mode="P")
    image.putpalette(voc_palette().tobytes())
    texts = PngInfo()
    if note is not None:
        texts.add_text(NOTE, note)
    with atomic_file(path) as temporary:
        image.save(temporary, pnginfo=texts)


def read_note(path: Path) -> str | None:
    """The text that `write_labels` wrote beside the pixels of a PNG; None if there is none, or no readable image."""
    try:
        with _open_image(path, decode=False) as image:
            note = image.info.get(NOTE)
    except InputError:
        return None
    return note if isinstance(note, str) else None


def voc_palette() -> np.ndarray:
    """The VOC color of every label value: (256, 3), uint8. Bit i of a value is bit 7 - i // 3 of channel i % 3."""
    values = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        palette[:, bit % 3] |= (((values >> bit) & 1) << (7 - bit // 3)).astype(np.uint8)
    return palette
