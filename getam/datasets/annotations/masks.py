"""Finds the masks of a folder's photographs by their names."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from getam.datasets.annotations.matching import ImageNameError, MissingImageError, NamedImages
from getam.datasets.photographs import MASK_ENDINGS, SUFFIXES, files_below, masks_among
from getam.errors import InputError, listed

logger = logging.getLogger(__name__)


def find_masks(
    folder: Path, ids: Mapping[PurePosixPath, str], *, photographs: Path
) -> dict[PurePosixPath, PurePosixPath]:
    """The masks of photographs: by id, or by the photograph's path in the folder of masks.

    Args:
        folder: the folder of masks, which may be that of the photographs.
        ids: the id of each photograph.
        photographs: the folder that the photographs lie below.

    Returns:
        Photograph -> its mask, as a path below `folder`.

    Raises:
        InputError: a photograph has several masks, a mask several photographs, or none has one.
    """
    among = {*masks_among(ids)}
    ids = {path: id for path, id in ids.items() if path not in among}
    taken = {os.path.abspath(photographs / path) for path in ids}
    paths = [
        path for path in files_below(folder, [".png"], leave_out=[]) if os.path.abspath(folder / path) not in taken
    ]
    masks = NamedImages(folder, paths)
    found: dict[PurePosixPath, PurePosixPath] = {}
    problems = []
    for path, id in ids.items():
        for name in _names_of_masks(path, id, {*ids.values()}):
            try:
                found[path] = masks.named(name, base=folder)
                break
            except MissingImageError:
                continue
            except ImageNameError as error:
                problems.append(f"--masks: {error}")
                break
    of_mask: dict[PurePosixPath, PurePosixPath] = {}
    for path, mask in found.items():
        if (first := of_mask.setdefault(mask, path)) != path:
            problems.append(
                f"--masks: {str(mask)!r} may be the mask of {str(first)!r} and {str(path)!r}; call it {ids[first]}.png"
                ", or put the masks into folders as the photographs"
            )
    if problems:
        raise InputError(listed(problems))
    if not found:
        lying = files_below(folder, SUFFIXES, leave_out=[])
        has = f" (it has {len(lying)} files, such as {lying[0]}; masks are PNGs)" if lying else ""
        raise InputError(f"--masks {folder}: no mask <id>.png of a photograph there{has}; name the folder of yours")
    if unused := len(paths) - len({*found.values()}):
        logger.warning("%s: %d masks are of no photograph", folder, unused)
    return found


def _names_of_masks(path: PurePosixPath, id: str, ids: Collection[str]) -> Iterator[str]:
    """Yields what a photograph's mask may be called, without its suffix."""
    for name in (id, str(path.with_suffix(""))):
        yield name
        yield from (name + ending for ending in MASK_ENDINGS if id + ending not in ids)
