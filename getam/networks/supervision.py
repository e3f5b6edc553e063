"""What a network or a label has learned from, as scores state it; every file hands it on to what is made from it.

I: image labels; S: masks of salient objects; V: a person's verdicts on pseudo labels; F: masks of classes, from which
weights that were pretrained on pixel labels have learned.
What is made from several of these has all their letters: I+S.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from getam.datasets.shards import read_manifest
from getam.settings.networks import PretrainedSettings
from getam.system.files import read_json

IMAGE_LABELS, SALIENCY, VERDICTS, PIXEL_LABELS = "I", "S", "V", "F"
SUPERVISION = "supervision"
"""Key in a model's description and in a manifest."""

UNKNOWN_SOURCE = "I+S"
"""The supervision of labels and networks whose files do not state it."""


def joined(*parts: str) -> str:
    """("I+S", "I+F") -> "I+S+F" """
    used = {letter for part in parts for letter in part.split("+")}
    order = (IMAGE_LABELS, SALIENCY, VERDICTS, PIXEL_LABELS)
    return "+".join(letter for letter in order if letter in used)


def of_network(own: str, settings: PretrainedSettings) -> str:
    """The supervision of a network: its `own`, by what it was trained on, and that of the weights it started with."""
    return joined(own, PIXEL_LABELS) if settings.pretrained and settings.segmentation_pretrained else own


def of_model(folder: Path, *, unknown: str = UNKNOWN_SOURCE) -> str:
    """The supervision of a saved model."""
    # This import stands here because the processes that complete labels start seconds faster without torch.
    from getam.networks.checkpoints import DESCRIPTION

    return str(read_json(folder / DESCRIPTION).get(SUPERVISION, unknown))


def of_shards(folders: Iterable[Path], *, unknown: str = UNKNOWN_SOURCE) -> str:
    """The supervision of what shards, or a folder of predictions, hold: the letters of all of them."""
    return joined(*(str(read_manifest(folder).get(SUPERVISION, unknown)) for folder in folders))
