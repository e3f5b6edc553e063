"""What index_dataset keeps of photographs and masks: what is not read again, and what is."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from getam.datasets import checked_files
from getam.datasets.checked_files import mask_facts, photograph_size, photograph_turn, remembered
from getam.datasets.repeated import repeated_files
from getam.errors import InputError
from getam.stages.index_dataset import CHECKED, Arguments, run
from getam.system.image_files import write_labels

OLD = 1_600_000_000


def save(path: Path, *, width: int = 20, seed: int = 0, changed: int = OLD) -> Path:
    """Writes a photograph without compression, whose file has one size for all contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "BMP")
    os.utime(path, (changed, changed))
    return path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the photographs that are decoded from now on."""
    names: list[str] = []
    real = checked_files.decoded_size

    def decode(path: Path) -> tuple[int, int, int]:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(checked_files, "decoded_size", decode)
    return names


@pytest.fixture
def seen(tmp_path: Path, decoded: list[str]) -> Callable[..., list[str]]:
    """Asks for the sizes of photographs, and returns the names of those that were decoded."""

    def look(*paths: Path) -> list[str]:
        decoded.clear()
        with remembered(tmp_path / "kept"):
            for path in paths:
                with Image.open(path) as image:
                    assert photograph_size(path) == image.size[::-1]
                assert photograph_turn(path) == 1
        return [*decoded]

    return look


def test_a_photograph_is_decoded_once(tmp_path: Path, seen: Callable[..., list[str]]) -> None:
    a, b = save(tmp_path / "a.bmp"), save(tmp_path / "b.bmp", width=30)
    assert seen(a, a) == ["a.bmp"]
    assert seen(a, b) == ["b.bmp"]
    assert seen(a, b) == []
    # What is not asked for is kept too.
    assert seen(b) == []
    assert seen(a) == []


def test_a_changed_photograph_is_decoded_again(tmp_path: Path, seen: Callable[..., list[str]]) -> None:
    path = save(tmp_path / "a.bmp")
    assert seen(path) == ["a.bmp"]
    save(path, seed=1, changed=OLD + 1)
    assert seen(path) == ["a.bmp"]
    save(path, width=22)
    assert seen(path) == ["a.bmp"]
    assert seen(path) == []
    # A program that sets the old time leaves a trace, as soon as the file system's clock has gone on.
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        save(path, width=22, seed=2)
    assert seen(path) == ["a.bmp"]


def test_one_changed_a_moment_ago_is_decoded_again(tmp_path: Path, seen: Callable[..., list[str]]) -> None:
    path = save(tmp_path / "a.bmp", changed=int(time.time()) + 3600)
    assert seen(path, path) == ["a.bmp"]
    assert seen(path) == ["a.bmp"]


def forge(path: Path, text: str) -> None:
    """Writes entries, in a text of two lines or one, with a fitting digest."""
    entries = text.splitlines()[-1]
    path.write_text(f"{checked_files._digest(entries)}\n{entries}\n")


def test_what_was_found_before_an_error_is_kept(tmp_path: Path, decoded: list[str]) -> None:
    good, bad = save(tmp_path / "a.bmp"), save(tmp_path / "b.bmp")
    bad.write_bytes(bad.read_bytes()[:100])
    os.utime(bad, (OLD, OLD))

    def look() -> None:
        with remembered(tmp_path / "kept"):
            photograph_size(good)
            photograph_size(bad)

    for _ in range(2):
        with pytest.raises(InputError, match=r"b\.bmp: cannot be decoded"):
            look()
    assert decoded == ["a.bmp", "b.bmp", "b.bmp"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: path.write_bytes(path.read_bytes().replace(b",12,", b",13,")),
        lambda path: path.write_bytes(b"\xff\x00" * 50),
        lambda path: path.write_text('{"photograph": 1}'),
        lambda path: forge(path, "[1]"),
        lambda path: forge(path, "[" * 100_000),
        lambda path: forge(path, '{"photograph\\u0000a.bmp": 3}'),
        lambda path: forge(path, '{"pickles\\u0000a.bmp": [1, 2, 3, 4]}'),
        lambda path: forge(path, path.read_text().replace(",12,", ",true,")),
        lambda path: forge(path, path.read_text().replace(",12,", ",-12,")),
        lambda path: forge(path, path.read_text().replace(",12,", ",12.5,")),
        lambda path: forge(path, path.read_text().replace(",12,", ",")),
        lambda path: forge(path, path.read_text().replace('"photograph', '"mask')),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
)
def test_a_damaged_file_is_ignored_with_a_word(
    tmp_path: Path,
    seen: Callable[..., list[str]],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], object],
) -> None:
    path = save(tmp_path / "a.bmp")
    seen(path)
    damage(tmp_path / "kept")
    with caplog.at_level(logging.WARNING):
        assert seen(path) == ["a.bmp"]
    assert "kept is of another version or damaged; every photograph is read again" in caplog.text


def test_another_version_reads_everything_again(
    tmp_path: Path, seen: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.bmp")
    seen(path)
    monkeypatch.setattr("PIL.__version__", "0.0")
    assert seen(path) == ["a.bmp"]
    assert seen(path) == []


def test_what_cannot_be_kept_is_no_error(
    tmp_path: Path, seen: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path / "a.bmp")
    (tmp_path / ".kept.partial").mkdir()
    assert seen(path) == ["a.bmp"]
    assert "every photograph is read again the next time" in caplog.text


def test_masks_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((4, 6), np.uint8)
    labels[1, 2], labels[2] = 255, 7
    write_labels(tmp_path / "a.png", labels)
    os.utime(tmp_path / "a.png", (OLD, OLD))
    with remembered(tmp_path / "kept"):
        facts = mask_facts(tmp_path / "a.png")
    assert facts.size == (4, 6)
    assert facts.values == [0, 7, 255]
    assert facts.colors == [0, 0x808080, 0xE0E0C0]
    monkeypatch.setattr(checked_files, "read_labels", None)
    with remembered(tmp_path / "kept"):
        assert mask_facts(tmp_path / "a.png") == facts


def test_repeated_files_are_those_with_one_content(tmp_path: Path) -> None:
    seeds = [0, 1, 0, 2, 1, 0]
    paths = [save(tmp_path / f"{number}.bmp", seed=seed) for number, seed in enumerate(seeds)]
    paths.append(save(tmp_path / "longer.bmp", width=30))
    # The same in the middle, and not at its end.
    content = bytearray(save(tmp_path / "large.bmp", width=900).read_bytes())
    content[-1] ^= 1
    (tmp_path / "other.bmp").write_bytes(content)
    paths += [tmp_path / "large.bmp", tmp_path / "other.bmp"]
    assert sorted(repeated_files(paths)) == [(0, 2), (0, 5), (1, 4)]


def test_a_second_index_reads_what_has_changed(tmp_path: Path, decoded: list[str]) -> None:
    root = tmp_path / "data"
    ids = [f"i{number}" for number in range(5)]
    for number, id in enumerate(ids):
        save(root / "JPEGImages" / f"{id}.bmp", seed=number)
    write_labels(root / "SegmentationClass" / "i4.png", np.ones((12, 20), np.uint8))
    for name, text in {
        "classes.txt": "cat\n",
        "image_labels.txt": "".join(f"{id} cat\n" for id in ids),
        "ImageSets/Segmentation/train.txt": "i0\ni1\ni2\n",
        "ImageSets/Segmentation/val.txt": "i3\ni4\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for path in root.rglob("*"):
        os.utime(path, (OLD, OLD))
    out = tmp_path / "run" / "index.csv"
    counts = {"train": 0, "val": 0, "test": 0}
    coco = {"train": "a", "train_images": "b", "val": "c", "val_images": "d"}
    arguments = Arguments(
        format="voc", root=root, labels="file", augmented="", negatives="refuse", images=0, counts=counts, coco=coco,
        out=out, threads=2, device="cpu",
    )  # fmt: skip
    run(arguments)
    assert sorted(decoded) == [f"{id}.bmp" for id in ids]
    first = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    assert set(first) == {"index.csv", "index.json", "classes.txt", CHECKED}
    decoded.clear()
    save(root / "JPEGImages" / "i2.bmp", seed=1, changed=OLD + 10)
    (root / "image_labels.txt").write_text("".join(f"{id} cat\n" for id in ids) + "\n")
    for name in ("index.csv", "index.json", "classes.txt"):
        (out.parent / name).unlink()
    run(arguments)
    assert decoded == ["i2.bmp"]
    assert out.read_bytes() == first["index.csv"]
    # i2 is now a copy of i1.
    assert "i1.bmp" in (out.parent / "index.json").read_text()
