"""Finds the files that a user brings for each image of the index, such as saliency maps, by the ids in their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from getam.datasets.index import files_by_id
from getam.errors import InputError, enumerated, listed

TRIED = 20
"""Number of ids at most whose files are searched for the naming scheme of the folder."""


def files_of_ids(
    folder: Path, ids: Sequence[str], suffixes: Sequence[str], *, what: str, setting: str
) -> dict[str, Path]:
    """Finds the file of each id: {id: file}.

    The files are named by the ids, or by the ids with one common text before and one after.

    Args:
        ids: those of a whole split, since a part of it could match another naming scheme by chance.
        suffixes: of the files, in lower case with a dot.
        what: a file's name in messages, such as "saliency map".
        setting: the key that names the folder.

    Raises:
        InputError: the folder does not exist, a file is missing, an id has two files, or several naming schemes fit.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; set {setting} to that of your {what}s")
    files = files_by_id(folder, frozenset(suffixes))
    if not ids or all(id in files for id in ids):
        return {id: files[id] for id in ids}
    # Several ids are searched, since the file of a single one might be missing.
    namings = {("", "")}.union(*(_namings(files, id) for id in ids[:TRIED]))
    lacking = {
        (before, after): [name for id in ids if (name := f"{before}{id}{after}") not in files]
        for before, after in sorted(namings)
    }
    fitting = [naming for naming, missing in lacking.items() if not missing]
    if len(fitting) > 1:
        patterns = ", ".join(f"{before}<id>{after}" for before, after in fitting)
        raise InputError(f"{folder}: holds {what}s of several namings ({patterns}); keep those of one")
    if not fitting:
        fewest = min(lacking.values(), key=len)
        first, *others = suffixes
        problems = [f"{folder / name}{first}: no such {what}, nor {enumerated(others, 'or')}" for name in fewest]
        raise InputError(f"{listed(problems)}; add it, or set {setting.partition('.')[0]}.source to another")
    [(before, after)] = fitting
    return {id: files[f"{before}{id}{after}"] for id in ids}


def _namings(stems: Iterable[str], id: str) -> Iterator[tuple[str, str]]:
    """Yields the texts before and after an id in each file name that contains the id."""
    for stem in stems:
        start = stem.find(id)
        while start >= 0:
            yield stem[:start], stem[start + len(id) :]
            start = stem.find(id, start + 1)
