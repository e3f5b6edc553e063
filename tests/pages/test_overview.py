from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.run_files import HOSTILE, write_run

from getam.pages.overview import write_overview
from getam.system.files import write_json


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "demo")


def overview(run: Path, out: str = "audit") -> str:
    (run / out).mkdir(parents=True)
    write_overview(run, run / out)
    return (run / out / "overview.html").read_text(encoding="utf-8")


def test_scores_times_and_settings_are_on_the_page(run: Path) -> None:
    page = " ".join(overview(run).split())
    assert '<td>DeepLab mIoU</td> <td class="number">0.700</td> <td class="number">3</td> <td>val</td>' in page
    assert '<tr><td>dump_maps</td><td class="number">2</td><td class="number">1 min 20 s</td>' in page
    assert '<td class="number">40.0 s</td><td class="number">0.51 GB</td>' in page
    assert "all stages: 1 min 22 s" in page
    assert "<h3>Label completion</h3>" in page
    assert "<tr><td>alpha</td><td><code>0.9</code></td></tr>" in page
    assert '<tr class="soft"><td>version</td><td><code>0.1.0</code></td></tr>' in page


def test_what_is_wrong_with_the_classifier_stands_below_the_scores(run: Path) -> None:
    assert "Warning" not in overview(run, "before")
    metrics = {"split": "val", "images": 1, "mean_average_precision": 0.1, "average_precision": {}}
    probe = {"mean_average_precision": 0.9, "average_precision": {}, "images": 1, "classifier": 0.1}
    write_json(
        run / "classifier" / "metrics.json", metrics | {"chance": 0.1, "probe": probe, "warning": f"mAP {HOSTILE}"}
    )
    page = " ".join(overview(run).split())
    assert '<p class="worse">Warning. Classifier: mAP &lt;script&gt;alert(1)&lt;/script&gt;.</p>' in page
    assert '<td>Linear probe mAP</td> <td class="number">0.900</td>' in page


def test_the_largest_confusions_are_listed(run: Path) -> None:
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td class=\"number\">([\d.]+ %)</td></tr>", overview(run))
    hostile = "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert rows == [
        ("cat", hostile, "20.0 %"),
        ("cat", "background", "20.0 %"),
        ("background", "cat", "10.0 %"),
        (hostile, "cat", "1.0 %"),
    ]


def test_the_page_needs_its_folder_alone(run: Path) -> None:
    page = overview(run)
    assert HOSTILE not in page
    assert not re.search(r"https?:|<script|<link|@import", page)
    found = {*re.findall(r'(?:src|href)="([^"#]+)"', page)}
    assert {name for name in found if not (run / "audit" / name).is_file()} == {"index.html"}
    assert "plots/iou.svg" in found
    plots = [*(run / "audit" / "plots").glob("*.svg")]
    assert [path.name for path in plots if "mathdefault" in path.read_text()] == []


def test_what_there_is_can_be_reached_from_the_top(run: Path) -> None:
    (run / "audit").mkdir()
    (run / "audit" / "contact_sheet.html").touch()
    write_overview(run, run / "audit")
    page = (run / "audit" / "overview.html").read_text(encoding="utf-8")
    nav = page.split("<nav>")[1].split("</nav>")[0]
    linked = ["index.html", "contact_sheet.html", "#scores", "#plots", "#confusions", "#times", "#settings"]
    assert re.findall(r'href="([^"]+)"', nav) == linked
    # A sheet is written of a run with labels alone.
    assert "contact_sheet.html" not in overview(run, "without")


def test_an_empty_run_has_a_page(tmp_path: Path) -> None:
    page = overview(tmp_path / "demo")
    assert "No stage has written a score yet." in page
    for heading in ("Plots", "Times", "Settings", "Largest"):
        assert f">{heading}" not in page


def test_the_same_run_has_the_same_page(run: Path) -> None:
    assert overview(run, "one") == overview(run, "two")
