"""Opens the audit page from disk in Chromium, and records errors and warnings."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from playwright.sync_api import Browser, Page, Request, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = "no Chromium: install it (apt-get install chromium) to test the audit page in a browser"
SIZE = {"width": 1280, "height": 720}
PATIENCE = 200
"""Seconds after which the page hangs, however busy the machine is."""


@contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=["--no-sandbox"])
        yield started
        started.close()


SPENT = """async ([name, option]) => {
    const select = document.querySelector(`select[name="${name}"]`);
    const started = performance.now();
    select.value = option;
    select.dispatchEvent(new Event("input", { bubbles: true }));
    // The change is painted once the frame after the one that draws it has begun.
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    return performance.now() - started;
}"""
"""Milliseconds from choosing an option until the page is painted."""

SCROLL = """async (steps) => {
    const box = document.querySelector(".scroller");
    for (let step = 0; step <= steps; step++) {
        box.scrollTop = (box.scrollHeight - box.clientHeight) * step / steps;
        await new Promise((done) => setTimeout(done, 60));
    }
}"""
"""Scrolls through all images in `steps` steps, slowly enough for them to load."""


def many_images(out: Path, count: int) -> None:
    """Turns a page of a few images into one of `count`: writes new lists, and links the images' scripts to the few."""
    page = (out / "index.html").read_text(encoding="utf-8")
    text = page.split('id="audit">')[1].split("</script>")[0]
    facts = json.loads(text)
    few = json.loads((out / "lists" / "000.js").read_text().removeprefix("getamAudit.list(").removesuffix(");\n"))
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        row = [number, f"2008_{number:06d}", *few[number % len(few)][2:]]
        scored = [
            position
            for position, name in enumerate(facts["columns"])
            if name in facts["scores"] or name in facts["shares"]
        ]
        for position in scored:
            row[position] = round(float(rng.random()), 4)
        rows.append(row)
        if number >= len(few):
            (out / "images" / str(number // 1000)).mkdir(exist_ok=True)
            source = out / "images" / "0" / f"{number % len(few)}.js"
            (out / "images" / str(number // 1000) / f"{number}.js").hardlink_to(source)
    size = facts["perList"]
    lists = [rows[start : start + size] for start in range(0, count, size)]
    for number, part in enumerate(lists):
        (out / "lists" / f"{number:03d}.js").write_text(f"getamAudit.list({json.dumps(part)});\n")
    facts |= {"images": count, "lists": len(lists)}
    changed = json.dumps(facts).replace("<", "\\u003c")
    (out / "index.html").write_text(page.replace(text, changed), encoding="utf-8")


def memory() -> float:
    """Resident memory, MB, of the largest renderer process that this process started."""
    processes = psutil.Process().children(recursive=True)
    return max(process.memory_info().rss for process in processes if "--type=renderer" in process.cmdline()) / 1e6


class Opened:
    """An opened page with empty storage; `complaints` lists errors, console messages and requests to the network."""

    def __init__(self, browser: Browser, folder: Path, *, address: str = "", script: str = "") -> None:
        self.url = (folder / "index.html").as_uri()
        self.context = browser.new_context(viewport=SIZE, accept_downloads=True)
        self.context.set_default_timeout(1000 * PATIENCE)
        if script:
            self.context.add_init_script(script)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._check)
        self.session = self.context.new_cdp_session(self.page)
        self.session.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.page.goto(self.url + address)

    def _check(self, request: Request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.complaints.append(f"request: {request.url}")

    def cpu_seconds(self) -> float:
        """CPU time that the page's main thread has used, which other processes of the machine cannot take away."""
        metrics = self.session.send("Performance.getMetrics")["metrics"]
        return next(entry["value"] for entry in metrics if entry["name"] == "TaskDuration")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        self.wait_drawn()

    def wait_drawn(self) -> None:
        """Waits until the page is rendered again: until the second frame from now."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]

    def wait(self, condition: str) -> None:
        """Waits until a JavaScript expression is true."""
        # Playwright's wait_for_function uses eval, which the page's policy forbids.
        end = time.monotonic() + PATIENCE
        while not self.page.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, condition
            self.page.wait_for_timeout(10)

    def wait_painted(self, selector: str = "canvas") -> None:
        """Waits until there are layers and all of them are painted."""
        self.wait(
            f"""(() => {{
                const all = [...document.querySelectorAll({selector!r})];
                return all.length > 0 && all.every((canvas) => canvas.dataset.painted);
            }})()"""
        )

    def picture(self, selector: str) -> np.ndarray:
        """A screenshot of an element: (H, W, 3), uint8."""
        with Image.open(io.BytesIO(self.page.locator(selector).first.screenshot())) as image:
            return np.asarray(image.convert("RGB"))
