"""Finds the files of a run: in its own folder, or in those of the runs that it shares files with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path


class RunFolder:
    """A variant of a run, whose files lie in several folders, used like the Path of a single folder.

    A file is addressed by its whole path within a run, `folder / "deeplab/metrics.json"`; its siblings may lie in other
    folders.
    """

    def __init__(self, folder: Path, files: Mapping[str, Path]) -> None:
        """`files`: {path of a file or folder within a run: where it is}; everything else lies in `folder`."""
        self._folder = folder
        self._files = files

    @property
    def name(self) -> str:
        """The name of the run on pages."""
        return self._folder.name

    def __fspath__(self) -> str:
        return str(self._folder)

    def __truediv__(self, file: str) -> Path:
        known = [name for name in self._files if file == name or file.startswith(f"{name}/")]
        if not known:
            return self._folder / file
        longest = max(known, key=len)
        return self._files[longest] / file.removeprefix(longest).lstrip("/")

    def glob(self, pattern: str) -> Iterator[Path]:
        """The files that match a pattern, whose part before the first `*` must be the path of one folder or file."""
        name, star, rest = pattern.partition("*")
        if star:
            yield from (self / name.rstrip("/")).glob(star + rest)
        elif (file := self / name).exists():
            yield file


Run = Path | RunFolder
"""A run to read: its folder, or a RunFolder where its files lie in several."""
