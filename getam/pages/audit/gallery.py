"""The audit page's images, in a folder that opens without a server: lists of them, and a script for each.

Browsers let a page that is opened from disk load no data but scripts. So a list is `lists/<nnn>.js`, which calls
getamAudit.list, and an image is `images/<number // 1000>/<number>.js`, which calls getamAudit.image with its thumbnail
and its layers. Ids and class names come from the data set: they are text in that JSON, and no file is named after them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from getam.datasets.index import IndexRow
from getam.errors import MachineError
from getam.pages.audit.page import write_page
from getam.runs.folder import Run
from getam.runs.image_results import (
    IMAGE_SCORES,
    LABEL_LAYERS,
    LAYERS,
    SHARES,
    ImageFiles,
    find_files,
    layer_titles,
    read_layers,
    score_titles,
    scores_and_shares,
)
from getam.runs.recorded import titles_of
from getam.system.files import UNKNOWN, read_image
from getam.system.progress import progress
from getam.system.workers import ProcessPool

SIDE = 320
"""Longest side of a thumbnail and of a refined map, in pixels; a smaller image keeps its size."""

LIST = 500
"""Images of a list."""

CHUNK = 16
"""Images that a process is handed at a time."""

COLUMNS = ("number", "id", "split", "width", "height", "labels", "layers", "rejected", *IMAGE_SCORES, *SHARES)
"""What a list says of an image. labels: label values; layers: bits, by the positions in LAYERS."""

LABEL_SIDE = 1024
"""Longest side of labels, rules and saliency, in pixels: more of them than a screen shows of an image."""


def write_gallery(
    run: Run, out: Path, *, rows: Sequence[IndexRow], classes: Sequence[str], shards: int, images: int, threads: int
) -> int:
    """Writes index.html, assets/, lists/ and images/ for the run in folder `run` into the existing folder `out`.

    Whatever a run doesn't have (ground truth, a path that didn't run) is left out.

    Args:
        classes: the names of the label values 1, 2, ...
        shards: of the run's per-image stages.
        images: most of each split, evenly spaced over its sorted ids; 0: all.
        threads: processes.

    Returns:
        The number of images on the page.

    Raises:
        InputError: a file can't be read, or doesn't fit the index; the message names it.
        MachineError: a process was killed.
    """
    chosen = find_files(run, _choose(rows, images), classes=classes, shards=shards)
    entries: list[tuple[Any, ...]] = []
    written = progress(_write_images(out, chosen, threads), total=len(chosen), unit="image", what="audit", size=len)
    for chunk in written:
        entries += chunk
    (out / "lists").mkdir()
    lists = [entries[start : start + LIST] for start in range(0, len(entries), LIST)]
    for number, part in enumerate(lists):
        _write_call(out / "lists" / f"{number:03d}.js", "list", part)
    shown = {value for files in chosen for value in files.values}
    titles = titles_of(run)
    write_page(
        run,
        out,
        classes=classes,
        audit={
            "key": _key(rows),
            "images": len(chosen),
            "lists": len(lists),
            "perList": LIST,
            "columns": COLUMNS,
            "layers": layer_titles(titles),
            "scores": score_titles(titles),
            "shares": SHARES,
            "splits": [*dict.fromkeys(files.row.split for files in chosen)],
            "shown": sorted(shown),
        },
    )
    return len(chosen)


def _choose(rows: Sequence[IndexRow], images: int) -> list[IndexRow]:
    chosen = []
    for split in dict.fromkeys(row.split for row in rows):
        members = sorted((row for row in rows if row.split == split), key=lambda row: row.id)
        # The step is at least 1, so that no two positions round to the same one.
        count = min(images or len(members), len(members))
        positions = np.linspace(0, len(members) - 1, count).round().astype(int)
        chosen += [members[position] for position in positions]
    return chosen


def _key(rows: Sequence[IndexRow]) -> str:
    """Tells data sets apart, for verdicts that a browser keeps."""
    facts = [[row.id, row.split, *row.labels] for row in rows]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _write_images(out: Path, chosen: Sequence[ImageFiles], threads: int) -> Iterator[list[tuple[Any, ...]]]:
    for thousand in range(-(-len(chosen) // 1000)):
        (out / "images" / str(thousand)).mkdir(parents=True)
    numbered = [*enumerate(chosen)]
    chunks = [numbered[start : start + CHUNK] for start in range(0, len(numbered), CHUNK)]
    if threads == 1 or len(chunks) == 1:
        yield from (_write_chunk(out, chunk) for chunk in chunks)
        return
    with ProcessPool(min(threads, len(chunks))) as pool:
        try:
            yield from pool.map(_write_chunk, [out] * len(chunks), chunks)
        except BrokenProcessPool:
            raise MachineError(
                f"{out}: a worker process was killed, for want of memory perhaps; use fewer threads"
            ) from None


def _write_chunk(out: Path, chunk: Sequence[tuple[int, ImageFiles]]) -> list[tuple[Any, ...]]:
    cv2.setNumThreads(1)
    return [_write_image(out / "images" / str(number // 1000) / str(number), number, files) for number, files in chunk]


def _write_image(stem: Path, number: int, files: ImageFiles) -> tuple[Any, ...]:
    """Writes the script of one image; gives its values of COLUMNS."""
    row = files.row
    size, label_size = (_fitted(row.width, row.height, side) for side in (SIDE, LABEL_SIDE))
    photograph = Image.fromarray(read_image(row.image)).resize(size, reducing_gap=2.0)
    jpeg = io.BytesIO()
    photograph.save(jpeg, "JPEG", quality=80)
    layers = read_layers(files)
    seen = {value for name in LABEL_LAYERS if name in layers.labels for value in _values(layers.labels[name])}
    content: dict[str, Any] = {
        "photograph": _text(jpeg.getvalue()),
        # The image's own classes first, then those that somebody sees in it: the order of their colors.
        "classes": [*files.values, *sorted(seen - {0, UNKNOWN, *files.values})],
        "labels": {name: _packed(_picked(values, label_size)) for name, values in layers.labels.items()},
    }
    if layers.saliency is not None:
        # At the labels' pixels: what it says of one fits the rule there.
        content["saliency"] = _packed(_percent(_picked(layers.saliency, label_size) / np.float32(255)))
    if layers.raw is not None:
        content["raw"] = [_raw_map(values) for values in layers.raw]
    if layers.refined is not None:
        content["refined"] = [_packed(_percent(_averaged(values, size))) for values in layers.refined]
    _write_call(stem.with_suffix(".js"), "image", content)
    there = {"photograph", *layers.labels, *(name for name in ("saliency", "raw", "refined") if name in content)}
    bits = sum(1 << position for position, name in enumerate(LAYERS) if name in there)
    facts = (number, row.id, row.split, row.width, row.height, files.values, bits, int(files.rejected))
    return *facts, *scores_and_shares(layers.labels).values()


def _values(labels: np.ndarray) -> Sequence[int]:
    return np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist()


def _raw_map(values: np.ndarray) -> dict[str, Any]:
    peak = float(values.max())
    # Kept at the size of the token grid: the page enlarges it without smoothing.
    packed = _packed(_percent(values / peak if peak > 0 else np.zeros_like(values)))
    return packed | {"max": float(f"{peak:.3g}")}


def _fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height), the longer one no more than `side`."""
    scale = min(1.0, side / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _picked(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Values (H, W) at `size` (width, height), each one the nearest pixel's own: a mean of label values is none."""
    return cv2.resize(values, size, interpolation=cv2.INTER_NEAREST_EXACT)


def _averaged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA)


def _percent(values: np.ndarray) -> np.ndarray:
    """A map in [0, 1] in whole percent, uint8."""
    return (values.clip(0, 1) * 100).round().astype(np.uint8)


def _packed(values: np.ndarray) -> dict[str, Any]:
    """(H, W), uint8, as the page reads it: the rows less the one above them, modulo 256, deflated, in base64.

    Of labels and maps a tenth smaller than their PNG, and no larger than with zlib's other strategies, which are slow.
    """
    height, width = values.shape
    rows = values.copy()
    rows[1:] -= values[:-1]
    compressor = zlib.compressobj(level=9, strategy=zlib.Z_RLE)
    content = compressor.compress(rows.tobytes()) + compressor.flush()
    return {"width": width, "height": height, "data": _text(content)}


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _write_call(path: Path, function: str, content: Any) -> None:
    """A script that hands the page its data. NaN is not JSON: a page that holds one would stay empty."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    path.write_text(f"getamAudit.{function}({text});\n", encoding="ascii")
