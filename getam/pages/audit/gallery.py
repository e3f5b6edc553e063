"""Writes the data of the audit page as scripts, so that it opens from disk without a server.

A page that is opened from disk may load scripts but no data files. So a list of images is a script `lists/<nnn>.js`
that calls getamAudit.list, and an image is a script `images/<number // 1000>/<number>.js` that calls getamAudit.image
with its thumbnail and its layers. Ids and class names come from the data set and are not trusted: they are strings in
that JSON, and no file is named after them.
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
from getam.system.image_files import UNKNOWN, read_image
from getam.system.progress import progress
from getam.system.workers import ProcessPool

SIDE = 320
"""Longest side of a thumbnail and of a refined map, in pixels; a smaller image keeps its size."""

LIST = 500
"""Number of images in a list."""

CHUNK = 16
"""Number of images that a worker process is given at a time."""

COLUMNS = ("number", "id", "split", "width", "height", "labels", "layers", "rejected", *IMAGE_SCORES, *SHARES)
"""The columns of a list. labels: the image's label values; layers: a bit mask by the positions in LAYERS."""

LABEL_SIDE = 1024
"""Longest side of labels, rules and saliency, in pixels; more than the page shows of an image on a screen."""


def write_gallery(
    run: Run, out: Path, *, rows: Sequence[IndexRow], classes: Sequence[str], shards: int, images: int, threads: int
) -> int:
    """Writes index.html, assets/, lists/ and images/ for the run in folder `run` into the existing folder `out`.

    Results that the run doesn't have (ground truth, a path that didn't run) are left out.

    Args:
        classes: names of the label values 1, 2, ...
        shards: number of shards of the run's per-image stages.
        images: number of images at most of each split, evenly spaced over its sorted ids; 0: all.
        threads: number of worker processes.

    Returns:
        The number of images on the page.

    Raises:
        InputError: a file can't be read, or doesn't fit the index; the message names it.
        MachineError: a worker process was killed.
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
    class_values = {value for files in chosen for value in files.values}
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
            "shown": sorted(class_values),
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
    """A hash that identifies the data set, under which the browser stores the verdicts."""
    rows_as_json = [[row.id, row.split, *row.labels] for row in rows]
    return hashlib.sha256(json.dumps(rows_as_json).encode()).hexdigest()[:16]


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
    """Writes the script of one image; returns its row of a list, see COLUMNS."""
    row = files.row
    size, label_size = (_fitted(row.width, row.height, side) for side in (SIDE, LABEL_SIDE))
    photograph = Image.fromarray(read_image(row.image)).resize(size, reducing_gap=2.0)
    jpeg = io.BytesIO()
    photograph.save(jpeg, "JPEG", quality=80)
    layers = read_layers(files)
    shown_values = {value for name in LABEL_LAYERS if name in layers.labels for value in _values(layers.labels[name])}
    content: dict[str, Any] = {
        "photograph": _text(jpeg.getvalue()),
        # The image's own classes come first, then the others that a layer contains; the page colors them in this order.
        "classes": [*files.values, *sorted(shown_values - {0, UNKNOWN, *files.values})],
        "labels": {name: _packed(_picked(values, label_size)) for name, values in layers.labels.items()},
    }
    if layers.saliency is not None:
        # Saliency is resampled like the labels, so that its value at a pixel agrees with the rule shown there.
        content["saliency"] = _packed(_percent(_picked(layers.saliency, label_size) / np.float32(255)))
    if layers.raw is not None:
        content["raw"] = [_raw_map(values) for values in layers.raw]
    if layers.refined is not None:
        content["refined"] = [_packed(_percent(_averaged(values, size))) for values in layers.refined]
    _write_call(stem.with_suffix(".js"), "image", content)
    present = {"photograph", *layers.labels, *(name for name in ("saliency", "raw", "refined") if name in content)}
    bits = sum(1 << position for position, name in enumerate(LAYERS) if name in present)
    columns = (number, row.id, row.split, row.width, row.height, files.values, bits, int(files.rejected))
    return *columns, *scores_and_shares(layers.labels).values()


def _values(labels: np.ndarray) -> Sequence[int]:
    return np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist()


def _raw_map(values: np.ndarray) -> dict[str, Any]:
    peak = float(values.max())
    # The map keeps the size of the token grid; the page enlarges it without smoothing.
    packed = _packed(_percent(values / peak if peak > 0 else np.zeros_like(values)))
    return packed | {"max": float(f"{peak:.3g}")}


def _fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """Scales (width, height) down so that the longer side is at most `side`."""
    scale = min(1.0, side / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _picked(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes label values (H, W) to `size` (width, height) by nearest neighbor: averages would be other labels."""
    return cv2.resize(values, size, interpolation=cv2.INTER_NEAREST_EXACT)


def _averaged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA)


def _percent(values: np.ndarray) -> np.ndarray:
    """Converts a map in [0, 1] to whole percent, uint8 in 0..100."""
    return (values.clip(0, 1) * 100).round().astype(np.uint8)


def _packed(values: np.ndarray) -> dict[str, Any]:
    """Encodes (H, W), uint8, as inflate.js reads it: differences to the row above modulo 256, deflated, in base64.

    Labels and maps take a tenth less than as PNG; zlib's other strategies are slower and save nothing.
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
    """Writes a script that passes `content` to a function of the page.

    Raises:
        ValueError: the content holds NaN, which is not JSON; the page would stay empty.
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    path.write_text(f"getamAudit.{function}({text});\n", encoding="ascii")
