"""Compares two runs: their scores, recorded settings, classes, and the pseudo labels of their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from getam.datasets.index import Index, evenly_spaced, read_index
from getam.datasets.shards import files_in_shards
from getam.errors import InputError
from getam.runs.artifacts import PREDICTIONS, path_of
from getam.runs.recorded import Recorded, recorded_settings, setting_text
from getam.runs.summary import ABSENT, PROTOCOL_TITLES, Measured, measured_scores, summarize
from getam.scores.images import image_iou
from getam.system.image_files import read_labels
from getam.system.progress import progress


@dataclass(frozen=True)
class Change:
    """A number in both runs, None where a run lacks it."""

    name: str
    a: float | None
    b: float | None

    @property
    def change(self) -> float | None:
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True)
class ScoreChange(Change):
    """A score of both runs.

    Attributes:
        differing: where the protocols differ: heading -> (A, B). If any do, the scores are not comparable and `change`
            is None.
        missing: the run that lacks the score, "A" or "B"; empty if both have it.
        classes: scores of the classes, of which the score is the mean, the largest change first.
        counts: how many classes the means of A and B are of, as texts.
    """

    differing: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    missing: str = ""
    classes: tuple[Change, ...] = ()
    counts: tuple[str, str] = (ABSENT, ABSENT)

    @property
    def change(self) -> float | None:
        return None if self.differing else super().change


@dataclass(frozen=True)
class SettingChange:
    """A recorded setting: its dotted key, and its value in each run as text; None where a run doesn't record it."""

    key: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class ImageChange:
    """The pseudo labels of one image: the fraction of pixels whose label differs, and the IoU in both runs."""

    id: str
    differing: float
    iou: Change


@dataclass(frozen=True)
class ImageChanges:
    """The compared images, those that differ most first.

    Attributes:
        total: number of images with a pseudo label in both runs.
        notes: sentences about what was left out, and why.
    """

    images: tuple[ImageChange, ...]
    total: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    a: Path
    b: Path
    scores: tuple[ScoreChange, ...]
    settings: tuple[SettingChange, ...]
    pseudo_labels: ImageChanges


def compare_runs(a: Path, b: Path, *, most_images: int = 0) -> Comparison:
    """Compares the runs in two folders.

    Args:
        most_images: number of images at most whose pseudo labels are compared, evenly spaced over their sorted ids;
            0 compares all.

    Raises:
        InputError: a folder holds no run, or a file has not the content that its stage writes.
    """
    summaries, records = [], []
    for run in (a, b):
        summaries.append(summarize(run))
        records.append(recorded_settings(run))
        if not summaries[-1] and not records[-1]:
            raise InputError(f"{run}: holds neither scores nor recorded settings of a run; name a folder results/<run>")
    scores_a, scores_b = (measured_scores(summary) for summary in summaries)
    other_data = _compare_data(*(_index_of(run) for run in (a, b)))
    return Comparison(
        a,
        b,
        tuple(_compare_scores(scores_a, scores_b, other_data)),
        tuple(_compare_settings(*records)),
        _compare_images(a, b, most_images),
    )


def _compare_data(a: Index | None, b: Index | None) -> dict[str, dict[str, tuple[str, str]]]:
    """Differences between the data of two runs: {split: {heading: (A, B)}}; {} where a run has no index."""
    if a is None or b is None:
        return {}
    pairs = enumerate(zip_longest(a.classes, b.classes, fillvalue="none"), 1)
    # Only the first differing class is named: there may be hundreds.
    other = next(
        ((f"{name_a} ({value})", f"{name_b} ({value})") for value, (name_a, name_b) in pairs if name_a != name_b), None
    )
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for split in ("train", "val", "test"):
        # Two data sets may share ids, so sizes and labels are compared as well.
        of_a, of_b = ({(row.id, row.height, row.width, row.labels) for row in index.split(split)} for index in (a, b))
        found[split] = {"Class": other} if other else {}
        if of_a != of_b:
            found[split]["Data"] = (f"{len(of_a - of_b)} images alone", f"{len(of_b - of_a)} images alone")
    return found


def _compare_scores(
    a: Sequence[Measured], b: Sequence[Measured], other_data: Mapping[str, Mapping[str, tuple[str, str]]]
) -> list[ScoreChange]:
    of_a, of_b = ({_identity(score): score for score in scores} for scores in (a, b))
    changes = []
    for identity in dict.fromkeys((*of_a, *of_b)):
        one, other = of_a.get(identity), of_b.get(identity)
        name = _name(*filter(None, (one, other)))
        if one is None or other is None:
            a_number, b_number = (each.number if each else None for each in (one, other))
            changes.append(ScoreChange(name, a_number, b_number, missing="A" if one is None else "B"))
            continue
        differing = {
            heading: (value, other.protocol[heading])
            for heading, value in one.protocol.items()
            if value != other.protocol[heading]
        }
        if one.row.supervision != ABSENT:
            # Scores of the saliency network (without supervision) are measured on images outside of the index.
            differing |= other_data.get(one.row.split, {})
        counts = (one.row.classes, other.row.classes)
        classes = () if differing else _compare_classes(one.classes, other.classes)
        changes.append(ScoreChange(name, one.number, other.number, differing, classes=classes, counts=counts))
    return changes


