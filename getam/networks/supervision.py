"""The supervision of networks and labels, which scores state: the kinds of annotation that they were learned from.

I: image labels; S: masks of salient objects; M: class maps that were brought along, whose own supervision is not known
here; V: a person's verdicts on pseudo labels, or corrections of them; F: masks of classes, which weights pretrained on
pixel labels were trained on. The supervision is recorded in model.json and in manifests. A result
made from several files has the letters of all of them, as in I+S.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from getam.datasets.shards import read_manifest
from getam.settings.networks import PretrainedSettings
from getam.system.files import read_json

IMAGE_LABELS, SALIENCY, BROUGHT_MAPS, VERDICTS, PIXEL_LABELS = "I", "S", "M", "V", "F"
SUPERVISION = "supervision"
"""Key of the supervision in a model's description and in a manifest."""

UNKNOWN_SOURCE = "I+S"
"""The supervision of labels and networks whose files do not state it."""


def joined(*parts: str) -> str:
    """Combines supervisions: ("I+S", "I+F") -> "I+S+F"."""
    used = {letter for part in parts for letter in part.split("+")}
    order = (IMAGE_LABELS, SALIENCY, BROUGHT_MAPS, VERDICTS, PIXEL_LABELS)
    return "+".join(letter for letter in order if letter in used)


def of_network(own: str, settings: PretrainedSettings) -> str:
    """The supervision of a network: that of its training data, `own`, combined with that of its pretrained weights."""
    return joined(own, PIXEL_LABELS) if settings.pretrained and settings.segmentation_pretrained else own


def of_model(folder: Path, *, unknown: str = UNKNOWN_SOURCE) -> str:
    """The supervision of a saved model; `unknown` if its description does not state it."""
    # The import stands here because the processes that complete labels start seconds faster without torch.
    from getam.networks.checkpoints import DESCRIPTION

    return str(read_json(folder / DESCRIPTION).get(SUPERVISION, unknown))


def of_shards(folders: Iterable[Path], *, unknown: str = UNKNOWN_SOURCE) -> str:
    """The combined supervision of shards or of folders of predictions; `unknown` for one that does not state it."""
    return joined(*(str(read_manifest(folder).get(SUPERVISION, unknown)) for folder in folders))
