"""The audit page in a real browser, opened from disk: layers, keys, verdicts, hostile names, speed."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_page import HEIGHT, Audit, half_mask, index_row, write_pseudo_labels, write_run
from browser import CHROMIUM, MISSING, SCROLL, SPENT, Opened, browser, many_images, memory
from playwright.sync_api import Browser

from getam.files import write_array, write_labels
from getam.index import IndexRow
from getam.verdicts import read_verdicts

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason=MISSING),
    pytest.mark.timeout(120),
]

CLASSES = (
    "<img src=x onerror=alert(1)>",
    "cat",
    "</script><script>alert(1)</script>",
    "${alert(1)}",
    "__proto__",
    "quotes\"'`",
)
IDS = ("<img src=x onerror=alert(1)>", "__proto__", 'a&"b', "${1}", "constructor", '=1+1,"x"', "100% %zz", "image:0")
"""Of images of the class 2 and one more, after the three of `write_run`."""


def safe(id: str) -> str:
    return re.sub(r"\W", "_", id)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[IndexRow]:
    folder = tmp_path_factory.mktemp("rows")
    both = half_mask(1, 2)
    rows = [
        index_row(folder, "first", "train", both, CLASSES[:2]),
        index_row(folder, "second", "train", half_mask(0, 2), ("cat",)),
        index_row(folder, "third", "val", half_mask(0, 2), ("cat",)),
    ]
    hostile = [
        index_row(folder, id, "train", half_mask(0, 2), ("cat", CLASSES[2 + number % 4]), safe(id) + str(number))
        for number, id in enumerate(IDS)
    ]
    return [*rows, *hostile]


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory, rows: list[IndexRow]) -> Audit:
    run = tmp_path_factory.mktemp("run") / "demo"
    write_run(run, rows[:3])
    labels = {"second": half_mask(0, 2)} | {id: half_mask(2, 255) for id in IDS}
    write_pseudo_labels(run, "001", labels)
    return Audit(run, rows, classes=CLASSES)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


Open = Callable[..., Opened]


@pytest.fixture
def opened(chromium: Browser, audit: Audit) -> Iterator[Open]:
    """Opens the page; in the end, none may have complained."""
    pages: list[Opened] = []

    def open_page(address: str = "", **options: Any) -> Opened:
        pages.append(Opened(chromium, options.pop("folder", audit.out), address=address, **options))
        pages[-1].page.wait_for_selector(".row, .cell, .empty, .detail, .problem")
        return pages[-1]

    yield open_page
    for one in pages:
        one.context.close()
        assert one.complaints == []


def names(one: Opened) -> list[str]:
    return one.texts(".name")


def current(one: Opened) -> str:
    return one.page.locator('[aria-current="true"] .name').inner_text()


def choose(one: Opened, name: str, option: str) -> None:
    one.page.locator(f'select[name="{name}"]').select_option(label=option)
    one.wait_drawn()


def point_at(one: Opened, layer: str, x: float, y: float, *, within: str = ".row") -> None:
    """Moves the pointer to a place in [0, 1] of the current image's layer."""
    stack = one.page.locator(f'{within} [data-layer="{layer}"]').first
    box = stack.bounding_box()
    assert box is not None
    one.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])


def test_all_images_are_there_from_disk_without_a_word(opened: Open) -> None:
    one = opened()
    one.wait_painted()
    assert one.texts(".count") == ["11 of 11 images"]
    # Those in sight alone are in the document, sorted by split and id.
    assert 2 <= len(names(one)) < 11
    assert one.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert one.page.locator("header a").get_attribute("href") == "overview.html"


