"""`getam score-saliency`: of a folder of maps, and of a network on image/mask pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from getam.cli import STAGES, TOOLS, command
from getam.networks.checkpoints import save_model
from getam.networks.saliency import build_saliency, describe_saliency
from getam.scores.saliency import saliency_scores
from getam.settings.config import Config
from getam.settings.saliency import SaliencySettings
from getam.settings.section import section_of
from getam.system.files import read_json
from getam.system.image_files import write_gray

SIZE = (40, 56)
Y, X = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
MASKS = {"a": ((Y - 18) / 9) ** 2 + ((X - 30) / 14) ** 2 < 1, "b": X < 20}
MAPS = {"a": (Y * 6).astype(np.uint8), "b": (255 - X * 4).astype(np.uint8)}


def score(*words: str | Path) -> int:
    return command("getam", STAGES | TOOLS, ["score-saliency", *map(str, words)])


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """maps/, and pairs in DUTS layout."""
    for id, mask in MASKS.items():
        write_gray(tmp_path / "maps" / f"{id}.png", MAPS[id])
        write_gray(tmp_path / "DUTS-TE" / "DUTS-TE-Mask" / f"{id}.png", np.where(mask, 255, 0).astype(np.uint8))
        image = tmp_path / "DUTS-TE" / "DUTS-TE-Image" / f"{id}.jpg"
        image.parent.mkdir(exist_ok=True)
        Image.fromarray(np.repeat(MAPS[id][..., None], 3, 2)).save(image)
    return tmp_path


def of_maps(folders: Path) -> tuple[str | Path, ...]:
    return ("--predictions", folders / "maps", "--masks", folders / "DUTS-TE" / "DUTS-TE-Mask")


@pytest.fixture
def network(folders: Path, config: Config) -> Path:
    """Folder of a saliency network of fresh weights."""
    settings = section_of(SaliencySettings, config.saliency)
    torch.manual_seed(0)
    save_model(folders / "network", build_saliency(settings), describe_saliency(settings))
    return folders / "network"


def test_maps_beside_masks(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(*of_maps(folders), "--out", folders / "scores.json") == 0
    expected = saliency_scores((MAPS[id], MASKS[id]) for id in MASKS)
    assert read_json(folders / "scores.json") == {"images": 2, **expected}
    assert f"mae        {expected['mae']:.4f}" in capsys.readouterr().out


def test_a_network_on_pairs(folders: Path, network: Path) -> None:
    found = []
    for stretch in ("false", "true"):
        words = ("--model", network, "--pairs", folders / "DUTS-TE", "--stretch", stretch, "--device", "cpu")
        assert score(*words, "--out", folders / "scores.json") == 0
        found.append(read_json(folders / "scores.json"))
    assert found[0]["images"] == 2
    assert 0 < found[0]["mae"] < 1
    # Fresh weights are near 1/2 everywhere: stretched, their maps are others.
    assert found[1]["mae"] != pytest.approx(found[0]["mae"], abs=1e-3)


def of_another_size(folders: Path) -> None:
    write_gray(folders / "maps" / "b.png", MAPS["b"].T)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a map is missing": (
        lambda folders: (folders / "maps" / "b.png").unlink(),
        "maps/b.png: no such map; predict every image that has a mask",
    ),
    "a map of another size": (
        of_another_size,
        "maps/b.png: size (56, 40) is not its mask's (40, 56) (H, W); bring maps of the masks' sizes",
    ),
    "a map of colors": (
        lambda folders: Image.new("RGB", SIZE[::-1], (255, 0, 0)).save(folders / "maps" / "b.png"),
        "maps/b.png: has colors; a saliency map is gray",
    ),
    "maps of ones": (
        lambda folders: [write_gray(folders / "maps" / f"{id}.png", np.ones(SIZE, np.uint8)) for id in MAPS],
        "maps: the brightest value of its maps is 1; maps hold 0 to 255, multiply them by 255",
    ),
    "a mask of ones": (
        lambda folders: write_gray(folders / "DUTS-TE" / "DUTS-TE-Mask" / "b.png", np.ones(SIZE, np.uint8)),
        "b.png: its brightest value is 1; masks hold 0 and 255",
    ),
    "no folder": (lambda folders: (folders / "maps").rename(folders / "elsewhere"), "maps: no such folder; name one"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_folders_end_with_one_message(folders: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, message = BAD[name]
    spoil(folders)
    assert score(*of_maps(folders), "--out", folders / "scores.json") == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("getam score-saliency: ") == 1
    assert "Traceback" not in error
    assert not (folders / "scores.json").exists()


def test_maps_and_network_at_once_are_refused(folders: Path, network: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), of_maps(folders)[:2], (*of_maps(folders), "--model", network)):
        assert score(*words) == 1
        assert "give --predictions and --masks, or --model and --pairs" in capsys.readouterr().err
