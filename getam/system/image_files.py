"""Reads and writes images, label PNGs and saliency maps. Photographs are turned upright as their EXIF data asks."""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Condition
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from getam.errors import InputError
from getam.settings.foreign import EXIF_BYTES, IMAGE_BYTES, MAX_PIXELS, RUNS_BYTES, open_regular, refusing
from getam.system.files import atomic_file
from getam.system.image_headers import check_headers

UNKNOWN = 255
"""Label value of a pixel whose class is not known (`void` in VOC's ground truth)."""

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

DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error, zlib.error)
"""Exceptions that Pillow raises for damaged EXIF data."""

NOTE = "getam"
"""Keyword of a text in a label PNG."""

JPEGS = ("JPEG", "MPO")
"""What Pillow calls a JPEG, and one that holds further pictures behind its first."""

REDUCED_PIXELS = 2**19
"""Pixels above which a JPEG that will be scaled down may be decoded at a reduced size. Photographs of VOC and COCO have
fewer: they are decoded in milliseconds, and trainings on them, whose results are published, stay as they were."""

BAND_PIXELS = 2**22
"""Pixels of a large image that are converted at a time."""

BMP_RUNS = (1, 2)
"""What a BMP says of its compression if its pixels are run lengths."""

TILE_SIDES = (322, 323)
"""Tags of a TIFF's tiles: width and length."""

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
"""The formats that are decoded, regardless of file names; some other decoders of Pillow start external programs."""


