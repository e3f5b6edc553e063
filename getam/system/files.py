"""Reads and writes files: images, label PNGs, arrays and JSON, all written atomically.

Every file and folder is written under a temporary name beside its destination and then renamed, so that a file that
exists is complete. Nothing here reads a pickle.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from getam.errors import InputError, MachineError

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

MARKER = ".getam"
"""Empty file in each folder that a stage writes; it marks the folder as one that may be replaced."""

KEY = ".key"
"""File in an unfinished folder with the key that identifies the inputs of its files."""

LOCK = ".lock"
"""Lock file in an unfinished folder, held by the process that writes the folder."""


class UnwritableError(MachineError):
    """A file cannot be written."""


def _unwritable(path: Path, error: OSError) -> UnwritableError:
    return UnwritableError(f"{path}: cannot be written ({error.strerror or error}); make room, or choose another place")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, with its suffix; renames it to `path` on success, removes it on failure.

    Raises:
        UnwritableError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None
    # The name is fixed, so that the next process overwrites what a killed one has left behind.
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        # The error of a failed write has no file name, or the temporary one; any other name is of a file that the
        # caller could not read.
        if error.filename is not None and str(error.filename) != str(temporary):
            raise
        raise _unwritable(path, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path, *, key: str | None = None) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; it replaces `path` on success and is removed on failure.

    An existing folder is replaced only if it is empty or was written by this function, so that a wrong output path
    never deletes a user's files. Only one process at a time can write a folder.

    Args:
        key: identifies the inputs of the files. With a key, the files of a stopped process stay under the temporary
            name, and the next call with the same key continues with them; bad input (an InputError other than
            MachineError) still removes them.

    Raises:
        InputError: `path` is a file, a link, a folder of other files, or contains the working directory; another
            process is writing it; its parent cannot be created.
    """
    _check_replaceable(path)
    temporary, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    for needed in (temporary, old):
        if needed.is_symlink() or (needed.exists() and not _is_ours(needed)):
            raise InputError(f"{needed}: is in the way; remove it")
    with locked_folder(temporary):
        if old.exists() and not path.exists():
            # An earlier process was killed between the two renames below.
            old.replace(path)
        if key is None or _key_of(temporary) != key:
            _empty(temporary)
        keep = key is not None
        try:
            (temporary / MARKER).touch()
            if key is not None:
                write_text(temporary / KEY, key)
            yield temporary
            if path.exists():
                shutil.rmtree(old, ignore_errors=True)
                path.replace(old)
            temporary.replace(path)
        except MachineError:
            raise
        except InputError:
            keep = False
            raise
        finally:
            if not keep:
                shutil.rmtree(temporary, ignore_errors=True)
        for name in (KEY, LOCK):
            (path / name).unlink(missing_ok=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Creates an unfinished folder of a stage, if needed, and holds its lock.

    Raises:
        InputError: another process holds the lock, or the folder cannot be created.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MARKER).touch()
            lock.acquire()
        except Timeout:
            raise InputError(f"{folder}: another process is writing it; wait for it or stop it") from None
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another output folder") from None
        if (folder / LOCK).exists():
            break
        # The process that held the lock has renamed the folder meanwhile, so the lock file is gone: try again.
        lock.release()
    try:
        yield
    finally:
        lock.release()


def _key_of(folder: Path) -> str | None:
    try:
        return (folder / KEY).read_text(encoding="utf-8")
    except OSError:
        return None


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _check_replaceable(path: Path) -> None:
    cure = "choose another output folder"
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError(f"{path}: is a link or a file; {cure}")
    if Path.cwd().is_relative_to(path.resolve()):
        raise InputError(f"{path}: holds the working directory and would be replaced; {cure}")
    if path.is_dir() and not _is_ours(path):
        raise InputError(f"{path}: holds files that no stage has written and would be replaced; {cure} or empty it")


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and ((folder / MARKER).is_file() or not any(folder.iterdir()))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(paths: Iterable[Path]) -> str:
    """Hash of the files' paths, sizes and modification times, to detect that a stage's inputs have changed.

    Raises:
        InputError: a file is missing or cannot be accessed.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; run the stage that writes it again") from None
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; name the folder that the stage before has written") from None
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON; NaN is not JSON and is refused with ValueError."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        InputError: the file is missing or is not valid JSON, which excludes NaN and infinities.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it first") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; name the folder that the stage before has written") from None
    except ValueError as error:
        raise InputError(
            f"{path}: not valid JSON ({error}); delete it and run the stage that writes it again"
        ) from None


def write_array(path: Path, array: np.ndarray) -> None:
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def read_array(path: Path) -> np.ndarray:
    """Reads a .npy file.

    Raises:
        InputError: the file is missing, is not a .npy file, or holds a pickle.
    """
    try:
        # np.load is not used because it opens archives too.
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it first") from None
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path}: not a plain .npy array ({error}); delete it and run its stage again") from None


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
