"""Opens files in folders that other people may write into: never through a link, and without waiting for a pipe."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from getam.errors import InputError


def open_itself(path: str | Path, flags: int, *, folder: int | None = None) -> int:
    """Opens a file and returns its descriptor; serves as the `opener` of `open` too.

    Args:
        flags: those of os.open.
        folder: descriptor of the folder that a relative path begins at; None for the working folder.

    Raises:
        OSError: the path is a link, a pipe or a socket, or cannot be opened.
    """
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666, dir_fd=folder)
    except OSError as error:
        # A pipe that nobody reads is ENXIO; both codes' own words name neither a link nor a pipe.
        words = {errno.ELOOP: "it is a link", errno.ENXIO: "it is no file"}
        raise OSError(error.errno, words.get(error.errno or 0, error.strerror), str(path)) from None
    if stat.S_ISFIFO(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.ENXIO, "it is no file", str(path))
    return file


def check_no_link(folder: Path) -> None:
    """Refuses a link in the place of a folder that a stage makes within its output."""
    if folder.is_symlink():
        raise InputError(f"{folder}: is a link, through which files elsewhere would be changed; remove it")