def read_image(path: Path, *, least: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes an image of FORMATS to RGB and turns it upright: (H, W, 3), uint8. Gray, palette and CMYK are converted.

    Args:
        least: (h, w) to which the image will be scaled. A JPEG of more than REDUCED_PIXELS with sides at least twice as
            long is then decoded at a half of its size, and at a quarter or an eighth where twice `least` is left.
            Scaled on to `least`, 93 photographs of MSRC and photos20 differ from those decoded whole by 1.7 gray
            levels of 255 in the mean over all pixels, the worst of them by 7.2; borders lie within half a pixel.

    Raises:
        InputError: the file is missing, damaged, too large, or has more than 8 bits a channel.
    """
    with _open_image(path, least=least) as image:
        return upright_rgb(image)


def decoded_size(path: Path) -> tuple[int, int, int]:
    """Decodes an image as read_image does, without keeping its pixels: (H, W) of it upright, and its EXIF orientation.

    Raises:
        InputError: see read_image.
    """
    with _open_image(path) as image:
        # The colors of some kinds of TIFF cannot be converted.
        image.crop((0, 0, 1, 1)).convert("RGB")
        turn = _orientation(image)
        height, width = (image.width, image.height) if turn >= 5 else (image.height, image.width)
        return height, width, turn


def upright_rgb(image: Image.Image) -> np.ndarray:
    """The pixels of an image of 8 bits a channel, turned upright as EXIF asks: (H, W, 3), uint8 RGB."""
    turn = TURNS.get(_orientation(image))
    return _converted(image if turn is None else image.transpose(turn), "RGB")


def _converted(image: Image.Image, mode: Literal["RGB", "L"]) -> np.ndarray:
    """The pixels of an image in a mode: (H, W, 3) or (H, W), uint8.

    A large image is converted in bands, since Pillow holds two more copies of what it gives to numpy.
    """
    height, width = image.height, image.width
    rows = max(1, BAND_PIXELS // width)
    if rows >= height:
        return np.asarray(image if image.mode == mode else image.convert(mode))
    pixels = np.empty((height, width, 3) if mode == "RGB" else (height, width), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)).convert(mode))
    return pixels


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of the upright image, read from the file's header without decoding the pixels."""
    with _open_image(path, decode=False) as image:
        return (image.width, image.height) if _orientation(image) >= 5 else (image.height, image.width)


def orientation(path: Path) -> int:
    """The EXIF orientation of an image: 1 if it is upright, otherwise a key of TURNS."""
    with _open_image(path, decode=False) as image:
        return _orientation(image)


def _orientation(image: Image.Image) -> int:
    if len(image.info.get("exif", b"")) > EXIF_BYTES:
        return 1
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
        return _converted(image, "L")


def read_saliency(path: Path) -> np.ndarray:
    """Decodes a user's saliency map: (H, W), uint8.

    Raises:
        InputError: the image has colors, as a rendered heat map has; otherwise as read_gray.
    """
    with _open_image(path) as image:
        if image.mode not in ("L", "1"):
            colors = _converted(image, "RGB")
            if (colors != colors[..., :1]).any():
                raise InputError(f"{path}: has colors; a saliency map is gray, 0 to 255: save it as such")
        return _converted(image, "L")


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
    with _open_image(path, decode=False) as image:
        if image.format != "PNG":
            raise InputError(
                f"{path}: a mask must be a PNG, this one is {image.format}, which changes label values; make it anew "
                "as PNG"
            )
        # Pillow scales gray values of fewer than 8 bits to 0..255. What its decoder is told counts, since a second
        # header of a damaged file may say something else than the first.
        tiles = getattr(image, "tile", None)
        coded = str(tiles[0][3]) if tiles else image.mode
        if coded == "1" or coded.startswith("L;"):
            depth = coded.removeprefix("L;")
            raise InputError(f"{path}: a {depth}-bit gray PNG, whose values are read scaled; save it with 8 bits")
        if image.mode not in ("P", "L"):
            raise InputError(
                f"{path}: a mask must be a palette or gray PNG whose pixels are label values, this one is "
                f"{image.mode}; convert its colors to label values first (docs/own_data.md)"
            )
        with room_for(image.width * image.height):
            return np.asarray(image)


def read_palette(path: Path) -> np.ndarray | None:
    """The palette of a label PNG: (N, 3), uint8 RGB, N <= 256; None if it has none."""
    with _open_image(path, decode=False) as image:
        palette = image.getpalette("RGB")
    return None if palette is None else np.array(palette, np.uint8).reshape(-1, 3)


class _Decoding:
    """Lets a process decode images of MAX_PIXELS pixels together at the same time, by any number of threads."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.pixels = 0

    @contextmanager
    def room_for(self, pixels: int) -> Iterator[None]:
        with self.changed:
            self.changed.wait_for(lambda: not self.pixels or self.pixels + pixels <= MAX_PIXELS)
            self.pixels += pixels
        try:
            yield
        finally:
            with self.changed:
                self.pixels -= pixels
                self.changed.notify_all()


_decoding = _Decoding()
# A process that loads images is forked from one whose other threads may be decoding.
os.register_at_fork(after_in_child=_decoding.__init__)  # type: ignore[misc]


def room_for(pixels: int) -> AbstractContextManager[None]:
    """Waits until there is room to decode or paint an image of so many pixels, and keeps it during the block.

    All images that a process decodes at the same time have at most MAX_PIXELS pixels together.
    """
    return _decoding.room_for(pixels)


@contextmanager
def _open_image(path: Path, *, decode: bool = True, least: tuple[int, int] | None = None) -> Iterator[Image.Image]:
    """Opens an image; its pixels are decoded before the block, or within it by the caller, who then waits for room.

    Args:
        least: see read_image.
    """
    try:
        with (
            refusing(path, "cannot be decoded", cure="replace the file or take its id off the list"),
            open_regular(path, most=IMAGE_BYTES) as file,
            _opened(file) as image,
        ):
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path}: {image.width}x{image.height} pixels, more than {MAX_PIXELS}; scale it down")
            pixels = max(image.width * image.height, _tile_pixels(image))
            if pixels > MAX_PIXELS:
                raise ValueError(f"a tile of {pixels} pixels")
            if image.info.get("compression") in BMP_RUNS and max(pixels, path.stat().st_size) > RUNS_BYTES:
                raise ValueError(f"a BMP of run lengths, of more than {RUNS_BYTES} pixels or bytes")
            if image.mode.startswith(("I", "F")):
                raise InputError(
                    f"{path}: more than 8 bits a channel ({image.mode}); convert it to 8 bits (a mask: with its values "
                    "as they are)"
                )
            with room_for(pixels) if decode else nullcontext():
                yield _decoded(image, least) if decode else image
    except FileNotFoundError:
        raise InputError(f"{path}: no such image; add the file or take its id off the list") from None


def _decoded(image: Image.Image, least: tuple[int, int] | None) -> Image.Image:
    """Decodes the pixels of an image, at a reduced size where `least` and read_image allow it."""
    whole_width, whole_height = image.size
    if least is not None and image.format in JPEGS and whole_width * whole_height > REDUCED_PIXELS:
        height, width = least if _orientation(image) < 5 else least[::-1]
        if 2 * width <= whole_width and 2 * height <= whole_height:
            # Twice what is needed, since what is left out by the decoder is not what a filter would leave out. Most of
            # the time is saved by the half, which needs no such margin therefore.
            image.draft(image.mode, (min(2 * width, whole_width // 2), min(2 * height, whole_height // 2)))
    image.load()
    if (factor := round(whole_width / image.width)) == 1:
        return image
    # The last column and row may stand for fewer pixels than the others. With less than half of them they are left out.
    return image.crop((0, 0, (whole_width + factor // 2) // factor, (whole_height + factor // 2) // factor))


def _opened(file: BinaryIO) -> Image.Image:
    check_headers(file)
    return Image.open(file, formats=FORMATS)


def _tile_pixels(image: Image.Image) -> int:
    """The pixels of a tile of a TIFF, which may be larger than the image and is decoded whole; 0 if it has none."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    sides = [tags.get(side, 0) for side in TILE_SIDES]
    return math.prod(side for side in sides if isinstance(side, int)) if all(sides) else 0


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
