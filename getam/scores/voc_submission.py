"""Packs and checks submissions to VOC's evaluation server: label PNGs in the folders it expects, in a .tgz archive."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from getam.datasets.index import IndexRow
from getam.errors import InputError, listed
from getam.system.files import atomic_file
from getam.system.image_files import DAMAGED, MAX_PIXELS, UNKNOWN, voc_palette

FOLDER = PurePosixPath("results/VOC2012/Segmentation/comp6_test_cls")
"""Folder of the label PNGs in the archive. comp6: trained on more than VOC's own data, such as saliency masks."""

ARCHIVE = "results.tgz"


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
        with gzip.open(archive) as packed, tarfile.open(fileobj=packed, mode="r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if member.isdir():
                    continue
                if not member.isfile() or name not in wanted or name in seen:
                    problems.append(f"{name!r} does not belong there")
                    continue
                seen.add(name)
                content = tar.extractfile(member)
                assert content is not None
                if problem := _picture_problem(content.read(MAX_PIXELS), wanted[name], num_classes):
                    problems.append(f"{name}: {problem}")
            # gzip verifies its checksum only at the end, so the rest has to be read.
            while packed.read(2**20):
                pass
    except FileNotFoundError:
        raise InputError(f"{archive}: no such file; name the archive that voc-submission has written") from None
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(f"{archive}: is no .tgz archive ({error}); pack it again") from None
    problems += [f"{name} is missing" for name in wanted if name not in seen]
    if problems:
        raise InputError(f"{archive}: {listed(problems)}; predict and pack again")


def _picture_problem(content: bytes, row: IndexRow, num_classes: int) -> str | None:
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                return f"is of {image.width}x{image.height} pixels"
            image.load()
            mode, palette, values = image.mode, image.getpalette("RGB"), np.asarray(image)
    except DAMAGED as error:
        return f"cannot be decoded ({error})"
    if mode != "P":
        return f"is {mode}, not a palette PNG"
    used = 3 * (num_classes + 1)
    if (palette or [])[:used] != voc_palette().ravel()[:used].tolist():
        return "has another palette than VOC's"
    return label_problem(values, row, num_classes)


def label_problem(values: np.ndarray, row: IndexRow, num_classes: int) -> str | None:
    """Says why the server would reject a prediction (H, W), or score it wrongly; None if it would not."""
    if values.shape != (row.height, row.width):
        return f"is {values.shape}, its image {(row.height, row.width)} (H, W)"
    if values.max() > num_classes:
        unknown = ": unknown pixels, which the server does not know" if values.max() == UNKNOWN else ""
        return f"holds the value {values.max()}, beyond {num_classes}{unknown}"
    return None
