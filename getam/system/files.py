"""Reads and writes files: text, arrays and JSON, all written atomically.

Every file and folder is written under a temporary name beside its destination and then renamed, so that a file that
exists is complete. Nothing here reads a pickle.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import reprlib
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from getam.errors import InputError, MachineError
from getam.settings.foreign import ARRAY_AXES, ARRAYS_BYTES, DOCUMENT_BYTES, open_regular, read_key, read_text, refusing
from getam.system.opening import check_no_link, open_itself

MARKER = ".getam"
"""Empty file in each folder that a stage writes; it marks the folder as one that may be replaced."""

KEY = ".key"
"""File in an unfinished folder with the key that identifies the inputs of its files."""

LOCK = ".lock"
"""Lock file in an unfinished folder, held by the process that writes the folder."""


PIECE = 2**20
"""Bytes of an array that are unpacked at a time."""

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
        if key is None or read_key(temporary / KEY) != key:
            try:
                _empty(temporary)
            except OSError as error:
                # A network file system keeps a file that a process has open, as .nfs...
                cure = "end the process that has a file there open, or remove the folder"
                raise MachineError(f"{temporary}: cannot be emptied ({error.strerror}); {cure}") from None
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
    check_no_link(folder)
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


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        # The folder stays a stage's if one of its files cannot be removed.
        if entry.name in (LOCK, MARKER):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _check_replaceable(path: Path) -> None:
    cure = "choose another output folder"
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError(f"{path}: is a link or a file; {cure}")
    # Unlike Path.resolve, realpath lets a loop of links pass, of which the system then says what it is.
    if Path.cwd().is_relative_to(os.path.realpath(path)):
        raise InputError(f"{path}: holds the working directory and would be replaced; {cure}")
    if path.is_dir() and not _is_ours(path):
        raise InputError(f"{path}: holds files that no stage has written and would be replaced; {cure} or empty it")


def _check_out_of_the_way(folder: Path) -> None:
    """Refuses a user's file or folder where a folder of this module's would be."""
    if folder.is_symlink() or (folder.exists() and not _is_ours(folder)):
        raise InputError(f"{folder}: is in the way; remove it")


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and ((folder / MARKER).is_file() or not any(folder.iterdir()))


def tells_case_apart(folder: Path) -> bool:
    """Whether a.png and A.png are two files in a folder that a stage writes; on exFAT, NTFS or macOS they are one."""
    return not (folder / MARKER.upper()).exists()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with open_regular(path) as file:
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
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
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
        return json.loads(read_text(path, DOCUMENT_BYTES), parse_constant=_no_constant)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it first") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; name the folder that the stage before has written") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not valid JSON ({error}); delete it and run the stage that writes it again"
        ) from None


def write_array(path: Path, array: np.ndarray) -> None:
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a .npz file like np.savez_compressed, but by zlib's strategy for runs, which numpy doesn't offer.

    Where an array holds differences between neighbors, it is ten times as fast and a tenth smaller so.
    """
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        directory = b""
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            content, member = buffer.getvalue(), f"{name}.npy".encode("ascii")
            compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS, strategy=zlib.Z_RLE)
            packed = compressor.compress(content) + compressor.flush()
            # Version 2.0 of ZIP, no flags, deflate, 0 o'clock on 1980-01-01, and no extra fields.
            fields = (20, 0, 8, 0, 33, zlib.crc32(content), len(packed), len(content), len(member), 0)
            header = struct.pack("<5H3I2H", *fields)
            directory += (
                b"PK\1\2" + struct.pack("<H", 20) + header + struct.pack("<3H2I", 0, 0, 0, 0, file.tell()) + member
            )
            file.write(b"PK\3\4" + header + member + packed)
        end = (0, 0, len(arrays), len(arrays), len(directory), file.tell(), 0)
        file.write(directory + b"PK\5\6" + struct.pack("<4H2IH", *end))


def read_array(path: Path) -> np.ndarray:
    """Reads a .npy file of numbers or truth values.

    Raises:
        InputError: the file is missing, is not a .npy file, has another size than its header states, or holds a pickle.
    """
    try:
        # np.load is not used because it opens archives too, and no reader of numpy compares the sizes before it
        # allocates.
        with (
            refusing(path, "not a plain .npy array", cure="delete it and run its stage again"),
            open_regular(path) as file,
        ):
            return _read_array(file)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the stage that writes it first") from None


def _read_array(file: BinaryIO) -> np.ndarray:
    size = os.fstat(file.fileno()).st_size
    shape, is_fortran, dtype = _array_header(file, size)
    return _shaped(np.fromfile(file, dtype), shape, is_fortran)


def read_arrays(path: Path, *, cure: str = "save it by np.savez, without objects") -> dict[str, np.ndarray]:
    """Reads a .npz file of numbers or truth values: {name: array}.

    Args:
        cure: what the user does about a file that is none; without, what helps for the user's own.

    Raises:
        InputError: the file is missing or damaged, holds a pickle, or its arrays are larger than ARRAYS_BYTES together.
    """
    try:
        with (
            refusing(path, "not a plain .npz file", cure=cure),
            open_regular(path, most=ARRAYS_BYTES) as file,
            zipfile.ZipFile(file) as archive,
        ):
            if sum(entry.file_size for entry in archive.infolist()) > ARRAYS_BYTES:
                raise ValueError(f"its arrays are larger than {ARRAYS_BYTES} bytes")
            return {entry.filename.removesuffix(".npy"): _unpacked(archive, entry) for entry in archive.infolist()}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """Reads an array in pieces, since zipfile holds a whole one twice.

    Raises:
        ValueError: it is compressed otherwise than numpy does, or is no array of numbers.
    """
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"an array is compressed by method {entry.compress_type}")
    with archive.open(entry) as file:
        shape, is_fortran, dtype = _array_header(file, entry.file_size)
        values = np.empty(math.prod(shape), dtype)
        content = values.view(np.uint8)
        for start in range(0, len(content), PIECE):
            piece = file.read(min(PIECE, len(content) - start))
            content[start : start + PIECE] = np.frombuffer(piece, np.uint8)
    return _shaped(values, shape, is_fortran)


def _array_header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads the header of a .npy file of `size` bytes: shape, whether it is in Fortran's order, and type.

    Raises:
        ValueError: the rest of the file has another size than the header states, or holds no numbers.
    """
    if (version := np.lib.format.read_magic(file)) != (1, 0):
        raise ValueError(f"is of version {version[0]}.{version[1]}, not 1.0, which numpy writes")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.kind not in "biuf":
        raise ValueError(f"holds {dtype}, not numbers")
    if len(shape) > ARRAY_AXES or any(isinstance(length, bool) or length < 0 for length in shape):
        raise ValueError(f"is of the shape {reprlib.repr(shape)}")
    expected, found = math.prod(shape) * dtype.itemsize, size - file.tell()
    if expected != found:
        raise ValueError(f"holds {found} bytes, its header states {reprlib.repr(expected)}")
    return shape, is_fortran, dtype


def _shaped(values: np.ndarray, shape: tuple[int, ...], is_fortran: bool) -> np.ndarray:
    return values.reshape(shape[::-1]).T if is_fortran else values.reshape(shape)
