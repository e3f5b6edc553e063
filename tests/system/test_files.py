"""Files are whole or not there, and nothing that is read from them is trusted."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.images import save_gray

import getam.system.files
from getam.errors import InputError
from getam.system.files import (
    LOCK,
    MARKER,
    atomic_file,
    atomic_folder,
    fingerprint,
    image_size,
    orientation,
    read_array,
    read_gray,
    read_image,
    read_json,
    read_labels,
    read_saliency,
    voc_palette,
    write_array,
    write_gray,
    write_json,
    write_labels,
    write_text,
)


class StoppedError(Exception):
    """What stops a writer half-way in these tests."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def photograph(height: int = 24, width: int = 32) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# Atomic writes


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_file(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("stop", [StoppedError, KeyboardInterrupt])
def test_a_stopped_write_leaves_the_old_file(tmp_path: Path, stop: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise stop

    with pytest.raises(stop):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_that_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_file(path) as temporary:
        left = temporary
        temporary.write_text("x")
    left.write_text("left behind, longer than what follows")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    path.mkdir()
    (path / "old").write_text("")
    (path / MARKER).touch()
    with atomic_folder(path) as temporary:
        (temporary / "new").write_text("")
        assert names(path) == [MARKER, "old"]
    assert names(path) == [MARKER, "new"]
    assert names(tmp_path) == ["shard"]


@pytest.mark.parametrize("stop", [StoppedError, KeyboardInterrupt])
def test_a_stopped_folder_leaves_the_old_one(tmp_path: Path, stop: type[BaseException]) -> None:
    path = tmp_path / "shard"
    path.mkdir()
    (path / "old").write_text("")
    (path / MARKER).touch()

    def write() -> None:
        with atomic_folder(path) as temporary:
            (temporary / "new").write_text("")
            raise stop

    with pytest.raises(stop):
        write()
    assert names(path) == [MARKER, "old"]
    assert names(tmp_path) == ["shard"]


def test_a_folder_starts_empty_after_a_killed_process(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "shard") as temporary:
        left = temporary
    left.mkdir()
    (left / "stale").write_text("")
    (left / MARKER).touch()
    with atomic_folder(tmp_path / "shard") as temporary:
        assert names(temporary) == sorted([MARKER, LOCK])
    assert names(tmp_path) == ["shard"]


def write_with(error: OSError) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with atomic_file(path):
            raise error

    return write


UNWRITABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (lambda folder: write_text(folder, "x"), "Is a directory"),
    "below a file": (lambda folder: write_text(folder / "file" / "a.txt", "x"), "File exists|Not a directory"),
    "far below a file": (lambda folder: write_text(folder / "file" / "b" / "a.txt", "x"), "Not a directory"),
    "name too long": (lambda folder: write_text(folder / ("a" * 300), "x"), "File name too long"),
    "no room": (lambda folder: write_with(OSError(errno.ENOSPC, "No space left on device"))(folder / "a"), "No space"),
    "cut short by numpy": (
        lambda folder: write_with(OSError("8 requested and 3 written"))(folder / "a"),
        "8 requested",
    ),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, case: str) -> None:
    write, reason = UNWRITABLE[case]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("precious")
    with pytest.raises(InputError, match=rf"{re.escape(str(tmp_path / 'out'))}.*: cannot be written \(({reason})"):
        write(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["file"]


def test_another_file_that_fails_within_a_write_keeps_its_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source"), atomic_file(tmp_path / "a.txt"):
        (tmp_path / "source").read_bytes()
    assert names(tmp_path) == []


def test_a_full_disk_does_not_cost_what_an_unfinished_folder_has(tmp_path: Path) -> None:
    def stop() -> None:
        with atomic_folder(tmp_path / "shard", key="k") as folder:
            write_text(folder / "a.txt", "hours of work")
            write_with(OSError(errno.ENOSPC, "No space left on device"))(folder / "b.txt")

    with pytest.raises(InputError, match="No space left"):
        stop()
    with atomic_folder(tmp_path / "shard", key="k") as folder:
        assert (folder / "a.txt").read_text() == "hours of work"


# JSON


def test_json_comes_back(tmp_path: Path) -> None:
    content = {"mIoU": 0.5, "classes": ["café"], "none": None}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    assert (tmp_path / "a.json").read_text().endswith("}\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_have_is_refused(tmp_path: Path, number: float) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"loss": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": number})
    assert json.loads(path.read_text()) == {"loss": 1}
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{'a': 1}"])
def test_broken_json_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{path}: not valid JSON")):
        read_json(path)


def test_nan_is_refused_when_json_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"mIoU": NaN}')
    with pytest.raises(InputError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")


# Arrays


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8])
def test_an_array_comes_back(tmp_path: Path, dtype: type[Any]) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_array(tmp_path / "a.npy", array)
    read = read_array(tmp_path / "a.npy")
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, array)


