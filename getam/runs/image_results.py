"""The results of a run for each image, as layers of the audit page: labels, rules of Eq. 5, maps, and scores.

Imports torch only where a rule has to be computed, since the processes that make the page start seconds faster without.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from getam.datasets.index import IndexRow
from getam.datasets.shards import MANIFEST, REJECTED, files_in_folders, read_manifest, shard_folders
from getam.errors import InputError
from getam.labels.class_maps import BROKEN, salient
from getam.labels.decisions import Decision, rules_of
from getam.labels.refined_maps import read_refined
from getam.runs.artifacts import IN_SHARDS, PREDICTIONS, Titles, path_of
from getam.runs.folder import Run
from getam.scores.images import joint_counts, mean_iou, with_unknown_as_background
from getam.settings.completion import LABEL_METHODS, CompletionSettings
from getam.settings.foreign import results_of
from getam.system.files import read_array
from getam.system.image_files import UNKNOWN, read_gray, read_labels

LAYERS = ("photograph", *IN_SHARDS, "rules", "ground_truth", *PREDICTIONS)
"""The layers that an image can have, in the order of the page."""

LABEL_LAYERS = ("pseudo_labels", "ground_truth", *PREDICTIONS)
"""The layers whose values are label values."""

IMAGE_SCORES = ("excluded", "background", *PREDICTIONS)
"""The IoUs of an image: that of its pseudo label under two protocols, and that of each network's prediction."""

SHARES = {
    "coverage": "labelled",
    "unknown": "unknown",
    "mined": "mined",
    "conflict": "conflict",
}
"""Fractions of an image's pixels, from its pseudo label and from the rules: key -> title."""


def layer_titles(titles: Titles) -> dict[str, str]:
    """The names of the layers on pages.

    Args:
        titles: of the run, as getam.runs.recorded.titles_of reads them.
    """
    results = {layer: titles.fill(artifact.title) for layer, artifact in (IN_SHARDS | PREDICTIONS).items()}
    others = {"photograph": "photograph", "rules": "rules of Eq. 5", "ground_truth": "ground truth"}
    return {layer: (others | results)[layer] for layer in LAYERS}


def score_titles(titles: Titles) -> dict[str, str]:
    """The names of the scores of an image on pages."""
    return {
        "excluded": "labels, 255 left out",
        "background": "labels, 255 as background",
        **{layer: titles.fill(artifact.title) for layer, artifact in PREDICTIONS.items()},
    }


@dataclass(frozen=True)
class ImageFiles:
    """The files of an image's layers.

    Attributes:
        values: label values of the image's classes, ascending.
        paths: layer -> file, for the layers that exist.
        completion: settings with which the rules of Eq. 5 made its pseudo label; None where another method made it.
        rejected: whether a person's verdict left out its pseudo label or set it to unknown.
    """

    row: IndexRow
    values: tuple[int, ...]
    paths: Mapping[str, Path]
    completion: CompletionSettings | None
    rejected: bool


@dataclass(frozen=True)
class ImageLayers:
    """The layers of an image except its photograph; None where the run has no such layer.

    Attributes:
        labels: layer -> label values, or values of Decision for the rules, (H, W), uint8.
        saliency: (H, W), uint8.
        raw, refined: (K, h, w), >= 0, one map a class.
    """

    labels: dict[str, np.ndarray]
    saliency: np.ndarray | None
    raw: np.ndarray | None
    refined: np.ndarray | None


def find_files(run: Run, rows: Iterable[IndexRow], *, classes: Sequence[str], shards: int) -> list[ImageFiles]:
    """Finds the files that the run in folder `run` has for each row.

    Only the first `shards` shards are read; others are left from a run that was cut into more of them.

    Raises:
        InputError: a manifest of pseudo labels can't be read.
    """
    found = {
        layer: files_in_folders(shard_folders(run / artifact.path, shards), *artifact.suffixes)
        for layer, artifact in IN_SHARDS.items()
    }
    found |= {
        layer: files_in_folders([run / artifact.path], *artifact.suffixes) for layer, artifact in PREDICTIONS.items()
    }
    rejected: set[str] = set()
    completion: dict[Path, CompletionSettings | None] = {}
    for folder in shard_folders(run / path_of("pseudo_labels"), shards):
        # The user's own labels have no manifest.
        manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else {}
        rejected |= {*manifest.get(REJECTED, ())}
        with results_of(folder / MANIFEST):
            completion[folder] = _completion(manifest.get("settings", {}))
    values = {name: value for value, name in enumerate(classes, start=1)}
    files = []
    for row in rows:
        paths = {name: by_id[row.id] for name, by_id in found.items() if row.id in by_id}
        if row.mask is not None and row.mask.exists():
            paths["ground_truth"] = row.mask
        settings = completion[paths["pseudo_labels"].parent] if "pseudo_labels" in paths else None
        known = tuple(sorted(values[name] for name in row.labels))
        files.append(ImageFiles(row, known, paths, None if row.id in rejected else settings, row.id in rejected))
    return files


