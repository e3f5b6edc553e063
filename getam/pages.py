"""The audit page: what every stage made of an image, side by side, in a folder that opens without a server.

Ids and class names come from the data set. They reach the page through jinja2's escapes and as text nodes
only, and no picture is named after them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from PIL import Image

from getam import report
from getam.errors import InputError
from getam.files import UNKNOWN, read_array, read_gray, read_image, read_labels, voc_palette
from getam.index import IndexRow
from getam.pictures import heat_colors, heat_picture, label_picture

TILE = 320
"""Longest side of a picture on the page, in pixels; a smaller image keeps its size."""

LAYERS = {
    "photograph": "photograph",
    "ground_truth": "ground truth",
    "pseudo_labels": "pseudo labels",
    "deeplab": "DeepLab",
    "end_to_end": "end to end",
    "saliency": "saliency",
    "raw": "GETAM maps",
    "refined": "refined maps",
}
"""What can be shown of an image, in the order of the page, with the names that it uses."""

SCORES = {
    "pseudo_labels_excluded": "pseudo labels, 255 left out",
    "pseudo_labels_background": "pseudo labels, 255 as background",
    "deeplab": "DeepLab",
    "end_to_end": "end to end",
}
"""The IoUs of an image, with the names that the page uses."""


class _Tile(NamedTuple):
    layer: str
    picture: Image.Image
    name: str | None = None
    note: str | None = None


def write_audit(run: Path, out: Path, *, rows: Sequence[IndexRow], classes: Sequence[str], max_images: int) -> int:
    """Writes index.html and images/ for the run in folder `run` into the existing, empty folder `out`.

    Of each split, at most `max_images` images are shown, evenly spaced over its sorted ids. Whatever a run
    doesn't have (ground truth, a path that didn't run) is left out. `classes` are the names of the label
    values 1, 2, ... Returns the number of images on the page.

    Raises:
        InputError: a file can't be read, or doesn't fit the index; the message names it.
    """
    (out / "images").mkdir()
    chosen = _choose(rows, max_images)
    images = [_audit_image(run, row, classes, out, number) for number, row in enumerate(chosen, start=1)]
    palette = voc_palette()
    colors = {name: _hex(palette[value]) for value, name in enumerate(("background", *classes))}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("getam"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # NaN is not JSON: a page that holds one would stay empty without saying why.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    page = environment.get_template("audit.html").render(
        run=run.name,
        headings=report.HEADINGS,
        scores=[astuple(row) for row in report.score_rows(report.summarize(run))],
        colors=colors,
        heat=[_hex(color) for color in heat_colors()[::15]],
        total=len(rows),
        audit={"images": images, "layers": LAYERS, "scores": SCORES, "colors": colors},
    )
    (out / "index.html").write_text(page, encoding="utf-8")
    return len(images)


def _choose(rows: Sequence[IndexRow], max_images: int) -> list[IndexRow]:
    chosen = []
    for split in dict.fromkeys(row.split for row in rows):
        members = sorted((row for row in rows if row.split == split), key=lambda row: row.id)
        # The step is at least 1, so that no two positions round to the same one.
        positions = np.linspace(0, len(members) - 1, min(max_images, len(members))).round().astype(int)
        chosen += [members[position] for position in positions]
    return chosen


def _audit_image(run: Path, row: IndexRow, classes: Sequence[str], out: Path, number: int) -> dict[str, Any]:
    """Writes the pictures of one image; gives what the page says about it."""
    labels = sorted(row.labels, key=classes.index)
    masks = _read_masks(run, row)
    tiles = []
    for position, tile in enumerate(_tiles(run, row, labels, masks)):
        source = f"images/{number:05d}-{position:02d}.{'jpg' if tile.layer == 'photograph' else 'png'}"
        tile.picture.save(out / source, quality=88)
        tiles.append({"layer": tile.layer, "name": tile.name, "note": tile.note, "source": source})
    return {
        "id": row.id,
        "split": row.split,
        "height": row.height,
        "width": row.width,
        "labels": labels,
        "scores": _scores(masks),
        "unknown": round(float((masks["pseudo_labels"] == UNKNOWN).mean()), 4) if "pseudo_labels" in masks else None,
        "tiles": tiles,
    }


def _read_masks(run: Path, row: IndexRow) -> dict[str, np.ndarray]:
    """Layer -> (H, W) uint8 label values, for each source of labels that has this image."""
    paths = {
        "ground_truth": row.mask,
        "pseudo_labels": _in_shards(run / "pseudo_labels", f"{row.id}.png"),
        "deeplab": run / "deeplab" / "predictions" / f"{row.id}.png",
        "end_to_end": run / "end_to_end" / "predictions" / f"{row.id}.png",
    }
    masks = {}
    for layer, path in paths.items():
        if path is None or not path.exists():
            continue
        masks[layer] = read_labels(path)
        if masks[layer].shape != (row.height, row.width):
            height, width = masks[layer].shape
            raise InputError(
                f"{path}: {height}x{width}, but {row.image} is {row.height}x{row.width} in the index; "
                "run the stage that wrote it again"
            )
    return masks


def _in_shards(folder: Path, name: str) -> Path | None:
    """The file of that name in whichever shard has it."""
    # Sorted: shards of an earlier, larger number come after those that hold the image now.
    shards = sorted(p for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []
    return next((shard / name for shard in shards if (shard / name).is_file()), None)


def _tiles(run: Path, row: IndexRow, labels: Sequence[str], masks: Mapping[str, np.ndarray]) -> Iterator[_Tile]:
    scale = min(1.0, TILE / max(row.height, row.width))
    size = max(1, round(row.width * scale)), max(1, round(row.height * scale))
    yield _Tile("photograph", Image.fromarray(read_image(row.image)).resize(size, reducing_gap=2.0))
    for layer, mask in masks.items():
        yield _Tile(layer, label_picture(mask, size))
    if (path := _in_shards(run / "saliency", f"{row.id}.png")) is not None:
        yield _Tile("saliency", Image.fromarray(read_gray(path)).resize(size, Image.Resampling.BILINEAR))
    raw, refined = (_read_maps(run / stage, row, labels) for stage in ("maps", "refined"))
    for position, name in enumerate(labels):
        if raw is not None:
            peak = float(raw[position].max())
            # Kept at the size of the token grid: the page enlarges it without smoothing.
            picture = heat_picture(raw[position] / peak if peak > 0 else np.zeros_like(raw[position]))
            yield _Tile("raw", picture, name, f"max {peak:.1e}")
        if refined is not None:
            yield _Tile("refined", heat_picture(refined[position], size), name)


def _read_maps(folder: Path, row: IndexRow, labels: Sequence[str]) -> np.ndarray | None:
    path = _in_shards(folder, f"{row.id}.npy")
    if path is None:
        return None
    maps = read_array(path)
    if maps.ndim != 3 or len(maps) != len(labels):
        raise InputError(
            f"{path}: an array of shape {maps.shape}, but the index gives {row.id} {len(labels)} classes; "
            "run the stage that wrote it again"
        )
    return maps


def _hex(color: np.ndarray) -> str:
    return "#" + color.tobytes().hex()


def _scores(masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The IoUs of one image, keys of SCORES: of the label sources that it has, none without ground truth."""
    if "ground_truth" not in masks:
        return {}
    truth = masks["ground_truth"]
    scores = {layer: _iou(masks[layer], truth) for layer in ("deeplab", "end_to_end") if layer in masks}
    if "pseudo_labels" in masks:
        predicted = masks["pseudo_labels"]
        kept = predicted != UNKNOWN
        scores["pseudo_labels_excluded"] = _iou(predicted[kept], truth[kept])
        scores["pseudo_labels_background"] = _iou(np.where(kept, predicted, 0), truth)
    return {name: round(score, 4) for name, score in scores.items() if score is not None}


def _iou(predicted: np.ndarray, truth: np.ndarray) -> float | None:
    """Mean IoU over the label values that the ground truth contains; None where it contains none.

    An image's own score, to find the bad ones by: the run's mIoU sums over all images first.
    """
    known = truth != UNKNOWN
    predicted, truth = predicted[known], truth[known]
    ious = []
    for value in np.unique(truth):
        in_prediction, in_truth = predicted == value, truth == value
        ious.append((in_prediction & in_truth).sum() / (in_prediction | in_truth).sum())
    return float(np.mean(ious)) if ious else None
