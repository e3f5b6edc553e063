"""Pseudo labels that a person has corrected: label PNGs, which take the place of those that a method makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from getam.datasets.index import Index, IndexRow, files_by_id
from getam.errors import InputError, listed
from getam.system.image_files import UNKNOWN, read_labels


def corrected_files(folder: Path, index: Index) -> dict[str, Path]:
    """The corrected labels of a folder: {id: <id>.png}.

    Raises:
        InputError: there is no such folder, none of its files is a PNG, or one is of no image of the index.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name that of your corrected labels in completion.corrected, or ''")
    files = files_of_index(folder, ".png", index)
    if not files:
        raise InputError(f"{folder}: holds no .png; getam import-labels writes corrected labels as such")
    return files


def files_of_index(folder: Path, suffix: str, index: Index) -> dict[str, Path]:
    """The files of a folder with a suffix, by the ids in their names.

    Raises:
        InputError: one is of no image of the index.
    """
    files = files_by_id(folder, frozenset({suffix}))
    strangers = [path for id, path in files.items() if id not in index.by_id]
    if strangers:
        raise InputError(listed([f"{path}: is of no image of the index; rename or remove it" for path in strangers]))
    return files


def read_correction(path: Path, row: IndexRow, classes: int) -> np.ndarray:
    """Reads the corrected labels of an image: (H, W), uint8, 0..C, 255 unknown.

    Args:
        classes: C, number of classes without background.

    Raises:
        InputError: it is no label PNG, has another size than the image, or a value that is no class's.
    """
    labels = read_labels(path)
    if labels.shape != (row.height, row.width):
        raise InputError(
            f"{path}: size {labels.shape} is not the image's {(row.height, row.width)} (H, W); correct it at that size"
        )
    wrong = [int(value) for value in np.unique(labels) if classes < value < UNKNOWN]
    if wrong:
        raise InputError(f"{path}: label value {wrong[0]}; values are 0 to {classes}, the classes', and {UNKNOWN}")
    return labels
