"""Files of refined maps: what quantization keeps, pixel by pixel and in labels, and files that are refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from getam.errors import InputError
from getam.labels.bands import band_labels
from getam.labels.completion import background_tie, complete_labels
from getam.labels.refined_maps import (
    ALPHAS,
    GAMMAS,
    LEVELS,
    THRESHOLDS,
    TIES,
    quantize,
    read_refined,
    refined_file,
    write_refined,
)
from getam.scores.evaluation import ThresholdCurve
from getam.stages import score_labels

MANUAL = Path(__file__).parents[2] / "docs" / "files.md"


def smooth(count: int, seed: int, *, peak: float = 1.0) -> np.ndarray:
    """Draws maps (K, 90, 120), float16, smooth and peaked as refined maps are, with a maximum of `peak`."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, count, 7, 9), generator=rng) ** 4
    noise = 0.01 * torch.rand((count, 90, 120), generator=rng)
    fine = F.interpolate(coarse, size=noise.shape[1:], mode="bicubic")[0].clamp(min=0) + noise
    return (peak * fine / fine.amax((1, 2), keepdim=True)).half().numpy()


def restored(maps: np.ndarray) -> np.ndarray:
    levels, codes = quantize(maps)
    return np.take_along_axis(levels[:, None], codes, 2)


def changed(of_maps: np.ndarray, of_restored: np.ndarray) -> float:
    return float((of_maps != of_restored).mean())


@pytest.mark.parametrize("count", [1, 3])
def test_labels_of_listed_settings_stay(count: int) -> None:
    # A lowered class may pass below its own quantile, so that several classes allow some pixels.
    allowed = 0 if count == 1 else 5e-4
    for seed, peak in ((0, 1.0), (1, 1.0), (2, 0.7)):
        maps = smooth(count, seed, peak=peak)
        again = restored(maps)
        classes, saliency = range(count), smooth(1, seed + 9)[0] > 0.1
        for number, alpha in enumerate([*ALPHAS.tolist(), 1.0]):
            gamma = float(GAMMAS[number % len(GAMMAS)])
            expected, found = (complete_labels(m, classes, saliency, alpha=alpha, gamma=gamma) for m in (maps, again))
            assert changed(expected, found) <= allowed
        for high, low in ((0.55, 0.4), (0.7, 0.25), (0.5, 0.07)):
            expected, found = (band_labels(m, classes, high=high, low=low) for m in (maps, again))
            assert changed(expected, found) == 0


def test_labels_of_other_settings_nearly_stay() -> None:
    maps, saliency = smooth(2, 0), smooth(1, 1)[0] > 0.1
    again = restored(maps)
    for alpha, gamma in ((0.875, 33.0), (0.925, 19.0)):
        expected, found = (complete_labels(m, [0, 1], saliency, alpha=alpha, gamma=gamma) for m in (maps, again))
        assert 0 < changed(expected, found) < 0.01


def test_the_threshold_curve_stays() -> None:
    truth = (smooth(1, 5)[0] > 0.2).astype(np.uint8)
    points = []
    maps = smooth(2, 3)
    for each in (maps, restored(maps)):
        curve = ThresholdCurve(3, score_labels.THRESHOLDS)
        stack = np.concatenate([np.zeros((1, *truth.shape), np.float32), each.astype(np.float32)])
        curve.add(truth, stack.argmax(0).astype(np.uint8), stack.max(0))
        points.append(curve.points()[1:])
    # At threshold 0 the class of the faintest pixels counts, whose order within the lowest level is not kept.
    assert points[0] == points[1]


