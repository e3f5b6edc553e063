"""Reads and writes shard folders: the outputs of per-image stages, each with a manifest.json.

A shard folder that exists is complete, because it is written under a temporary name and then renamed. A stage that was
stopped finds its finished files under the temporary name and continues after them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import getam.system.version
from getam.datasets.index import Index, IndexRow, files_by_id
from getam.errors import InputError, MachineError
from getam.system.files import atomic_folder, fingerprint, read_json, tells_case_apart, write_json
from getam.system.workers import ProcessPool, ThreadPool

MANIFEST = "manifest.json"

REJECTED = "rejected"
"""Manifest key: ids of the images whose pseudo labels a person rejected, which are left out of `ids` or all 255."""

CORRECTED = "corrected"
"""Manifest key: ids of the images whose pseudo labels a person corrected."""

OPTIONAL = ("classes", REJECTED, CORRECTED)
"""Manifest keys of lists that are not always there."""

QUEUED = 4
"""Number of files that may wait for a worker; a stage that is faster than its workers blocks at this number."""

logger = logging.getLogger(__name__)


class ShardWriter:
    """Writes the files <id><suffix> of an unfinished shard by a pool of workers, in parallel with the stage."""

    def __init__(self, folder: Path, *, suffix: str, pool: ThreadPool | ProcessPool) -> None:
        self.folder = folder
        self.suffix = suffix
        self._pool = pool
        self._pending: set[Future[None]] = set()

    def path(self, id: str) -> Path:
        return self.folder / f"{id}{self.suffix}"

    def unfinished(self, batches: Sequence[Sequence[IndexRow]]) -> list[Sequence[IndexRow]]:
        """The batches of which at least one file is missing.

        They are returned whole, since the last bits of an image's result may depend on the batch.
        """
        rest = [batch for batch in batches if not all(self._is_written(row.id) for row in batch)]
        if len(rest) < len(batches):
            left, total = (sum(map(len, part)) for part in (rest, batches))
            logger.info("goes on where it was stopped: %d of %d images are done", total - left, total)
        return rest

    def unfinished_rows(self, rows: Sequence[IndexRow]) -> list[IndexRow]:
        """The rows whose file is missing, for a stage that processes one image at a time."""
        return [row for batch in self.unfinished([[row] for row in rows]) for row in batch]

    def _is_written(self, id: str) -> bool:
        # A crash of the machine can leave an empty file: it was renamed before its bytes were on disk.
        return self.path(id).is_file() and self.path(id).stat().st_size > 0

    def submit(self, id: str, write: Callable[..., None], *arguments: Any) -> int:
        """Submits `write(path, *arguments)` to the pool, and returns the number of files finished since the last call.

        Raises:
            Exception: an earlier call raised it.
        """
        self._pending.add(self._pool.submit(write, self.path(id), *arguments))
        full = len(self._pending) >= self._pool.workers + QUEUED
        return self._collect(timeout=None if full else 0)

    def wait(self) -> Iterator[int]:
        """Waits for all submitted files; yields the numbers of files that were finished.

        Raises:
            Exception: a call raised it.
        """
        while self._pending:
            yield self._collect(timeout=None)

    def _collect(self, timeout: float | None) -> int:
        done, self._pending = wait(self._pending, timeout, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
        return len(done)

    def write_all(
        self, rows: Sequence[IndexRow], write: Callable[..., None], arguments: Callable[[IndexRow], tuple[Any, ...]]
    ) -> Iterator[int]:
        """Submits `write(path, *arguments(row))` for every row and waits; yields the numbers of files finished."""
        for row in rows:
            yield self.submit(row.id, write, *arguments(row))
        yield from self.wait()

    def settle(self) -> None:
        """Returns when no file is being written any more.

        Waiting calls of threads are still carried out, because their results are computed already; those of processes
        are cancelled, because the processes would still have to compute them.
        """
        if isinstance(self._pool, ProcessPool):
            for future in self._pending:
                future.cancel()
        wait(self._pending)
        self._pending.clear()


@contextmanager
def new_shard(
    path: Path,
    *,
    ids: Sequence[str],
    suffix: str,
    classes: Sequence[str],
    settings: BaseModel | None,
    threads: int = 1,
    in_processes: bool = False,
    inputs: Iterable[Path] = (),
    manifest_entries: dict[str, Any] | None = None,
) -> Iterator[ShardWriter]:
    """Yields the writer of a temporary folder, which becomes the shard `path` with its manifest.

    Args:
        ids: images of the shard; the file <id><suffix> of each must exist at the end.
        suffix: end of the file names, such as ".npy".
        classes: class names, for the manifest.
        settings: settings of the stage, for the manifest; None for none.
        threads: number of workers that write the files.
        in_processes: whether the workers are processes instead of threads, for work that holds the GIL.
        inputs: the files that the shard is made from. A stopped shard is continued only if these files, the manifest
            and the sources are unchanged; otherwise it starts anew.
        manifest_entries: further entries of the manifest.

    Raises:
        InputError: two ids would be one file there; a file is missing at the end; nothing is left behind.
        MachineError: a worker process was killed; the finished files are kept.
    """
    manifest = {
        "ids": list(ids),
        "classes": list(classes),
        "settings": settings.model_dump(mode="json") if settings is not None else {},
        "version": getam.system.version.VERSION,
    } | (manifest_entries or {})
    key = hashlib.sha256(
        json.dumps([manifest, suffix, getam.system.version.source_hash(), fingerprint(inputs)]).encode()
    ).hexdigest()
    with atomic_folder(path, key=key) as folder:
        if not tells_case_apart(folder):
            _check_case(ids, path)
        with ProcessPool(threads) if in_processes else ThreadPool(threads) as pool:
            writer = ShardWriter(folder, suffix=suffix, pool=pool)
            try:
                yield writer
                deque(writer.wait(), maxlen=0)
            except BrokenProcessPool:
                raise MachineError(
                    f"{path}: a worker process was killed, for want of memory perhaps; use fewer threads, and the same "
                    "command goes on"
                ) from None
            finally:
                writer.settle()
        missing = [id for id in ids if not writer.path(id).is_file()]
        if missing:
            raise InputError(f"{path}: {len(missing)} files were not written, first {missing[0]}{suffix}")
        write_json(folder / MANIFEST, manifest)


def _check_case(ids: Sequence[str], path: Path) -> None:
    seen: dict[str, str] = {}
    for id in ids:
        if (other := seen.setdefault(id.casefold(), id)) != id:
            raise InputError(
                f"{path}: the ids {other!r} and {id!r} differ in upper and lower case alone, which the file system "
                "there doesn't tell apart; put the results on another one, or rename one of the images"
            )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest of a shard or of a folder of predictions.

    Raises:
        InputError: there is none, or it holds something else than lists of ids and of classes, and settings.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; run the stage that writes it first")
    manifest = read_json(folder / MANIFEST)
    content = manifest if isinstance(manifest, dict) else {}
    lists = {"ids": content.get("ids"), **{name: content.get(name, []) for name in OPTIONAL}}
    wrong = [f"list of {name}" for name, value in lists.items() if not _is_list_of_names(value)]
    if not isinstance(content.get("settings", {}), dict):
        wrong.append("settings")
    if wrong:
        raise InputError(f"{folder / MANIFEST}: holds no {wrong[0]}; delete the folder and run its stage again")
    return manifest


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str | int) for each in value)


def rows_of(folder: Path, index: Index) -> list[IndexRow]:
    """The index rows of a shard's images, in the order of its manifest.

    Raises:
        InputError: the shard has no manifest, names an id that is not in the index, or was made for other classes.
    """
    manifest = read_manifest(folder)
    check_classes(manifest.get("classes", []), index, source=folder / MANIFEST)
    return [index.row(str(id), source=folder / MANIFEST) for id in manifest["ids"]]


def check_classes(classes: Sequence[str], index: Index, *, source: Path) -> None:
    """Refuses a file that was made for other classes than the index's, whose label values mean other classes.

    Args:
        classes: class names that the file was made for.
        source: the file, for the message.
    """
    if list(classes) != list(index.classes):
        theirs, own = (", ".join(names) or "none" for names in (classes, index.classes))
        raise InputError(
            f"{source}: was made for other classes than index.csv has; run its stage again, or take the classes.txt "
            f"that it was made with for this data set and run index-dataset again ({theirs} there, {own} here)"
        )


def shard_name(number: int) -> str:
    return f"{number:03d}"


def files_in_folders(folders: Iterable[Path], *suffixes: str) -> dict[str, Path]:
    """The files with some suffixes in some folders, by id; a later folder overrides, one that is not there is skipped.

    Raises:
        InputError: two files of a folder have the same id.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        found |= files_by_id(folder, frozenset(suffixes)) if folder.is_dir() else {}
    return found


def shard_folders(parent: Path, shards: int) -> list[Path]:
    """The folders of all shards; folders left from an earlier, larger number of shards are not among them."""
    return [parent / shard_name(number) for number in range(shards)]


def files_in_shards(parent: Path, suffix: str) -> dict[str, Path]:
    """The files with a suffix in all shards of a folder, by id, for any number of shards."""
    # The shards are read in descending order: where a shard is left from an earlier, larger number of shards, the
    # shard with the lower number, which holds the image now, overrides it.
    return files_in_folders(sorted(parent.glob("[0-9][0-9][0-9]"), reverse=True), suffix)