def test_an_array_without_channels_comes_back(tmp_path: Path) -> None:
    write_array(tmp_path / "a.npy", np.zeros((0, 3, 4), np.float32))
    assert read_array(tmp_path / "a.npy").shape == (0, 3, 4)


class Pickled:
    """Says so when a pickle of it is read."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return write_text_beside, ("a pickle was read", __file__)


def write_text_beside(text: str, path: str) -> None:
    raise AssertionError(text + path)


def test_objects_are_neither_written_nor_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    objects = np.array([Pickled()], dtype=object)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_array(path, objects)
    assert names(tmp_path) == []
    np.save(path, objects, allow_pickle=True)
    with pytest.raises(InputError, match=re.escape(f"{path}: not a plain .npy array")):
        read_array(path)


def whole_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((3, 4), np.float32))
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"text", whole_array()[:-1], whole_array()[:20], b"\x80\x04N."])
def test_a_broken_array_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{path}: not a plain .npy array")):
        read_array(path)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["archive", "broken archive"])
def test_an_archive_for_an_array_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3)) if kind == "archive" else file.write(b"PK\x03\x04 broken")
    with pytest.raises(InputError, match=re.escape(str(path))):
        read_array(path)


# Images


@pytest.mark.parametrize("read", [read_image, read_gray, read_labels, image_size, read_array, read_json])
def test_a_missing_file_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "none.png"
    with pytest.raises(InputError, match=re.escape(f"{path}: no such")):
        read(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_an_image_is_height_width_rgb(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.new("RGB", (32, 24), (250, 128, 2)).save(path, quality=100)
    image = read_image(path)
    assert image.shape == (24, 32, 3)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image[0, 0].astype(int), (250, 128, 2), atol=3)
    assert image_size(path) == (24, 32)


def test_a_gray_jpeg_becomes_rgb(tmp_path: Path) -> None:
    Image.new("L", (32, 24), 77).save(tmp_path / "a.jpg")
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == (24, 32, 3)
    assert (image == 77).all()


def test_a_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    # Full magenta and yellow ink, no cyan, no black: red.
    Image.new("CMYK", (32, 24), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    with Image.open(tmp_path / "a.jpg") as file:
        assert file.mode == "CMYK"
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == (24, 32, 3)
    np.testing.assert_allclose(image[5, 5].astype(int), (255, 0, 0), atol=3)


def test_a_palette_png_becomes_rgb(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.png", np.full((3, 4), 2, np.uint8))
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [0, 128, 0]


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_jpeg_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "photo.jpg"
    photograph().save(path, quality=95)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=re.escape(f"{path}: cannot be decoded")):
        read_image(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_damaged_image_is_refused_or_decoded_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    photograph().save(tmp_path / f"whole{suffix}")
    content = (tmp_path / f"whole{suffix}").read_bytes()
    random = np.random.default_rng(1)
    path = tmp_path / f"damaged{suffix}"
    messages = []
    for _ in range(300):
        damaged = bytearray(content)
        for place in random.integers(0, min(len(content), 600), 3):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        # Whatever else is raised, fails the test.
        try:
            read_image(path)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(str(path) in message for message in messages)


def test_an_image_of_too_many_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    photograph(height=10, width=12).save(path)
    monkeypatch.setattr(getam.system.files, "MAX_PIXELS", 120)
    assert read_image(path).shape == (10, 12, 3)
    monkeypatch.setattr(getam.system.files, "MAX_PIXELS", 119)
    for read in (read_image, read_gray, read_labels, image_size):
        with pytest.raises(InputError, match=re.escape(f"{path}: 12x10 pixels, more than 119; scale it down")):
            read(path)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (12000, 12000)).save(path)
    assert path.stat().st_size < 100_000
    assert 2 * getam.system.files.MAX_PIXELS < 12000 * 12000
    with pytest.raises(InputError, match=re.escape(f"{path}: 12000x12000 pixels, more than")):
        read_image(path)


@pytest.mark.filterwarnings("error")
def test_pillow_does_not_warn_beside_the_message(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (10000, 10000)).save(path)
    with pytest.raises(InputError, match="10000x10000 pixels"):
        image_size(path)


# Labels


def test_the_palette_is_that_of_voc() -> None:
    palette = voc_palette()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    expected = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        4: (0, 0, 128),
        7: (128, 128, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {value: tuple(palette[value].tolist()) for value in expected} == expected
    assert len(np.unique(palette, axis=0)) == 256


def test_labels_come_back_as_a_palette_png(tmp_path: Path) -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    write_labels(tmp_path / "a.png", labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "P", (32, 8))
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), voc_palette()[labels])


def test_few_label_values_come_back(tmp_path: Path) -> None:
    # Pillow may write fewer bits a pixel then.
    labels = np.array([[0, 1], [1, 0]], np.uint8)
    write_labels(tmp_path / "a.png", labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)


def test_equal_labels_give_equal_bytes(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 21, (20, 30), dtype=np.uint8)
    write_labels(tmp_path / "a.png", labels)
    write_labels(tmp_path / "b.png", labels.copy())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_gray_mask_is_read_by_its_values(tmp_path: Path) -> None:
    values = np.array([[0, 3, 255]], np.uint8)
    write_gray(tmp_path / "a.png", values)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), values)
    np.testing.assert_array_equal(read_gray(tmp_path / "a.png"), values)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_gray_mask_of_few_bits_is_refused_and_a_picture_read(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "a.png"
    save_gray(path, bits)
    # What a picture means: white is the largest value.
    assert read_gray(path).tolist() == [[0, 255 // (2**bits - 1)]]
    with pytest.raises(InputError, match=re.escape(f"{path}: a {bits}-bit gray PNG") + ".*; save it with 8 bits"):
        read_labels(path)


def test_a_palette_mask_of_few_bits_is_read_by_its_values(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 3]], np.uint8), mode="P")
    image.putpalette(voc_palette()[:4].tobytes())
    image.save(tmp_path / "a.png", bits=2)
    assert read_labels(tmp_path / "a.png").tolist() == [[0, 1, 3]]


def test_a_jpeg_is_no_mask_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (8, 8), 3).save(path, format="JPEG")
    with pytest.raises(InputError, match=re.escape(f"{path}: a mask must be a PNG, this one is JPEG")):
        read_labels(path)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA"])
def test_a_saliency_map_without_colors_is_read_in_any_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    values = np.array([[0, 255], [255, 0]], np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    assert read_saliency(path).tolist() == values.tolist()


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA", "CMYK"])
def test_a_saliency_map_of_colors_is_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a"
    Image.new("RGB", (4, 4), (255, 0, 0)).convert(mode).save(path, format="JPEG" if mode == "CMYK" else "PNG")
    with pytest.raises(InputError, match=re.escape(f"{path}: has colors; a saliency map is gray")):
        read_saliency(path)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_mask_of_colors_is_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    Image.new(mode, (4, 3)).save(path)
    with pytest.raises(InputError, match=re.escape(f"{path}: a mask must be a palette or gray PNG")):
        read_labels(path)


@pytest.mark.parametrize("kind", ["foreign", "file", "link", "working directory", "above"])
def test_folders_of_others_are_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: pytest.fail("deletes"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("years")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    paths = {"foreign": "../thesis", "file": "../file", "link": "../link", "working directory": ".", "above": ".."}
    with pytest.raises(InputError, match="choose another output folder"), atomic_folder(Path(paths[kind])):
        pytest.fail("begins")
    assert (tmp_path / "thesis" / "text").read_text() == "years"


def test_folder_of_a_stage_is_replaced(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with atomic_folder(tmp_path / "shard") as folder:
            (folder / name).touch()
    assert sorted(path.name for path in (tmp_path / "shard").iterdir()) == [MARKER, "new"]
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]


@pytest.mark.parametrize("kind", ["GIF", "PPM", "TGA", "EPS", "PDF"])
def test_other_formats_are_not_decoded_whatever_their_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (4, 4)).save(path, format=kind)
    with pytest.raises(InputError, match=r"a\.jpg: cannot be decoded"):
        read_image(path)


def test_sixteen_bits_are_refused_rather_than_clipped(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(path)
    for read in (read_image, read_gray, read_labels):
        with pytest.raises(InputError, match="more than 8 bits"):
            read(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("number", range(1, 9))
def test_turned_photographs_are_read_upright(tmp_path: Path, number: int, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = number
    image.save(path, exif=exif, quality=100)
    turned = ImageOps.exif_transpose(image_of(path)).convert("L")
    assert ((read_image(path)[..., 0] > 127) == (np.asarray(turned) > 127)).all()
    assert image_size(path) == (turned.height, turned.width) == ((32, 16) if number > 4 else (16, 32))
    assert orientation(path) == number


def image_of(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    return image


def tiff(tag: int, kind: int, count: int, value: bytes) -> bytes:
    """EXIF of one tag."""
    return b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, tag, kind, count) + value.ljust(4, b"\0") + bytes(4)


ODD_EXIF = {
    "orientation 0": tiff(0x0112, 3, 1, b"\0"),
    "orientation 9": tiff(0x0112, 3, 1, b"\x09"),
    "orientation 6.0": tiff(0x0112, 11, 1, struct.pack("<f", 6)),
    "orientation of text": tiff(0x0112, 2, 2, b"6\0"),
    "no EXIF": b"Exif\0\0rubbish, and more of it",
    "cut short": tiff(0x0112, 3, 1, b"\x06")[:20],
}


@pytest.mark.parametrize("name", ODD_EXIF)
def test_a_photograph_whose_orientation_is_odd_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (30, 20)).save(path, exif=ODD_EXIF[name])
    assert read_image(path).shape == (20, 30, 3)
    assert image_size(path) == (20, 30)
    assert orientation(path) == 1


# Tags that Pillow reads and cannot write again: an artist as a fraction, a model as a number, a pointer to before the
# file, a resolution as text.
MALFORMED = [(0x013B, 5, 1, 8), (0x0110, 12, 1, 8), (0x8825, 9, 1, 0x80000000), (0x011A, 2, 1, 8)]


@pytest.mark.parametrize("entry", MALFORMED)
def test_a_malformed_tag_beside_the_orientation_does_no_harm(tmp_path: Path, entry: tuple[int, int, int, int]) -> None:
    path = tmp_path / "a.jpg"
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHII", *entry)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(64)
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    assert read_image(path).shape == (30, 20, 3)


# A folder beside the one that is written


@pytest.mark.parametrize("name", [".shard.partial", ".shard.old"])
def test_a_folder_of_the_users_in_the_way_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "precious").touch()
    with pytest.raises(InputError, match=rf"{name}: is in the way; remove it"), atomic_folder(tmp_path / "shard"):
        raise AssertionError
    assert (tmp_path / name / "precious").exists()
    assert not (tmp_path / "shard").exists()


def test_a_link_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".shard.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is in the way"), atomic_folder(tmp_path / "shard", key="k"):
        raise AssertionError


def test_a_kill_between_the_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_folder(tmp_path / "shard", key="first") as folder:
        (folder / "a").write_text("first")

    def write_second() -> None:
        with atomic_folder(tmp_path / "shard", key="second") as folder:
            (folder / "a").write_text("second")

    replace = Path.replace
    renamed: list[Path] = []

    def killed(self: Path, target: Path) -> Path:
        nonlocal renamed
        if self.is_dir() and renamed:
            raise MemoryError
        renamed += [self] if self.is_dir() else []
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(MemoryError):
        write_second()
    monkeypatch.undo()
    assert not (tmp_path / "shard").exists()

    def stopped_by_bad_input() -> None:
        with atomic_folder(tmp_path / "shard", key="second") as folder:
            assert (folder / "a").read_text() == "second"
            raise InputError("bad")

    with pytest.raises(InputError, match="bad"):
        stopped_by_bad_input()
    assert (tmp_path / "shard" / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match="cannot be written"),
        atomic_folder(tmp_path / "file" / "000"),
    ):
        raise AssertionError


def test_a_path_through_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/model\.json: Not a directory; name the folder"):
        read_json(tmp_path / "file" / "model.json")
    with pytest.raises(InputError, match=r"file/a\.png: Not a directory"):
        fingerprint([tmp_path / "file" / "a.png"])


def test_fingerprint_sees_a_changed_file_and_names_a_missing_one(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        path.write_bytes(b"one")
        os.utime(path, ns=(10**18, 10**18))
    before = fingerprint(paths)
    assert fingerprint(paths) == before
    assert fingerprint(reversed(paths)) != before
    os.utime(paths[1], ns=(10**18, 10**18 + 1))
    touched = fingerprint(paths)
    assert touched != before
    paths[1].write_bytes(b"other")
    os.utime(paths[1], ns=(10**18, 10**18))
    assert fingerprint(paths) not in (before, touched)
    paths[1].unlink()
    with pytest.raises(InputError, match=r"b\.png: no such file"):
        fingerprint(paths)
