"""Photographs by files, folders and patterns: what is found, what it is called, what is refused."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from getam.datasets.photographs import SUFFIXES, files_below, find_photographs, ids_of
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


def test_photographs_of_one_name_are_called_after_their_folders(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = write(folder / "deep" / "a.png")
    assert names(folder / "a.JPG", other, leave_out=out) == ["a", "deep/a"]
    assert names(folder / "deep", folder / "out", leave_out=out) == ["deep/a", "deep/c", "deep/er/b", "out/a"]
    # A link has its own place.
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "c.webp").symlink_to(write(tmp_path / "stored.webp"))
    assert names(tmp_path / "links" / "c.webp", folder / "deep", leave_out=out) == [
        "links/c",
        "shoot/deep/a",
        "shoot/deep/c",
        "shoot/deep/er/b",
    ]


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


def test_a_name_that_is_not_utf8_is_said(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    write(tmp_path / "b.png")
    photographs, problems = find_photographs([str(tmp_path)], leave_out=tmp_path / "out")
    assert [photograph.name for photograph in photographs] == ["b"]
    assert len(problems) == 1
    assert problems[0].endswith("\\udcff.png': its name is not UTF-8; rename it")


def test_a_name_without_room_for_the_names_of_results_is_said(tmp_path: Path) -> None:
    write(tmp_path / f"{'x' * 250}.png")
    write(tmp_path / f"{'y' * 200}.png")
    photographs, problems = find_photographs([str(tmp_path)], leave_out=tmp_path / "out")
    assert [len(photograph.name) for photograph in photographs] == [200]
    assert len(problems) == 1
    assert "its name leaves no room for the names of its results; shorten it" in problems[0]


def test_nothing_found_and_equal_names_are_refused(folder: Path) -> None:
    out = folder / "out"
    for word in ("nowhere", folder / "missing.jpg"):
        with pytest.raises(InputError, match="no such file or folder; name photographs that exist"):
            find_photographs([str(word)], leave_out=out)
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="its photographs lie in the folder of the results; choose another --out"):
        find_photographs([str(out)], leave_out=out)
    for word in (folder / "empty", folder / "*.gif", folder / "["):
        with pytest.raises(InputError, match=r"no photograph .*there"):
            find_photographs([str(word)], leave_out=out)
    write(folder / "f.png")
    with pytest.raises(InputError, match=r"f\.bmp and .*f\.png would have the same name; rename one"):
        find_photographs([str(folder)], leave_out=out)


def below(folder: Path, *leave_out: Path) -> list[str]:
    return [str(path) for path in files_below(folder, SUFFIXES, leave_out=leave_out)]


def test_files_below_a_folder_are_sorted_and_links_are_followed(folder: Path, tmp_path: Path) -> None:
    assert below(folder) == ["a.JPG", "d.e.tif", "deep/c.webp", "deep/er/b.png", "f.bmp", "out/a.png"]
    assert below(folder, folder / "out", folder / "deep" / "er") == ["a.JPG", "d.e.tif", "deep/c.webp", "f.bmp"]
    write(tmp_path / "elsewhere" / "g.png")
    (folder / "one").symlink_to(tmp_path / "elsewhere")
    (folder / "two").symlink_to(tmp_path / "elsewhere")
    (folder / "h.jpg").symlink_to(folder / "a.JPG")
    (folder / "nothing.jpg").symlink_to(folder / "nowhere.jpg")
    # Links that lead in a circle, directly and by another folder.
    (folder / "deep" / "again").symlink_to(folder)
    (tmp_path / "elsewhere" / "back").symlink_to(folder / "deep")
    found = below(folder)
    assert {"h.jpg", "one/g.png", "two/g.png", "one/back/c.webp"} <= {*found}
    assert "nothing.jpg" not in found
    assert not any("again" in path for path in found)
    assert below(folder, tmp_path / "elsewhere") == sorted(
        ["a.JPG", "d.e.tif", "deep/c.webp", "deep/er/b.png", "f.bmp", "h.jpg", "out/a.png"]
    )
    with pytest.raises(InputError, match="nowhere: no such folder"):
        below(folder / "nowhere")


def test_ids_are_names_and_have_folders_where_names_repeat() -> None:
    paths = [PurePosixPath(path) for path in ("cat/1.jpg", "2.b.jpg", "dog/deep/3.png")]
    assert list(ids_of(paths).values()) == ["1", "2.b", "3"]
    repeated = [*paths, PurePosixPath("dog/1.tif")]
    assert list(ids_of(repeated).values()) == ["cat_1", "2.b", "dog_deep_3", "dog_1"]
    for bad, problem in {
        "-x.jpg": "has a leading dot or dash",
        "a\u202eb.jpg": "a control character",
        "+1.jpg": "begins like a formula",
        "a; =1.jpg": "begins like a formula",
        "b;-1/c.jpg": "begins like a formula",
        "cat_1.jpg": "would have the same id, 'cat_1'",
        f"{'a' * 250}.jpg": "is too long",
    }.items():
        with pytest.raises(InputError, match=problem):
            ids_of([*repeated, PurePosixPath(bad)])
