"""Shard folders: what a per-image stage writes, with manifest.json saying what is in it and how it was made.

A shard folder that exists is complete: it is written under a temporary name and renamed. A stage that was stopped
finds its files under that name and goes on after them.
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
from getam.datasets.index import Index, IndexRow
from getam.errors import InputError, MachineError
from getam.system.files import atomic_folder, fingerprint, read_json, write_json
from getam.system.workers import ProcessPool, ThreadPool

MANIFEST = "manifest.json"

REJECTED = "rejected"
"""In the manifest of pseudo labels: the shard's images that a person has rejected, left out of `ids` or all unknown."""

QUEUED = 4
"""Files that wait beside those that the workers write; a stage that is faster than its workers waits for them."""

logger = logging.getLogger(__name__)


class ShardWriter:
    """A shard that is being written: files of images, by a pool beside the stage's own work."""

    def __init__(self, folder: Path, *, suffix: str, pool: ThreadPool | ProcessPool) -> None:
        self.folder = folder
        self.suffix = suffix
        self._pool = pool
        self._pending: set[Future[None]] = set()

    def path(self, id: str) -> Path:
        return self.folder / f"{id}{self.suffix}"

    def unfinished(self, batches: Sequence[Sequence[IndexRow]]) -> list[Sequence[IndexRow]]:
        """The batches of which a file is missing, whole: an image's last bits may depend on its batch."""
        rest = [batch for batch in batches if not all(self._is_written(row.id) for row in batch)]
        if len(rest) < len(batches):
            left, total = (sum(map(len, part)) for part in (rest, batches))
            logger.info("goes on where it was stopped: %d of %d images are done", total - left, total)
        return rest

    def unfinished_rows(self, rows: Sequence[IndexRow]) -> list[IndexRow]:
        """The rows whose file is missing, of a stage that works on one image at a time."""
        return [row for batch in self.unfinished([[row] for row in rows]) for row in batch]

    def _is_written(self, id: str) -> bool:
        # An empty file is what a failing machine leaves of one that was renamed before its bytes were on disk.
        return self.path(id).is_file() and self.path(id).stat().st_size > 0

    def submit(self, id: str, write: Callable[..., None], *arguments: Any) -> int:
        """Has `write(path, *arguments)` called by the pool; gives the number of files that were done meanwhile.

        Raises:
            Exception: what an earlier call raised.
        """
        self._pending.add(self._pool.submit(write, self.path(id), *arguments))
        full = len(self._pending) >= self._pool.workers + QUEUED
        return self._collect(timeout=None if full else 0)

    def wait(self) -> Iterator[int]:
        """Waits until everything is written, giving the number of files that were done meanwhile.

        Raises:
            Exception: what a call raised.
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
        """Has `write(path, *arguments(row))` called for every row, giving the number of files as they are done."""
        for row in rows:
            yield self.submit(row.id, write, *arguments(row))
        yield from self.wait()

    def settle(self) -> None:
        """Returns when nothing is being written any more.

        What threads have to write is computed already and kept; processes would yet have to compute it.
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
    facts: dict[str, Any] | None = None,
) -> Iterator[ShardWriter]:
    """Gives the writer of a temporary folder that becomes the shard `path`, manifest included.

    Args:
        ids: images of the shard; <id><suffix> of each must be there at the end.
        threads: workers that write the files.
        in_processes: as many processes instead, for work that holds the interpreter; see ProcessPool.
        inputs: the files that the shard is made from. A stopped shard is gone on with only if they, the settings and
            the code are what they were.
        facts: further entries of the manifest.

    Raises:
        InputError: a file is missing at the end; nothing is left behind.
        MachineError: a process of the pool was killed.
    """
    manifest = {
        "ids": list(ids),
        "classes": list(classes),
        "settings": settings.model_dump(mode="json") if settings is not None else {},
        "version": getam.system.version.VERSION,
    } | (facts or {})
    key = hashlib.sha256(
        json.dumps([manifest, suffix, getam.system.version.source_hash(), fingerprint(inputs)]).encode()
    ).hexdigest()
    with atomic_folder(path, key=key) as folder:
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


def files_by_id(folders: Iterable[Path], suffix: str) -> dict[str, Path]:
    """The files of folders by their ids; a folder that isn't there has none."""
    paths = (path for folder in folders if folder.is_dir() for path in folder.iterdir())
    return {path.name.removesuffix(suffix): path for path in paths if path.name.endswith(suffix)}


def shard_folders(parent: Path, shards: int) -> list[Path]:
    """The folders of all shards; others that lie there from an earlier number of shards are not read."""
    return [parent / shard_name(number) for number in range(shards)]


def files_in_shards(parent: Path, suffix: str) -> dict[str, Path]:
    """The files of a folder's shards by their ids, whatever the number of shards."""
    # The last first, so that those of an earlier, larger number give way to the shard that holds the image now.
    return files_by_id(sorted(parent.glob("[0-9][0-9][0-9]"), reverse=True), suffix)
