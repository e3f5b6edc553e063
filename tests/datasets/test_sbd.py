"""VOC with SBD: train_aug by set arithmetic, masks converted from .mat files, and what damaged ones lead to."""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from getam.cli import STAGES, command
from getam.datasets.index import Index, read_index
from getam.datasets.sbd import read_sbd_mask
from getam.datasets.voc import VOC_CLASSES, index_voc
from getam.errors import InputError
from getam.settings.foreign import MAT_BYTES
from getam.system.image_files import read_labels, voc_palette, write_gray, write_labels

SIZE = (8, 10)
VALUES = {"s1": (3, 15), "s2": (20,), "s3": (1,), "v1": (7,), "t1": (2,)}
"""Classes of SBD's masks; v1 is in VOC's val and t1 in its train."""


def mask_of(classes: tuple[int, ...]) -> np.ndarray:
    values = np.zeros(SIZE, np.uint8)
    for column, value in enumerate(classes):
        values[2:6, 2 + column] = value
    return values


def save_mat(path: Path, mask: np.ndarray, *, compress: bool = True) -> None:
    """As in SBD: a struct with boundaries, segmentation and the classes that are present."""
    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.empty((20, 1), dtype=object)
    boundaries[:, 0] = [np.zeros((1, 1), np.uint8)] * 20
    present = np.unique(mask[mask > 0]).reshape(-1, 1)
    content = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": present}
    scipy.io.savemat(path, {"GTcls": content}, do_compression=compress)


def photograph(root: Path, id: str) -> None:
    path = root / "JPEGImages" / f"{id}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), len(id) * 16, np.uint8)).save(path)


def annotate(root: Path, id: str, classes: tuple[int, ...]) -> None:
    path = root / "Annotations" / f"{id}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = "".join(f"<object><name>{VOC_CLASSES[value - 1]}</name></object>" for value in classes)
    path.write_text(f"<annotation>{objects}</annotation>")


