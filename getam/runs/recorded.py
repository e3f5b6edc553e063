"""Reads the settings that a run's files were made with, as the files themselves record them."""

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
from getam.settings.foreign import results_of
from getam.system.files import read_json

LISTS = ("ids", "classes", "history", "splits", "repeated", "turned", "rejected")
"""Entries of manifests and descriptions that record data or results rather than settings."""


@dataclass(frozen=True)
class Recorded:
    """What the files of one stage record.

    `settings` are the stage's own, by dotted keys; `facts` is the rest: package version, supervision, counts.
    """

    section: str
    source: str
    settings: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def recorded_settings(run: Run) -> list[Recorded]:
    """Reads what the run in folder `run` records, in the order of the workflow, without the stages that didn't run.

    Raises:
        InputError: a file has not the content that its stage writes.
    """
    found = []
    for artifact in RECORDS.values():
        # Sorted by name, so that shards left from a run that was cut into more of them come last.
        paths = sorted(run.glob(artifact.record))
        if paths:
            found.append(_read(run, artifact, paths))
    return found


def titles_of(run: Run) -> Titles:
    """Gives the names of the run's network and maps, from the architecture and the method that its files record.

    Raises:
        InputError: a file has not the content that its stage writes.
    """
    # If the model lies elsewhere, the scores still name its architecture.
    architecture = _recorded(run / path_of("deeplab", "model.json"), "settings", "architecture") or _recorded(
        run / path_of("deeplab_scores"), "protocol", "architecture"
    )
    manifests = sorted(run.glob(RECORDS["maps"].record))
    method, propagation = (
        _recorded(manifests[0], "settings", key) if manifests else None for key in ("method", "propagation")
    )
    return Titles(segmenter_title(architecture), maps_title(method, propagation))


def _recorded(path: Path, *keys: str) -> str | None:
    """The text under nested keys of a JSON file; None where there is none."""
    value: Any = _content(path) if path.is_file() else None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


def _read(run: Run, artifact: Artifact, paths: list[Path]) -> Recorded:
    with results_of(paths[0]):
        return _of_content(run, artifact, paths)


def _of_content(run: Run, artifact: Artifact, paths: list[Path]) -> Recorded:
    contents = [_content(path) for path in paths]
    first = contents[0]
    rest = {key: value for key, value in first.items() if key not in (*LISTS, "settings", "kind")}
    settings, facts = first.get("settings", {}), rest
    if artifact.section == "data":
        settings, facts = (
            rest,
            {f"{name} images": split.get("images") for name, split in first.get("splits", {}).items()},
        )
    if artifact.kind == "shards":
        facts = facts | {
            "images": sum(len(content.get("ids", ())) for content in contents),
            "shards": len(paths),
        }
        if any(content.get("settings") != first.get("settings") for content in contents):
            facts["note"] = "the shards were made by different settings; these are the first shard's"
    if "classes" in first:
        facts = facts | {"classes": len(first["classes"])}
    return Recorded(artifact.section, os.path.relpath(paths[0], run), dict(dotted(settings)), dict(dotted(facts)))


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("settings", {}), dict):
        raise InputError(f"{path}: not the description that its stage writes; delete it and run the stage again")
    return content


def dotted(values: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) for the leaves of nested dicts; lists and empty dicts are leaves."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, prefix=f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def setting_text(value: Any) -> str:
    """A setting as text, nearly as in YAML: strings as they are, other values as JSON."""
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value, ensure_ascii=False)
