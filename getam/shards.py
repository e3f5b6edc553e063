"""Shard folders: what a per-image stage writes, with manifest.json saying what is in it and how it was made.

A shard folder that exists is complete: it is written under a temporary name and renamed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import getam.version
from getam.errors import InputError
from getam.files import atomic_folder, read_json, write_json
from getam.index import Index, IndexRow

MANIFEST = "manifest.json"


@contextmanager
def new_shard(
    path: Path,
    *,
    ids: Sequence[str],
    suffix: str,
    classes: Sequence[str],
    settings: BaseModel | None,
    facts: dict[str, Any] | None = None,
) -> Iterator[Path]:
    """Gives a temporary folder that becomes the shard `path`, manifest included.

    Args:
        ids: images of the shard; <id><suffix> of each must be there at the end.
        facts: further entries of the manifest.

    Raises:
        InputError: a file is missing at the end; nothing is left behind.
    """
    with atomic_folder(path) as folder:
        yield folder
        missing = [id for id in ids if not (folder / f"{id}{suffix}").is_file()]
        if missing:
            raise InputError(f"{path}: {len(missing)} files were not written, first {missing[0]}{suffix}")
        manifest = {
            "ids": list(ids),
            "classes": list(classes),
            "settings": settings.model_dump(mode="json") if settings is not None else {},
            "version": getam.version.VERSION,
        }
        write_json(folder / MANIFEST, manifest | (facts or {}))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a shard or of a folder of predictions."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; run the stage that writes it first")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("ids"), list):
        raise InputError(f"{folder / MANIFEST}: holds no list of ids; delete the folder and run its stage again")
    return manifest


def rows_of(folder: Path, index: Index) -> list[IndexRow]:
    """The index rows of the images in a shard, in its order.

    Raises:
        InputError: an id is not in the index, or the shard was made for other classes.
    """
    manifest = read_manifest(folder)
    check_classes(manifest.get("classes", []), index, source=folder / MANIFEST)
    return [index.row(str(id), source=folder / MANIFEST) for id in manifest["ids"]]


def check_classes(classes: Sequence[str], index: Index, *, source: Path) -> None:
    """Refuses what was made for other classes than the index's: label values would mean something else."""
    if list(classes) != list(index.classes):
        raise InputError(f"{source}: was made for other classes than index.csv has; run its stage again")


def shard_name(number: int) -> str:
    return f"{number:03d}"


def shard_folders(parent: Path, shards: int) -> list[Path]:
    """The folders of all shards; others that lie there from an earlier number of shards are not read."""
    return [parent / shard_name(number) for number in range(shards)]
