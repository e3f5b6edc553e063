"""Gathers all scores of a run: the content of summary.json, and the rows of its table.

The scores are read from the JSON files of the evaluating stages, as fractions of 1; nothing is computed here. Sections
whose file does not exist are left out, as in a run that took only one of the two paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from getam.runs.artifacts import PREDICTIONS, SCORE_FILES, Titles, capitalized, segmenter_title
from getam.runs.folder import Run
from getam.settings.foreign import is_score, results_of
from getam.system.files import read_json

PROTOCOL_TITLES = {
    "excluded": "left out",
    "background": "as background",
    "wrong": "as wrong",
}
"""Protocol -> what it does with a pixel that is predicted as 255, in words; in the order of the summary."""

ABSENT = "-"


@dataclass(frozen=True)
class ScoreRow:
    """One score with its protocol, each field as text."""

    score: str
    value: str
    classes: str
    """The number of classes of which the score is the mean."""
    split: str
    images: str = ABSENT
    unknown: str = ABSENT
    inference: str = ABSENT
    supervision: str = ABSENT


HEADINGS = ("Score", "Value", "Classes", "Split", "Images", "Predicted 255", "Inference", "Supervision")


@dataclass(frozen=True)
class Measured:
    """One score as a number, with the row that shows it.

    Attributes:
        section: section of summary.json that contains the score.
        source: what was scored, as text: "SegFormer" in one run, "DeepLab" in another.
        measure: the measure: "mIoU".
        classes: scores of the classes, of which the score is the mean; None for a class without one.
        inference: inference settings that two comparable scores share; unlike the row's, without values that were
            found rather than set, such as the best threshold.
    """

    row: ScoreRow
    number: float | None
    section: str
    source: str
    measure: str
    classes: Mapping[str, float | None] = field(default_factory=dict)
    inference: str = ABSENT

    @property
    def protocol(self) -> dict[str, str]:
        """What two scores must have in common to be comparable: heading of the table -> text."""
        shared = (self.row.split, self.row.images, self.row.unknown, self.inference, self.row.supervision)
        return dict(zip(HEADINGS[3:], shared, strict=True))


def summarize(run: Run, *, rounds: Sequence[Mapping[str, Path]] = ()) -> dict[str, Any]:
    """Gathers the scores of the run in folder `run` into one nested dict: the content of summary.json.

    Sections: classifier, saliency, pseudo_labels, deeplab, end_to_end, each only where the run has its file.
    A key starts with the split that it was measured on, as in `deeplab.val_miou` and
    `pseudo_labels.train_miou.excluded`. All scores lie in [0, 1]; the IoU of a class is None where
    neither ground truth nor prediction contain it. The key `rounds`, in a run of several, has the sections
    pseudo_labels and deeplab of each round from the second on, and its number as `round`.

    Args:
        rounds: of each round from the second on, the files with its scores by section.

    Raises:
        InputError: a file lacks a key; the message names both.
    """
    summary: dict[str, Any] = {
        section: _read(section, run / artifact.path)
        for section, artifact in SCORE_FILES.items()
        if (run / artifact.path).exists()
    }
    if rounds:
        summary["rounds"] = [
            {"round": number, **{section: _read(section, path) for section, path in files.items()}}
            for number, files in enumerate(rounds, start=2)
        ]
    return summary


def _read(section: str, path: Path) -> dict[str, Any]:
    with results_of(path):
        found = _READERS[section](read_json(path))
        # What tables, pages and plots show is made once here, where the file is known that does not have it.
        notes_in({section: found})
        for score in measured_scores({section: found}):
            numbers = (score.number, *score.classes.values())
            texts = (score.row.split, score.row.supervision)
            if not all(isinstance(text, str) for text in texts) or not all(is_score(number) for number in numbers):
                raise ValueError(f"{score.measure} is none")
        return found


def _classifier(metrics: Mapping[str, Any]) -> dict[str, Any]:
    split = metrics["split"]
    return {
        "split": split,
        "images": metrics["images"],
        "supervision": metrics.get("supervision", "I"),
        "image_labels": metrics.get("image_labels"),
        f"{split}_map": metrics["mean_average_precision"],
        f"{split}_average_precision": metrics["average_precision"],
        **{key: metrics[key] for key in ("unlabelled", "reason") if key in metrics},
        **{key: metrics.get(key) for key in ("chance", "probe", "warning")},
    }


def _saliency(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "split": "val",
        "images": metrics["images"],
        "val_mae": metrics["mae"],
        "val_max_f": metrics["max_f"],
        "val_s_measure": metrics["s_measure"],
        "val_max_e": metrics["max_e"],
    }


def _pseudo_labels(metrics: Mapping[str, Any]) -> dict[str, Any]:
    split, protocols = metrics["split"], metrics["protocols"]
    return {
        "split": split,
        "images": metrics["images"],
        "supervision": metrics["supervision"],
        "maps_supervision": metrics.get("maps_supervision", "I"),
        "image_labels": metrics.get("image_labels"),
        f"{split}_miou": {protocol: protocols[protocol]["miou"] for protocol in PROTOCOL_TITLES},
        "miou_classes": {protocol: known_of(protocols[protocol]["iou"]) for protocol in PROTOCOL_TITLES},
        f"{split}_iou": {protocol: protocols[protocol]["iou"] for protocol in PROTOCOL_TITLES},
        # Earlier versions counted the images with a mask alone.
        "labelled": metrics.get("labelled", metrics["images"]),
        **{key: metrics[key] for key in ("unlabelled",) if key in metrics},
        "unknown_share": metrics["unknown_share"],
        "coverage": metrics["coverage"],
        "best_threshold": metrics["best_threshold"],
        # Earlier versions had no threshold that was fixed beforehand.
        "fixed_threshold": metrics.get("fixed_threshold"),
    }


def _segmentation(metrics: Mapping[str, Any]) -> dict[str, Any]:
    split, protocol = metrics["split"], metrics["protocol"]
    return {
        "split": split,
        "images": metrics["images"],
        f"{split}_miou": metrics["miou"],
        "miou_classes": known_of(metrics["iou"]),
        f"{split}_iou": metrics["iou"],
        f"{split}_pixel_accuracy": metrics["pixel_accuracy"],
        "protocol": {
            **{key: protocol[key] for key in ("scales", "squares", "flip", "crf", "supervision")},
            **{key: protocol.get(key) for key in ("architecture", "image_labels")},
            **{key: protocol[key] for key in ("window", "window_overlap", "long_side") if key in protocol},
        },
    }


_READERS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "classifier": _classifier,
    "saliency": _saliency,
    "pseudo_labels": _pseudo_labels,
    "deeplab": _segmentation,
    "end_to_end": _segmentation,
}


def score_rows(summary: Mapping[str, Any]) -> list[ScoreRow]:
    """The rows of the table of scores, in the order of the workflow, values with three decimals.

    Args:
        summary: the result of `summarize`.
    """
    return [measured.row for measured in measured_scores(summary)]


def measured_scores(summary: Mapping[str, Any]) -> list[Measured]:
    """The scores in a summary, in the order of the workflow.

    Args:
        summary: the result of `summarize`.
    """
    scores = []
    if classifier := summary.get("classifier"):
        split = classifier["split"]
        scores.append(
            _measured(
                "classifier",
                source_title(summary, "classifier"),
                "mAP",
                classifier[f"{split}_map"],
                classifier,
                classes=classifier[f"{split}_average_precision"],
                supervision=describe_supervision(classifier["supervision"], classifier),
            )
        )
        if probe := classifier.get("probe"):
            scores.append(
                _measured(
                    "classifier",
                    "Linear probe",
                    "mAP",
                    probe["mean_average_precision"],
                    {"split": split, "images": probe["images"]},
                    classes=probe["average_precision"],
                    inference="frozen backbone",
                    supervision=describe_supervision(classifier["supervision"], classifier),
                )
            )
    if saliency := summary.get("saliency"):
        for measure, key in {"MAE": "mae", "max F": "max_f", "S-measure": "s_measure", "max E": "max_e"}.items():
            number = saliency[f"{saliency['split']}_{key}"]
            scores.append(_measured("saliency", source_title(summary, "saliency"), measure, number, saliency))
    if labels := summary.get("pseudo_labels"):
        scores.extend(_pseudo_label_scores(labels, source_title(summary, "pseudo_labels")))
    for further in summary.get("rounds", ()):
        # The maps are the first round's.
        labels = further["pseudo_labels"] | {"best_threshold": None, "fixed_threshold": None}
        scores.extend(_pseudo_label_scores(labels, _of_round(source_title(summary, "pseudo_labels"), further["round"])))
    for section, source, segmenter in segmenter_scores(summary):
        split, protocol = segmenter["split"], segmenter["protocol"]
        for measure, key in (("mIoU", "miou"), ("pixel accuracy", "pixel_accuracy")):
            scores.append(
                _measured(
                    section,
                    source,
                    measure,
                    segmenter[f"{split}_{key}"],
                    segmenter,
                    classes=segmenter[f"{split}_iou"] if key == "miou" else {},
                    inference=describe_inference(protocol),
                    supervision=describe_supervision(protocol["supervision"], protocol),
                )
            )
    return scores


def _measured(
    section: str,
    source: str,
    measure: str,
    number: float | None,
    scores: Mapping[str, Any],
    *,
    classes: Mapping[str, float | None] | None = None,
    count: int | None = None,
    unknown: str = ABSENT,
    inference: str = ABSENT,
    compared: str | None = None,
    supervision: str = ABSENT,
) -> Measured:
    """Makes a score with its row.

    Args:
        scores: section of the summary, which names the split and the number of images.
        classes: scores of the classes, of which the score is the mean.
        count: number of classes, where the scores of each are not known.
        compared: inference settings that two comparable scores share; None: all of `inference`.
    """
    if classes:
        count = known_of(classes)
    row = ScoreRow(
        f"{source} {measure}",
        three_decimals(number),
        whole(count),
        scores["split"],
        str(scores["images"]),
        unknown=unknown,
        inference=inference,
        supervision=supervision,
    )
    return Measured(row, number, section, source, measure, classes or {}, inference if compared is None else compared)


def known_of(classes: Mapping[str, float | None]) -> int:
    """The number of classes that have a score."""
    return sum(value is not None for value in classes.values())


def source_title(summary: Mapping[str, Any], section: str) -> str:
    """The title of a section's scores, which names the architecture that they were measured with."""
    architecture = summary.get("deeplab", {}).get("protocol", {}).get("architecture")
    return capitalized(Titles(segmenter_title(architecture)).fill(SCORE_FILES[section].title))


