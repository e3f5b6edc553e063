"""Where the files of a run are: in its folder, or in those of the runs that it shares files with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path


class RunFolder:
    """The folder of a variant of a run, whose files lie in several folders.

    A file is named as in the folder of a run that has everything, `folder / "deeplab/metrics.json"`, by its whole name:
    what is beside it may lie elsewhere.
    """

    def __init__(self, folder: Path, files: Mapping[str, Path]) -> None:
        """`files`: {name of a file or a folder: where it is}; what is below none of these names lies in `folder`."""
        self._folder = folder
        self._files = files

    @property
    def name(self) -> str:
        """What pages call the run."""
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
        """The files that a pattern names, whose part before the first `*` is the name of one folder or file."""
        name, star, rest = pattern.partition("*")
        if star:
            yield from (self / name.rstrip("/")).glob(star + rest)
        elif (file := self / name).exists():
            yield file


Run = Path | RunFolder
"""A run to read: its folder, where every file is in it."""