def _identity(score: Measured) -> tuple[str, ...]:
    """Key by which the scores of two runs are paired; it leaves out the names of the networks, which may differ."""
    # The section of the pseudo labels holds the maps' score as well; their sources tell them apart.
    source = "" if score.section in PREDICTIONS else score.source
    return score.section, source, score.measure, score.row.unknown


def _name(*scores: Measured) -> str:
    """The name of a score of both runs: "DeepLab / SegFormer mIoU" where their networks have different names."""
    sources, unknown = dict.fromkeys(score.source for score in scores), scores[0].row.unknown
    name = f"{' / '.join(sources)} {scores[0].measure}"
    return f"{name}, 255 {unknown}" if unknown in PROTOCOL_TITLES.values() else name


def _compare_classes(a: Mapping[str, float | None], b: Mapping[str, float | None]) -> tuple[Change, ...]:
    changes = [Change(name, a.get(name), b.get(name)) for name in dict.fromkeys((*a, *b))]
    return tuple(sorted(changes, key=lambda each: -1.0 if each.change is None else abs(each.change), reverse=True))


def _compare_settings(a: Sequence[Recorded], b: Sequence[Recorded]) -> list[SettingChange]:
    by_section = [{stage.section: stage for stage in stages} for stages in (a, b)]
    changes = []
    for section in dict.fromkeys(section for stages in by_section for section in stages):
        one, other = (_shown_values(stages.get(section)) for stages in by_section)
        if one is None or other is None:
            texts = ("not recorded" if values is None else "recorded" for values in (one, other))
            changes.append(SettingChange(f"{section}.*", *texts))
            continue
        changes += [
            SettingChange(f"{section}.{key}", one.get(key), other.get(key))
            for key in dict.fromkeys((*one, *other))
            if one.get(key) != other.get(key)
        ]
    return changes


def _shown_values(stage: Recorded | None) -> dict[str, str] | None:
    if stage is None:
        return None
    # Facts are put in brackets, since one may have the same name as a setting.
    facts = {f"({key})": setting_text(value) for key, value in stage.facts.items()}
    return {key: setting_text(value) for key, value in stage.settings.items()} | facts


def _compare_images(a: Path, b: Path, most: int) -> ImageChanges:
    files_a, files_b = (files_in_shards(run / path_of("pseudo_labels"), ".png") for run in (a, b))
    ids = sorted(files_a.keys() & files_b.keys())
    if not ids:
        without = [name for name, files in (("A", files_a), ("B", files_b)) if not files]
        note = f"{' and '.join(without)} has no pseudo labels" if without else "no image has pseudo labels in both runs"
        return ImageChanges((), 0, (note,))
    notes = []
    if alone := len(files_a.keys() ^ files_b.keys()):
        notes.append(f"{alone} images have pseudo labels in one run only")
    index_a, index_b = (_index_of(run) for run in (a, b))
    if index_a is not None and index_b is not None and index_a.classes != index_b.classes:
        return ImageChanges((), len(ids), (*notes, "the runs have other classes: label values mean other things"))
    chosen = evenly_spaced(ids, most)
    if len(chosen) < len(ids):
        notes.append(f"{len(chosen)} of {len(ids)} images were compared, evenly spaced over their sorted ids")
    rows = index_a.by_id if index_a is not None else {}
    changes, sizes, masks = [], 0, 0
    for id in progress(chosen, total=len(chosen), unit="image", what="compare"):
        one, other = read_labels(files_a[id]), read_labels(files_b[id])
        if one.shape != other.shape:
            sizes += 1
            continue
        mask = rows[id].mask if id in rows else None
        truth = read_labels(mask) if mask is not None and mask.is_file() else None
        masks += mask is not None and truth is None
        if truth is not None and truth.shape == one.shape:
            iou = Change(id, image_iou(one, truth), image_iou(other, truth))
        else:
            iou = Change(id, None, None)
        changes.append(ImageChange(id, float((one != other).mean()), iou))
    if sizes:
        notes.append(f"{sizes} images have pseudo labels of different sizes")
    if masks:
        notes.append(
            f"the ground truth of {masks} images was not found; run this in the folder that the runs were made in"
        )
    changes.sort(key=lambda image: (-image.differing, image.id))
    return ImageChanges(tuple(changes), len(ids), tuple(notes))


def _index_of(run: Path) -> Index | None:
    path = run / path_of("index")
    return read_index(path) if path.is_file() else None