def notes_in(summary: Mapping[str, Any]) -> list[str]:
    """What stands with the scores, as sentences: what is wrong with a network, with a cure, and what is not scored.

    Args:
        summary: the result of `summarize`.
    """
    warning = summary.get("classifier", {}).get("warning")
    notes = [f"Warning. {source_title(summary, 'classifier')}: {warning}."] if warning else []
    for title, split, count in _unlabelled(summary):
        notes.append(f"{title}: {count} images of {split} that nobody has labelled are left out of its score.")
    if unscored := list(_unscored(summary)):
        notes.append(f"Not scored: {'; '.join(unscored)}.")
    return notes


def _unlabelled(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Yields title, split and number of the images that a score by image labels leaves out, since they have none."""
    for section in ("classifier", "pseudo_labels"):
        if count := summary.get(section, {}).get("unlabelled"):
            yield source_title(summary, section), summary[section]["split"], count


def _unscored(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yields the title of each network or result without a score, and what there is none for."""
    classifier = summary.get("classifier")
    if classifier and classifier[f"{classifier['split']}_map"] is None:
        reason = classifier.get("reason", f"no image of {classifier['split']} has a label")
        yield f"{source_title(summary, 'classifier')} ({reason})"
    labels = summary.get("pseudo_labels")
    results = [(source_title(summary, "pseudo_labels"), labels)] if labels else []
    for title, scores in [*results, *((title, scores) for _, title, scores in segmenter_scores(summary))]:
        if not scores["images"]:
            yield f"{title} (no image of {scores['split']} has a mask)"
            continue
        score = scores[f"{scores['split']}_miou"]
        if (score["background"] if isinstance(score, Mapping) else score) is None:
            yield f"{title} (ground truth and prediction show background alone, whose IoU is no score)"


def segmenter_scores(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yields section, title and scores of each segmentation network in a summary, of each of its rounds."""
    for section in PREDICTIONS:
        if scores := summary.get(section):
            yield section, source_title(summary, section), scores
        for further in summary.get("rounds", ()):
            if section in further:
                yield section, _of_round(source_title(summary, section), further["round"]), further[section]


def _of_round(title: str, number: int) -> str:
    return f"{title} (round {number})"


def _pseudo_label_scores(labels: Mapping[str, Any], source: str) -> Iterator[Measured]:
    split = labels["split"]
    supervision = describe_supervision(labels["supervision"], labels)
    if best := labels["best_threshold"]:
        # This score involves neither completion nor saliency. The ground truth chose the threshold, so it is an upper
        # bound for any threshold on the maps.
        chosen = f"the best on {split}"
        yield _measured(
            "pseudo_labels",
            "Maps",
            "mIoU",
            best["miou"],
            labels,
            # Earlier versions did not count them.
            count=best.get("miou_classes"),
            inference=f"threshold {best['threshold']:.2f}, {chosen}",
            compared=f"threshold: {chosen}",
            supervision=describe_supervision(labels["maps_supervision"], labels),
        )
    if fixed := labels["fixed_threshold"]:
        yield _measured(
            "pseudo_labels",
            "Maps",
            "mIoU, fixed threshold",
            fixed["miou"],
            labels,
            count=fixed.get("miou_classes"),
            inference=describe_fixed_threshold(fixed),
            supervision=describe_supervision(labels["maps_supervision"], labels),
        )
    for protocol, meaning in PROTOCOL_TITLES.items():
        yield _measured(
            "pseudo_labels",
            source,
            "mIoU",
            labels[f"{split}_miou"][protocol],
            labels,
            classes=labels[f"{split}_iou"][protocol],
            unknown=meaning,
            supervision=supervision,
        )
    for measure, key in (("unknown share", "unknown_share"), ("coverage", "coverage")):
        # These need no mask.
        counted = {**labels, "images": labels["labelled"]}
        yield _measured("pseudo_labels", source, measure, labels[key], counted, supervision=supervision)


def describe_supervision(used: str, scores: Mapping[str, Any]) -> str:
    """What the networks learned from, with the origin of the image labels in brackets: "I+S (annotations)"."""
    source = scores.get("image_labels")
    return f"{used} ({source})" if source else used


def describe_fixed_threshold(fixed: Mapping[str, Any]) -> str:
    """How the score of the maps at the threshold that the configuration fixes was made: "threshold 0.15, fixed"."""
    return f"threshold {fixed['threshold']:g}, fixed"


def describe_inference(protocol: Mapping[str, Any]) -> str:
    """How a network's predictions were made, according to the protocol of its scores: "scale 1, flip, no CRF".

    The protocol has a `window` only where predictions were made in windows, a `long_side` where images were larger.
    """
    key = "squares" if protocol["squares"] else "scales"
    sizes = protocol[key]
    parts = [f"{key[:-1] if len(sizes) == 1 else key} " + " ".join(f"{size:g}" for size in sizes)]
    parts += [f"windows of {protocol['window']}"] if protocol.get("window") else []
    parts += [f"scaled down to {protocol['long_side']}"] if protocol.get("long_side") else []
    parts += ["flip"] if protocol["flip"] else []
    parts += ["CRF" if protocol["crf"] else "no CRF"]
    return ", ".join(parts)


def three_decimals(value: float | None) -> str:
    """A score as text: three decimals, or a dash for None."""
    return ABSENT if value is None else f"{value:.3f}"


def whole(value: int | None) -> str:
    """A number of things as text; a dash for None."""
    return ABSENT if value is None else str(value)


def signed(value: float | None) -> str:
    """A difference with its sign and three decimals; 0.000 has no sign, None is a dash."""
    if value is None:
        return ABSENT
    return f"{value:+.3f}" if abs(value) >= 0.0005 else "0.000"