def write_lists(root: Path, lists: dict[str, list[str]]) -> None:
    folder = root / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True, exist_ok=True)
    for split, ids in lists.items():
        (folder / f"{split}.txt").write_text("".join(f"{id}\n" for id in ids))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """VOCdevkit/VOC2012: no classes.txt, as in the archive; two images each in train and val, one in test."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    write_lists(root, {"train": ["t1", "t2"], "val": ["v1", "v2"], "test": ["x1"]})
    classes = VALUES | {"t2": (4,), "v2": (5,)}
    for id in ("t1", "t2", "v1", "v2", "s1", "s2", "s3"):
        photograph(root, id)
        annotate(root, id, classes[id])
    photograph(root, "x1")
    for id, value in {"t1": 2, "t2": 4, "v1": 7, "v2": 5}.items():
        (root / "SegmentationClass").mkdir(exist_ok=True)
        write_labels(root / "SegmentationClass" / f"{id}.png", np.full(SIZE, value, np.uint8))
    return root


@pytest.fixture
def sbd(tmp_path: Path) -> Path:
    folder = tmp_path / "SBD" / "dataset"
    for number, (id, classes) in enumerate(VALUES.items()):
        save_mat(folder / "cls" / f"{id}.mat", mask_of(classes), compress=number % 2 == 0)
    return folder


def index(root: Path, augmented: Path | None, *, labels: str = "annotations", **settings: object) -> Index:
    masks = root.parent / "masks"
    return index_voc(root, labels=labels, threads=2, augmented=augmented, masks=masks, **settings)  # type: ignore[arg-type]


def test_train_aug_is_train_and_all_of_sbd_without_val(root: Path, sbd: Path) -> None:
    made = index(root, sbd)
    assert [row.id for row in made.split("train")] == ["s1", "s2", "s3", "t1", "t2"]
    assert [row.id for row in made.split("val")] == ["v1", "v2"]
    assert [row.id for row in made.split("test")] == ["x1"]
    assert made.classes == VOC_CLASSES
    masks = root.parent / "masks"
    by_id = made.by_id
    assert by_id["s1"].labels == ("bird", "person")
    assert by_id["s1"].mask == masks / "s1.png"
    # VOC's own mask where there is one, for images of its train too.
    assert by_id["t1"].mask == root / "SegmentationClass" / "t1.png"
    assert (by_id["x1"].mask, by_id["x1"].labels) == (None, ())
    assert sorted(path.name for path in masks.glob("*.png")) == ["s1.png", "s2.png", "s3.png"]
    for id in ("s1", "s2", "s3"):
        assert (read_labels(masks / f"{id}.png") == mask_of(VALUES[id])).all()


def test_the_test_split_may_have_an_index_of_its_own(root: Path, sbd: Path, tmp_path: Path) -> None:
    without = index(root, sbd, splits=("train", "val"))
    assert without.rows == tuple(row for row in index(root, sbd).rows if row.split != "test")
    out = tmp_path / "test" / "index.csv"
    words = ["index-dataset", "--root", str(root), "--augmented", str(sbd), "--splits", '["test"]', "--out", str(out)]
    assert command("getam", STAGES, [*words, "--counts.train", "10582", "--counts.test", "1"]) == 0
    assert [row.id for row in read_index(out).rows] == ["x1"]
    assert not (out.parent / "masks").exists()
    (root / "ImageSets" / "Segmentation" / "test.txt").unlink()
    with pytest.raises(InputError, match=r"test\.txt: no such file"):
        index(root, sbd, splits=("test",))


def test_a_folder_of_masks_serves_as_well(root: Path, tmp_path: Path) -> None:
    folder = root / "SegmentationClassAug"
    folder.mkdir()
    for id, classes in VALUES.items():
        write_labels(folder / f"{id}.png", mask_of(classes))
    made = index(root, folder)
    assert [row.id for row in made.split("train")] == ["s1", "s2", "s3", "t1", "t2"]
    assert made.by_id["s2"].mask == folder / "s2.png"
    assert not (root.parent / "masks").exists()


def test_labels_from_masks(root: Path, sbd: Path) -> None:
    made = index(root, sbd, labels="masks").by_id
    assert made["s1"].labels == ("bird", "person")
    assert made["t2"].labels == ("boat",)
    assert made["v1"].labels == ("car",)


def test_labels_from_masks_need_masks_in_train(root: Path) -> None:
    (root / "SegmentationClass" / "t2.png").unlink()
    with pytest.raises(InputError, match=r"t2\.png: no such mask, and data\.labels is masks"):
        index(root, None, labels="masks")


def test_the_command_reports_what_it_found(root: Path, sbd: Path, tmp_path: Path) -> None:
    out = tmp_path / "run" / "index.csv"
    words = ["index-dataset", "--root", str(root), "--augmented", str(sbd), "--out", str(out)]
    assert command("getam", STAGES, [*words, "--counts.train", "5", "--counts.val", "2", "--counts.test", "1"]) == 0
    report = json.loads((out.parent / "index.json").read_text())
    assert {split: (found["images"], found["masks"]) for split, found in report["splits"].items()} == {
        "train": (5, 5),
        "val": (2, 2),
        "test": (1, 0),
    }
    assert report["labels"] == "annotations"
    assert read_index(out).by_id["s3"].mask == out.parent / "masks" / "s3.png"


def test_one_image_in_two_splits_under_two_names_is_reported(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "JPEGImages" / "t1.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)
    (root / "JPEGImages" / "v2.jpg").write_bytes(path.read_bytes())
    for id in ("t2", "v1", "x1"):
        values = np.random.default_rng(ord(id[0])).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(values).save(root / "JPEGImages" / f"{id}.jpg")
    out = tmp_path / "run" / "index.csv"
    assert command("getam", STAGES, ["index-dataset", "--root", str(root), "--out", str(out)]) == 0
    assert json.loads((out.parent / "index.json").read_text())["repeated"] == [
        [str(path), str(root / "JPEGImages" / "v2.jpg")]
    ]
    assert "are the same file, byte for byte" in capsys.readouterr().err


def write_values(path: Path, values: np.ndarray, colors: np.ndarray) -> None:
    image = Image.fromarray(values, mode="P")
    image.putpalette(colors.astype(np.uint8).tobytes())
    image.save(path)


@pytest.mark.parametrize(("value", "shown"), [(1, "person (15)"), (5, "background (0)"), (0, "bird (3)")])
def test_a_mask_in_the_color_of_another_class_was_renumbered(root: Path, value: int, shown: str) -> None:
    path = root / "SegmentationClass" / "t1.png"
    colors = voc_palette()
    colors[value] = colors[int(shown.split("(")[1][:-1])]
    write_values(path, np.full(SIZE, value, np.uint8), colors)
    with pytest.raises(InputError, match=re.escape(f"{path}: its palette gives value {value} the color of {shown}:")):
        index(root, None)


def test_colors_that_are_no_class_and_values_that_are_not_used_do_no_harm(root: Path) -> None:
    colors = voc_palette()
    # Used are 2 and void, which some write in white.
    colors[1], colors[2], colors[255] = colors[15], (1, 2, 3), (255, 255, 255)
    values = np.full(SIZE, 2, np.uint8)
    values[0, 0] = 255
    for palette in (colors, np.repeat(np.arange(256)[:, None], 3, 1), voc_palette()[:21]):
        write_values(root / "SegmentationClass" / "t1.png", values, palette)
        index(root, None)
    write_gray(root / "SegmentationClass" / "t1.png", values)
    index(root, None)


def test_hidden_files_are_no_masks(root: Path, sbd: Path, tmp_path: Path) -> None:
    # As some systems leave them beside every file on a foreign disk.
    (sbd / "cls" / "._s1.mat").write_bytes(b"x")
    assert [row.id for row in index(root, sbd).split("train")] == ["s1", "s2", "s3", "t1", "t2"]
    folder = tmp_path / "SegmentationClassAug"
    write_labels(folder / "s2.png", mask_of((20,)))
    (folder / "s2.png").rename(folder / "s2.PNG")
    (folder / "._s2.png").write_bytes(b"x")
    made = index(root, folder)
    assert [row.id for row in made.split("train")] == ["s2", "t1", "t2"]
    assert made.by_id["s2"].mask == folder / "s2.PNG"


# Damage


def pack(kind: int, content: bytes) -> bytes:
    return (
        b"MATLAB 5.0".ljust(124, b" ")
        + struct.pack("<H", 0x100)
        + b"IM"
        + struct.pack("<II", kind, len(content))
        + content
    )


def bomb(path: Path) -> None:
    path.write_bytes(pack(15, zlib.compress(bytes(MAT_BYTES + 1))))


def bombs(path: Path) -> None:
    """Variables that decompress to a part of the bound each; 200 of them took half a minute."""
    variable = element(1, bytes(MAT_BYTES // 3))
    packed = zlib.compress(element(14, element(6, bytes(8)) + element(5, bytes(8)) + element(1, b"") + variable))
    path.write_bytes(pack(15, packed) + element(15, packed, aligned=False) * 199)


def many(path: Path) -> None:
    path.write_bytes(pack(14, matrix()) + element(14, matrix()) * 100_000)


def matrix() -> bytes:
    return element(6, bytes(8)) + element(5, bytes(8)) + element(1, b"other")


def element(kind: int, content: bytes, *, aligned: bool = True) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8 if aligned else 0)


def of_many_dimensions(path: Path) -> None:
    content = element(6, bytes(8)) + element(5, bytes(4 * 100)) + element(1, b"GTcls")
    path.write_bytes(pack(14, content))


def other_layout(path: Path) -> None:
    scipy.io.savemat(path, {"GTinst": {"Segmentation": mask_of((1,))}})


def no_field(path: Path) -> None:
    scipy.io.savemat(path, {"GTcls": {"Boundaries": mask_of((1,))}})


def no_struct(path: Path) -> None:
    scipy.io.savemat(path, {"GTcls": mask_of((1,))})


def text(path: Path) -> None:
    scipy.io.savemat(path, {"GTcls": {"Segmentation": "pixels"}})


def fractions(path: Path) -> None:
    scipy.io.savemat(path, {"GTcls": {"Segmentation": mask_of((1,)) / 2}})


def wrong_size(path: Path) -> None:
    save_mat(path, np.zeros((SIZE[0], SIZE[1] + 1), np.uint8))


def beyond(path: Path) -> None:
    save_mat(path, np.full(SIZE, 37, np.uint8))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


MATS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is no class mask of SBD"),
    "no MATLAB file": (lambda path: path.write_bytes(b"x" * 500), "is no class mask of SBD"),
    "truncated": (cut, "is no class mask of SBD"),
    "HDF5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600)), "is no class mask of SBD"),
    "another variable": (other_layout, "is no class mask of SBD"),
    "another field": (no_field, "is no class mask of SBD"),
    "no struct": (no_struct, "is no class mask of SBD"),
    "text": (text, "is no class mask of SBD"),
    "fractions": (fractions, "others than whole numbers"),
    "decompression bomb": (bomb, f"unpacks to more than {MAT_BYTES} bytes"),
    "many decompression bombs": (bombs, f"unpacks to more than {MAT_BYTES} bytes"),
    "many variables": (many, "has more than 1000 elements beside each other"),
    "many dimensions": (of_many_dimensions, "an array has 100 dimensions"),
    "wrong size": (wrong_size, "the mask is 11x8, its image 10x8 pixels"),
    "value 37": (beyond, "mask value 37 is beyond the 20 classes"),
}


@pytest.mark.parametrize("damage", MATS)
def test_a_damaged_mat_ends_the_command_with_one_message_and_nothing_written(
    root: Path, sbd: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, part = MATS[damage]
    spoil(sbd / "cls" / "s1.mat")
    out = tmp_path / "run" / "index.csv"
    words = ["index-dataset", "--root", str(root), "--augmented", str(sbd), "--out", str(out)]
    assert command("getam", STAGES, words) == 1
    error = capsys.readouterr().err
    assert "s1.mat" in error
    assert part in error
    assert "Traceback" not in error
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_any_byte_of_a_mat_may_be_wrong(tmp_path: Path) -> None:
    path = tmp_path / "s1.mat"
    save_mat(path, mask_of((3,)), compress=False)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(3000):
        damaged = bytearray(whole)
        damaged[generator.integers(len(whole))] = generator.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            values = read_sbd_mask(path)
        except InputError:
            continue
        assert values.dtype == np.uint8


def test_an_augmenting_folder_of_neither_kind_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"neither SBD .* nor masks"):
        index(root, tmp_path / "nothing")


def test_an_id_of_sbd_that_is_no_file_name_is_refused(root: Path, sbd: Path) -> None:
    save_mat(sbd / "cls" / "-rf.mat", mask_of((1,)))
    with pytest.raises(InputError, match=r"-rf\.mat: its id is not a plain file name"):
        index(root, sbd)


@pytest.mark.parametrize(("split", "expected"), [("train", 10582), ("val", 1449), ("test", 1456)])
def test_a_count_that_is_not_the_published_one_is_refused(root: Path, sbd: Path, split: str, expected: int) -> None:
    with pytest.raises(InputError, match=rf"split {split}: \d images where data\.counts\.{split} expects {expected}"):
        index(root, sbd, counts={split: expected})


@pytest.mark.slow
def test_the_true_lists_give_the_published_train_aug(shared: Path, tmp_path: Path) -> None:
    """The whole of VOC 2012 and SBD as a tree of tiny images: 10,582 ids, 1,449 and 1,456, the labels of each."""
    lists = {name: (shared / "data" / "voc12" / f"{name}.txt").read_text().split() for name in ("train", "val", "test")}
    train_aug = (shared / "data" / "voc12" / "train_aug.txt").read_text().split()
    table = {
        words[0]: words[1:]
        for line in (shared / "data" / "voc12" / "image_labels.txt").read_text().splitlines()
        if (words := line.split())
    }
    root, sbd = tmp_path / "VOC2012", tmp_path / "dataset"
    write_lists(root, lists)
    (root / "JPEGImages").mkdir()
    (root / "SegmentationClass").mkdir()
    photograph(root, "x")
    jpeg = (root / "JPEGImages" / "x.jpg").read_bytes()
    values = {name: number + 1 for number, name in enumerate(VOC_CLASSES)}
    for id in {*train_aug, *lists["val"], *lists["test"]}:
        (root / "JPEGImages" / f"{id}.jpg").write_bytes(jpeg)
        if id in table:
            annotate(root, id, tuple(values[name] for name in table[id]))
    # SBD has what train_aug has beyond VOC's train, some of VOC's train and most of VOC's val: 11,355 in all.
    own = [*sorted(set(train_aug) - set(lists["train"])), *lists["train"][: 11355 - 9118 - 1103], *lists["val"][:1103]]
    assert len(own) == 11355
    (sbd / "cls").mkdir(parents=True)
    for id in own:
        (sbd / "cls" / f"{id}.mat").touch()
    made_mats: dict[tuple[int, ...], bytes] = {}
    for id in own:
        classes = tuple(values[name] for name in table[id])[:6]
        if classes not in made_mats:
            save_mat(tmp_path / "one.mat", mask_of(classes))
            made_mats[classes] = (tmp_path / "one.mat").read_bytes()
        (sbd / "cls" / f"{id}.mat").write_bytes(made_mats[classes])
    made = index(root, sbd, counts={"train": 10582, "val": 1449, "test": 1456})
    assert [row.id for row in made.split("train")] == train_aug
    assert [row.id for row in made.split("val")] == lists["val"]
    assert [row.id for row in made.split("test")] == lists["test"]
    assert all(set(row.labels) == set(table[row.id]) for row in made.rows if row.split != "test")
    converted = [row for row in made.split("train") if row.mask is not None]
    assert len(converted) == 10582 - sum(id not in own for id in lists["train"])
    assert all(
        set(np.unique(read_labels(row.mask))) - {0} == {values[n] for n in row.labels}
        for row in converted[::50]
        if row.mask
    )
