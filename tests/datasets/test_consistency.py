"""Masks that mean other classes than the labels say, palettes that a program renumbered, classes without images."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.label_files import write_photograph

from getam.datasets.folder import LIST_COLUMNS, classes_file, index_folder
from getam.datasets.index import Index
from getam.datasets.voc import index_voc
from getam.errors import InputError
from getam.system.image_files import voc_palette

SIZE = (12, 16)
CLASSES = ("cat", "dog", "fox")
LABELS = {"c1": "cat", "c2": "cat", "d1": "dog", "d2": "dog", "f1": "fox", "f2": "fox", "f3": "fox", "n1": ""}

Palette = Mapping[int, tuple[int, int, int]]


def write_mask(path: Path, value: int, *, palette: Palette | None = None, background: int = 0) -> None:
    """An object of a value on background; a gray PNG without a palette."""
    values = np.full(SIZE, background, np.uint8)
    values[3:9, 4:12] = value
    image = Image.fromarray(values)
    if palette is not None:
        colors = np.zeros((256, 3), np.uint8)
        for each, color in palette.items():
            colors[each] = color
        image = Image.fromarray(values, mode="P")
        image.putpalette(colors.tobytes())
    path.parent.mkdir(exist_ok=True)
    image.save(path)


def data_set(folder: Path, values: Mapping[str, int], classes: tuple[str, ...] = CLASSES) -> Path:
    """A list of labelled photographs; those in `values` have a mask with an object of that value."""
    rows = []
    for id, label in LABELS.items():
        write_photograph(folder / f"{id}.jpg", size=SIZE)
        rows.append((id, "train", f"{id}.jpg", f"masks/{id}.png" if id in values else "", label))
        if id in values:
            write_mask(folder / "masks" / f"{id}.png", values[id])
    path = folder / "mine.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([LIST_COLUMNS, *rows])
    classes_file(path).write_text("".join(f"{name}\n" for name in classes))
    return path


def index(path: Path) -> Index:
    return index_folder(path, threads=2)


def values_of(**of_class: int) -> dict[str, int]:
    return {id: of_class[label] for id, label in LABELS.items() if label}


RIGHT = values_of(cat=1, dog=2, fox=3)

OTHERS = {
    "classes in another order": (("dog", "fox", "cat"), RIGHT, "7 of 7 masks show other classes"),
    "a class too many at the start": (("paper", *CLASSES), RIGHT, "7 of 7 masks show other classes"),
    "counted from 0": (CLASSES, values_of(cat=0, dog=1, fox=2), "5 of 5 masks show other classes"),
    "1 is any object": (CLASSES, values_of(cat=1, dog=1, fox=1), "5 of 7 masks show other classes"),
    "0 alone": (CLASSES, values_of(cat=0, dog=0, fox=0), "no mask shows a class, only 0; write the value of its class"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_masks_of_other_classes_than_the_labels_are_refused(tmp_path: Path, name: str) -> None:
    classes, values, message = OTHERS[name]
    with pytest.raises(InputError, match=message) as caught:
        index(data_set(tmp_path, values, classes))
    assert f"({classes[0]} is 1, {classes[1]} is 2 and so on" in str(caught.value)


def test_the_message_says_what_a_mask_shows_and_what_its_image_is_labelled(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"masks/c1\.png shows 'dog', its image is labelled 'cat'; put the classes into"
    ):
        index(data_set(tmp_path, RIGHT, ("dog", "fox", "cat")))


@pytest.mark.parametrize(("value", "shows"), [(3, "'fox'"), (255, "no class")])
def test_some_masks_of_other_classes_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: int, shows: str
) -> None:
    assert len(index(data_set(tmp_path, RIGHT | {"d1": value})).rows) == len(LABELS)
    [message] = caplog.messages
    assert message.startswith("index_dataset: 1 of 7 masks show none of their image's labels: ")
    assert f"d1.png shows {shows}, its image is labelled 'dog'" in message


def test_a_mask_of_more_or_fewer_classes_than_the_labels_is_as_it_should_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = data_set(tmp_path, RIGHT | {"n1": 2})
    mask = np.zeros(SIZE, np.uint8)
    mask[2], mask[3] = 1, 3
    Image.fromarray(mask).save(tmp_path / "masks" / "c1.png")
    assert len(index(path).rows) == len(LABELS)
    assert caplog.messages == []


def test_masks_are_their_own_labels_where_labels_are_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("cat\n")
    for split in ("train", "val"):
        write_photograph(tmp_path / "JPEGImages" / f"{split}.jpg", size=SIZE)
        write_mask(tmp_path / "SegmentationClass" / f"{split}.png", 1)
        (lists / f"{split}.txt").write_text(f"{split}\n")
    assert [row.labels for row in index_voc(tmp_path, labels="masks", threads=1).rows] == [("cat",)] * 2
    assert caplog.messages == []


# Palettes

BLACK, RED, GREEN, BLUE = (0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200)


def palettes(folder: Path, first: tuple[int, Palette, int], second: tuple[int, Palette, int]) -> Path:
    path = data_set(folder, {"c1": 1, "c2": 1})
    for id, (value, palette, background) in {"c1": first, "c2": second}.items():
        write_mask(folder / "masks" / f"{id}.png", value, palette=palette, background=background)
    return path


RENUMBERED: dict[str, tuple[tuple[int, Palette, int], tuple[int, Palette, int], str]] = {
    "a color of two values": (
        (1, {0: BLACK, 1: RED}, 0),
        (1, {1: RED, 2: BLACK}, 2),
        "value 2 the color (0, 0, 0), which is value 0 in ",
    ),
    "two colors of the background": (
        (1, {0: RED, 1: BLACK}, 0),
        (1, {0: GREEN, 1: BLACK}, 0),
        "value 0 the color (0, 200, 0), which is (200, 0, 0) in ",
    ),
}


@pytest.mark.parametrize("name", RENUMBERED)
def test_values_that_a_program_has_renumbered_are_refused(tmp_path: Path, name: str) -> None:
    first, second, message = RENUMBERED[name]
    with pytest.raises(InputError) as caught:
        index(palettes(tmp_path, first, second))
    assert "c2.png: its palette gives " in str(caught.value)
    assert message in str(caught.value)
    assert "c1.png: a program has renumbered the values; save all masks with one palette" in str(caught.value)


def test_two_colors_of_a_class_are_a_doubt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index(palettes(tmp_path, (1, {0: BLACK, 1: RED}, 0), (1, {0: BLACK, 1: GREEN}, 0)))
    [message] = caplog.messages
    assert "c2.png: its palette gives value 1 the color (0, 200, 0), which is (200, 0, 0) in " in message


@pytest.mark.parametrize(
    "palette",
    [{0: BLACK, 1: BLACK}, {value: (value, value, value) for value in range(256)}],
    ids=["all black", "a ramp of grays"],
)
def test_a_palette_that_says_nothing_fits_every_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, palette: Palette
) -> None:
    voc = dict(enumerate(map(tuple, voc_palette().tolist())))
    index(palettes(tmp_path, (1, palette, 0), (1, voc, 0)))
    assert caplog.messages == []


# Classes


def test_classes_that_no_image_of_train_shows_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = data_set(tmp_path, {}, (*CLASSES, "owl", "zebra"))
    path.write_text(path.read_text() + "o1,val,c1.jpg,,owl\n")
    index(path)
    assert caplog.messages == [
        "index_dataset: no image of train shows 2 of 5 classes, which can't be learned: 'owl' and 'zebra'"
    ]
    caplog.clear()
    classes_file(path).write_text("".join(f"{name}\n" for name in (*CLASSES, *(f"owl {i}" for i in range(12)), "owl")))
    index(path)
    [message] = caplog.messages
    assert message.endswith("'owl 8', 'owl 9' and 3 more")


def test_classes_that_differ_in_case_alone_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = data_set(tmp_path, {})
    classes_file(path).unlink()
    path.write_text(path.read_text().replace("c1.jpg,,cat", "c1.jpg,,Cat"))
    assert index(path).classes == ("Cat", *CLASSES)
    assert caplog.messages == ["index_dataset: the classes 'Cat' and 'cat' differ in case alone; are they one?"]