def _completion(settings: Mapping[str, object]) -> CompletionSettings | None:
    method = LABEL_METHODS.get(str(settings.get("method")))
    if method is None or not method.by_rules:
        return None
    return CompletionSettings.model_validate({name: settings.get(name) for name in CompletionSettings.model_fields})


def read_layers(files: ImageFiles) -> ImageLayers:
    """Reads the layers that an image has.

    Raises:
        InputError: a file can't be read, or has another size or number of classes than the index says.
    """
    row, paths = files.row, files.paths
    labels = {name: read_labels(paths[name]) for name in LABEL_LAYERS if name in paths}
    saliency = read_gray(paths["saliency"]) if "saliency" in paths else None
    for name, values in (labels | ({"saliency": saliency} if saliency is not None else {})).items():
        if values.shape != (row.height, row.width):
            height, width = values.shape
            raise InputError(
                f"{paths[name]}: {height}x{width}, but {row.image} is {row.height}x{row.width} in the index; "
                "run the stage that wrote it again"
            )
    raw, refined = (_read_maps(files, name) for name in ("raw", "refined"))
    rules = _rules(files, labels.get("pseudo_labels"), saliency, refined)
    return ImageLayers(labels | ({"rules": rules} if rules is not None else {}), saliency, raw, refined)


def _read_maps(files: ImageFiles, name: str) -> np.ndarray | None:
    if name not in files.paths:
        return None
    maps = (read_refined if name == "refined" else read_array)(files.paths[name])
    if maps.ndim != 3 or len(maps) != len(files.values) or 0 in maps.shape[1:]:
        raise InputError(
            f"{files.paths[name]}: an array of shape {maps.shape}, but the index gives {files.row.id} "
            f"{len(files.values)} classes; run the stage that wrote it again"
        )
    if not np.isfinite(maps).all():
        raise InputError(f"{files.paths[name]}: {BROKEN}")
    return maps


def _rules(
    files: ImageFiles, labels: np.ndarray | None, saliency: np.ndarray | None, refined: np.ndarray | None
) -> np.ndarray | None:
    settings = files.completion
    if settings is None or labels is None or saliency is None:
        return None
    # An image without a class is background, whatever is salient.
    inside = salient(saliency, settings.saliency_threshold) & bool(files.values)
    if settings.conflict == "unknown" and not settings.opening:
        return rules_of(labels, inside)
    if refined is None:
        return None
    from getam.labels.completion import decisions

    classes = [value - 1 for value in files.values]
    return decisions(refined, classes, inside, **settings.completion_arguments())


def scores_and_shares(labels: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Computes an image's scores and shares: keys of IMAGE_SCORES and SHARES -> a fraction, None if unknown."""
    values: dict[str, float | None] = dict.fromkeys((*IMAGE_SCORES, *SHARES))
    pseudo, rules, truth = (labels.get(name) for name in ("pseudo_labels", "rules", "ground_truth"))
    if pseudo is not None:
        unknown = float((pseudo == UNKNOWN).mean())
        values["unknown"], values["coverage"] = unknown, 1 - unknown
    if rules is not None:
        shares = np.bincount(rules.ravel(), minlength=len(Decision)) / rules.size
        values["mined"], values["conflict"] = float(shares[Decision.MINED]), float(shares[Decision.CONFLICT])
    if truth is not None:
        for name in PREDICTIONS:
            if name in labels:
                values[name] = mean_iou(joint_counts(truth, labels[name]))
        if pseudo is not None:
            counts = joint_counts(truth, pseudo)
            values["background"] = mean_iou(with_unknown_as_background(counts))
            counts[:, UNKNOWN] = 0
            values["excluded"] = mean_iou(counts)
    return {name: None if value is None else round(value, 4) for name, value in values.items()}
