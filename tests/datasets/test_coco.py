"""COCO: a generated tree gives exactly the expected ids, labels and pixels; every kind of damage is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from support.bounded import said
from support.images import turn

from getam.cli import STAGES, command
from getam.datasets.coco import _Budget, _spans, index_coco
from getam.datasets.index import Index, read_index, read_label_source
from getam.errors import InputError
from getam.system.image_files import read_labels

HEIGHT, WIDTH = 12, 20
# Ascending category ids with gaps, as in COCO; listed in another order.
CATEGORIES = {5: "airplane", 18: "dog", 90: "hair drier"}


def box(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def runs(region: np.ndarray, *, packed: bool) -> dict[str, Any]:
    """Runs as COCO has them for crowds (a list) or as pycocotools packs them (text)."""
    if packed:
        encoded = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
        return {"size": list(region.shape), "counts": encoded["counts"].decode()}
    flat = region.T.ravel().astype(int)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return {"size": list(region.shape), "counts": np.diff([0, *changes, flat.size]).tolist()}


CROWD = np.zeros((HEIGHT, WIDTH), bool)
CROWD[2:9, 3:17] = True
Segment = tuple[int, bool, Any]
# Image number -> category, crowd, segmentation of each annotation.
TRAIN: dict[int, list[Segment]] = {
    1: [(5, False, box(2, 3, 6, 4))],
    # The small dog lies in the large airplane and is listed first; the crowd of dogs lies under both.
    2: [(18, False, box(6, 4, 3, 3)), (5, False, box(4, 3, 10, 6)), (18, True, runs(CROWD, packed=False))],
    3: [(90, False, runs(CROWD, packed=True))],
    4: [],
    **{number: [(18, False, box(1, 1, number % 7 + 2, 3))] for number in range(10, 30)},
}
VAL: dict[int, list[Segment]] = {
    101: [(5, True, runs(CROWD, packed=False))],
    102: [],
    103: [(90, False, box(0, 0, 20, 12))],
}
GRAY, CMYK = 1, 3
FILES = {split: (f"annotations/instances_{split}2014.json", f"{split}2014") for split in ("train", "val")}


def name_of(number: int, split: str) -> str:
    return f"COCO_{split}2014_{number:012d}.jpg"


def content(images: dict[int, list[Segment]], split: str) -> dict[str, Any]:
    annotations = [
        {"id": 1000 * number + n, "image_id": number, "category_id": category, "iscrowd": int(crowd), "segmentation": s}
        for number, segments in images.items()
        for n, (category, crowd, s) in enumerate(segments)
    ]
    return {
        "images": [
            {"id": number, "file_name": name_of(number, split), "height": HEIGHT, "width": WIDTH} for number in images
        ],
        "annotations": annotations,
        "categories": [{"id": id, "name": CATEGORIES[id]} for id in (18, 5, 90)],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree of COCO 2014's shape: 23 + 2 annotated photographs, one of them gray, one CMYK."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split, images in (("train", TRAIN), ("val", VAL)):
        (root / f"{split}2014").mkdir()
        for number in images:
            shade = Image.fromarray(np.full((HEIGHT, WIDTH, 3), number, np.uint8))
            mode = {GRAY: "L", CMYK: "CMYK"}.get(number, "RGB")
            shade.convert(mode).save(root / f"{split}2014" / name_of(number, split))
        write(root, split, content(images, split))
    return root


def path_of(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}2014.json"


def write(root: Path, split: str, values: Any) -> None:
    path_of(root, split).write_text(values if isinstance(values, str) else json.dumps(values))


def edit(root: Path, change: Callable[[Any], Any], *, split: str = "train") -> None:
    values = json.loads(path_of(root, split).read_text())
    change(values)
    write(root, split, values)


def index(root: Path, **settings: Any) -> Index:
    return index_coco(root, **{"files": FILES, "masks": root.parent / "masks", "threads": 2} | settings)


def mask(root: Path, number: int, split: str = "train") -> np.ndarray:
    return read_labels(root.parent / "masks" / f"{Path(name_of(number, split)).stem}.png")


def test_ids_splits_and_labels(root: Path) -> None:
    made = index(root)
    assert made.classes == ("airplane", "dog", "hair drier")
    numbers = [number for number in TRAIN if TRAIN[number]]
    assert [row.id for row in made.split("train")] == [Path(name_of(n, "train")).stem for n in numbers]
    assert [row.id for row in made.split("val")] == [Path(name_of(n, "val")).stem for n in (101, 103)]
    labels = {int(row.id[-12:]): row.labels for row in made.rows}
    assert labels[1] == ("airplane",)
    assert labels[2] == ("airplane", "dog")
    assert labels[3] == ("hair drier",)
    # A crowd alone is a label too.
    assert labels[101] == ("airplane",)
    row = made.split("val")[0]
    assert (row.height, row.width, row.mask) == (HEIGHT, WIDTH, root.parent / "masks" / f"{row.id}.png")
    assert row.image == root / "val2014" / name_of(101, "val")


def test_images_without_an_annotation_are_taken_in_where_they_are_wanted(root: Path) -> None:
    made = index(root, negatives=True)
    for number, split in ((4, "train"), (102, "val")):
        assert made.by_id[Path(name_of(number, split)).stem].labels == ()
        assert not mask(root, number, split).any()
    assert len(made.rows) == len(TRAIN) + len(VAL)
    edit(root, lambda v: v["annotations"].clear())
    with pytest.raises(InputError, match="no image has an annotation"):
        index(root, negatives=True)


def test_masks_pixel_by_pixel(root: Path) -> None:
    index(root)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:7, 2:8] = 1
    assert (mask(root, 1) == expected).all()
    expected = np.where(CROWD, 2, 0)
    expected[3:9, 4:14] = 1
    expected[4:7, 6:9] = 2
    assert (mask(root, 2) == expected).all()
    assert (mask(root, 3) == np.where(CROWD, 3, 0)).all()
    assert (mask(root, 101, "val") == np.where(CROWD, 1, 0)).all()
    assert (mask(root, 103, "val") == 3).all()


def test_of_instances_of_equal_area_the_later_annotation_is_seen(root: Path) -> None:
    edit(root, lambda v: v["annotations"].append({**v["annotations"][0], "id": 7, "category_id": 18}))
    index(root)
    # 1000 came later than 7.
    assert set(np.unique(mask(root, 1))) == {0, 1}


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_polygon_of_fewer_than_three_points_has_no_pixels(root: Path, count: int) -> None:
    points = [2, 3, 6, 4][:count]
    edit(root, lambda v: first(v, "segmentation", [points]))
    made = index(root)
    assert made.by_id[Path(name_of(1, "train")).stem].labels == ("airplane",)
    if count:
        assert not mask(root, 1).any()
    else:
        # A polygon without any point is what some programs write for a box.
        assert made.by_id[Path(name_of(1, "train")).stem].mask is None
    # Beside one with pixels.
    edit(root, lambda v: first(v, "segmentation", [points, *box(2, 3, 6, 4)]))
    index(root)
    assert mask(root, 1).sum() == 24


@pytest.mark.parametrize(("number", "crowd"), [(0, False), (1, True)])
def test_crowds_may_be_numbers_or_truth_values(root: Path, number: int, crowd: bool) -> None:
    edit(root, lambda v: first(v, "iscrowd", number))
    before = index(root)
    edit(root, lambda v: first(v, "iscrowd", crowd))
    assert index(root) == before


def test_turned_photographs_of_the_annotations_size_are_reported(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turn(root / "train2014" / name_of(2, "train"), 3)
    out = tmp_path / "run" / "index.csv"
    words = ["index-dataset", "--root", str(root), "--format", "coco", "--out", str(out)]
    assert command("getam", STAGES, words) == 0
    assert json.loads((out.parent / "index.json").read_text())["turned"] == [
        str(root / "train2014" / name_of(2, "train"))
    ]
    assert "1 photographs with a mask are turned by EXIF" in capsys.readouterr().err


def test_images_in_both_splits_are_listed_in_order(root: Path) -> None:
    def rename(values: Any) -> None:
        for entry, number in zip(values["images"], (3, 2, 1), strict=True):
            entry["file_name"] = name_of(number, "train")

    # The second has no annotation in val.
    edit(root, rename, split="val")
    with pytest.raises(InputError) as caught:
        index(root)
    assert [line.split("'")[1] for line in str(caught.value).splitlines()[1:]] == [
        Path(name_of(number, "train")).stem for number in (1, 3)
    ]


def test_packed_runs_are_those_of_pycocotools() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        region = generator.random((37, 53)) < generator.random() * 0.6
        packed = runs(region, packed=True)
        for coded in (packed, runs(region, packed=False)):
            found = np.zeros(region.size, bool)
            for start, end in zip(*_spans(coded, region.shape, _Budget()), strict=True):
                found[start:end] = True
            np.testing.assert_array_equal(found.reshape(region.shape[::-1]).T, region)


def test_some_images_are_evenly_spaced(root: Path) -> None:
    rows = index(root, images=4).split("train")
    assert [int(row.id[-12:]) for row in rows] == [1, 12, 18, 24]
    assert len(list((root.parent / "masks").glob("*.png"))) == 6


def test_the_command_writes_index_masks_and_report(root: Path, tmp_path: Path) -> None:
    words = ["index-dataset", "--root", str(root), "--format", "coco", "--out", str(tmp_path / "run" / "index.csv")]
    assert command("getam", STAGES, [*words, "--counts.train", "23", "--counts.val", "2"]) == 0
    made = read_index(tmp_path / "run" / "index.csv")
    assert len(made.rows) == 25
    assert all(row.mask is not None and row.mask.is_file() for row in made.rows)
    report = json.loads((tmp_path / "run" / "index.json").read_text())
    assert report["splits"]["train"]["images"] == 23
    assert report["splits"]["train"]["images_of_class"] == {"airplane": 2, "dog": 21, "hair drier": 1}
    assert read_label_source(tmp_path / "run" / "index.csv") == "annotations"


# Damage


def cut(root: Path) -> None:
    path = root / "train2014" / name_of(2, "train")
    path.write_bytes(path.read_bytes()[:-40])


def of_other_size(root: Path) -> None:
    Image.fromarray(np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8)).save(root / "train2014" / name_of(1, "train"))


def first(values: Any, key: str, value: Any) -> None:
    values["annotations"][0][key] = value


DAMAGES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no annotations": (lambda root: path_of(root, "val").unlink(), ("instances_val2014.json: no such file",)),
    "not JSON": (lambda root: write(root, "train", "{"), ("instances_train2014.json: not valid JSON",)),
    "another layout": (lambda root: write(root, "train", []), ("not of COCO's layout",)),
    "no categories": (lambda root: edit(root, lambda v: v.pop("categories")), ("not of COCO's layout", "categories")),
    "id is text": (lambda root: edit(root, lambda v: first(v, "image_id", "1")), ("'1' is no whole number",)),
    "path out of the root": (
        lambda root: edit(root, lambda v: v["images"][0].update(file_name="../secret.jpg")),
        ("file_name '../secret.jpg' is not the plain name",),
    ),
    "image id twice": (
        lambda root: edit(root, lambda v: v["images"].append({**v["images"][0], "file_name": "other.jpg"})),
        ("image id 1 stands there twice",),
    ),
    "file name twice": (
        lambda root: edit(root, lambda v: v["images"].append({**v["images"][0], "id": 77})),
        (f"stem of a file_name {Path(name_of(1, 'train')).stem!r} stands there twice",),
    ),
    "two images of one stem": (
        lambda root: edit(
            root,
            lambda v: v["images"].append(
                {**v["images"][0], "id": 77, "file_name": f"{Path(name_of(1, 'train')).stem}.png"}
            ),
        ),
        (f"stem of a file_name {Path(name_of(1, 'train')).stem!r} stands there twice", "unpack"),
    ),
    "annotation id twice": (
        lambda root: edit(root, lambda v: v["annotations"].append({**v["annotations"][1], "id": 1000})),
        ("annotation id 1000 stands there twice", "unpack"),
    ),
    "crowd is 2": (lambda root: edit(root, lambda v: first(v, "iscrowd", 2)), ("iscrowd 2 is neither 0 nor 1",)),
    "crowd is text": (lambda root: edit(root, lambda v: first(v, "iscrowd", "0")), ("iscrowd '0' is neither 0 nor 1",)),
    "crowd is nothing": (lambda root: edit(root, lambda v: first(v, "iscrowd", None)), ("iscrowd None is neither",)),
    "no annotation in val": (
        lambda root: edit(root, lambda v: v["annotations"].clear(), split="val"),
        ("instances_val2014.json: no image has an annotation", "unpack"),
    ),
    **{
        f"category {name}": (
            lambda root, name=name: edit(root, lambda v: v["categories"][0].update(name=name)),  # type: ignore[misc]
            (f"{name!r} is no class but label value 0 (unknown pixels are 255); take it off the list",),
        )
        for name in ("_background_", "__ignore__", "BACKGROUND", "void")
    },
    "category name is a number": (
        lambda root: edit(root, lambda v: v["categories"][0].update(name=7)),
        ("not of COCO's layout", "7 is no text", "unpack"),
    ),
    "category name is empty": (
        lambda root: edit(root, lambda v: v["categories"][0].update(name="")),
        ("class name '' is empty or has blanks around it; rename the class",),
    ),
    "category name of 200,000 letters": (
        lambda root: edit(root, lambda v: v["categories"][0].update(name="é;" * 100_000)),
        ("class name 'é;é;é;é;é;é;é;é;é;é;'... has 200000 letters; rename the class in 200 at most",),
    ),
    "file name of 200,000 letters": (
        lambda root: edit(root, lambda v: v["images"][0].update(file_name="a" * 200_000 + ".jpg")),
        ("is not the plain name",),
    ),
    "category name with blanks around": (
        lambda root: edit(root, lambda v: v["categories"][0].update(name="dog ")),
        ("class name 'dog ' is empty or has blanks around it; rename the class",),
    ),
    "in train and val": (
        lambda root: edit(root, lambda v: v["images"][0].update(file_name=name_of(1, "train")), split="val"),
        ("is in train and in val",),
    ),
    "unknown image": (lambda root: edit(root, lambda v: first(v, "image_id", 999)), ("unknown image 999",)),
    "unknown category": (lambda root: edit(root, lambda v: first(v, "category_id", 3)), ("unknown category 3",)),
    "other categories in val": (
        lambda root: edit(root, lambda v: v["categories"][0].update(name="cow"), split="val"),
        ("other categories than in the file of train",),
    ),
    "class name with ;": (
        lambda root: edit(root, lambda v: v["categories"][0].update(name="a;b")),
        ("class name 'a;b'",),
    ),
    "odd polygon": (
        lambda root: edit(root, lambda v: first(v, "segmentation", [[1, 2, 3, 4, 5, 6, 7]])),
        ("annotation 1000 has a malformed segmentation", "x and y of every point"),
    ),
    "one number": (
        lambda root: edit(root, lambda v: first(v, "segmentation", [[1]])),
        ("annotation 1000 has a malformed segmentation", "x and y of every point"),
    ),
    "coordinate of thousands of digits": (
        lambda root: edit(root, lambda v: first(v, "segmentation", [[1, 2, 3, 4, 5, 10**4000]])),
        ("coordinate 100000000000000000...0000000000000000000 is far outside", "unpack"),
    ),
    "polygon far outside": (
        lambda root: edit(root, lambda v: first(v, "segmentation", [[1, 2, 3, 4, 5, 1e9]])),
        ("coordinate 1000000000.0 is far outside",),
    ),
    "polygon of NaN": (
        lambda root: edit(root, lambda v: first(v, "segmentation", [[1, 2, 3, 4, 5, float("nan")]])),
        ("coordinate nan",),
    ),
    "runs of another size": (
        lambda root: edit(root, lambda v: first(v, "segmentation", {"size": [20, 12], "counts": [240]})),
        ("runs are for [20, 12]",),
    ),
    "runs too long": (
        lambda root: edit(root, lambda v: first(v, "segmentation", {"size": [12, 20], "counts": [0, 10**12]})),
        ("do not add up",),
    ),
    "runs cut short": (
        lambda root: edit(root, lambda v: first(v, "segmentation", {"size": [12, 20], "counts": "oo"})),
        ("end within a number",),
    ),
    "code that is none": (
        lambda root: edit(root, lambda v: first(v, "segmentation", {"size": [12, 20], "counts": "\x10"})),
        ("hold a character that is no code",),
    ),
    "a code without end": (
        lambda root: edit(root, lambda v: first(v, "segmentation", {"size": [12, 20], "counts": "o" * 13 + "0"})),
        ("a run is longer than any image",),
    ),
    "codes that add up by an overflow": (
        lambda root: edit(root, lambda v: first(v, "segmentation", {"size": [12, 20], "counts": ["0", 240]})),
        ("'0' is no whole number",),
    ),
    "truncated JPEG": (cut, (name_of(2, "train"), "cannot be decoded")),
    "missing image": (lambda root: (root / "train2014" / name_of(1, "train")).unlink(), ("no such image",)),
    "photograph that EXIF turns": (
        lambda root: turn(root / "train2014" / name_of(2, "train"), 6),
        (
            "EXIF orientation 6 turns the photograph, but the size in the annotations is of its stored",
            "without that tag",
        ),
    ),
    "wrong size": (of_other_size, ("its size is (12, 21), in the annotations (12, 20)",)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_ends_the_command_with_one_message_and_nothing_written(
    root: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, parts = DAMAGES[damage]
    spoil(root)
    out = tmp_path / "run" / "index.csv"
    words = ["index-dataset", "--root", str(root), "--format", "coco", "--out", str(out)]
    assert command("getam", STAGES, words) == 1
    error = capsys.readouterr().err
    assert all(part in error for part in parts), error
    assert "Traceback" not in error
    assert len(error) < 20_000
    assert not out.parent.exists() or not list(out.parent.iterdir())


# Of other people's files


def test_boxes_without_outlines_suffice_for_image_labels(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {row.id: row.labels for row in index(root).rows}

    def boxes(values: Any) -> None:
        for number, entry in enumerate(values["annotations"]):
            # Programs leave it out, or write an empty list or null.
            for entry_of in (entry.pop("segmentation"), [], None)[1 : 1 + number % 3]:
                entry["segmentation"] = entry_of

    for split in ("train", "val"):
        edit(root, boxes, split=split)
    made = index(root)
    assert {row.id: row.labels for row in made.rows} == before
    assert all(row.mask is None for row in made.rows)
    assert not list((root.parent / "masks").glob("*.png"))
    assert "25 of 25 images have boxes without outlines: no mask of them" in caplog.text


@pytest.mark.parametrize("segmentation", [[], [[]], None])
def test_an_image_with_a_box_among_its_outlines_has_no_mask(root: Path, segmentation: object) -> None:
    edit(root, lambda v: first(v, "segmentation", segmentation))
    made = index(root)
    assert [row.id for row in made.rows if row.mask is None] == [Path(name_of(1, "train")).stem]
    assert made.by_id[Path(name_of(1, "train")).stem].labels == ("airplane",)


def test_other_files_and_folders_are_settings(root: Path, tmp_path: Path) -> None:
    before = index(root)
    (root / "train").mkdir()
    for path in (root / "train2014").iterdir():
        path.rename(root / "train" / path.name)
    path_of(root, "train").rename(root / "train" / "_annotations.coco.json")
    words = ["index-dataset", "--root", str(root), "--format", "coco", "--out", str(tmp_path / "run" / "index.csv")]
    files = ["--coco.train", "train/_annotations.coco.json", "--coco.train-images", "train"]
    assert command("getam", STAGES, [*words, *files]) == 0
    made = read_index(tmp_path / "run" / "index.csv")
    assert [(row.id, row.labels) for row in made.rows] == [(row.id, row.labels) for row in before.rows]
    assert made.split("train")[0].image.parent == root / "train"
    # A data set needs no val.
    assert command("getam", STAGES, [*words, *files, "--coco.val", ""]) == 0
    assert not read_index(tmp_path / "run" / "index.csv").split("val")


def test_a_message_names_the_entry_and_a_cure_for_every_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def message(**changes: Any) -> str:
        with pytest.raises(InputError) as raised:
            index(root, **changes)
        return str(raised.value)

    edit(root, lambda v: v["images"][2].pop("height"))
    assert "(images[2] has no 'height'); correct it or export the file again" in message()
    edit(root, lambda v: v["images"][2].update(height=HEIGHT, file_name="photos/1.jpg"))
    assert f"write the plain name, and put the photograph into {root / 'train2014'}" in message()
    edit(root, lambda v: v["images"][2].update(file_name="none.webp"))
    assert "none.webp: no such image; add it, or name the folder of photographs by data.coco.train_images" in message()
    path_of(root, "train").unlink()
    assert "instances_train2014.json: no such file; name the file by data.coco.train, or unpack" in message()


# Of somebody who means harm


def one_image(tmp_path: Path, segmentations: list[Any], *, height: int, width: int) -> str:
    """The expression that indexes a data set of a single image with these annotations."""
    root = tmp_path / "one"
    (root / "train").mkdir(parents=True)
    Image.new("L", (width, height)).save(root / "train" / "a.png")
    values = {
        "images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "segmentation": segmentation}
            for number, segmentation in enumerate(segmentations, start=1)
        ],
    }
    (root / "a.json").write_text(json.dumps(values))
    files = {"train": ("a.json", "train")}
    return f"index_coco(Path({str(root)!r}), files={files}, masks=Path({str(tmp_path / 'masks')!r}), threads=1).rows"


def zigzag(points: int, *, height: int, width: int) -> list[list[int]]:
    """A polygon to and fro over twice the image."""
    return [[number for _ in range(points // 2) for number in (-width, -height, 2 * width, 2 * height)]]


HOSTILE: dict[str, tuple[list[Any], str]] = {
    "a zigzag": (zigzag(100_000, height=1000, width=1000), "outlines of more than 1000000 pixels"),
    "many zigzags": ([zigzag(100, height=1000, width=1000)] * 100, "outlines of more than 1000000 pixels"),
    "many runs": (
        [{"size": [1000, 1000], "counts": "0" * 4_000_001}],
        "more than 4000000 run lengths",
    ),
    "many coverings": (
        [{"size": [1000, 1000], "counts": [0, 1_000_000]}] * 5000,
        "an area of more than 4294967296 pixels",
    ),
    "lengths that overflow": (
        [{"size": [1000, 1000], "counts": [2**62, 2**62, 2**62, 2**62, 1_000_000]}],
        "do not add up",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_annotations_that_would_grow_are_refused_by_the_image(tmp_path: Path, name: str) -> None:
    segmentations, message = HOSTILE[name]
    if name == "a zigzag":
        segmentations = [segmentations]
    answer = said("getam.datasets.coco", one_image(tmp_path, segmentations, height=1000, width=1000), memory=300)
    assert "a.png: annotation " in answer
    assert "malformed segmentation" in answer
    assert message in answer
    assert "correct it or export the file again" in answer
    assert not (tmp_path / "masks").exists()


def test_many_annotations_of_a_large_image_take_the_memory_of_few(tmp_path: Path) -> None:
    # A decoded mask of each would take 64 MB.
    small = [box(70 * number, 50 * number, 60, 40) for number in range(100)]
    answer = said("getam.datasets.coco", one_image(tmp_path, small, height=8000, width=8000), memory=800)
    assert "IndexRow(id='a'" in answer
    mask = read_labels(tmp_path / "masks" / "a.png")
    assert mask.sum() == 100 * 60 * 40


def test_a_region_of_many_polygons_is_their_union() -> None:
    generator = np.random.default_rng(0)
    size = (40, 50)
    for _ in range(30):
        corners = generator.random((generator.integers(1, 8), 5, 2)) * (70, 60) - 10
        polygons = corners.reshape(len(corners), -1).tolist()
        merged = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *size)))
        starts, ends = _spans(polygons, size, _Budget())
        assert (starts[1:] > ends[:-1]).all()
        found = np.zeros(size, np.uint8).ravel()
        for start, end in zip(starts, ends, strict=True):
            found[start:end] = 1
        np.testing.assert_array_equal(found.reshape(size[::-1]).T, merged)


def test_a_count_that_is_not_the_published_one_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match=r"split train: 23 images where data.counts.train expects 82081"):
        index(root, counts={"train": 82081, "val": 0})
