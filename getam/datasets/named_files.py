"""Finds the files of a folder by the ids of images, in whatever case a suffix is, and however accents are written."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from getam.datasets.index import composed
from getam.errors import InputError


class NamedFiles:
    """The files of a folder by their names without suffix, without hidden ones; none if the folder does not exist.

    Args:
        suffixes: those of the files that are found, in lower case; `instead_of` names the others.
    """

    def __init__(self, folder: Path, suffixes: Collection[str]) -> None:
        self.folder = folder
        self.suffixes = tuple(suffixes)
        self._found: dict[str, list[Path]] = defaultdict(list)
        self.others: dict[str, list[Path]] = defaultdict(list)
        for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
            path = folder / name
            if not name.startswith("."):
                known = self._found if path.suffix.lower() in self.suffixes else self.others
                known[composed(path.stem)].append(path)

    def __contains__(self, id: str) -> bool:
        return composed(id) in self._found

    @property
    def paths(self) -> list[Path]:
        """The files with one of the suffixes."""
        return [path for paths in self._found.values() for path in paths]

    def find(self, id: str) -> Path | None:
        """The file of an id; None if there is none.

        Raises:
            InputError: there are two, a link leads to no file, or it is no file.
        """
        files = []
        for path in self._found.get(composed(id), []):
            if path.is_file():
                files.append(path)
            elif path.is_symlink():
                raise InputError(f"{path}: is a link to no file; correct it or remove it")
            else:
                what = "Is a directory" if path.is_dir() else "no regular file"
                raise InputError(f"{path}: cannot be read ({what}); replace it")
        # A file system that does not tell capitals apart finds one file under several names.
        if others := [path for path in files[1:] if not path.samefile(files[0])]:
            raise InputError(f"{files[0]} and {others[0].name} have one id; rename or remove one of them")
        return files[0] if files else None

    def without_suffix(self, text: str) -> str:
        """The id in a text, which may be the name of a file: a.jpg is a, unless there is an a.jpg.jpg."""
        path = Path(text)
        is_file = path.suffix.lower() in self.suffixes and text not in self and path.stem in self
        return path.stem if is_file and path.name == text else text

    def instead_of(self, id: str) -> str:
        """What lies in the folder in the place of an id's file, for the end of a message."""
        if others := self.others.get(composed(id)):
            return f"; {others[0].name} lies there, and {', '.join(self.suffixes)} are read: convert it"
        word, *more = id.split() or [""]
        return f"; {word} is there: write one id a line, and nothing else" if more and word in self else ""


Listings = dict[Path, dict[str, str]]
"""What lies in folders: name with composed accents -> name, by folder."""


def existing(path: Path, listings: Listings | None = None) -> Path:
    """The path itself, or the one that is there under the same name with its accents written otherwise.

    Args:
        listings: gets what lies in folders, so that many paths of one folder are found fast.
    """
    if path.exists():
        return path
    listings = {} if listings is None else listings
    found = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        if not (found / part).exists() and found.is_dir():
            if found not in listings:
                listings[found] = {composed(name): name for name in os.listdir(found)}
            part = listings[found].get(composed(part), part)
        found /= part
    return found if found.exists() else path
