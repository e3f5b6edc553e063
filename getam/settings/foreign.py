"""Files that somebody else wrote: how they are opened, and every bound on what reading one may cost.

Nothing in such a file is trusted. A reader opens it here, which takes regular files alone; compares the sizes that the
file states with a bound before it allocates anything of that size; and lets no failure of a parser through but as one
message (`refusing`). The bounds lie far above what honest files have and low enough that reading one file takes less
than a gigabyte and a few seconds; documents and weights may take more, in proportion to their own size.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BufferedReader
from pathlib import Path

from getam.errors import InputError, reason_of

MAX_PIXELS = 64_000_000
"""Pixels of the largest image that is decoded, and of all images that a process decodes at the same time: a decoder
takes up to 16 bytes a pixel."""

IMAGE_BYTES = 300_000_000
"""Size of the file of an image: MAX_PIXELS without compression, and room for more. Some decoders read all of it before
they say how many pixels there are."""

MAX_SCANS = 50
"""Scans of a JPEG, each of which costs a pass over all its pixels; encoders write about ten."""

MAX_MARKERS = 10_000
"""Segments of a JPEG; long metadata is divided into some hundred of them."""

MAX_FILLING = 2**16
"""Bytes between the segments of a JPEG before its pixels; encoders write none, or a few to align them."""

MAX_CHUNKS = 200_000
"""Chunks of a PNG; encoders write one for 8 kB and more of packed pixels, so 40,000 of the largest file."""

MAX_VALUES = 2**18
"""Numbers of a field in a TIFF, such as the places of its tiles: 250,000 of 16 x 16 pixels are MAX_PIXELS."""

EXIF_BYTES = 2**22
"""Size of EXIF data in which an orientation is sought; a JPEG has 64 kB at most."""

RUNS_BYTES = 2**23
"""Pixels, and bytes, of a BMP that is compressed by run lengths, which Pillow decodes in Python."""

MAX_OUTLINE = 1_000_000
"""Length of the outlines of a COCO image in pixels, all annotations together: pycocotools takes some 150 bytes a pixel.
A photograph with ninety objects has some ten thousand."""

MAX_RUNS = 4_000_000
"""Numbers, or characters of packed ones, in the run lengths of a COCO image, all annotations together; decoding takes
some 50 bytes for each."""

REGION_COST = 20
"""Pixels of an outline, and run lengths, that each polygon and each list of run lengths counts for in addition: its own
cost, however small it is."""

MAX_PAINTED = 2**32
"""Pixels of a COCO image that its annotations cover, added up: one above the other 14,000 times in a usual photograph,
67 times in one of MAX_PIXELS. Painting them takes seconds."""

DOCUMENT_BYTES = 2**29
"""Size of a document with many photographs (a table, JSON, XML); COCO's largest file of instances has 448 MB. Python
holds such a file in some 5 times its size, and a hostile one in 40 times."""

INSTANCES_BYTES = 2**31
"""Size of a file of instances in COCO's form; LVIS's largest has 1.1 GB."""

ANNOTATION_BYTES = 2**22
"""Size of the XML of one photograph; those of VOC have some kilobytes."""

VERDICTS_BYTES = 32_000_000
"""Size of a file of verdicts; 100,000 images with long notes stay below. The audit page holds a hostile one in 36 times
its size."""

MAT_BYTES = 64_000_000
"""Size of a .mat file, and of all that is decompressed from it; SBD's have some hundred kilobytes decompressed."""

MAT_ELEMENTS = 1000
"""Elements of a level of a .mat file; SBD's have four or fewer."""

YAML_BYTES = 2**18
"""Size of a configuration. config.yaml has 22 kB; PyYAML reads some hundred kilobytes a second."""

YAML_NODES = 50_000
"""Values of a configuration, with each alias counted as all that it stands for; config.yaml has 700."""

YAML_DEPTH = 30
"""Values within values of a configuration; config.yaml has 5."""

YAML_DIGITS = 100
"""Characters of a number in a configuration; Python refuses to print longer ones than some thousand digits."""

ARRAY_AXES = 8
"""Axes of an array in a .npy file; class maps have three."""

ARRAYS_BYTES = 900_000_000
"""Size of all arrays of a .npz file; the class maps of one image have some megabytes."""

KEY_BYTES = 2**12
"""Size of a file with the key of unfinished or finished results, which is a hash."""

LOG_BYTES = 2**26
"""Size of a log or of a table of times; that of the longest training has some megabytes."""

MAX_ACCENTS = 30
"""Accents on one letter that are brought into one order; Unicode's stream-safe texts have no more."""

LONGEST_LINE = 5000
"""Most characters of a line on the terminal and in a log; what a file says may be repeated in a message."""

HEADER_BYTES = 2**24
"""Size of the header of a .safetensors file; a network of 10,000 tensors has 1.5 MB."""

GROWTH = 2
"""Times the size of its file that the tensors of a file of weights may take: two names may share one tensor."""

ARCHIVE_FILES = 250_000
"""Files of an archive of a data set; COCO's largest has 82,783."""

ARCHIVE_GROWTH = 20
"""Times its own size that an archive of a data set may take when it is unpacked."""

ARCHIVE_HEADER_BYTES = 2**16
"""Size of a header in a .tar that holds a long name or further fields of the next file; tarfile holds it in memory."""


def open_regular(path: Path, *, most: int | None = None) -> BufferedReader:
    """Opens a regular file for reading.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe, which may hang, or a device, which may never end.
        ValueError: it is larger than `most` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "is a pipe or a device, no file", str(path))
        if most is not None and status.st_size > most:
            raise ValueError(f"is larger than {most} bytes")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it cannot be read, see open_regular.
        ValueError: it is larger than `most` bytes, or grows meanwhile.
    """
    with open_regular(path, most=most) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1)
    if len(content) > size:
        raise ValueError("grows while it is read")
    return content


def read_text(path: Path, most: int, *, encoding: str = "utf-8") -> str:
    """The text of a regular file, with ends of lines as Python has them; otherwise as read_bytes.

    Raises:
        UnicodeDecodeError: it is in another encoding; as every ValueError, it says that the file can't be read.
    """
    return read_bytes(path, most).decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def read_key(path: Path) -> str | None:
    """The key in a file beside results; None if there is none, or something else in its place."""
    try:
        return read_text(path, KEY_BYTES)
    except (OSError, ValueError):
        return None


@contextmanager
def refusing(path: Path, what: str, *, cure: str) -> Iterator[None]:
    """Turns every failure within the block into one message; a missing file is left to the caller.

    Every exception is meant: parsers of damaged bytes raise whatever their depths do, such as IndexError, and differ
    from version to version.

    Args:
        what: what is wrong then, such as "cannot be decoded".

    Raises:
        InputError: the file, what is wrong with it, the parser's reason and the cure.
    """
    try:
        yield
    except (InputError, FileNotFoundError):
        raise
    except Exception as error:
        raise InputError(f"{path}: {what} ({reason_of(error)}); {cure}") from None


def results_of(path: Path) -> AbstractContextManager[None]:
    """Turns every failure within the block into one message: a file of a run's own results holds something else.

    Somebody may have edited it, and it may be of another version.
    """
    return refusing(path, "not what its stage writes", cure="delete it and run the stage again")


def is_score(value: object) -> bool:
    """Whether a value is a number, or None, which stands for a score that could not be computed."""
    return value is None or isinstance(value, int | float)
