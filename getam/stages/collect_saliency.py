"""Copies the saliency maps of a shard of images from the user's own folder of maps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from getam.datasets.index import IndexRow, read_index, shard_of
from getam.datasets.naming import files_of_ids
from getam.datasets.shards import new_shard
from getam.errors import InputError
from getam.networks.supervision import SALIENCY, SUPERVISION
from getam.system.arguments.machine import MachineArguments
from getam.system.image_files import check_saliency_range, read_gray, read_saliency, write_gray
from getam.system.progress import progress

SUFFIXES = (".png", ".jpg", ".jpeg")


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
    files = files_of_ids(
        arguments.folder, [row.id for row in split], SUFFIXES, what="saliency map", setting="saliency.folder"
    )
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
