"""Public data sets by their official addresses: archives that are downloaded, checked and unpacked."""

from __future__ import annotations

import errno
import hashlib
import http.client
import logging
import shutil
import struct
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from getam.errors import InputError, MachineError, reason_of
from getam.settings.foreign import ARCHIVE_FILES, ARCHIVE_GROWTH, ARCHIVE_HEADER_BYTES, open_regular
from getam.system.files import atomic_folder, locked_folder
from getam.system.progress import progress


@dataclass(frozen=True)
class Archive:
    """A file of a public data set.

    Attributes:
        address: its official address.
        md5: its MD5, as data-set libraries have it; None where nobody publishes one.
        into: folder that it is unpacked into, below the folder of all data.
        holds: the folder at its top; it exists, below `into`, once the archive is unpacked.
    """

    address: str
    md5: str | None
    into: str
    holds: str

    @property
    def name(self) -> str:
        return self.address.rpartition("/")[2]

    def file(self, data: Path) -> Path:
        """Where the archive itself lies until it is unpacked; one that was brought by hand is taken."""
        return data / ".downloads" / self.name

    def target(self, data: Path) -> Path:
        """The folder that is there once it is unpacked."""
        return data / self.into / self.holds


DATA_SETS: dict[str, tuple[Archive, ...]] = {
    "voc12": (
        Archive(
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            "6cd6e144f989b92b3379bac3b3de84fd",
            "",
            "VOCdevkit",
        ),
    ),
    "sbd": (
        Archive(
            "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
            "82b4d87ceb2ed10f6038a1cba92111cb",
            "",
            "benchmark_RELEASE",
        ),
    ),
    "coco14": (
        Archive(
            "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
            "0a379cfc70b0e71301e0f377548639bd",
            "coco",
            "annotations",
        ),
        Archive(
            "http://images.cocodataset.org/zips/val2014.zip", "a3d79f5ed8d289b7a7554ce06a5782b3", "coco", "val2014"
        ),
        Archive(
            "http://images.cocodataset.org/zips/train2014.zip", "0da8c0bd3d6becc4dcb32757491aca88", "coco", "train2014"
        ),
    ),
    "duts": (
        Archive("http://saliencydetection.net/duts/download/DUTS-TR.zip", None, "", "DUTS-TR"),
        Archive("http://saliencydetection.net/duts/download/DUTS-TE.zip", None, "", "DUTS-TE"),
    ),
}
"""The data sets of the recipes configs/voc12.yaml and configs/coco14.yaml, unpacked as these expect them."""

TRIES = 5
"""Number of connections in a row that may bring nothing new."""

PAUSE = 2.0
"""Seconds before the second connection; twice as long before each further one."""

TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as dead."""

PIECE = 2**20
"""Bytes that are read at a time: a MiB, which progress counts."""

DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    RuntimeError,
    ValueError,
)
"""Exceptions of a damaged or an encrypted archive. A failure of the disk that it is unpacked to is another OSError."""

UNFIT = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
"""Errors of a member's path: too long, of letters that the disk doesn't know, or a file and a folder at once."""

AGENT = "getam (https://arxiv.org/abs/2112.02841)"

logger = logging.getLogger(__name__)


def fetch(archive: Archive, data: Path) -> None:
    """Downloads an archive, checks it and unpacks it below `data`; does nothing if it is unpacked already.

    A download that was stopped goes on where it was. The archive is removed in the end.

    Raises:
        InputError: the address cannot be reached, or what it gives is not the archive; the message says what to put
            where.
        MachineError: there is too little room.
    """
    target, file = archive.target(data), archive.file(data)
    if target.exists():
        logger.info("%s: is there already", target)
        return
    with locked_folder(file.parent):
        if not file.is_file():
            download(archive, data)
        unpack(archive, file, target)
        file.unlink()
    logger.info("%s: done", target)


def size_of(archive: Archive, data: Path) -> int | None:
    """The size of an archive in bytes, as its server says; None if it does not.

    Raises:
        InputError: the address cannot be reached.
    """
    try:
        with _open(archive.address, method="HEAD") as answer:
            return _length(answer)
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(archive, data, error) from None


def download(archive: Archive, data: Path) -> None:
    """Downloads an archive to its file below `data`, from where an earlier download was stopped, and checks its MD5.

    Raises:
        InputError: the address cannot be reached, or gives another file.
    """
    file = archive.file(data)
    partial = file.with_name(f"{file.name}.partial")
    if partial.is_symlink():
        raise InputError(f"{partial}: is a link, through which a file elsewhere would be changed; remove it")
    failed = 0
    while True:
        before = _bytes_of(partial)
        try:
            if _receive(archive, partial):
                break
            error: Exception = ConnectionError("the connection ended early")
        except (OSError, http.client.HTTPException) as caught:
            if isinstance(caught, urllib.error.HTTPError) and caught.code in (400, 401, 403, 404, 410):
                raise _unreachable(archive, data, caught) from None
            error = caught
        after = _bytes_of(partial)
        failed = 0 if after > before else failed + 1
        if failed == TRIES:
            raise _unreachable(archive, data, error) from None
        logger.warning("%s: %s; goes on at %s", archive.name, error, megabytes(after))
        time.sleep(PAUSE * 2 ** max(0, failed - 1))
    if archive.md5 is None:
        logger.info("%s: nobody publishes a checksum of it; its own ones are checked", archive.name)
    elif (found := _md5(partial)) != archive.md5:
        partial.unlink()
        raise InputError(
            f"{archive.address}: gave a file with MD5 {found} instead of {archive.md5}, which is removed; try again, "
            f"or put the right file to {file}"
        )
    partial.replace(file)


def unpack(archive: Archive, file: Path, target: Path) -> None:
    """Unpacks the folder `archive.holds` of an archive to `target`, which appears when it is whole.

    Links, devices, and members with a path that leads out of that folder are refused.

    Raises:
        InputError: the file is damaged or is no such archive.
    """
    most = ARCHIVE_GROWTH * file.stat().st_size
    bad = f"{file}: cannot be unpacked"
    cure = "remove it, and it is downloaded again"
    try:
        with atomic_folder(target) as folder:
            empty = True
            for name, size, pieces in _members(file):
                most -= size
                if most < 0:
                    raise InputError(f"{bad}: it takes more than {ARCHIVE_GROWTH} times its size; {cure}")
                parts = PurePosixPath(name).parts
                if parts[:1] != (archive.holds,):
                    continue
                if ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name:
                    raise InputError(f"{bad}: the member {name!r} leads out of it; {cure}")
                path = folder.joinpath(*parts[1:])
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    written = path.open("wb")
                except OSError as error:
                    if error.errno not in UNFIT:
                        raise
                    raise InputError(
                        f"{bad}: the member {name!r:.300} has no place ({error.strerror}); {cure}"
                    ) from None
                with written:
                    written.writelines(pieces)
                empty = False
            if empty:
                raise InputError(f"{bad}: it has no folder {archive.holds!r}; {cure}")
    except DAMAGED as error:
        raise InputError(f"{bad} ({reason_of(error)}); {cure}") from None


@contextmanager
def _reading() -> Iterator[None]:
    """Tells a failure to read an archive from one to write what is unpacked, both of which are OSErrors."""
    try:
        yield
    except OSError as error:
        raise tarfile.ReadError(reason_of(error)) from None


def _pieces(content: Any) -> Iterator[bytes]:
    with _reading():
        yield from iter(lambda: content.read(PIECE), b"")


def _members(file: Path) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Yields name, size and content, in pieces, of the files of an archive; those that are not regular have no name.

    Raises:
        ValueError: there are too many files, or one is of a kind that no data set needs; one of DAMAGED.
    """
    with _reading(), open_regular(file) as packed:
        if zipfile.is_zipfile(packed):
            with zipfile.ZipFile(packed) as zipped:
                files = [each for each in zipped.infolist() if not each.is_dir()]
                _check_number(len(files))
                for each in progress(files, total=len(files), unit="file", what=f"unpack {file.name}"):
                    # Others take memory as the file says, and none of the data sets has them.
                    if each.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise ValueError(f"{each.filename!a:.100} is compressed by method {each.compress_type}")
                    with zipped.open(each) as content:
                        yield each.filename, each.file_size, _pieces(content)
            return
        packed.seek(0)
        mode: Literal["r:gz", "r:"] = "r:gz" if packed.read(2) == b"\x1f\x8b" else "r:"
        packed.seek(0)
        with tarfile.open(fileobj=packed, mode=mode, tarinfo=_Member) as archive:
            for number, member in enumerate(archive, start=1):
                _check_number(number)
                if not member.isfile():
                    # Those of an unknown kind may have a content, which is read over.
                    yield "", member.size, iter(())
                else:
                    yield member.name, member.size, _pieces(archive.extractfile(member))
                # tarfile keeps all members otherwise.
                archive.members.clear()  # type: ignore[attr-defined]


