"""Copies the saliency maps of a shard of images from the user's own folder of maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from getam.datasets.index import IndexRow, files_by_id, read_index, shard_of
from getam.datasets.shards import new_shard
from getam.errors import InputError, listed
from getam.networks.supervision import SALIENCY, SUPERVISION
from getam.system.arguments.machine import MachineArguments
from getam.system.image_files import check_saliency_range, read_gray, read_saliency, write_gray
from getam.system.progress import progress

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})

TRIED = 20
"""Number of ids at most whose files are searched for the naming scheme of the folder."""


class Arguments(MachineArguments):
    """Write saliency/<shard>/<id>.png, 8-bit gray (H, W), from maps of any naming that holds the id."""

    index: Path = Field(description="index.csv")
    folder: Path = Field(
        description="folder of the maps: <id>.png, .jpg or .jpeg, or the same text before or after every id"
    )
    split: str = Field(description="split whose maps are taken")
    shard: Annotated[int, Field(ge=0)] = Field(description="which part of the split, counted from 0")
    shards: Annotated[int, Field(ge=1)] = Field(description="number of parts")
    out: Path = Field(description="folder of the shard")


def run(arguments: Arguments) -> None:
    index = read_index(arguments.index)
    split = index.split(arguments.split)
    # The naming scheme is found from the whole split: a single shard could match one by chance.
    files = find_maps(arguments.folder, [row.id for row in split])
    rows = shard_of(split, arguments.shard, arguments.shards)
    with (
        new_shard(
            arguments.out,
            ids=[row.id for row in rows],
            suffix=".png",
            classes=index.classes,
            settings=None,
            threads=arguments.threads,
            inputs=[arguments.index, *(files[row.id] for row in rows)],
            manifest_entries={SUPERVISION: SALIENCY},
        ) as shard,
    ):
        todo = shard.unfinished_rows(rows)
        written = shard.write_all(todo, _write, lambda row: (row, files[row.id]))
        for _ in progress(written, total=len(todo), unit="image", what="collect_saliency", size=int):
            pass
        check_saliency_range(arguments.folder, _brightest(shard.path(row.id) for row in rows))


def _brightest(maps: Iterable[Path]) -> int:
    """The largest value in all maps; the search ends at the first map with a value above 1."""
    brightest = 0
    for path in maps:
        brightest = max(brightest, int(read_gray(path).max()))
        if brightest > 1:
            break
    return brightest


def _write(path: Path, row: IndexRow, file: Path) -> None:
    values = read_saliency(file)
    if values.shape != (row.height, row.width):
        raise InputError(
            f"{file}: size {values.shape} is not the image's {(row.height, row.width)} (H, W); bring a map of that size"
        )
    write_gray(path, values)


def find_maps(folder: Path, ids: Sequence[str]) -> dict[str, Path]:
    """Finds the map of each id: {id: file}.

    The files are named by the ids, or by the ids with one common text before and one after.

    Raises:
        InputError: the folder does not exist, a map is missing, an id has two maps, or several naming schemes fit.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; set saliency.folder to that of your saliency maps")
    files = files_by_id(folder, SUFFIXES)
    if not ids or all(id in files for id in ids):
        return {id: files[id] for id in ids}
    # Several ids are searched, since the map of a single one might be missing.
    namings = {("", "")}.union(*(_namings(files, id) for id in ids[:TRIED]))
    lacking = {
        (before, after): [name for id in ids if (name := f"{before}{id}{after}") not in files]
        for before, after in sorted(namings)
    }
    fitting = [naming for naming, missing in lacking.items() if not missing]
    if len(fitting) > 1:
        patterns = ", ".join(f"{before}<id>{after}" for before, after in fitting)
        raise InputError(f"{folder}: holds maps of several namings ({patterns}); keep those of one")
    if not fitting:
        fewest = min(lacking.values(), key=len)
        problems = [f"{folder / name}.png: no such saliency map, nor a .jpg" for name in fewest]
        raise InputError(f"{listed(problems)}; add it, or set saliency.source to train")
    [(before, after)] = fitting
    return {id: files[f"{before}{id}{after}"] for id in ids}


def _namings(stems: Iterable[str], id: str) -> Iterator[tuple[str, str]]:
    """Yields the texts before and after an id in each file name that contains the id."""
    for stem in stems:
        start = stem.find(id)
        while start >= 0:
            yield stem[:start], stem[start + len(id) :]
            start = stem.find(id, start + 1)
