"""A model card: what a trained network is, where its weights and its scores come from, and how it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from getam.pages.text.documents import Code, Document, Grid, Heading, Items

SUPERVISION = {
    "I": "image labels",
    "S": "masks of salient objects, of other photographs",
    "M": "class maps that were brought along, whose own supervision is not recorded",
    "V": "a person's verdicts on pseudo labels, or corrections of them",
    "F": "masks of classes",
}


def model_card(
    description: Mapping[str, Any],
    *,
    name: str,
    scores: Mapping[str, Any] | None,
    data: Mapping[str, Any] | None,
    usage: str,
    code: str,
) -> Document:
    """The card of a model.

    Args:
        description: content of its model.json.
        name: of the model.
        scores: content of metrics.json beside it; None if it was not scored.
        data: content of index.json of its run; None if there is none.
        usage: what goes into the exported file, and what comes out.
        code: lines of Python that call it.
    """
    settings, classes = description["settings"], [str(name) for name in description.get("classes", [])]
    network = settings.get("encoder") or settings.get("backbone")
    blocks: list[str | Heading | Items | Grid | Code] = [
        f"A segmentation network ({description['kind']}: {settings.get('architecture', '')} on {network}) of "
        f"{len(classes)} classes, trained by getam {description.get('version', '')} from image-level labels.",
        Heading("How it is called"),
        usage,
        Code(code),
        Heading("Labels"),
        Grid(("Value", "Class"), [(str(value), name) for value, name in enumerate(("background", *classes))], {0}),
        Heading("Scores"),
    ]
    blocks += _scores(scores, classes)
    letters = str(description.get("supervision", "")).split("+")
    blocks += [
        Heading("What it learned from"),
        Items(
            [
                *(f"{letter}: {SUPERVISION[letter]}" for letter in letters if letter in SUPERVISION),
                *_data(data),
                *_weights(description.get("initialization"), settings),
            ]
        ),
        "Photographs unlike those that it learned from are segmented all the same, into these classes: look at what it "
        "makes of yours before you rely on it.",
    ]
    return Document(f"Model card: {name}", blocks)


def _scores(scores: Mapping[str, Any] | None, classes: Sequence[str]) -> list[str | Items | Grid]:
    if scores is None:
        return ["It was not scored: there is no metrics.json beside it."]
    reason, split = scores.get("miou_reason"), scores.get("split")
    if reason and not scores.get("miou_classes"):
        return [f"It was not scored: {reason} in {split}."]
    inference, accuracy = scores.get("inference", ""), scores.get("pixel_accuracy")
    over = f" of {scores['miou_classes']} classes, the background among them" if "miou_classes" in scores else ""
    mean = f"no mIoU ({reason})" if reason else f"mIoU {_number(scores.get('miou'))}{over}"
    lines = [
        f"{mean}, pixel accuracy {_number(accuracy)}, on {scores.get('images')} images of {split}"
        + (f", {inference}" if inference else ""),
    ]
    rows = [
        (name, *(_number(scores.get(measure, {}).get(name)) for measure in ("iou", "precision", "recall")))
        for name in ("background", *classes)
    ]
    return [Items(lines), Grid(("Class", "IoU", "precision", "recall"), rows, {1, 2, 3})]


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "none: no pixel of it in the ground truth"


def _data(data: Mapping[str, Any] | None) -> list[str]:
    if data is None:
        return []
    splits = {name: split.get("images") for name, split in data.get("splits", {}).items()}
    counts = ", ".join(f"{count} images of {name}" for name, count in splits.items())
    # A card goes where the model goes: a path from the root of a disk says more of its author than of the data.
    root = Path(str(data.get("root")))
    return [f"Data: {root.name if root.is_absolute() else root} ({counts}); image labels from {data.get('labels')}"]


def _weights(initialization: Any, settings: Mapping[str, Any]) -> list[str]:
    if not isinstance(initialization, Mapping):
        return ["Initial weights: random"]
    facts = [f"{key} {initialization[key]}" for key in ("source", "license", "sha256") if initialization.get(key)]
    licence = [] if initialization.get("license") else ["its licence is not recorded"]
    return [f"Initial weights: {initialization.get('name', '')}, {', '.join([*facts, *licence])}"]
