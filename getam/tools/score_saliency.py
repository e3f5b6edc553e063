"""Scores a folder of saliency maps beside a folder of masks, wherever they come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field

from getam.duts import files_by_id, read_mask
from getam.errors import InputError, listed
from getam.files import read_gray, write_json
from getam.machine import MachineArguments
from getam.progress import progress
from getam.saliency_scores import saliency_scores

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})


class Arguments(MachineArguments):
    """Print and write MAE, max F-measure, S-measure and max E-measure of saliency maps."""

    predictions: Path = Field(description="folder of saliency maps, .png or .jpg, 8-bit gray")
    masks: Path = Field(description="folder of masks of the same names, salient from 128 on")
    out: Path | None = Field(default=None, description="JSON file for the scores [none]")


def run(arguments: Arguments) -> None:
    for folder in (arguments.predictions, arguments.masks):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; name one of .png or .jpg files")
    maps, masks = files_by_id(arguments.predictions, SUFFIXES), files_by_id(arguments.masks, SUFFIXES)
    if not masks:
        raise InputError(f"{arguments.masks}: no .png or .jpg in it; name the folder of the masks")
    if missing := [f"{arguments.predictions / name}.png: no such map" for name in masks if name not in maps]:
        raise InputError(f"{listed(missing)}; predict every image that has a mask")
    truth = {name: read_mask(path) for name, path in masks.items()}

    def predicted() -> Iterator[np.ndarray]:
        for name in progress(list(masks), total=len(masks), unit="image", what="score_saliency"):
            values = read_gray(maps[name])
            if values.shape != truth[name].shape:
                raise InputError(f"{maps[name]}: size {values.shape} is not its mask's {truth[name].shape} (H, W)")
            yield values

    scores = saliency_scores(predicted(), truth.values())
    if arguments.out is not None:
        write_json(arguments.out, {"images": len(masks), **scores})
    print(f"{len(masks)} images")
    print("\n".join(f"{name:<10} {value:.4f}" for name, value in scores.items()))