def test_layers_have_their_colors(opened: Open) -> None:
    one = opened("#first")
    one.page.wait_for_selector(".detail")
    one.press("Escape")
    one.wait_painted(".row canvas")

    def color(layer: str, x: float) -> list[int]:
        shown = one.picture(f'[aria-current] [data-layer="{layer}"]')
        return shown[shown.shape[0] // 2, int(x * shown.shape[1])].tolist()

    assert color("pseudo_labels", 0.2) == [0xE6, 0x9F, 0x00]  # the first class of the image
    assert color("ground_truth", 0.8) == [0x56, 0xB4, 0xE9]  # the second
    assert color("rules", 0.2) == [0x00, 0x72, 0xB2]  # salient class
    assert color("saliency", 0.5) == [255, 255, 255]
    assert color("refined", 0.5) == [68, 1, 84]  # viridis' zero
    unknown = one.picture('[aria-current] [data-layer="pseudo_labels"]')
    unknown = unknown[4:-4, unknown.shape[1] * 6 // 10 : -4].reshape(-1, 3)
    assert {*map(tuple, unknown.tolist())} == {(0xF2, 0xF2, 0xF2), (0x8C, 0x8C, 0x8C)}  # hatched
    one.press("c")
    one.wait("document.querySelector('[aria-current] .swatch').style.background === 'rgb(128, 0, 0)'")
    assert color("pseudo_labels", 0.2) == [128, 0, 0]  # VOC's color of label 1
    one.page.reload()
    one.page.wait_for_selector("canvas")
    assert one.page.get_by_label("VOC colors").is_checked()


def test_filters(opened: Open) -> None:
    one = opened()
    choose(one, "split", "val")
    one.wait("document.querySelector('.count').textContent === '1 of 11 images'")
    assert names(one) == ["third"]
    choose(one, "split", "all")
    choose(one, "class", CLASSES[0])
    assert names(one) == ["first"]
    choose(one, "class", "all")
    one.press("/")
    one.page.keyboard.type("__PROTO")
    # An id, and the images of a class.
    assert {"__proto__"} <= {*names(one)}
    assert one.texts(".count") == ["3 of 11 images"]
    one.page.keyboard.press("Control+A")
    one.page.keyboard.type("nothing has this")
    assert one.texts(".empty") == ["No image fits these filters."]
    one.page.get_by_label("Search").fill("")
    choose(one, "score", "IoU DeepLab")
    one.page.get_by_label("most, percent").fill("25")
    assert names(one) == ["third"]
    one.page.get_by_label("most, percent").fill("24")
    assert one.texts(".count") == ["0 of 11 images"]


def test_sorting(opened: Open) -> None:
    one = opened()
    choose(one, "sort", "mined pixels")
    assert names(one)[0] == current(one) == "second"
    choose(one, "sort", "unknown pixels")
    assert names(one)[0] == "${1}"
    choose(one, "order", "best first")
    assert names(one)[0] == "second"
    choose(one, "sort", "IoU labels, 255 as background")
    assert names(one)[0] == "second"
    choose(one, "order", "worst first")
    assert names(one)[0] == "${1}"
    choose(one, "sort", "id")
    choose(one, "order", "descending")
    assert names(one)[0] == "third"


def test_layers_and_views_by_keys(opened: Open) -> None:
    one = opened()
    one.press("End")
    one.wait("document.querySelector('[aria-current] .name').textContent === 'third'")
    shown = one.page.locator("[aria-current] .stack")
    assert shown.count() == 4
    one.press("8")
    one.wait("document.querySelectorAll('[aria-current] .stack').length === 3")
    one.press("v")
    one.wait("document.querySelectorAll('.cell').length === 11")
    one.press("8")
    assert one.page.locator('input[type="radio"]:checked').get_attribute("value") == "deeplab"
    one.wait("""document.querySelectorAll('[aria-current] [data-layer="deeplab"] canvas.over').length === 1""")
    before = one.page.evaluate("getComputedStyle(document.querySelector('.over')).opacity")
    one.press("]", "]")
    one.wait(f"getComputedStyle(document.querySelector('.over')).opacity > {before}")
    one.page.get_by_label("Opacity").fill("10")
    one.wait("getComputedStyle(document.querySelector('.over')).opacity === '0.1'")
    one.page.reload()
    one.page.wait_for_selector(".cell")
    assert one.page.get_by_label("Opacity").input_value() == "10"


def test_the_keyboard_alone(opened: Open) -> None:
    one = opened()
    first = current(one)
    one.press("j")
    one.wait(f"document.querySelector('[aria-current] .name').textContent !== {json.dumps(first)}")
    second = current(one)
    one.press("k")
    assert current(one) == first
    one.press("ArrowDown")
    assert current(one) == second
    one.press("Enter")
    one.page.wait_for_selector(".detail canvas")
    assert one.texts(".detail h2") == [second]
    one.press("Shift+ArrowRight")
    one.page.wait_for_selector(".reading dd")
    one.press("ArrowRight", "b", "n")
    one.wait("document.activeElement.tagName === 'TEXTAREA'")
    one.page.keyboard.type("jumps gbu")
    one.press("Escape")
    assert one.page.locator(".detail").count() == 1
    one.press("Escape")
    one.page.wait_for_selector(".detail", state="detached")
    assert one.texts("[aria-current] .verdict")[0].startswith("bad")
    one.press("?")
    assert "verdict good, bad, unsure" in one.page.locator(".help").inner_text()
    one.press("Escape")
    one.page.wait_for_selector(".help", state="detached")
    one.press("Home")
    assert current(one) == first
    one.press("/")
    one.page.keyboard.type("jjj")
    assert one.page.get_by_label("Search").input_value() == "jjj"
    one.press("Tab")
    assert one.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_pointer_names_class_and_value(opened: Open) -> None:
    one = opened("#second")
    one.page.wait_for_selector(".detail canvas")
    one.wait_painted(".detail canvas")
    point_at(one, "pseudo_labels", 0.78, 0.53, within=".detail")
    one.wait("document.querySelector('.reading dd')?.textContent.startsWith('x 15, y ')")
    lines = dict(zip(one.texts(".reading dt"), one.texts(".reading dd"), strict=True))
    assert lines.pop("photograph") == f"x 15, y {HEIGHT // 2}"
    assert lines == {
        "GETAM maps": "cat 0 % of 0.0e+0",
        "refined maps": "cat 73 %",
        "saliency": "0 %",
        "pseudo labels": "cat (2)",
        "rules of Eq. 5": "mined",
        "ground truth": "cat (2)",
    }
    assert one.texts(".reading .words") == ["not salient, but above the \u03b1-quantile of one class: that class."]
    one.press("Escape")
    one.page.wait_for_selector("[aria-current] canvas")
    point_at(one, "pseudo_labels", 0.25, 0.5, within='[aria-current="true"]')
    one.page.wait_for_selector(".hint")
    assert one.texts(".hint") == ["pseudo labels: background (0)"]
    point_at(one, "refined", 0.25, 0.5, within='[aria-current="true"]')
    one.wait("document.querySelector('.hint').textContent.includes('73 %')")


def export(one: Opened, button: str, folder: Path) -> Path:
    with one.page.expect_download() as download:
        one.page.get_by_role("button", name=button).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_verdicts_stay_and_are_exported_and_imported(opened: Open, rows: list[IndexRow], tmp_path: Path) -> None:
    one = opened("#" + "__proto__")
    one.page.wait_for_selector(".detail")
    one.press("b", "n")
    one.wait("document.activeElement.tagName === 'TEXTAREA'")
    one.page.keyboard.type('=1, "quoted"\nsecond line')
    one.press("Escape", "Escape", "j", "g", "j", "u", "j", "b", "x")
    one.page.reload()
    one.page.wait_for_selector(".row")
    said = {"__proto__": ("bad", '=1, "quoted"\nsecond line')}
    order = sorted(row.id for row in rows if row.split == "train")
    after = order.index("__proto__")
    said |= {order[after + 1]: ("good", ""), order[after + 2]: ("unsure", "")}
    known = {row.id for row in rows}
    for button in ("Export JSON", "Export CSV"):
        path = export(one, button, tmp_path)
        assert {v.id: (v.word, v.note) for v in read_verdicts(path, known)} == said
    assert json.loads((tmp_path / "verdicts-demo.json").read_text())["run"] == "demo"
    with (tmp_path / "verdicts-demo.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["id", "verdict", "note"]

    two = opened()
    two.page.locator('input[type="file"]').set_input_files(tmp_path / "verdicts-demo.json")
    two.wait("document.querySelector('.problem')?.textContent.includes('3 verdicts imported')")
    choose(two, "verdict", "bad")
    assert names(two) == ["__proto__"]
    two.page.locator('input[type="file"]').set_input_files({"name": "v.json", "mimeType": "", "buffer": b"{"})
    two.wait("document.querySelector('.problem').textContent.includes('v.json is no JSON')")
    two.page.locator('input[type="file"]').set_input_files(
        {"name": "w.json", "mimeType": "", "buffer": b'{"verdicts": [null, {"id": 1}, {"id": "a", "verdict": "x"}]}'}
    )
    two.wait("document.querySelector('.problem').textContent.includes('3 entries were no verdicts')")


@pytest.mark.parametrize("how", ["throw new Error('off')", "return null"])
def test_without_storage_the_page_works_and_says_so(opened: Open, how: str) -> None:
    one = opened(script=f"Object.defineProperty(window, 'localStorage', {{ get() {{ {how}; }} }});")
    one.page.wait_for_selector("canvas")
    assert "keeps no verdicts" in one.page.locator(".problem").inner_text()
    one.press("b")
    assert one.texts("[aria-current] .verdict") == ["bad"]


def test_every_id_has_an_address(opened: Open) -> None:
    one = opened("#second")
    one.wait("document.querySelector('.detail h2')?.textContent === 'second'")
    for id in IDS:
        one.page.evaluate("(id) => { location.hash = encodeURIComponent(id); }", id)
        one.wait(f"document.querySelector('.detail h2').textContent === {json.dumps(id)}")
    address = one.page.evaluate("location.href")
    one.press("Escape")
    one.wait("location.hash === ''")
    two = opened(address.partition("#")[1] + address.partition("#")[2])
    two.page.wait_for_selector(".detail")
    assert two.texts(".detail h2") == [IDS[-1]]


def test_an_address_of_no_image_says_so(opened: Open) -> None:
    one = opened("#nowhere")
    one.wait("document.querySelector('.problem')?.textContent === 'No image on this page has the id nowhere.'")
    one.page.evaluate("location.hash = '#%zz'")
    one.page.evaluate("location.hash = '#third'")
    one.page.wait_for_selector(".detail")


def test_hostile_names_are_text(opened: Open) -> None:
    one = opened(script="window.alert = () => { throw new Error('executed'); };")
    one.press("v")
    one.wait("document.querySelectorAll('.cell').length === 11")
    one.wait_painted("canvas")
    assert {*names(one)} == {"first", "second", "third", *IDS}
    options = one.texts("select >> nth=0 >> option")
    assert [text for text in options if text != "all"] == [*CLASSES]
    assert one.page.evaluate("document.images.length") == 0
    assert one.page.evaluate(
        "[...document.querySelectorAll('script')].every((s) => s.type || s.src.startsWith('file:'))"
    )
    assert one.page.evaluate("({}).verdict === undefined && Object.getPrototypeOf({}) === Object.prototype")


def test_missing_files_are_said(chromium: Browser, tmp_path: Path, rows: list[IndexRow]) -> None:
    write_run(tmp_path / "demo", rows[:3])
    audit = Audit(tmp_path / "demo", rows[:3], classes=CLASSES)
    (audit.out / "images" / "0" / "0.js").unlink()
    (audit.out / "images" / "0" / "1.js").write_text("nonsense(")
    one = Opened(chromium, audit.out)
    one.wait("document.querySelectorAll('.problem').length === 2")
    assert [re.match(r"images/0/\d\.js is missing or damaged\. Copy", text)[0] for text in one.texts(".problem")] == [
        "images/0/0.js is missing or damaged. Copy",
        "images/0/1.js is missing or damaged. Copy",
    ]
    (audit.out / "lists" / "000.js").unlink()
    one.page.reload()
    one.page.wait_for_selector(".problem")
    assert one.texts(".bar .problem")[0].startswith("lists/000.js is missing or damaged: images 1 to 3 are not shown.")
    one.context.close()


def test_many_classes_share_colors_and_not_looks(chromium: Browser, tmp_path: Path) -> None:
    classes = tuple(f"class {number}" for number in range(9))
    row = index_row(tmp_path, "all", "val", None, classes)
    run = tmp_path / "demo"
    write_labels(run / "deeplab" / "predictions" / "all.png", np.full((HEIGHT, 20), 9, np.uint8))
    write_array(run / "refined" / "000" / "all.npy", np.ones((9, HEIGHT, 20), np.float16))
    one = Opened(chromium, Audit(run, [row], classes=classes).out)
    one.wait_painted()
    looks = one.page.evaluate("[...document.querySelectorAll('.row .swatch')].map((swatch) => swatch.style.background)")
    assert len({*looks}) == len(looks) == 9
    one.context.close()
    assert one.complaints == []


VOC = 10_582
"""Images of VOC's train_aug."""


def test_ten_thousand_images_are_fast_and_small(chromium: Browser, tmp_path: Path) -> None:
    rows = [index_row(tmp_path, f"i{number}", "train", half_mask(0, 1), ("cat",)) for number in range(4)]
    audit = Audit(tmp_path / "demo", rows, classes=("cat", "dog"))
    many_images(audit.out, VOC)
    one = Opened(chromium, audit.out)
    one.wait(f"getamAudit.images.length === {VOC}")
    one.wait_painted()
    assert one.page.evaluate("performance.getEntriesByName('first picture')[0].startTime") < 2000
    for name, option in (("class", "1"), ("sort", "background"), ("order", "best"), ("class", "")):
        assert one.page.evaluate(SPENT, [name, option]) < 300, name
    # Through all of them, a screen at a time.
    one.page.evaluate(SCROLL, 120)
    one.wait_painted()
    assert len(names(one)) < 20
    assert memory() < 500
    one.context.close()
    assert one.complaints == []


PATTERNS = """async (values) => {
    const { colors } = getamAudit;
    const looks = [];
    for (const value of values) {
        const canvas = document.createElement("canvas");
        canvas.width = canvas.height = 12;
        const context = canvas.getContext("2d", { willReadFrequently: true });
        const layer = { width: 1, height: 1, values: Uint8Array.of(value) };
        colors.paint(canvas, layer, "deeplab", values, "safe", false, 1);
        const read = () => context.getImageData(0, 0, 12, 12).data.join();
        const painted = read();
        const background = colors.classBackground(values, value, "safe");
        context.fillStyle = background;
        if (background.startsWith("url(")) {
            const image = new Image();
            image.src = background.slice(4, background.indexOf(")"));
            await image.decode();
            context.fillStyle = context.createPattern(image, "repeat");
        }
        context.fillRect(0, 0, 12, 12);
        looks.push([painted, read()]);
    }
    return looks;
}"""
"""What a canvas and a swatch show of each class of an image."""


@pytest.mark.parametrize("count", [21, 40])
def test_no_two_classes_of_an_image_look_the_same(opened: Open, count: int) -> None:
    looks = opened().page.evaluate(PATTERNS, list(range(1, count + 1)))
    assert all(painted == swatch for painted, swatch in looks)
    assert len({painted for painted, _ in looks}) == count


def test_damaged_files_have_one_message_each(chromium: Browser, tmp_path: Path, rows: list[IndexRow]) -> None:
    write_run(tmp_path / "demo", rows[:3])
    audit = Audit(tmp_path / "demo", rows[:3], classes=CLASSES)
    images = audit.out / "images" / "0"
    (images / "0.js").write_text("getamAudit.image({});\n")
    text = (images / "1.js").read_text()
    (images / "1.js").write_text(re.sub(r'"data":"[^"]{8}', '"data":"AAAA****', text))
    text = (images / "2.js").read_text()
    (images / "2.js").write_text(re.sub(r'"photograph":"[^"]{8}', '"photograph":"AAAAAAAA', text))
    one = Opened(chromium, audit.out)
    one.wait("document.querySelectorAll('.problem').length === 3")
    remedy = "is missing or damaged. Copy the whole folder audit/, or run the stage audit again."
    assert one.texts(".problem") == [f"images/0/{name} {remedy}" for name in ("0.js", "1.js", "2.js")]
    one.page.evaluate("location.hash = '#second'")
    one.page.wait_for_selector(".detail .problem")
    one.context.close()
    assert one.complaints == []


def test_missing_lists_have_one_message(chromium: Browser, tmp_path: Path) -> None:
    rows = [index_row(tmp_path, f"i{number}", "train", half_mask(0, 1), ("cat",)) for number in range(4)]
    audit = Audit(tmp_path / "demo", rows, classes=("cat", "dog"))
    many_images(audit.out, 1600)
    for number in (1, 3):
        (audit.out / "lists" / f"{number:03d}.js").unlink()
    one = Opened(chromium, audit.out)
    one.wait("document.querySelector('.problem')?.textContent.includes('1 more')")
    assert one.texts(".bar .problem") == [
        "lists/001.js and 1 more lists are missing or damaged: 600 images are not shown. "
        "Copy the whole folder audit/, or run the stage audit again."
    ]
    one.context.close()
