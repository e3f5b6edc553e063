"""The settings that a run's files were made by, as the files themselves record them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from getam.errors import InputError
from getam.runs.artifacts import RECORDS, Artifact, Titles, maps_title, path_of, segmenter_title
from getam.runs.folder import Run
from getam.system.files import read_json

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
    for made in RECORDS.values():
        # Sorted: shards of an earlier, larger number come after those that are used now.
        paths = sorted(run.glob(made.record))
        if paths:
            found.append(_read(run, made, paths))
    return found


def titles_of(run: Run) -> Titles:
    """The names in a run of what differs between runs, by what its files record.

    Raises:
        InputError: a file is not what its stage writes.
    """
    # The scores name the architecture too: those of a model that lies elsewhere.
    architecture = _recorded(run / path_of("deeplab", "model.json"), "settings", "architecture") or _recorded(
        run / path_of("deeplab_scores"), "protocol", "architecture"
    )
    manifests = sorted(run.glob(RECORDS["maps"].record))
    method = _recorded(manifests[0], "settings", "method") if manifests else None
    return Titles(segmenter_title(architecture), maps_title(method))


def _recorded(path: Path, *keys: str) -> str | None:
    """A text of a file by the keys that lead to it; None where there is none."""
    value: Any = _content(path) if path.is_file() else None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


def _read(run: Run, made: Artifact, paths: list[Path]) -> Recorded:
    contents = [_content(path) for path in paths]
    first = contents[0]
    rest = {key: value for key, value in first.items() if key not in (*LISTS, "settings", "kind")}
    settings, facts = first.get("settings", {}), rest
    if made.section == "data":
        settings, facts = (
            rest,
            {f"{name} images": split.get("images") for name, split in first.get("splits", {}).items()},
        )
    if made.kind == "shards":
        facts = facts | {
            "images": sum(len(content.get("ids", ())) for content in contents),
            "shards": len(paths),
        }
        if any(content.get("settings") != first.get("settings") for content in contents):
            facts["note"] = "the shards were made by different settings; these are the first's"
    if "classes" in first:
        facts = facts | {"classes": len(first["classes"])}
    return Recorded(made.section, os.path.relpath(paths[0], run), dict(dotted(settings)), dict(dotted(facts)))


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("settings", {}), dict):
        raise InputError(f"{path}: not the description that its stage writes; delete it and run the stage again")
    return content


def dotted(values: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dicts by dotted keys; a list is a value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, prefix=f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def setting_text(value: Any) -> str:
    """A setting as it is written in YAML, nearly: JSON, with texts as they are."""
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value, ensure_ascii=False)
