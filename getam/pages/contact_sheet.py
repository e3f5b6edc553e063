"""A few telling images of a run on one page that holds its pictures: the worst, the best, the most unknown."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from getam.datasets.index import IndexRow, evenly_spaced
from getam.datasets.shards import files_by_id, shard_folders
from getam.pages.pictures import label_picture
from getam.pages.rendering import render
from getam.runs.artifacts import IN_SHARDS, PREDICTIONS
from getam.runs.folder import Run
from getam.runs.image_results import layer_titles
from getam.runs.recorded import titles_of
from getam.scores.images import image_iou
from getam.system.files import UNKNOWN, read_gray, read_image, read_labels, voc_palette, write_text

LOOKED_AT = 400
"""Most images of a split that are chosen from, evenly spaced over its sorted ids."""

SHOWN = 8
"""Most images of a kind."""

SIDE = 150
"""Longest side of a picture, pixels."""

PICTURES = ("photograph", "ground_truth", "pseudo_labels", *PREDICTIONS, "saliency")
"""What is shown of an image, in this order."""

LABEL_SOURCES = ("pseudo_labels", *PREDICTIONS)


@dataclass(frozen=True)
class _Seen:
    row: IndexRow
    scores: Mapping[str, float]
    unknown: float | None


def write_contact_sheet(run: Run, out: Path, *, rows: Sequence[IndexRow], classes: Sequence[str], shards: int) -> None:
    """Writes the page `out`, at most a few MB, which needs no other file.

    Of LOOKED_AT images of each split, shows the SHOWN with the lowest and with the highest IoU of each source of labels
    (a predicted 255 as background), and those with the most unknown pixels. Nothing is written for a run without
    labels. `classes` are the names of the label values 1, 2, ...; of its per-image stages, the run has `shards`.

    Raises:
        InputError: a file can't be read; the message names it.
    """
    files = {
        layer: files_by_id(shard_folders(run / IN_SHARDS[layer].path, shards), ".png")
        for layer in ("pseudo_labels", "saliency")
    }
    files |= {layer: files_by_id([run / artifact.path], ".png") for layer, artifact in PREDICTIONS.items()}
    files["ground_truth"] = {row.id: row.mask for row in rows if row.mask is not None and row.mask.is_file()}
    seen = [_look(row, files) for row in _candidates(rows)]
    titles = layer_titles(titles_of(run))
    groups = {title: images for title, images in _groups(seen, titles) if images}
    if not groups:
        return
    palette = voc_palette()
    present = {name for images in groups.values() for image in images for name in image.row.labels}
    page = render(
        "contact_sheet.html",
        run=run.name,
        looked_at=len(seen),
        total=len(rows),
        colors=[
            (name, "#" + palette[value].tobytes().hex())
            for value, name in enumerate(("background", *classes))
            if name in present or not value
        ],
        groups={
            title: [(image.row, _facts(image, titles), list(_pictures(image.row, files, titles))) for image in images]
            for title, images in groups.items()
        },
    )
    write_text(out, page)


def _candidates(rows: Sequence[IndexRow]) -> Iterator[IndexRow]:
    for split in dict.fromkeys(row.split for row in rows):
        members = sorted((row for row in rows if row.split == split), key=lambda row: row.id)
        yield from evenly_spaced(members, LOOKED_AT)


def _look(row: IndexRow, files: Mapping[str, Mapping[str, Path]]) -> _Seen:
    scores, unknown = {}, None
    truth = read_labels(files["ground_truth"][row.id]) if row.id in files["ground_truth"] else None
    for layer in LABEL_SOURCES:
        if row.id not in files[layer]:
            continue
        labels = read_labels(files[layer][row.id])
        if layer == "pseudo_labels":
            unknown = float((labels == UNKNOWN).mean())
        if truth is not None and truth.shape == labels.shape and (iou := image_iou(labels, truth)) is not None:
            scores[layer] = iou
    return _Seen(row, scores, unknown)


def _groups(seen: Sequence[_Seen], titles: Mapping[str, str]) -> Iterator[tuple[str, list[_Seen]]]:
    for layer in LABEL_SOURCES:
        # An id decides between equals, so that the page is the same every time.
        ranked = sorted((image for image in seen if layer in image.scores), key=lambda i: (i.scores[layer], i.row.id))
        most = min(SHOWN, len(ranked) // 2)
        yield f"{titles[layer]}: lowest IoU", ranked[:most]
        if layer == "pseudo_labels":
            yield f"{titles[layer]}: highest IoU", ranked[::-1][:most]
    unknown = sorted((image for image in seen if image.unknown), key=lambda i: (-(i.unknown or 0), i.row.id))
    yield f"{titles['pseudo_labels']}: most unknown", unknown[:SHOWN]


def _facts(image: _Seen, titles: Mapping[str, str]) -> str:
    facts = [f"IoU {titles[layer]} {score:.3f}" for layer, score in image.scores.items()]
    if image.unknown is not None:
        facts.append(f"{100 * image.unknown:.1f} % unknown")
    return ", ".join(facts)


def _pictures(
    row: IndexRow, files: Mapping[str, Mapping[str, Path]], titles: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Name and address of each layer's picture."""
    scale = min(1.0, SIDE / max(row.height, row.width))
    size = max(1, round(row.width * scale)), max(1, round(row.height * scale))
    for layer in PICTURES:
        if layer == "photograph":
            picture = Image.fromarray(read_image(row.image)).resize(size, reducing_gap=2.0)
        elif row.id not in files[layer]:
            continue
        elif layer == "saliency":
            picture = Image.fromarray(read_gray(files[layer][row.id])).resize(size, Image.Resampling.BILINEAR)
        else:
            picture = label_picture(read_labels(files[layer][row.id]), size)
        yield titles[layer], _address(picture, "JPEG" if layer == "photograph" else "PNG")


def _address(picture: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    if kind == "PNG":
        # Few colors: a palette takes a third of the bytes.
        picture = picture.convert("RGB").quantize(64, dither=Image.Dither.NONE) if picture.mode == "RGB" else picture
    picture.save(file, format=kind, quality=80)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
