"""Packs and checks submissions to VOC's evaluation server: label PNGs in the folders it expects, in a .tgz archive."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from getam.datasets.index import IndexRow
from getam.errors import InputError, listed, reason_of
from getam.settings.foreign import open_regular, refusing
from getam.system.files import atomic_file
from getam.system.image_files import UNKNOWN, voc_palette

FOLDER = PurePosixPath("results/VOC2012/Segmentation/comp6_test_cls")
"""Folder of the label PNGs in the archive. comp6: trained on more than VOC's own data, such as saliency masks."""

ARCHIVE = "results.tgz"

HEADERS = (*tarfile.GNU_TYPES, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
"""Types of members that hold a long name, further fields or the parts of the next file."""

FOLDERS = 100
"""Folders that an archive may list beside its files."""

TOO_LARGE = "it is larger than label PNGs of the images' sizes are"


def pack_submission(folder: Path, archive: Path, ids: Sequence[str]) -> None:
    """Packs <folder>/results/.../<id>.png of each id into `archive`; the same files give the same bytes."""
    with (
        atomic_file(archive) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for id in ids:
            content = (folder / FOLDER / f"{id}.png").read_bytes()
            member = tarfile.TarInfo(str(FOLDER / f"{id}.png"))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def check_submission(archive: Path, rows: Sequence[IndexRow], *, num_classes: int) -> None:
    """Checks an archive for anything that the server would reject or score wrongly.

    Args:
        rows: the images that the archive has to contain, and no others.
        num_classes: C, without background.

    Raises:
        InputError: the archive cannot be read; a file is missing or superfluous, is no palette PNG in VOC's colors, has
            another size than its image, or a value beyond 0..C (255 included: the server knows no unknown label).
    """
    wanted = {str(FOLDER / f"{row.id}.png"): row for row in rows}
    problems: list[str] = []
    seen: set[str] = set()
    try:
        with (
            refusing(archive, "is no .tgz archive", cure="pack it again"),
            open_regular(archive) as file,
            gzip.open(file) as packed,
        ):
            for name, content in _members(packed, wanted):
                if content is None or name not in wanted or name in seen:
                    problems.append(f"{name!r} does not belong there")
                    continue
                seen.add(name)
                if problem := _picture_problem(content, wanted[name], num_classes):
                    problems.append(f"{name}: {problem}")
    except FileNotFoundError:
        raise InputError(f"{archive}: no such file; name the archive that voc-submission has written") from None
    problems += [f"{name} is missing" for name in wanted if name not in seen]
    if problems:
        raise InputError(f"{archive}: {listed(problems)}; predict and pack again")


def _members(packed: gzip.GzipFile, wanted: Mapping[str, IndexRow]) -> Iterator[tuple[str, bytes | None]]:
    """Yields name and content, None of a link, of the members of an archive that are no folders.

    The archive is read to its end, where gzip verifies its checksum.

    tarfile's own reading is not used because it reads long names and further fields of any size and number before it
    shows a member. The archives of `pack_submission` have neither.

    Raises:
        ValueError: a member has headers beside its own, or there are more members or bytes than the images need.
    """
    left = sum(_most_bytes(row) for row in wanted.values()) + FOLDERS * tarfile.BLOCKSIZE
    for _ in range(len(wanted) + FOLDERS):
        header = packed.read(tarfile.BLOCKSIZE)
        if header.count(b"\0") == tarfile.BLOCKSIZE:
            break
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        if member.type in HEADERS:
            raise ValueError(f"{member.name!a} has a header of the type {member.type!a}")
        size = -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        left -= tarfile.BLOCKSIZE + size
        if left < 0 or member.size < 0:
            raise ValueError(TOO_LARGE)
        content = packed.read(size)
        if len(content) < size:
            raise ValueError("it ends early")
        if not member.isdir():
            yield member.name.removeprefix("./"), content[: member.size] if member.isfile() else None
    else:
        raise ValueError(f"it has more than {len(wanted)} files and {FOLDERS} folders")
    if len(packed.read(tarfile.RECORDSIZE)) == tarfile.RECORDSIZE:
        raise ValueError(TOO_LARGE)


def _most_bytes(row: IndexRow) -> int:
    """Bytes that the label PNG of an image has at most in an archive: pixels, header, palette, and room for more."""
    return 2 * row.height * row.width + 2**16


def _picture_problem(content: bytes, row: IndexRow, num_classes: int) -> str | None:
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            # The size is compared before the pixels are decoded.
            if (image.height, image.width) != (row.height, row.width):
                return _size_problem((image.height, image.width), row)
            image.load()
            mode, palette, values = image.mode, image.getpalette("RGB"), np.asarray(image)
    # Every exception is meant, as in getam.settings.foreign.refusing.
    except Exception as error:
        return f"cannot be decoded ({reason_of(error)})"
    if mode != "P":
        return f"is {mode}, not a palette PNG"
    used = 3 * (num_classes + 1)
    if (palette or [])[:used] != voc_palette().ravel()[:used].tolist():
        return "has another palette than VOC's"
    return label_problem(values, row, num_classes)


def _size_problem(size: tuple[int, ...], row: IndexRow) -> str:
    return f"is {size}, its image {(row.height, row.width)} (H, W)"


def label_problem(values: np.ndarray, row: IndexRow, num_classes: int) -> str | None:
    """Says why the server would reject a prediction (H, W), or score it wrongly; None if it would not."""
    if values.shape != (row.height, row.width):
        return _size_problem(values.shape, row)
    if values.max() > num_classes:
        unknown = ": unknown pixels, which the server does not know" if values.max() == UNKNOWN else ""
        return f"holds the value {values.max()}, beyond {num_classes}{unknown}"
    return None
