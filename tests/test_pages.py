from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from getam.errors import InputError
from getam.files import voc_palette, write_array, write_gray, write_json, write_labels
from getam.index import IndexRow
from getam.pages import TILE, write_audit

HOSTILE = "<script>alert(1)</script>"
CLASSES = (HOSTILE, "cat")
HEIGHT, WIDTH = 16, 20


def index_row(folder: Path, id: str, split: str, mask: np.ndarray | None, labels: tuple[str, ...]) -> IndexRow:
    """A row with its photograph and mask on disk."""
    photograph = folder / "photographs" / f"{id}.png"
    photograph.parent.mkdir(exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 128, np.uint8)).save(photograph)
    if mask is not None:
        write_labels(folder / "masks" / f"{id}.png", mask)
    return IndexRow(
        id=id,
        split=split,
        image=photograph,
        mask=None if mask is None else folder / "masks" / f"{id}.png",
        height=HEIGHT,
        width=WIDTH,
        labels=labels,
    )


def half_mask(left: int, right: int) -> np.ndarray:
    mask = np.full((HEIGHT, WIDTH), left, np.uint8)
    mask[:, WIDTH // 2 :] = right
    return mask


@pytest.fixture
def rows(tmp_path: Path) -> list[IndexRow]:
    both = half_mask(1, 2)
    both[0] = 255
    return [
        # Labels out of order: the maps are in class order.
        index_row(tmp_path, 'a&"b', "train", both, ("cat", HOSTILE)),
        index_row(tmp_path, "second", "train", half_mask(0, 2), ("cat",)),
        index_row(tmp_path, "third", "val", half_mask(0, 2), ("cat",)),
    ]


@pytest.fixture
def run(tmp_path: Path, rows: list[IndexRow]) -> Path:
    """Two shards of training images through the multi-stage path, and a validation image of both paths."""
    run = tmp_path / "demo"
    first, second, third = (row.id for row in rows)
    raw = np.zeros((2, 2, 3), np.float32)
    raw[0, 0, 0], raw[1, 1, 2] = 3e-7, 2e-3
    write_array(run / "maps" / "000" / f"{first}.npy", raw)
    write_array(run / "maps" / "001" / f"{second}.npy", np.zeros((1, 2, 3), np.float32))
    write_array(run / "refined" / "000" / f"{first}.npy", np.zeros((2, HEIGHT, WIDTH), np.float16))
    write_array(run / "refined" / "001" / f"{second}.npy", np.ones((1, HEIGHT, WIDTH), np.float16))
    for shard, id in (("000", first), ("001", second)):
        write_gray(run / "saliency" / shard / f"{id}.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    write_labels(run / "pseudo_labels" / "000" / f"{first}.png", half_mask(1, 255))
    write_labels(run / "pseudo_labels" / "001" / f"{second}.png", half_mask(0, 2))
    write_labels(run / "deeplab" / "predictions" / f"{third}.png", half_mask(0, 0))
    write_labels(run / "end_to_end" / "predictions" / f"{third}.png", half_mask(0, 2))
    return run


def audit(run: Path, rows: list[IndexRow], max_images: int = 10) -> tuple[Path, str, dict[str, dict[str, Any]]]:
    """The folder, the page's text and what it says about each image, by id."""
    out = run / "audit"
    out.mkdir(parents=True)
    count = write_audit(run, out, rows=rows, classes=CLASSES, max_images=max_images)
    page = (out / "index.html").read_text(encoding="utf-8")
    (block,) = re.findall(r'<script type="application/json" id="audit">(.*?)</script>', page, re.DOTALL)
    images = json.loads(block)["images"]
    assert len(images) == count
    return out, page, {image["id"]: image for image in images}


def picture(out: Path, image: dict[str, Any], layer: str, name: str | None = None) -> np.ndarray:
    (tile,) = [tile for tile in image["tiles"] if (tile["layer"], tile["name"]) == (layer, name)]
    with Image.open(out / tile["source"]) as opened:
        return np.asarray(opened.convert("RGB"))


def test_every_stage_of_an_image_is_on_the_page(run: Path, rows: list[IndexRow]) -> None:
    out, _, images = audit(run, rows)
    train = ["photograph", "ground_truth", "pseudo_labels", "saliency", "raw", "refined"]
    assert [tile["layer"] for tile in images["second"]["tiles"]] == train
    val = ["photograph", "ground_truth", "deeplab", "end_to_end"]
    assert [tile["layer"] for tile in images["third"]["tiles"]] == val
    for image in images.values():
        for tile in image["tiles"]:
            with Image.open(out / tile["source"]) as opened:
                assert opened.size == ((3, 2) if tile["layer"] == "raw" else (WIDTH, HEIGHT))


def test_maps_are_matched_to_classes_in_class_order(run: Path, rows: list[IndexRow]) -> None:
    out, _, images = audit(run, rows)
    image = images['a&"b']
    assert image["labels"] == [HOSTILE, "cat"]
    notes = {tile["name"]: tile["note"] for tile in image["tiles"] if tile["layer"] == "raw"}
    assert notes == {HOSTILE: "max 3.0e-07", "cat": "max 2.0e-03"}
    low, high = (68, 1, 84), (253, 231, 36)  # the ends of viridis
    shown = picture(out, image, "raw", HOSTILE)
    assert tuple(shown[0, 0]) == high
    assert tuple(shown[1, 2]) == low
    assert tuple(picture(out, images["second"], "raw", "cat")[0, 0]) == low
    assert (picture(out, images["second"], "refined", "cat") == high).all()


def test_labels_have_the_voc_colors_and_unknown_pixels_are_hatched(run: Path, rows: list[IndexRow]) -> None:
    out, _, images = audit(run, rows)
    shown = picture(out, images['a&"b'], "pseudo_labels")
    assert (shown[:, : WIDTH // 2] == voc_palette()[1]).all()
    hatched = shown[:, WIDTH // 2 :].reshape(-1, 3)
    assert set(map(tuple, hatched.tolist())) == {(255, 255, 255), (150, 150, 150)}


def test_scores_of_an_image(run: Path, rows: list[IndexRow]) -> None:
    _, _, images = audit(run, rows)
    # Class 1 is right. Class 2 is unknown: left out, nothing of it remains to score; as background, it is 0.
    assert images['a&"b']["scores"] == {"pseudo_labels_excluded": 1.0, "pseudo_labels_background": 0.5}
    assert images['a&"b']["unknown"] == 0.5
    assert images["second"]["scores"] == {"pseudo_labels_excluded": 1.0, "pseudo_labels_background": 1.0}
    # All background: half of the background's union, nothing of the cat.
    assert images["third"]["scores"] == {"deeplab": 0.25, "end_to_end": 1.0}
    assert images["third"]["unknown"] is None


def test_text_of_the_data_set_is_never_markup(run: Path, rows: list[IndexRow]) -> None:
    out, page, _ = audit(run, rows)
    assert HOSTILE not in page
    assert page.count("</script>") == 2
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", page)
    assert all(re.fullmatch(r"\d{5}-\d{2}\.(png|jpg)", path.name) for path in (out / "images").iterdir())


def test_page_needs_no_network(run: Path, rows: list[IndexRow]) -> None:
    _, page, _ = audit(run, rows)
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|<link|@import|<script src", page)


def test_missing_stages_leave_their_tiles_out(tmp_path: Path) -> None:
    row = index_row(tmp_path, "alone", "train", None, ("cat",))
    _, page, images = audit(tmp_path / "empty", [row])
    assert [tile["layer"] for tile in images["alone"]["tiles"]] == ["photograph"]
    assert images["alone"]["scores"] == {}
    assert "No stage has written a score yet." in page


def test_scores_of_the_run_are_in_the_header(run: Path, rows: list[IndexRow]) -> None:
    metrics = {"split": "val", "mean_average_precision": 0.98, "average_precision": {}, "images": 1}
    write_json(run / "classifier" / "metrics.json", metrics)
    _, page, _ = audit(run, rows)
    assert "<td>Classifier mAP</td><td>0.980</td>" in page


@pytest.mark.parametrize(("max_images", "ids"), [(1, "0"), (2, "06"), (3, "036"), (10, "0123456")])
def test_images_are_evenly_spaced_over_the_sorted_ids(tmp_path: Path, max_images: int, ids: str) -> None:
    rows = [index_row(tmp_path, id, "train", None, ()) for id in "5016324"]
    _, _, images = audit(tmp_path / "demo", rows, max_images=max_images)
    assert "".join(images) == ids


def test_large_images_are_scaled_down(tmp_path: Path) -> None:
    photograph = tmp_path / "large.png"
    Image.fromarray(np.zeros((4 * TILE, 2 * TILE, 3), np.uint8)).save(photograph)
    row = IndexRow("large", "train", photograph, None, 4 * TILE, 2 * TILE, ())
    out, _, images = audit(tmp_path / "demo", [row])
    assert picture(out, images["large"], "photograph").shape == (TILE, TILE // 2, 3)


def test_mask_of_another_size_is_named(run: Path, rows: list[IndexRow]) -> None:
    write_labels(run / "deeplab" / "predictions" / "third.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(InputError, match=r"third\.png: 8x8, but .*16x20"):
        audit(run, rows)


def test_maps_of_other_classes_are_named(run: Path, rows: list[IndexRow]) -> None:
    write_array(run / "maps" / "001" / "second.npy", np.zeros((2, 2, 3), np.float32))
    with pytest.raises(InputError, match=r"second\.npy: .*\(2, 2, 3\).* 1 classes"):
        audit(run, rows)
