"""Files of refined maps: as float16, or quantized to levels between which no usual threshold of a label method lies.

The module imports numpy but not torch, so that the processes of a pool start seconds faster.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from getam.errors import InputError
from getam.labels.class_maps import background_tie_of, over_maximum
from getam.system.files import read_array, read_arrays, write_array, write_arrays

SUFFIXES = {"float16": ".npy", "quantized": ".npz"}
"""Suffix of an image's file by `refine.storage`."""

CURE = "delete its folder and run refine_maps again"

LEVELS = 256
"""Levels of a class at most; about 150 are used."""

ALPHAS = np.arange(80, 100) / 100
"""Quantiles of a map's positive values that end a level: the values of `alpha`."""

GAMMAS = np.array([*range(1, 17), *range(20, 33, 4), *range(40, 65, 8), *range(80, 129, 16), 50, 100], float)
"""Exponents of the background score whose tie with a class ends a level: the values of `gamma`."""

TIES = np.array([background_tie_of(float(gamma)) for gamma in GAMMAS])
"""The activations of those ties."""

THRESHOLDS = np.r_[np.arange(1, 100) / 100, np.arange(3, 10, 2) / 200, np.arange(21, 40) / 400, 1 - 0.8 ** (1 / 32)]
"""Values over the map's maximum that end a level: those of `bands` and of the threshold curve. The finer ones, below
0.1, are for the dense CRF, which weighs background and class there; below the last RRM is sure of the background."""

FLOAT16 = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
"""All finite values of float16 that are >= 0, ascending; the bits of each are its index."""

ROWS = 64
"""Rows of the maps whose order of classes is checked at a time."""


def refined_file(folder: Path, id: str) -> Path:
    """The file of an image in a shard of refine_maps, in the form that is there."""
    quantized = folder / f"{id}{SUFFIXES['quantized']}"
    return quantized if quantized.exists() else folder / f"{id}{SUFFIXES['float16']}"


def write_refined(path: Path, maps: np.ndarray, storage: str) -> None:
    """Writes refined maps (K, H, W), float16, each class in [0, 1]; `storage` is a key of SUFFIXES."""
    if storage == "float16":
        write_array(path, maps)
        return
    levels, codes = quantize(maps)
    # Differences between rows take less room than the codes. They are modulo 256, as uint8 counts.
    write_arrays(path, {"levels": levels, "steps": np.diff(codes, axis=1, prepend=np.uint8(0))})


def read_refined(path: Path) -> np.ndarray:
    """Reads refined maps (K, H, W) in either form: float16, or float32 where they are quantized.

    The label methods compute in float32, and levels become it sooner than pixels.

    Raises:
        InputError: the file is missing or holds something else.
    """
    if path.suffix != SUFFIXES["quantized"]:
        return read_array(path)
    arrays = read_arrays(path, cure=CURE)
    levels, steps = (arrays.get(name, np.empty(0)) for name in ("levels", "steps"))
    if steps.dtype != np.uint8 or steps.ndim != 3 or levels.shape != (len(steps), LEVELS):
        raise InputError(f"{path}: holds no levels (K, {LEVELS}) and uint8 steps (K, H, W); {CURE}")
    maps = np.empty(steps.shape, np.float32)
    for values, step, each in zip(levels.astype(np.float32), steps, maps, strict=True):
        np.take(values, step.cumsum(0, np.uint8), out=each, mode="clip")
    return maps


def quantize(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantizes maps so that they give the same labels, except by the dense CRF.

    A level stands for the values between two neighbouring thresholds (the lists above), by their mean. It holds its
    upper threshold, since labels are strictly above theirs. Where two classes would change their order at a pixel, the
    lower one gets a lower level, so that the strongest class stays the strongest.

    Args:
        maps: (K, H, W), float16, >= 0.

    Returns:
        levels: (K, LEVELS), float16, ascending from 0; the rest, which no code names, is 0.
        codes: (K, H, W), uint8: levels[k][codes[k]] is about maps[k], and 0 or its maximum only where maps[k] is.
    """
    levels = np.zeros((len(maps), LEVELS), np.float16)
    codes = np.empty(maps.shape, np.uint8)
    for values, each, code in zip(maps, levels, codes, strict=True):
        code[:] = _quantize(values, each)[values.view(np.uint16)]
    # Some rows at a time: the float32 values of a large photograph together take a gigabyte.
    for start in range(0, maps.shape[1] if len(maps) > 1 else 0, ROWS):
        rows = slice(start, start + ROWS)
        _keep_strongest(maps[:, rows], levels, codes[:, rows])
    return levels, codes


def _quantize(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Fills the levels (LEVELS,) of a map (H, W); returns the code of each value of FLOAT16, uint8."""
    counts = np.bincount(values.view(np.uint16).ravel(), minlength=len(FLOAT16))
    highest = int(np.flatnonzero(counts)[-1])
    if highest == 0:
        return np.zeros(len(FLOAT16), np.uint8)
    # 0 has the first code even if no value is 0.
    counts[0], zeros = 0, max(counts[0], 1)
    up_to = counts.cumsum()
    last = np.zeros(len(FLOAT16), bool)
    # The maximum, by which the label methods divide, has a level of its own too.
    last[[0, highest - 1, highest]] = True
    last[np.searchsorted(up_to, (ALPHAS * up_to[-1]).astype(int), side="right")] = True
    at = FLOAT16[highest] * np.r_[THRESHOLDS, TIES]
    last[np.searchsorted(FLOAT16, at, side="right") - 1] = True
    numbers = np.r_[0, last[:-1].cumsum()]
    counts[0] = zeros
    sizes = np.bincount(numbers, counts)
    used = sizes > 0
    levels[: used.sum()] = np.bincount(numbers, counts * FLOAT16)[used] / sizes[used]
    codes: np.ndarray = (used.cumsum() - 1)[numbers].astype(np.uint8)
    return codes


def _keep_strongest(maps: np.ndarray, levels: np.ndarray, codes: np.ndarray) -> None:
    """Lowers codes (K, h, W) of maps (K, h, W) where another class than before is the strongest."""
    highest = levels.max(1, keepdims=True).astype(np.float32)
    strongest = over_maximum(maps.astype(np.float32), highest[..., None]).argmax(0)
    scaled = over_maximum(levels.astype(np.float32), highest)
    now = np.take_along_axis(scaled[:, None], codes, 2)
    rows, columns = np.nonzero(now.argmax(0) != strongest)
    winner = strongest[rows, columns]
    most = now[winner, rows, columns]
    for number, (values, code) in enumerate(zip(scaled, codes, strict=True)):
        ascending = values[: values.argmax() + 1]
        # Of two classes alike the first is the strongest.
        below, equal = (np.searchsorted(ascending, most, side=side) - 1 for side in ("left", "right"))
        # A positive value stays positive, since alpha is a share of them.
        lowered = np.minimum(code[rows, columns], np.where(number > winner, equal, below).clip(1))
        code[rows, columns] = np.where(number == winner, code[rows, columns], lowered)
