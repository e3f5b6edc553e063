"""The settings that a run's files were made by, as the files themselves record them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from getam.errors import InputError
from getam.files import read_json
from getam.run_folder import Run

FILES = {
    "data": "index.json",
    "classifier": "classifier/model.json",
    "maps": "maps/*/manifest.json",
    "refine": "refined/*/manifest.json",
    "saliency": "saliency_model/model.json",
    "saliency_maps": "saliency/*/manifest.json",
    "completion": "pseudo_labels/*/manifest.json",
    "deeplab": "deeplab/model.json",
    "deeplab_prediction": "deeplab/predictions/manifest.json",
    "end_to_end": "end_to_end/model.json",
    "checkpoint": "imported/model.json",
    "end_to_end_prediction": "end_to_end/predictions/manifest.json",
}
"""Name of a stage's section -> the files that record it, in the order of the workflow."""

LISTS = ("ids", "classes", "history", "splits", "repeated", "turned", "rejected")
"""Entries that are no settings but what was found or done."""


@dataclass(frozen=True)
class Recorded:
    """What the files of one stage say.

    `settings` are the stage's own, by dotted keys; `facts` the rest: version of the package, supervision, numbers.
    """

    section: str
    source: str
    settings: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def recorded_settings(run: Run) -> list[Recorded]:
    """What the run in folder `run` records, in the order of the workflow; a stage that didn't run is left out.

    Raises:
        InputError: a file is not what its stage writes.
    """
    found = []
    for section, pattern in FILES.items():
        # Sorted: shards of an earlier, larger number come after those that are used now.
        paths = sorted(run.glob(pattern))
        if paths:
            found.append(_read(run, section, paths))
    return found


def _read(run: Run, section: str, paths: list[Path]) -> Recorded:
    contents = [_content(path) for path in paths]
    first = contents[0]
    rest = {key: value for key, value in first.items() if key not in (*LISTS, "settings", "kind")}
    settings, facts = first.get("settings", {}), rest
    if section == "data":
        settings, facts = (
            rest,
            {f"{name} images": split.get("images") for name, split in first.get("splits", {}).items()},
        )
    if "*" in FILES[section]:
        facts = facts | {
            "images": sum(len(content.get("ids", ())) for content in contents),
            "shards": len(paths),
        }
        if any(content.get("settings") != first.get("settings") for content in contents):
            facts["note"] = "the shards were made by different settings; these are the first's"
    if "classes" in first:
        facts = facts | {"classes": len(first["classes"])}
    return Recorded(section, os.path.relpath(paths[0], run), dict(leaves(settings)), dict(leaves(facts)))


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("settings", {}), dict):
        raise InputError(f"{path}: not the description that its stage writes; delete it and run the stage again")
    return content


def leaves(values: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dicts by dotted keys; a list is a value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, prefix=f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def shown(value: Any) -> str:
    """A setting as it is written in YAML, nearly: JSON, with texts as they are."""
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value, ensure_ascii=False)
