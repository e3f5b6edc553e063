"""`getam export-labels` and `getam import-labels`: labels go out to annotation programs and come back as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask

from getam.cli import STAGES, TOOLS, command
from getam.datasets.index import Index, IndexRow, write_index
from getam.labels.outlines import outlines, painted
from getam.system.files import write_json
from getam.system.image_files import read_labels, write_labels

SIZE = (12, 17)
CLASSES = ("cat", "dog")


def labels_of(seed: int) -> np.ndarray:
    """Noise of all label values: regions within regions, and across corners."""
    return np.random.default_rng(seed).choice(np.array([0, 1, 2, 255], np.uint8), SIZE)


IMAGES = {f"photo {number}": labels_of(number) for number in range(3)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """index.csv of three images, and their labels in two shards."""
    rows = tuple(IndexRow(id, "train", tmp_path / "photographs" / f"{id}.jpg", None, *SIZE, ("cat",)) for id in IMAGES)
    write_index(tmp_path / "index.csv", Index(rows=rows, classes=CLASSES))
    for number, ids in enumerate((["photo 0", "photo 2"], ["photo 1"])):
        shard = tmp_path / "pseudo_labels" / f"{number:03d}"
        for id in ids:
            write_labels(shard / f"{id}.png", IMAGES[id])
        write_json(shard / "manifest.json", {"ids": ids, "classes": list(CLASSES)})
    return tmp_path


def getam(*words: object) -> int:
    return command("getam", STAGES | TOOLS, [str(word) for word in words])


def exported(run: Path, form: str, *words: object) -> int:
    where = ["--index", run / "index.csv", "--out", run / "out", "--threads", 1]
    return getam("export-labels", run / "pseudo_labels", "--format", form, *where, *words)


def imported(run: Path, what: str = "out") -> int:
    return getam("import-labels", run / what, "--index", run / "index.csv", "--out", run / "back", "--threads", 1)


@settings(deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 2, 255])))
def test_outlines_give_the_image_again(labels: np.ndarray) -> None:
    assert (painted(outlines(labels, tolerance=0), labels.shape) == labels).all()


@pytest.mark.parametrize(
    ("form", "what", "words"),
    [("labelme", "out", ("--tolerance", 0)), ("voc", "out", ()), ("coco", "out/instances.json", ())],
)
def test_labels_come_back_as_they_were(run: Path, form: str, what: str, words: tuple[object, ...]) -> None:
    assert exported(run, form, *words) == 0
    assert imported(run, what) == 0
    for id, labels in IMAGES.items():
        assert (read_labels(run / "back" / f"{id}.png") == labels).all()


@pytest.mark.parametrize(
    "photographs",
    [
        {"cat_1": "cat/1.jpg", "dog_1": "dog/1.jpg"},
        {"1": "9.jpg", "9": "1.jpg"},
    ],
    ids=["files of one name in two folders", "an id that is another file's name"],
)
def test_coco_names_photographs_and_not_ids(run: Path, photographs: dict[str, str]) -> None:
    rows = tuple(IndexRow(id, "train", run / name, None, *SIZE, ("cat",)) for id, name in photographs.items())
    write_index(run / "index.csv", Index(rows=rows, classes=CLASSES))
    labels = {id: labels_of(number) for number, id in enumerate(photographs)}
    for id, image in labels.items():
        write_labels(run / "labels" / f"{id}.png", image)
    write_json(run / "labels" / "manifest.json", {"ids": [*labels], "classes": list(CLASSES)})
    where = ("--index", run / "index.csv", "--out", run / "out", "--threads", 1)
    assert getam("export-labels", run / "labels", "--format", "coco", *where) == 0
    content = json.loads((run / "out" / "instances.json").read_text())
    assert {each["file_name"] for each in content["images"]} == {*photographs.values()}
    assert imported(run, "out/instances.json") == 0
    for id, image in labels.items():
        assert (read_labels(run / "back" / f"{id}.png") == image).all()


@pytest.mark.parametrize(
    "name",
    [
        "photo 1",
        "photo 1.png",
        "train/photo 1.jpg",
        "train\\photo 1.jpg",
        "C:\\Users\\me\\photo 1.jpg",
        "../../label-studio/photo 1.jpg",
        "/elsewhere/photo 1.jpg",
    ],
)
def test_a_photograph_is_found_whatever_machine_wrote_its_path(run: Path, name: str) -> None:
    (run / "out.json").write_text(json.dumps(INSTANCES | {"images": [{"id": 1, "file_name": name}]}))
    assert imported(run, "out.json") == 0
    assert [path.name for path in (run / "back").glob("*.png")] == ["photo 1.png"]


def test_a_tolerance_takes_corners_away(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shard in (run / "pseudo_labels").iterdir():
        for path in shard.glob("*.png"):
            disk = np.hypot(*np.mgrid[-30:30, -30:30]) < 25
            write_labels(path, disk.astype(np.uint8))
    rows = tuple(IndexRow(id, "train", run / f"{id}.jpg", None, 60, 60, ("cat",)) for id in IMAGES)
    write_index(run / "index.csv", Index(rows=rows, classes=CLASSES))
    corners = {}
    for tolerance in (0, 1):
        assert exported(run, "labelme", "--tolerance", tolerance) == 0
        [shape] = json.loads((run / "out" / "photo 0.json").read_text())["shapes"]
        corners[tolerance] = len(shape["points"])
    assert corners[1] < corners[0] / 2
    kept = float(capsys.readouterr().err.rpartition("outlines keep ")[2].split(" %")[0])
    assert 95 < kept < 100


def test_labelme_finds_the_photographs(run: Path) -> None:
    assert exported(run, "labelme") == 0
    content = json.loads((run / "out" / "photo 1.json").read_text())
    assert (run / "out" / content["imagePath"]).resolve() == (run / "photographs" / "photo 1.jpg").resolve()
    assert {shape["label"] for shape in content["shapes"]} == {"_background_", "cat", "dog", "__ignore__"}


def test_coco_has_each_region_by_its_runs(run: Path) -> None:
    assert exported(run, "coco") == 0
    content = json.loads((run / "out" / "instances.json").read_text())
    names = {each["id"]: each["name"] for each in content["categories"]}
    assert names == {1: "cat", 2: "dog", 3: "__ignore__"}
    values = {1: 1, 2: 2, 3: 255}
    found = {each["id"]: np.zeros(SIZE, np.uint8) for each in content["images"]}
    for each in content["annotations"]:
        region = coco_mask.decode(each["segmentation"]).astype(bool)
        assert region.sum() == each["area"]
        found[each["image_id"]][region] = values[each["category_id"]]
    for each in content["images"]:
        assert (found[each["id"]] == IMAGES[Path(each["file_name"]).stem]).all()


def test_cvat_reads_colors_and_names(run: Path) -> None:
    assert exported(run, "voc") == 0
    assert (run / "out" / "labelmap.txt").read_text().splitlines() == [
        "# label:color_rgb:parts:actions",
        "background:0,0,0::",
        "cat:128,0,0::",
        "dog:0,128,0::",
        "__ignore__:224,224,192::",
    ]
    assert (run / "out" / "ImageSets" / "Segmentation" / "default.txt").read_text() == "photo 0\nphoto 1\nphoto 2\n"
    # CVAT writes colors without a palette.
    for path in (run / "out" / "SegmentationClass").iterdir():
        Image.open(path).convert("RGB").save(path)
    assert imported(run) == 0
    assert (read_labels(run / "back" / "photo 2.png") == IMAGES["photo 2"]).all()


def test_verdicts_choose_what_is_written(run: Path) -> None:
    (run / "verdicts.csv").write_text("id,verdict,note\nphoto 0,good,\nphoto 1,bad,\nphoto 2,unsure,\n")
    assert exported(run, "labelme", "--verdicts", run / "verdicts.csv") == 0
    assert sorted(path.stem for path in (run / "out").glob("*.json")) == ["photo 1", "photo 2"]


def shapes(*drawn: object, **further: object) -> Callable[[Path], object]:
    return lambda out: (out / "photo 0.json").write_text(json.dumps({"shapes": list(drawn), **further}))


def cat(**changed: Any) -> dict[str, Any]:
    return {"label": "cat", "points": [[0, 0], [4, 4]], "shape_type": "rectangle"} | changed


def test_a_rectangle_is_a_region(run: Path) -> None:
    (run / "out").mkdir()
    shapes(cat())(run / "out")
    assert imported(run) == 0
    assert read_labels(run / "back" / "photo 0.png").sum() == 25


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a stranger": (lambda out: (out / "other.json").write_text("{}"), "other.json: is of no image of the index"),
    "no shapes": (lambda out: (out / "photo 0.json").write_text("{}"), "photo 0.json: is no file of labelme's"),
    "no json": (lambda out: (out / "photo 0.json").write_text("{"), "photo 0.json"),
    "a class": (shapes(cat(label="cta")), "photo 0.json, shape 1: label 'cta' is none of the classes cat, dog"),
    "a kind": (shapes(cat(shape_type="circle")), "shape 1: is a 'circle'; regions are drawn as polygons"),
    "points": (shapes(cat(points=[[0, 0], [1]])), "shape 1: its points are no list"),
    "far points": (shapes(cat(points=[[0, 0], [1e12, 1]])), "shape 1: its points are no list"),
    "no shape": (shapes(3), "shape 1: is no shape"),
    "a smaller copy": (
        shapes(cat(), imageHeight=6, imageWidth=8),
        "photo 0.json: was drawn on an image of 8x6 pixels, and ",
    ),
    "a turned photograph": (
        shapes(cat(), imageHeight=SIZE[1], imageWidth=SIZE[0]),
        "photo 0.jpg has 17x12 (width x height); draw it on the photograph itself",
    ),
    "255 as the object": (
        lambda out: write_labels(out / "photo 0.png", np.where(labels_of(0), 255, 0).astype(np.uint8)),
        "out: no file shows a class, only 0 and 255; write the value of its class into an object's pixels (cat is 1",
    ),
    "nothing": (lambda out: None, "out: holds no labels of an image"),
    "another size": (lambda out: write_labels(out / "photo 0.png", labels_of(0).T), "size (17, 12) is not the image's"),
    "a value": (
        lambda out: write_labels(out / "photo 0.png", np.full(SIZE, 7, np.uint8)),
        "photo 0.png: label value 7; values are 0 to 2",
    ),
    "a color": (
        lambda out: (
            write_labels(out / "SegmentationClass" / "photo 0.png", labels_of(0)),
            (out / "labelmap.txt").write_text("background:0,0,0::\ncat:128,0,0::\n"),
        ),
        "holds the color (0, 128, 0), which is not in labelmap.txt",
    ),
    "a color beyond a byte": (
        lambda out: (
            write_labels(out / "SegmentationClass" / "photo 0.png", labels_of(0)),
            (out / "labelmap.txt").write_text("background:0,0,-1::\n"),
        ),
        "labelmap.txt, line 1: the color (0, 0, -1) is no triple of 0 to 255",
    ),
    "a label map": (
        lambda out: (
            write_labels(out / "SegmentationClass" / "photo 0.png", labels_of(0)),
            (out / "labelmap.txt").write_text("background:0,0::\n"),
        ),
        "labelmap.txt, line 1: the color (0, 0) is no triple",
    ),
}


INSTANCES: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "photo 0.jpg"}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4]]}],
}

COCO: dict[str, tuple[dict[str, Any], str]] = {
    "no form": ({}, "is not of COCO's form (KeyError: 'categories')"),
    "a stranger": ({"images": [{"id": 1, "file_name": "other.jpg"}]}, "'other.jpg' is of no image of the index"),
    "a category": ({"annotations": [{"image_id": 1, "category_id": 9}]}, "is not of COCO's form (KeyError: 9)"),
    "a name": ({"categories": [{"id": 1, "name": "cta"}]}, "annotation 1: label 'cta' is none of the classes cat, dog"),
    "a region": (
        {"annotations": [{"image_id": 1, "category_id": 1, "segmentation": [[1, 2, 3]]}]},
        "annotation 1 has a malformed segmentation",
    ),
    "a box": (
        {"annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "segmentation": [[]]}]},
        "annotation 1: has no outline; draw one, or take it off",
    ),
    "another size": (
        {"images": [{"id": 1, "file_name": "photo 0.jpg", "height": 24, "width": 34}]},
        "image 'photo 0.jpg': was drawn on an image of 34x24 pixels",
    ),
    "an image twice": (
        {"images": [{"id": 1, "file_name": "photo 0.jpg"}, {"id": 2, "file_name": "photo 0.png"}]},
        "image 'photo 0.png': stands there twice",
    ),
    "an id twice": (
        {"images": [{"id": 1, "file_name": "photo 0.jpg"}, {"id": 1, "file_name": "photo 1.jpg"}]},
        "image 'photo 1.jpg': stands there twice, or has the id of another image",
    ),
}


@pytest.mark.parametrize("name", COCO)
def test_bad_instances_end_with_one_message(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    changed, message = COCO[name]
    (run / "out.json").write_text(json.dumps(INSTANCES | changed if changed else {}))
    assert imported(run, "out.json") == 1
    assert message in capsys.readouterr().err
    assert not (run / "back").exists()


@pytest.mark.parametrize("name", BAD)
def test_bad_labels_end_with_one_message(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, message = BAD[name]
    (run / "out").mkdir()
    spoil(run / "out")
    assert imported(run) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (run / "back").exists()
