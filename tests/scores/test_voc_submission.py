"""What goes to VOC's evaluation server: made by the stage, passed by its checker, refused where the server would."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.bounded import said

from getam.cli import STAGES, TOOLS, command
from getam.datasets.index import Index, IndexRow, write_index
from getam.datasets.shards import new_shard
from getam.datasets.voc import VOC_CLASSES
from getam.scores.voc_submission import ARCHIVE, FOLDER
from getam.system.image_files import voc_palette, write_labels

SIZES = {"2008_000006": (5, 7), "2008_000011": (8, 6)}
FIRST = str(FOLDER / "2008_000006.png")


def run(*words: str | Path) -> int:
    return command("getam", STAGES | TOOLS, [str(word) for word in words])


def labels_of(id: str) -> np.ndarray:
    height, width = SIZES[id]
    return (np.arange(height * width) % 21).reshape(height, width).astype(np.uint8)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """index.csv with two test images and one of val; predictions of test."""
    rows = [
        IndexRow(id, "test", tmp_path / f"{id}.jpg", None, height, width, ()) for id, (height, width) in SIZES.items()
    ]
    rows.append(IndexRow("v1", "val", tmp_path / "v1.jpg", None, 3, 3, ("car",)))
    write_index(tmp_path / "index.csv", Index(rows=tuple(rows), classes=VOC_CLASSES))
    predict(tmp_path, {id: labels_of(id) for id in SIZES})
    return tmp_path


def predict(data: Path, labels: dict[str, np.ndarray]) -> None:
    ids = list(labels)
    with new_shard(data / "predictions", ids=ids, suffix=".png", classes=VOC_CLASSES, settings=None) as shard:
        for id, values in labels.items():
            shard.submit(id, write_labels, values)


def submit(data: Path) -> int:
    return run(
        "voc-submission", "--index", data / "index.csv", "--predictions", data / "predictions", "--out", data / "out"
    )


def check(data: Path) -> int:
    return run("check-submission", data / "out" / ARCHIVE, "--index", data / "index.csv")


def test_archive_holds_the_predictions_and_passes_its_check(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(data) == 0
    with tarfile.open(data / "out" / ARCHIVE) as tar:
        assert tar.getnames() == [f"results/VOC2012/Segmentation/comp6_test_cls/{id}.png" for id in SIZES]
        for id in SIZES:
            member = tar.extractfile(str(FOLDER / f"{id}.png"))
            assert member is not None
            with Image.open(io.BytesIO(member.read())) as image:
                assert image.mode == "P"
                assert (np.asarray(image) == labels_of(id)).all()
                assert image.getpalette()[:63] == voc_palette().ravel()[:63].tolist()  # type: ignore[index]
            # The same pictures lie beside it, to be looked at.
            assert (data / "out" / FOLDER / f"{id}.png").is_file()
    assert check(data) == 0
    assert "2 images, as the server takes them" in capsys.readouterr().out


def test_archive_is_the_same_twice(data: Path) -> None:
    submit(data)
    first = (data / "out" / ARCHIVE).read_bytes()
    submit(data)
    assert (data / "out" / ARCHIVE).read_bytes() == first


def test_predictions_get_vocs_palette(data: Path) -> None:
    image = Image.fromarray(labels_of("2008_000006"), mode="P")
    image.putpalette([value for gray in range(256) for value in (gray, gray, gray)])
    image.save(data / "predictions" / "2008_000006.png")
    assert submit(data) == 0
    assert check(data) == 0


def test_unknown_pixels_are_refused_and_nothing_is_written(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(data, {id: np.full(size, 255, np.uint8) for id, size in SIZES.items()})
    assert submit(data) == 1
    error = capsys.readouterr().err
    path = data / "predictions" / "2008_000006.png"
    assert f"{path}: holds the value 255, beyond 20: unknown pixels, which the server does not know" in error
    assert ".partial" not in error
    assert "Traceback" not in error
    assert not (data / "out").exists()


def test_a_prediction_of_another_size_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_labels(data / "predictions" / "2008_000011.png", np.zeros((3, 3), np.uint8))
    assert submit(data) == 1
    path = data / "predictions" / "2008_000011.png"
    assert f"{path}: is (3, 3), its image (8, 6) (H, W); predict again" in capsys.readouterr().err
    assert not (data / "out").exists()


def test_predictions_of_another_split_are_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(data, {"v1": np.zeros((3, 3), np.uint8)})
    assert submit(data) == 1
    assert "holds other images than the split 'test'" in capsys.readouterr().err


def test_a_split_without_images_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--predictions", data / "predictions", "--split", "train", "--out", data / "out")
    assert run("voc-submission", "--index", data / "index.csv", *words) == 1
    assert "no image of the split 'train'" in capsys.readouterr().err


def png(values: np.ndarray, *, palette: bool = True, mode: str = "P") -> bytes:
    image = Image.fromarray(values, mode="P" if mode == "P" else "L")
    if mode == "P":
        image.putpalette((voc_palette() if palette else voc_palette()[::-1]).tobytes())
    content = io.BytesIO()
    image.convert(mode).save(content, format="PNG")
    return content.getvalue()


def repack(data: Path, change: Callable[[dict[str, bytes], list[tarfile.TarInfo]], object]) -> None:
    """Packs the pictures again after `change` had its way with them, and with further members."""
    contents = {str(FOLDER / f"{id}.png"): png(labels_of(id)) for id in SIZES}
    further: list[tarfile.TarInfo] = []
    change(contents, further)
    (data / "out").mkdir()
    with tarfile.open(data / "out" / ARCHIVE, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in further:
            tar.addfile(member)


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


Change = Callable[[dict[str, bytes], list[tarfile.TarInfo]], object]
SPOILED: dict[str, tuple[Change, str]] = {
    "another palette": (
        lambda contents, _: contents.update({FIRST: png(labels_of("2008_000006"), palette=False)}),
        "has another palette than VOC's",
    ),
    "another size": (
        lambda contents, _: contents.update({FIRST: png(labels_of("2008_000006").T)}),
        "is (7, 5), its image (5, 7) (H, W)",
    ),
    "gray": (
        lambda contents, _: contents.update({FIRST: png(labels_of("2008_000006"), mode="L")}),
        "is L, not a palette PNG",
    ),
    "colors": (
        lambda contents, _: contents.update({FIRST: png(labels_of("2008_000006"), mode="RGB")}),
        "is RGB, not a palette PNG",
    ),
    "a class too many": (
        lambda contents, _: contents.update({FIRST: png(np.full((5, 7), 21, np.uint8))}),
        "holds the value 21, beyond 20",
    ),
    "a file too few": (lambda contents, _: contents.pop(FIRST), f"{FIRST} is missing"),
    "a file too many": (
        lambda contents, _: contents.update({str(FOLDER / "other.png"): b"x"}),
        "other.png' does not belong there",
    ),
    "a path out of it": (
        lambda contents, _: contents.update({"../../evil.png": b"x"}),
        "'../../evil.png' does not belong there",
    ),
    "a link": (
        lambda contents, further: (contents.pop(FIRST), further.append(link(FIRST, "/etc/passwd"))),
        f"'{FIRST}' does not belong there",
    ),
    "no picture": (lambda contents, _: contents.update({FIRST: b"x"}), "cannot be decoded"),
    "a truncated picture": (
        lambda contents, _: contents.update({FIRST: contents[FIRST][:-40]}),
        "cannot be decoded",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_what_the_server_would_refuse_fails_the_check(
    data: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = SPOILED[name]
    repack(data, change)
    assert check(data) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "predict and pack again" in error
    assert "Traceback" not in error


def test_unspoiled_pictures_pass(data: Path) -> None:
    repack(data, lambda contents, further: None)
    assert check(data) == 0


@pytest.mark.parametrize("place", [-1, -6, -8, -12])
@pytest.mark.parametrize("damage", ["changed", "cut"])
def test_an_archive_with_a_damaged_end_is_refused(
    data: Path, place: int, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    submit(data)
    path = data / "out" / ARCHIVE
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content if damage == "changed" else content[:place])
    assert check(data) == 1
    error = capsys.readouterr().err
    assert "results.tgz: is no .tgz archive" in error
    assert "pack it again" in error
    assert "Traceback" not in error


def longname(type: bytes, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = type, size
    return member


def hostile(data: Path, name: str) -> None:
    """Puts an archive together whose headers make tarfile allocate, recurse or loop."""
    (data / "out").mkdir()
    with gzip.open(data / "out" / ARCHIVE, "wb", compresslevel=1) as file:
        if name == "a long name of a terabyte":
            file.write(longname(tarfile.GNUTYPE_LONGNAME, 2**40).tobuf(tarfile.GNU_FORMAT))
        if name == "further fields of 500 MB":
            file.write(longname(tarfile.XHDTYPE, 500 * 2**20).tobuf(tarfile.GNU_FORMAT))
            for _ in range(500):
                file.write(bytes(2**20))
        if name == "a chain of headers":
            file.write((longname(tarfile.XGLTYPE, 512).tobuf() + b"9 a=bbbb\n".ljust(512, b"\0")) * 5000)
        if name == "a hundred thousand members":
            file.write(tarfile.TarInfo("more.png").tobuf() * 100_000)
        if name == "folders alone":
            folder = tarfile.TarInfo("folder")
            folder.type = tarfile.DIRTYPE
            file.write(folder.tobuf() * 1000)
        if name == "a file of 500 MB":
            member = tarfile.TarInfo(FIRST)
            member.size = 500 * 2**20
            file.write(member.tobuf())
            for _ in range(500):
                file.write(bytes(2**20))
        if name == "a long end":
            for _ in range(500):
                file.write(bytes(2**20))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a long name of a terabyte", "has a header of the type b'L'"),
        ("further fields of 500 MB", "has a header of the type b'x'"),
        ("a chain of headers", "has a header of the type b'g'"),
        ("a hundred thousand members", "it has more than 2 files and 100 folders"),
        ("folders alone", "it has more than 2 files and 100 folders"),
        ("a file of 500 MB", "it is larger than label PNGs of the images' sizes are"),
        ("a long end", "it is larger than label PNGs of the images' sizes are"),
    ],
)
def test_an_archive_that_would_grow_is_refused(data: Path, name: str, message: str) -> None:
    hostile(data, name)
    path = data / "out" / ARCHIVE
    rows = f"[IndexRow(id, 'test', Path(id), None, 8, 8, ()) for id in {list(SIZES)!r}]"
    call = f"check_submission(Path({str(path)!r}), {rows}, num_classes=20)"
    answer = said("getam.scores.voc_submission", call, memory=100)
    assert answer.startswith(f"{path}: is no .tgz archive (")
    assert message in answer
    assert answer.endswith("; pack it again")


def test_a_picture_of_another_size_is_not_decoded(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = png(np.zeros((2000, 2000), np.uint8))
    repack(data, lambda contents, _: contents.update({FIRST: large}))
    assert check(data) == 1
    assert "is (2000, 2000), its image (5, 7) (H, W)" in capsys.readouterr().err


def test_any_byte_of_an_archive_may_be_wrong(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submit(data)
    path = data / "out" / ARCHIVE
    whole = path.read_bytes()
    # Up to here gzip's header holds a time, flags and a system, which change nothing.
    for place in range(10, len(whole)):
        content = bytearray(whole)
        content[place] ^= 0x55
        path.write_bytes(content)
        assert check(data) == 1, place
        assert "Traceback" not in capsys.readouterr().err


def test_a_missing_archive_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(data) == 1
    assert "results.tgz: no such file; name the archive" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"])
def test_what_is_no_archive_is_named(data: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "out").mkdir()
    (data / "out" / ARCHIVE).write_bytes(content)
    assert check(data) == 1
    error = capsys.readouterr().err
    assert "results.tgz: is no .tgz archive" in error
    assert "Traceback" not in error