class _Member(tarfile.TarInfo):
    """A member whose long name and further fields are of a bounded size; tarfile reads them before it shows them."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type not in PLAIN and self.size > ARCHIVE_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a sparse file")
        return super()._proc_member(archive)  # type: ignore[misc]


PLAIN = (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE)
"""Types of members without a header of their own."""


def _check_number(files: int) -> None:
    if files > ARCHIVE_FILES:
        raise ValueError(f"has more than {ARCHIVE_FILES} files")


def _receive(archive: Archive, partial: Path) -> bool:
    """Appends what is missing to an unfinished download by one connection; returns whether it is whole."""
    done = _bytes_of(partial)
    headers = {"Range": f"bytes={done}-"} if done else {}
    try:
        answer = _open(archive.address, headers=headers)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:
            # The server has no byte after the last one.
            return True
        raise
    with answer:
        goes_on = answer.status == 206
        total = _total(answer, done if goes_on else 0)
        first = done if goes_on else 0
        # A server that does not go on gives the whole file once more.
        with partial.open("ab" if goes_on else "wb") as file:
            pieces = iter(lambda: answer.read(PIECE), b"")
            left = -(-((total or 0) - first) // PIECE)
            for piece in progress(pieces, total=left, unit="MiB", what=archive.name):
                file.write(piece)
        return total is None or partial.stat().st_size == total


def _total(answer: Any, first: int) -> int | None:
    """The size of the whole file by the headers of an answer that begins at byte `first`."""
    span = answer.headers.get("Content-Range", "")
    if span.rpartition("/")[2].isdigit():
        return int(span.rpartition("/")[2])
    length = _length(answer)
    return None if length is None else first + length


def _length(answer: Any) -> int | None:
    """The number of bytes that an answer says it has."""
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _bytes_of(partial: Path) -> int:
    """The size of an unfinished download; 0 if none has begun."""
    return partial.stat().st_size if partial.is_file() else 0


def _open(address: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> Any:
    request = urllib.request.Request(address, method=method, headers={"User-Agent": AGENT, **(headers or {})})
    return urllib.request.urlopen(request, timeout=TIMEOUT)


def _unreachable(archive: Archive, data: Path, error: Exception) -> InputError:
    reason = getattr(error, "reason", None) or error
    return InputError(
        f"{archive.address}: cannot be fetched ({reason}); get {archive.name} elsewhere, and put it to "
        f"{archive.file(data)}, or unpack its folder {archive.holds} to {archive.target(data)}"
    )


def _md5(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest()


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def check_room(folder: Path, needed: int) -> None:
    """Refuses a download that the disk of a folder has no room for.

    Raises:
        MachineError: less than `needed` bytes are free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MachineError(f"{folder}: {megabytes(needed)} are needed, and {megabytes(free)} free; make room")
