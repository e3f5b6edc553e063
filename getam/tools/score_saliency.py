"""Scores saliency maps against masks: a folder of maps from any program, or a network's maps of image/mask pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field

from getam.datasets.duts import check_pairs, find_pairs, read_mask
from getam.datasets.index import files_by_id
from getam.errors import InputError, listed
from getam.networks.saliency import load_saliency
from getam.scores.saliency import predicted_pairs, saliency_scores
from getam.system.arguments.network import NetworkArguments
from getam.system.files import write_json
from getam.system.image_files import check_saliency_range, read_saliency
from getam.system.progress import progress

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})


class Arguments(NetworkArguments):
    """Print and write MAE, max F-measure, S-measure and max E-measure.

    Of maps: --predictions and --masks. Of a network: --model and --pairs.
    """

    predictions: Path | None = Field(default=None, description="folder of saliency maps, .png or .jpg, 8-bit gray")
    masks: Path | None = Field(default=None, description="folder of masks of the same names, salient from 128 on")
    model: Path | None = Field(default=None, description="folder of a saliency network")
    pairs: Path | None = Field(default=None, description="folder of image/mask pairs in DUTS layout")
    stretch: bool = Field(
        default=False, description="scale each map of the network to its own range first, as the authors do [false]"
    )
    out: Path | None = Field(default=None, description="JSON file for the scores [none]")


def run(arguments: Arguments) -> None:
    match arguments:
        case Arguments(predictions=Path() as predictions, masks=Path() as masks, model=None, pairs=None):
            files = _files(predictions, masks)
            count, scored = len(files), _read(files)
        case Arguments(predictions=None, masks=None, model=Path() as model, pairs=Path() as root):
            device = arguments.prepare()
            pairs = find_pairs(root)
            check_pairs(pairs)
            network, image_size = load_saliency(model)
            count = len(pairs)
            scored = predicted_pairs(
                network.to(device),
                pairs,
                image_size=image_size,
                stretch=arguments.stretch,
                device=device,
                threads=arguments.threads,
            )
        case _:
            raise InputError("give --predictions and --masks, or --model and --pairs")
    scores = saliency_scores(scored)
    if arguments.out is not None:
        write_json(arguments.out, {"images": count, **scores})
    print(f"{count} images")
    print("\n".join(f"{name:<10} {value:.4f}" for name, value in scores.items()))


def _files(predictions: Path, masks: Path) -> list[tuple[Path, Path]]:
    """The files (map, mask) of each mask.

    Raises:
        InputError: a folder does not exist or is empty, or a map is missing.
    """
    for folder in (predictions, masks):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; name one of .png or .jpg files")
    found, wanted = files_by_id(predictions, SUFFIXES), files_by_id(masks, SUFFIXES)
    if not wanted:
        raise InputError(f"{masks}: no .png or .jpg in it; name the folder of the masks")
    if missing := [f"{predictions / name}.png: no such map" for name in wanted if name not in found]:
        raise InputError(f"{listed(missing)}; predict every image that has a mask")
    return [(found[name], mask) for name, mask in wanted.items()]


def _read(files: list[tuple[Path, Path]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    brightest = 0
    for file, mask in progress(files, total=len(files), unit="image", what="score_saliency"):
        values, truth = read_saliency(file), read_mask(mask)
        if values.shape != truth.shape:
            raise InputError(
                f"{file}: size {values.shape} is not its mask's {truth.shape} (H, W); bring maps of the masks' sizes"
            )
        brightest = max(brightest, int(values.max()))
        yield values, truth
    check_saliency_range(files[0][0].parent, brightest)
