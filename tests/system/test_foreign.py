"""Files of somebody who means harm: pipes and devices, images, arrays and configurations that would take gigabytes."""

from __future__ import annotations

import multiprocessing
import os
import re
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.bounded import said

import getam.system.image_files
from getam.datasets.class_names import read_classes
from getam.datasets.documents import read_json_document, read_table, read_xml_document
from getam.datasets.index import read_index
from getam.datasets.sbd import read_sbd_mask
from getam.errors import InputError
from getam.networks.checkpoints import read_tensors
from getam.networks.pretrained import read_state
from getam.runs.verdicts import read_verdicts
from getam.settings.foreign import MAX_PIXELS, MAX_SCANS
from getam.settings.reading import read_yaml
from getam.system.files import read_array, read_json
from getam.system.image_files import image_size, read_image, read_labels, room_for

READERS: dict[str, Callable[[Path], object]] = {
    "a.jpg": read_image,
    "b.jpg": image_size,
    "c.png": read_labels,
    "a.npy": read_array,
    "a.json": read_json,
    "b.json": read_json_document,
    "a.xml": read_xml_document,
    "a.csv": read_table,
    "index.csv": read_index,
    "classes.txt": read_classes,
    "a.yaml": read_yaml,
    "a.mat": read_sbd_mask,
    "a.pth": read_state,
    "a.safetensors": read_state,
    "b.safetensors": read_tensors,
    "verdicts.csv": lambda path: read_verdicts(path, ()),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.timeout(60)
def test_a_pipe_or_a_device_in_the_place_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for make in (lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")):
        make()
        with pytest.raises(InputError, match=r"is a pipe or a device, no file"):
            READERS[name](path)
        path.unlink()


# Images


def progressive(path: Path, *, side: int, scans: int) -> None:
    """Writes a progressive JPEG whose last scan is there many times."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)).save(
        path, progressive=True, quality=20
    )
    content = path.read_bytes()
    last = content.rindex(b"\xff\xda")
    path.write_bytes(content[:-2] + content[last:-2] * scans + content[-2:])


def test_the_scans_of_a_jpeg_are_bounded(tmp_path: Path) -> None:
    progressive(tmp_path / "a.jpg", side=64, scans=0)
    pixels = read_image(tmp_path / "a.jpg")
    # Encoders write about ten.
    progressive(tmp_path / "a.jpg", side=64, scans=20)
    assert read_image(tmp_path / "a.jpg").shape == pixels.shape
    progressive(tmp_path / "a.jpg", side=64, scans=MAX_SCANS)
    with pytest.raises(InputError, match=rf"a\.jpg: cannot be decoded \(more than {MAX_SCANS} scans\); replace"):
        read_image(tmp_path / "a.jpg")
    # A marker without content does not hide what follows it.
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[:2] + b"\xff\x01" + content[2:])
    with pytest.raises(InputError, match="scans"):
        read_image(tmp_path / "a.jpg")


def test_segments_and_a_second_jpeg_behind_the_first_are_no_scans(tmp_path: Path) -> None:
    progressive(tmp_path / "a.jpg", side=16, scans=5)
    content = (tmp_path / "a.jpg").read_bytes()
    pixels = read_image(tmp_path / "a.jpg")
    # As cameras embed a thumbnail, and append a film.
    thumbnail = b"\xff\xda\x00\x03\x01" * 200
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    (tmp_path / "a.jpg").write_bytes(content[:2] + segment + content[2:] + thumbnail)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), pixels)


def test_the_scans_of_a_jpeg_with_further_pictures_are_bounded(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = tmp_path / "a.jpg"
    picture.save(path, format="MPO", save_all=True, append_images=[picture], progressive=True)
    with Image.open(path) as image:
        assert image.format == "MPO"
    assert read_image(path).shape == (64, 64, 3)
    content = path.read_bytes()
    end = content.index(b"\xff\xd9\xff\xd8")
    last = content[content.rindex(b"\xff\xda", 0, end) : end]
    path.write_bytes(content[:end] + last * MAX_SCANS + content[end:])
    with pytest.raises(InputError, match="more than 50 scans"):
        read_image(path)


def test_a_tile_beyond_its_image_is_not_decoded(tmp_path: Path) -> None:
    def tiled(side: int) -> bytes:
        tile = zlib.compress(bytes(min(side, 64) ** 2))
        numbers = (64, 64, 8, 8, 1, 1, side, side, 8, len(tile))
        names = (256, 257, 258, 259, 262, 277, 322, 323, 324, 325)
        entries = [struct.pack("<HHII", name, 4, 1, number) for name, number in zip(names, numbers, strict=True)]
        directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
        return b"II*\0" + struct.pack("<I", 8 + len(tile)) + tile + directory

    (tmp_path / "a.tif").write_bytes(tiled(64))
    assert read_image(tmp_path / "a.tif").shape == (64, 64, 3)
    (tmp_path / "a.tif").write_bytes(tiled(16_384))
    with pytest.raises(InputError, match="a tile of 268435456 pixels"):
        read_image(tmp_path / "a.tif")


def test_a_file_that_is_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.webp").open("wb") as file:
        file.write(b"RIFF\0\0\0\0WEBPVP8L")
        file.truncate(10**12)
    with pytest.raises(InputError, match=r"a\.webp: cannot be decoded \(is larger than 300000000 bytes\)"):
        image_size(tmp_path / "a.webp")


def test_the_segments_of_a_jpeg_are_bounded(tmp_path: Path) -> None:
    progressive(tmp_path / "a.jpg", side=16, scans=0)
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[:2] + b"\xff\xfe\x00\x02" * 10_001 + content[2:])
    with pytest.raises(InputError, match="more than 10000 segments"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_a_large_image_is_converted_in_bands(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (33, 20, 4), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    whole = read_image(tmp_path / "a.png")
    monkeypatch.setattr(getam.system.image_files, "BAND_PIXELS", 100)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), whole)


def test_the_largest_image_takes_less_than_a_gigabyte(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5)
    row = b"\0" + bytes(3 * side)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(row * side, 1))]
    write_png(tmp_path / "a.png", [*chunks, (b"IEND", b"")])
    call = f"read_image(Path({str(tmp_path / 'a.png')!r})).shape"
    assert said("getam.system.image_files", call, memory=560) == f"({side}, {side}, 3)"


def test_all_threads_together_decode_no_more_than_one_largest_image() -> None:
    most = 0
    lock = threading.Lock()
    pixels = 0

    def decode(size: int) -> None:
        nonlocal most, pixels
        with room_for(size):
            with lock:
                pixels += size
                most = max(most, pixels)
            threading.Event().wait(0.001)
            with lock:
                pixels -= size

    sizes = [MAX_PIXELS // 3, MAX_PIXELS, MAX_PIXELS // 2, 1] * 5
    threads = [threading.Thread(target=decode, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert MAX_PIXELS // 2 < most <= MAX_PIXELS
    # One that failed gives its room back.
    with pytest.raises(ZeroDivisionError), room_for(MAX_PIXELS):
        raise ZeroDivisionError
    decode(MAX_PIXELS)


def test_a_forked_process_has_room_of_its_own(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    child = multiprocessing.get_context("fork").Process(target=read_image, args=(tmp_path / "a.png",))
    with room_for(MAX_PIXELS):
        child.start()
        child.join(60)
        child.kill()
    assert child.exitcode == 0


def write_png(path: Path, chunks: list[tuple[bytes, bytes]]) -> None:
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
            for name, content in chunks
        )
    )


@pytest.mark.parametrize("first", ["a text", "another header"])
def test_the_header_that_the_decoder_takes_is_checked(tmp_path: Path, first: str) -> None:
    header = struct.pack(">IIBBBBB", 8, 2, 2, 0, 0, 0, 0)
    # Its bytes stand where those of the header are otherwise, and say 8 bits and a palette.
    misleading = struct.pack(">IIBBBBB", 8, 2, 8, 3, 0, 0, 0)
    chunk = (b"IHDR", misleading) if first == "another header" else (b"tEXt", misleading)
    pixels = zlib.compress(b"\0\x1b\x1b" * 2)
    write_png(tmp_path / "a.png", [chunk, (b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")])
    with pytest.raises(InputError, match=r"a 2-bit gray PNG|cannot be decoded"):
        read_labels(tmp_path / "a.png")


# Arrays


def npy(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def header_of(shape: str, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


HEADERS = {
    "giant": (header_of("(100000000000,)"), "its header states 400000000000"),
    "giant product": (header_of("(4294967296, 4294967296)"), "holds 4 bytes"),
    "negative": (header_of("(-1, -4)"), "is of the shape"),
    "booleans": (header_of("(True,)"), "is of the shape"),
    "many axes": (header_of(f"({' 1,' * 40})"), "is of the shape"),
    "bytes of no size": (header_of("(100000000000,)", "'|S0'"), "not numbers"),
    "voids of no size": (header_of("(100000000000,)", "'|V0'"), "not numbers"),
    "objects": (header_of("(1,)", "'|O'"), "not numbers"),
    "unterminated": ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,", "not a plain .npy array"),
    "nested": ("(" * 5000, "not a plain .npy array"),
    "no header": ("", "not a plain .npy array"),
    "blanks behind it": (header_of("()") + " " * 3, None),
}


@pytest.mark.parametrize("name", HEADERS)
def test_the_header_of_an_array_is_compared_with_its_bytes(tmp_path: Path, name: str) -> None:
    header, message = HEADERS[name]
    (tmp_path / "a.npy").write_bytes(npy(header) + b"\0\0\0\0")
    if message is None:
        assert read_array(tmp_path / "a.npy").shape == ()
        return
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        read_array(tmp_path / "a.npy")
    assert "delete it and run its stage again" in str(raised.value)
    assert len(str(raised.value)) < 500


def test_arrays_are_read_as_they_were_written(tmp_path: Path) -> None:
    for array in (np.arange(24.0).reshape(2, 3, 4), np.asfortranarray(np.arange(6).reshape(2, 3)), np.zeros((0, 3))):
        np.save(tmp_path / "a.npy", array)
        np.testing.assert_array_equal(read_array(tmp_path / "a.npy"), array)


# Configurations

BOMB = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 1}]\n" for n in range(9))
YAMLS = {
    "aliases of aliases": (BOMB, "more than 50000 values, its aliases followed"),
    "merged keys": (
        "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9)),
        "more than 50000 values",
    ),
    "a list in itself": ("a: &a [*a]\n", "an alias stands for what it stands in"),
    "deep": ("a: " + "[" * 100 + "]" * 100, "more than 30 deep"),
    "very deep": ("[" * 50_000, "not valid YAML"),
    "no date": ("a: 2024-99-99", "not valid YAML"),
    "a number of thousands of digits": (f"a: {'9' * 5000}", "a number of 5000 characters"),
    "a key that is a list": ("? [a]\n: b", "not valid YAML"),
    "a number without end": ("a: 1" + ":1" * 1000, "a number of 2001 characters"),
    "a number of ones": ("a: 0b" + "1" * 20_000, "a number of 20002 characters"),
    "large": ("a: " + "x" * 2**18, "is larger than 262144 bytes"),
}


@pytest.mark.parametrize("name", YAMLS)
def test_a_configuration_that_would_grow_is_refused(tmp_path: Path, name: str) -> None:
    text, message = YAMLS[name]
    path = tmp_path / "a.yaml"
    path.write_text(text)
    answer = said("getam.settings.reading", f"read_yaml(Path({str(path)!r}))", memory=300)
    assert str(path) in answer
    assert message in answer


def test_aliases_of_a_usual_size_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"x": [1, 2]}, "b": {"x": [1, 2]}, "c": {"x": [1, 2], "y": 3}}
