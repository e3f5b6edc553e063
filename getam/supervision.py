"""What a network or a label has learned from, as scores state it, handed on from file to file.

I: image labels; S: masks of salient objects; V: a person's verdicts on pseudo labels; F: masks of classes, as weights
know that were pretrained on pixel labels.
What is made from several has all of theirs: I+S.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from getam.files import read_json
from getam.settings import PretrainedSettings
from getam.shards import read_manifest

IMAGE_LABELS, SALIENCY, VERDICTS, PIXEL_LABELS = "I", "S", "V", "F"
KEY = "supervision"
"""In a model's description and in a manifest."""

UNKNOWN_SOURCE = "I+S"
"""Of labels and networks that do not say it."""


def joined(*parts: str) -> str:
    """("I+S", "I+F") -> "I+S+F" """
    used = {letter for part in parts for letter in part.split("+")}
    order = (IMAGE_LABELS, SALIENCY, VERDICTS, PIXEL_LABELS)
    return "+".join(letter for letter in order if letter in used)


def of_network(own: str, settings: PretrainedSettings) -> str:
    """That of a network trained on `own`, and of the weights that it started with."""
    return joined(own, PIXEL_LABELS) if settings.pretrained and settings.segmentation_pretrained else own


def of_model(folder: Path, *, unknown: str = UNKNOWN_SOURCE) -> str:
    """That of a saved model."""
    # Here and not above: the processes that complete labels start seconds faster without torch.
    from getam.checkpoints import DESCRIPTION

    return str(read_json(folder / DESCRIPTION).get(KEY, unknown))


def of_shards(folders: Iterable[Path], *, unknown: str = UNKNOWN_SOURCE) -> str:
    """That of what lies in shards, or in a folder of predictions."""
    return joined(*(str(read_manifest(folder).get(KEY, unknown)) for folder in folders))