def test_what_a_code_stands_for() -> None:
    maps = smooth(3, 4)
    levels, codes = quantize(maps)
    assert (levels.dtype, codes.dtype, levels.shape, codes.shape) == (np.float16, np.uint8, (3, LEVELS), maps.shape)
    again = restored(maps)
    assert (again.max((1, 2)) == 1).all()
    np.testing.assert_array_equal(again == 0, maps == 0)
    np.testing.assert_array_equal(again == 1, maps == 1)
    # A pixel's level lies within 0.01 of its value unless its class was lowered below another.
    assert abs(again.astype(float) - maps).max() <= 0.02
    lowest = levels[:, 1].max()
    strong = maps.max(0) > max(lowest, 0.01)
    np.testing.assert_array_equal(again.argmax(0)[strong], maps.argmax(0)[strong])
    for values, code in zip(levels, codes, strict=True):
        assert (np.diff(values[: code.max() + 1].astype(float)) > 0).all()


def test_thresholds_are_last_in_their_level() -> None:
    map_ = np.array([[0.0, 0.25, 0.2502, 0.2, 1.0, 0.0001, 0.2498]], np.float16)
    levels, codes = quantize(map_[None])
    # 0.25 and what is a little below are not above the threshold 0.25.
    assert codes[0, 0, 1] == codes[0, 0, 6] < codes[0, 0, 2]
    assert codes[0, 0, 0] == 0 < codes[0, 0, 5] < codes[0, 0, 3]
    assert levels[0, 0] == 0
    assert levels[0, codes.max()] == 1


def test_ties_are_those_of_completion() -> None:
    np.testing.assert_allclose(TIES, [background_tie(gamma, torch.float64) for gamma in GAMMAS], rtol=1e-12)
    assert len(THRESHOLDS) + len(GAMMAS) + len(ALPHAS) + 3 <= LEVELS
    assert {*score_labels.THRESHOLDS[1:]} <= {*THRESHOLDS.tolist()}


@pytest.mark.parametrize(
    "maps",
    [
        smooth(2, 6),
        np.zeros((1, 3, 4), np.float16),
        np.zeros((0, 3, 4), np.float16),
        np.stack([np.zeros((70, 4)), np.ones((70, 4))]).astype(np.float16),
        np.full((1, 2, 2), 6e-8, np.float16),
    ],
    ids=["several", "zeros", "no class", "one of zeros", "tiny"],
)
def test_files_hold_the_maps(tmp_path: Path, maps: np.ndarray) -> None:
    write_refined(tmp_path / "a.npy", maps, "float16")
    np.testing.assert_array_equal(read_refined(refined_file(tmp_path, "a")), maps)
    write_refined(tmp_path / "b.npz", maps, "quantized")
    assert refined_file(tmp_path, "b") == tmp_path / "b.npz"
    found = read_refined(tmp_path / "b.npz")
    assert (found.dtype, found.shape) == (np.float32, maps.shape)
    np.testing.assert_array_equal(found, restored(maps))
    np.testing.assert_array_equal(found.max((1, 2), initial=0), maps.max((1, 2), initial=0))


def test_the_line_of_the_manual_reads_them(tmp_path: Path) -> None:
    (line,) = re.findall(r"^maps = np\.take_along_axis\(.+$", MANUAL.read_text(), re.MULTILINE)
    path = tmp_path / "a.npz"
    write_refined(path, smooth(2, 7), "quantized")
    names = {"np": np, "path": path}
    exec(line, names)
    np.testing.assert_array_equal(names["maps"], read_refined(path))


def test_broken_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    levels, steps = np.zeros((1, LEVELS), np.float16), np.zeros((1, 2, 3), np.uint8)
    arrays = {"steps": {"steps": steps}, "levels": {"levels": levels[:, :9], "steps": steps}}
    arrays |= {
        "type": {"levels": levels, "steps": steps.astype(np.int64)},
        "axes": {"levels": levels, "steps": steps[0]},
    }
    for broken in arrays.values():
        np.savez(path, allow_pickle=False, **broken)
        with pytest.raises(
            InputError, match=r"a\.npz: holds no levels .*; delete its folder and run refine_maps again"
        ):
            read_refined(path)
    path.write_bytes(b"x")
    with pytest.raises(InputError, match=r"a\.npz: not a plain \.npz file .*; delete its folder and run refine_maps"):
        read_refined(path)
    with pytest.raises(InputError, match=r"b\.npy: no such file"):
        read_refined(refined_file(tmp_path, "b"))
