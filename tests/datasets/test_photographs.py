"""Photographs by files, folders and patterns: what is found, what it is called, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from getam.datasets.photographs import find_photographs
from getam.errors import InputError
from getam.system.image_files import read_image


def write(path: Path, size: tuple[int, int] = (6, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 99, np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.JPG", "deep/er/b.png", "deep/c.webp", "d.e.tif", "f.bmp", ".hidden/g.png", ".h.png", "out/a.png"):
        write(tmp_path / "shoot" / name)
    (tmp_path / "shoot" / "notes.txt").write_text("no photograph")
    return tmp_path / "shoot"


def names(*given: object, leave_out: Path) -> list[str]:
    photographs, problems = find_photographs([str(word) for word in given], leave_out=leave_out)
    assert not problems
    return [photograph.name for photograph in photographs]


def test_a_folder_is_searched_to_any_depth_but_not_the_results(folder: Path) -> None:
    out = folder / "out"
    assert names(folder, leave_out=out) == ["a", "d.e", "deep/c", "deep/er/b", "f"]
    assert names(f"{folder}/", leave_out=out) == names(folder, leave_out=out)
    assert names(folder, leave_out=folder / "deep" / "er") == ["a", "d.e", "deep/c", "f", "out/a"]


def test_files_and_patterns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / "none"
    assert names(folder / "deep" / "c.webp", folder / "a.JPG", leave_out=out) == ["a", "c"]
    assert names(folder / "*.???", leave_out=out) == ["a", "d.e", "f"]
    assert names(folder / "**" / "*.png", leave_out=folder / "out") == ["deep/er/b"]
    # One photograph by two words counts once, under its first name.
    assert names(folder / "deep" / "c.webp", folder, leave_out=folder / "out") == ["a", "c", "d.e", "deep/er/b", "f"]
    monkeypatch.chdir(folder)
    assert names(".", leave_out=Path("out")) == ["a", "d.e", "deep/c", "deep/er/b", "f"]
    assert names("deep/*/*.png", leave_out=Path("out")) == ["er/b"]


def test_sizes_and_pixels_of_every_format(tmp_path: Path) -> None:
    for suffix in ("jpg", "png", "webp", "tif", "bmp"):
        path = write(tmp_path / f"{suffix}.{suffix}", (5, 7))
        ((photograph,), problems) = find_photographs([str(path)], leave_out=tmp_path / "out")
        assert (photograph.height, photograph.width, problems) == (5, 7, [])
        assert abs(read_image(path).astype(int) - 99).max() <= 2


def test_a_damaged_photograph_is_said_and_the_others_are_found(folder: Path) -> None:
    (folder / "a.JPG").write_bytes(b"no image")
    photographs, problems = find_photographs([str(folder)], leave_out=folder / "out")
    assert [photograph.name for photograph in photographs] == ["d.e", "deep/c", "deep/er/b", "f"]
    assert len(problems) == 1
    assert "a.JPG: cannot be decoded" in problems[0]


def test_nothing_found_and_equal_names_are_refused(folder: Path) -> None:
    out = folder / "out"
    for word in ("nowhere", folder / "missing.jpg"):
        with pytest.raises(InputError, match="no such file or folder; name photographs that exist"):
            find_photographs([str(word)], leave_out=out)
    (folder / "empty").mkdir()
    for word in (folder / "empty", folder / "*.gif", folder / "[", out):
        with pytest.raises(InputError, match=r"no photograph .*there"):
            find_photographs([str(word)], leave_out=out)
    write(folder / "f.png")
    with pytest.raises(InputError, match=r"f\.bmp and .*f\.png would have the same name; rename one"):
        find_photographs([str(folder)], leave_out=out)
