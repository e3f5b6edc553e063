"""The contact sheet: one self-contained page with the best, the worst and the most unknown images of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from getam.datasets.index import IndexRow, evenly_spaced
from getam.datasets.shards import files_in_folders, shard_folders
from getam.pages.pictures import label_picture
from getam.pages.rendering import render
from getam.pages.thumbnails import css_color, data_url, fitted
from getam.runs.artifacts import IN_SHARDS, PREDICTIONS
from getam.runs.folder import Run
from getam.runs.image_results import layer_titles
from getam.runs.recorded import titles_of
from getam.scores.images import image_iou
from getam.system.files import write_text
from getam.system.image_files import UNKNOWN, read_gray, read_image, read_labels, voc_palette

LOOKED_AT = 400
"""Candidates: number of images of a split at most, evenly spaced over its sorted ids."""

SHOWN = 8
"""Number of images at most in each group."""

SIDE = 150
"""Longest side of a picture, pixels."""

PICTURES = ("photograph", "ground_truth", "pseudo_labels", *PREDICTIONS, "saliency")
"""Layers that are shown of an image, in this order."""

LABEL_SOURCES = ("pseudo_labels", *PREDICTIONS)


@dataclass(frozen=True)
class _Candidate:
    """An image with its IoU by source of labels, and the fraction of unknown pixels in its pseudo label."""

    row: IndexRow
    scores: Mapping[str, float]
    unknown: float | None


def write_contact_sheet(run: Run, out: Path, *, rows: Sequence[IndexRow], classes: Sequence[str], shards: int) -> None:
    """Writes the page `out`, a few MB at most, which needs no other file; writes nothing for a run without labels.

    From LOOKED_AT candidates of each split it shows, for each source of labels, the SHOWN images with the lowest IoU (a
    predicted 255 counts as background); of the pseudo labels also those with the highest IoU and with the most unknown
    pixels.

    Args:
        classes: names of the label values 1, 2, ...
        shards: number of shards of the run's per-image stages.

    Raises:
        InputError: a file can't be read; the message names it.
    """
    files = {
        layer: files_in_folders(shard_folders(run / IN_SHARDS[layer].path, shards), ".png")
        for layer in ("pseudo_labels", "saliency")
    }
    files |= {layer: files_in_folders([run / artifact.path], ".png") for layer, artifact in PREDICTIONS.items()}
    files["ground_truth"] = {row.id: row.mask for row in rows if row.mask is not None and row.mask.is_file()}
    candidates = [_scored(row, files) for row in _chosen_rows(rows)]
    titles = layer_titles(titles_of(run))
    groups = {title: images for title, images in _groups(candidates, titles) if images}
    if not groups:
        return
    palette = voc_palette()
    present = {name for images in groups.values() for image in images for name in image.row.labels}
    page = render(
        "contact_sheet.html",
        run=run.name,
        looked_at=len(candidates),
        total=len(rows),
        colors=[
            (name, css_color(palette[value]))
            for value, name in enumerate(("background", *classes))
            if name in present or not value
        ],
        groups={
            title: [
                (image.row, _measures(image, titles), list(_pictures(image.row, files, titles))) for image in images
            ]
            for title, images in groups.items()
        },
    )
    write_text(out, page)


def _chosen_rows(rows: Sequence[IndexRow]) -> Iterator[IndexRow]:
    for split in dict.fromkeys(row.split for row in rows):
        members = sorted((row for row in rows if row.split == split), key=lambda row: row.id)
        yield from evenly_spaced(members, LOOKED_AT)


def _scored(row: IndexRow, files: Mapping[str, Mapping[str, Path]]) -> _Candidate:
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
    return _Candidate(row, scores, unknown)


def _groups(candidates: Sequence[_Candidate], titles: Mapping[str, str]) -> Iterator[tuple[str, list[_Candidate]]]:
    """Yields the title and the images of each group."""
    for layer in LABEL_SOURCES:
        # Ties are broken by the id, so that the page is the same every time.
        scored = [image for image in candidates if layer in image.scores]
        ranked = sorted(scored, key=lambda image: (image.scores[layer], image.row.id))
        most = min(SHOWN, len(ranked) // 2)
        yield f"{titles[layer]}: lowest IoU", ranked[:most]
        if layer == "pseudo_labels":
            yield f"{titles[layer]}: highest IoU", ranked[::-1][:most]
    unknown = sorted(
        [image for image in candidates if image.unknown], key=lambda image: (-(image.unknown or 0), image.row.id)
    )
    yield f"{titles['pseudo_labels']}: most unknown", unknown[:SHOWN]


def _measures(image: _Candidate, titles: Mapping[str, str]) -> str:
    parts = [f"IoU {titles[layer]} {score:.3f}" for layer, score in image.scores.items()]
    if image.unknown is not None:
        parts.append(f"{100 * image.unknown:.1f} % unknown")
    return ", ".join(parts)


def _pictures(
    row: IndexRow, files: Mapping[str, Mapping[str, Path]], titles: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yields the title of each layer that the image has, and its picture as a data URL."""
    size = fitted((row.width, row.height), SIDE)
    for layer in PICTURES:
        if layer == "photograph":
            picture = Image.fromarray(read_image(row.image)).resize(size, reducing_gap=2.0)
        elif row.id not in files[layer]:
            continue
        elif layer == "saliency":
            picture = Image.fromarray(read_gray(files[layer][row.id])).resize(size, Image.Resampling.BILINEAR)
        else:
            picture = label_picture(read_labels(files[layer][row.id]), size)
        yield titles[layer], data_url(picture, "JPEG" if layer == "photograph" else "PNG")
