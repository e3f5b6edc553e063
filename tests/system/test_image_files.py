"""Images, label PNGs and saliency maps: what is read and written, and what is refused."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.images import save_gray, turn

import getam.system.files
import getam.system.image_files
from getam.errors import InputError
from getam.system.files import (
    read_array,
    read_json,
)
from getam.system.image_files import (
    decoded_size,
    image_size,
    orientation,
    read_gray,
    read_image,
    read_labels,
    read_saliency,
    voc_palette,
    write_gray,
    write_labels,
)


def photograph(height: int = 24, width: int = 32) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


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


@pytest.mark.parametrize(
    ("least", "expected"),
    [
        ((751, 1001), (751, 1001)),
        ((376, 501), (751, 1001)),  # shorter by less than two
        ((376, 100), (751, 1001)),
        ((375, 500), (376, 501)),  # a half, the last row and column from one pixel of two
        ((188, 251), (376, 501)),  # a quarter of 187.75 x 250.25 would not be twice as long
        ((93, 125), (188, 250)),  # the last row is from three pixels of four, the last column from one
        ((46, 62), (94, 125)),
        ((1, 1), (94, 125)),
    ],
)
@pytest.mark.parametrize("turned", [1, 3, 6])
def test_a_large_jpeg_is_decoded_at_a_reduced_size(
    tmp_path: Path, least: tuple[int, int], expected: tuple[int, int], turned: int
) -> None:
    path = tmp_path / "a.jpg"
    y, x = np.mgrid[:751, :1001] / np.array([751, 1001])[:, None, None]
    pixels = np.stack([255 * x, 255 * y, np.full_like(x, 77)], 2).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=100)
    turn(path, turned)
    swapped = slice(None, None, -1 if turned == 6 else 1)
    image = read_image(path, least=least[swapped])
    assert image.shape[:2] == expected[swapped]
    whole = np.asarray(Image.fromarray(read_image(path)).resize(expected[swapped][::-1], Image.Resampling.BOX))
    np.testing.assert_allclose(image.astype(int), whole.astype(int), atol=4)


def test_a_small_jpeg_and_a_png_are_decoded_whole(tmp_path: Path) -> None:
    photograph(640, 640).save(tmp_path / "coco.jpg")
    photograph(800, 800).save(tmp_path / "large.png")
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(read_image(path, least=(32, 32)), read_image(path))


@pytest.mark.parametrize("turned", [1, 3, 6])
def test_the_size_of_a_decoded_image_is_that_of_its_pixels(tmp_path: Path, turned: int) -> None:
    photograph().save(tmp_path / "a.jpg")
    turn(tmp_path / "a.jpg", turned)
    assert decoded_size(tmp_path / "a.jpg") == (*read_image(tmp_path / "a.jpg").shape[:2], turned)


def test_the_size_of_an_image_is_refused_where_its_pixels_are(tmp_path: Path) -> None:
    photograph().save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-400])
    Image.new("LA", (32, 24)).save(tmp_path / "gray.tif")
    # The tag 338 says that gray is multiplied by its transparency.
    plain, multiplied = (struct.pack("<HHIH", 338, 3, 1, value) for value in (2, 1))
    content = (tmp_path / "gray.tif").read_bytes()
    assert plain in content
    (tmp_path / "gray.tif").write_bytes(content.replace(plain, multiplied))
    for path in tmp_path.iterdir():
        for read in (read_image, decoded_size):
            with pytest.raises(InputError, match=f"{path.name}: cannot be decoded"):
                read(path)


def test_a_large_jpeg_cut_short_is_refused_at_a_reduced_size(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    photograph(800, 800).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"a\.jpg: cannot be decoded"):
        read_image(path, least=(100, 100))


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
    monkeypatch.setattr(getam.system.image_files, "MAX_PIXELS", 120)
    assert read_image(path).shape == (10, 12, 3)
    monkeypatch.setattr(getam.system.image_files, "MAX_PIXELS", 119)
    for read in (read_image, read_gray, read_labels, image_size):
        with pytest.raises(InputError, match=re.escape(f"{path}: 12x10 pixels, more than 119; scale it down")):
            read(path)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (12000, 12000)).save(path)
    assert path.stat().st_size < 100_000
    assert 2 * getam.system.image_files.MAX_PIXELS < 12000 * 12000
    with pytest.raises(InputError, match=re.escape(f"{path}: 12000x12000 pixels, more than")):
        read_image(path)


@pytest.mark.filterwarnings("error")
def test_pillow_does_not_warn_beside_the_message(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (10000, 10000)).save(path)
    with pytest.raises(InputError, match="10000x10000 pixels"):
        image_size(path)


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
