"""The output folder of a training: locked while one process trains, with a copy of the results for the workflow."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import getam.system.version
from getam.settings.foreign import read_key
from getam.system.arguments.training import TrainingArguments
from getam.system.distributed import is_main
from getam.system.files import atomic_file, atomic_folder, locked_folder, write_text

STATE = ".state"
"""Folder in the output folder with the state that a stopped training resumes from; removed when it finishes."""

FINISHED = ".finished"
"""Folder in the output folder with links to the files of the finished training; the workflow removes it once Snakemake
has recorded them."""

MADE_FROM = ".made_from"
"""File in FINISHED with the key (a hash) of the finished training."""

logger = logging.getLogger(__name__)


@contextmanager
def training_folder(out: Path, key: str, *, arguments: TrainingArguments, scored: object = None) -> Iterator[bool]:
    """Locks the output folder of a training; yields whether the training is finished already.

    A workflow that dies before it has recorded that the training is finished removes the training's files when it is
    run again. This context manager puts them back from FINISHED. On exit it removes the training's state.

    Args:
        key: see `getam.training.loop.training_key`.
        scored: the images that the trained network is scored on; the training's files depend on them as well as on
            the key.

    Raises:
        InputError: another process is training in that folder.
    """
    state, kept = out / STATE, out / FINISHED
    # This key includes the sources' hash, so that a training made before an edit of them does not count as finished.
    key = hash_of(key, scored, getam.system.version.source_hash(type(arguments).__module__))
    # A link there would stay one in the place of the file, and the time of its target would be changed.
    finished = read_key(kept / MADE_FROM) == key and not any(path.is_symlink() for path in kept.iterdir())
    if not is_main():
        yield finished
        return
    with locked_folder(state):
        if finished:
            _put_back(kept, out)
            logger.info("%s: was finished before, by the same settings and sources; without %s it trains", out, kept)
        yield finished
        if arguments.keep_finished and not finished:
            _keep(out, kept, key)
        shutil.rmtree(state, ignore_errors=True)


def hash_of(*parts: Any) -> str:
    """Hashes JSON values (other types by their text) together with the package's version; SHA-256 in hex."""
    text = json.dumps([getam.system.version.VERSION, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _put_back(kept: Path, out: Path) -> None:
    for name in _file_names(kept):
        with atomic_file(out / name) as temporary:
            _link(kept / name, temporary)
            # Snakemake compares the modification time with those of the inputs, which may have been made again since.
            os.utime(temporary)


def _keep(out: Path, kept: Path, key: str) -> None:
    with atomic_folder(kept) as folder:
        for name in _file_names(out):
            _link(out / name, folder / name)
        write_text(folder / MADE_FROM, key)


def _file_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]


def _link(source: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    try:
        path.hardlink_to(source)
    except OSError:
        # Some file systems do not support hard links.
        shutil.copyfile(source, path)
