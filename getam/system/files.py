"""Reads and writes files: text, arrays and JSON, all written atomically.

Every file and folder is written under a temporary name beside its destination and then renamed, so that a file that
exists is complete. Nothing here reads a pickle.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from getam.errors import InputError, MachineError
from getam.system.opening import open_itself

MARKER = ".getam"
"""Empty file in each folder that a stage writes; it marks the folder as one that may be replaced."""

KEY = ".key"
"""File in an unfinished folder with the key that identifies the inputs of its files."""

LOCK = ".lock"
"""Lock file in an unfinished folder, held by the process that writes the folder."""


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)
"""Errors of a file that has no room. Libraries that count what they have written raise one without a code."""


class UnwritableError(MachineError):
    """A file cannot be written."""


def _unwritable(path: Path, error: OSError) -> UnwritableError:
    cure = "make room, or choose another place" if error.errno in NO_ROOM else "choose another place"
    return UnwritableError(f"{path}: cannot be written ({error.strerror or error}); {cure}")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, with its suffix; renames it to `path` on success, removes it on failure.

    Raises:
        UnwritableError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None
    # The name is fixed, so that the next process removes what a killed one has left behind.
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    if os.path.isdir(temporary) and not os.path.islink(temporary):
        raise UnwritableError(f"{temporary}: is in the way; remove it")
    try:
        # A link of this name would lead the writer to a file elsewhere, so the file is made anew.
        temporary.unlink(missing_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
        temporary.replace(path)
    except OSError as error:
        # The error of a failed write has no file name, or the temporary one; any other name is of a file that the
        # caller could not read.
        if error.filename is not None and str(error.filename) != str(temporary):
            raise
        raise _unwritable(path, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path, *, key: str | None = None) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; it replaces `path` on success and is removed on failure.

    An existing folder is replaced only if it is empty or was written by this function, so that a wrong output path
    never deletes a user's files, nor those that appear there while the folder is written. Only one process at a time
    can write a folder.

    Args:
        key: identifies the inputs of the files. With a key, the files of a stopped process stay under the temporary
            name, and the next call with the same key continues with them; bad input (an InputError other than
            MachineError) still removes them.

    Raises:
        InputError: `path` is a file, a link, a folder of other files, or contains the working directory; another
            process is writing it; its parent cannot be created.
    """
    _check_replaceable(path)
    temporary, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    _check_out_of_the_way(temporary)
    _check_out_of_the_way(old)
    with locked_folder(temporary):
        if old.exists() and not path.exists():
            # An earlier process was killed between the two renames below.
            old.replace(path)
        if key is None or _key_of(temporary) != key:
            _empty(temporary)
        keep = key is not None
        try:
            _mark(temporary)
            if key is not None:
                write_text(temporary / KEY, key)
            yield temporary
            _take_place(temporary, path, old)
        except MachineError:
            raise
        except InputError:
            keep = False
            raise
        finally:
            if not keep:
                shutil.rmtree(temporary, ignore_errors=True)
        for name in (KEY, LOCK):
            (path / name).unlink(missing_ok=True)
        if _is_ours(old):
            shutil.rmtree(old, ignore_errors=True)


def _take_place(temporary: Path, path: Path, old: Path) -> None:
    """Renames a finished folder to `path`, and what was there to `old`.

    Raises:
        MachineError: files that are no stage's have appeared at one of the two meanwhile; they stay.
    """
    try:
        _check_replaceable(path)
        _check_out_of_the_way(old)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.replace(old)
            if not _is_ours(old):
                # They appeared after the check.
                old.replace(path)
                _check_replaceable(path)
        # The kernel replaces no folder with files in it, and no file by a folder.
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    except InputError as error:
        # The work is kept: the user has but to move the files.
        raise MachineError(str(error)) from None


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Creates an unfinished folder of a stage, if needed, and holds its lock.

    Raises:
        InputError: another process holds the lock, or the folder is a link or cannot be created.
    """
    if folder.is_symlink():
        raise InputError(f"{folder}: is a link, through which files elsewhere would be changed; remove it")
    with _lock(folder, prepare=_mark):
        yield


@contextmanager
def users_folder(folder: Path) -> Iterator[None]:
    """Creates a folder, if needed, that may hold a user's files too, and holds its lock; leaves no trace of its own.

    Raises:
        InputError: another process holds the lock, or the folder cannot be created.
    """
    made = not folder.exists()
    with _lock(folder, prepare=lambda folder: None):
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)
            if made:
                # A folder with files in it stays.
                with suppress(OSError):
                    folder.rmdir()


@contextmanager
def _lock(folder: Path, *, prepare: Callable[[Path], None]) -> Iterator[None]:
    lock = FileLock(folder / LOCK, timeout=0)
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            prepare(folder)
            lock.acquire()
        except Timeout:
            raise InputError(f"{folder}: another process is writing it; wait for it or stop it") from None
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another output folder") from None
        if (folder / LOCK).exists():
            break
        # The process that held the lock has renamed the folder meanwhile, so the lock file is gone: try again.
        lock.release()
    try:
        yield
    finally:
        lock.release()


def _mark(folder: Path) -> None:
    os.close(open_itself(folder / MARKER, os.O_WRONLY | os.O_CREAT))


def _key_of(folder: Path) -> str | None:
    try:
        return (folder / KEY).read_text(encoding="utf-8")
    except OSError:
        return None


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _check_replaceable(path: Path) -> None:
    cure = "choose another output folder"
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError(f"{path}: is a link or a file; {cure}")
    if Path.cwd().is_relative_to(path.resolve()):
        raise InputError(f"{path}: holds the working directory and would be replaced; {cure}")
    if path.is_dir() and not _is_ours(path):
        raise InputError(f"{path}: holds files that no stage has written and would be replaced; {cure} or empty it")


def _check_out_of_the_way(folder: Path) -> None:
    """Refuses a user's file or folder where a folder of this module's would be."""
    if folder.is_symlink() or (folder.exists() and not _is_ours(folder)):
        raise InputError(f"{folder}: is in the way; remove it")


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and ((folder / MARKER).is_file() or not any(folder.iterdir()))


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(paths: Iterable[Path]) -> str:
    """Hash of the files' paths, sizes and modification times, to detect that a stage's inputs have changed.

    Raises:
        InputError: a file is missing or cannot be accessed.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; run the stage that writes it again") from None
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; name the folder that the stage before has written") from None
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON; NaN is not JSON and is refused with ValueError."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        InputError: the file is missing or is not valid JSON, which excludes NaN and infinities.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it first") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; name the folder that the stage before has written") from None
    except ValueError as error:
        raise InputError(
            f"{path}: not valid JSON ({error}); delete it and run the stage that writes it again"
        ) from None


def write_array(path: Path, array: np.ndarray) -> None:
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def read_array(path: Path) -> np.ndarray:
    """Reads a .npy file.

    Raises:
        InputError: the file is missing, is not a .npy file, or holds a pickle.
    """
    try:
        # np.load is not used because it opens archives too.
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it first") from None
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path}: not a plain .npy array ({error}); delete it and run its stage again") from None
