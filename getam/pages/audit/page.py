"""Writes the audit page itself: index.html from its template, and the scripts and libraries that it loads.

Ids and class names come from the data set and are not trusted: jinja2 escapes them, and scripts set them as text nodes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from getam.labels.decisions import Decision
from getam.pages.pictures import heat_colors
from getam.pages.rendering import render
from getam.pages.thumbnails import css_color
from getam.runs.folder import Run
from getam.runs.summary import HEADINGS, notes_in, score_rows, summarize
from getam.system.image_files import voc_palette

TEMPLATES = Path(__file__).parents[1] / "templates"

SCRIPTS = (
    "preact.js",
    "preact-hooks.js",
    "htm.js",
    "data.js",
    "inflate.js",
    "colors.js",
    "verdicts.js",
    "selection.js",
    "tiles.js",
    "gallery.js",
    "detail.js",
    "help.js",
    "app.js",
)
"""Scripts of the page, in the order in which they are loaded."""


@dataclass(frozen=True)
class _Look:
    """How the page shows a rule of Eq. 5: its name, the rule in words, its color, and whether it is hatched."""

    name: str
    words: str
    color: str
    hatched: bool = False


RULES = {
    Decision.BACKGROUND: _Look("background", "not salient, and no class above its quantile: 0", "#000000"),
    Decision.SALIENT_CLASS: _Look(
        "salient class", "salient, and a class above (1 \u2212 max M)^\u03b3: the strongest class", "#0072b2"
    ),
    Decision.SALIENT_UNKNOWN: _Look(
        "salient unknown", "salient, but (1 \u2212 max M)^\u03b3 above every class: 255", "#56b4e9", hatched=True
    ),
    Decision.MINED: _Look("mined", "not salient, but above the \u03b1-quantile of one class: that class", "#e69f00"),
    Decision.CONFLICT: _Look(
        "conflict",
        "not salient, and above the \u03b1-quantiles of several classes: 255, or the lowest",
        "#d55e00",
        hatched=True,
    ),
    Decision.OPENING: _Look("opening", "changed by the opening after the rules", "#cc79a7"),
}
"""How the page shows the rules of Eq. 5; rules that may give 255 (unknown) are hatched."""


def write_page(run: Run, out: Path, *, classes: Sequence[str], audit: Mapping[str, Any]) -> None:
    """Writes index.html and assets/ for the run in folder `run` into `out`.

    Args:
        classes: names of the label values 1, 2, ...
        audit: values for the page's scripts: number of images and lists, titles, columns.
    """
    assets = out / "assets"
    assets.mkdir()
    for path in [*(TEMPLATES / "audit").iterdir(), *(TEMPLATES / "vendor").iterdir()]:
        if path.suffix in (".js", ".css") or path.name.startswith("LICENSE"):
            shutil.copyfile(path, assets / path.name)
    summary = summarize(run)
    page = render(
        "audit.html",
        run=run.name,
        headings=HEADINGS,
        scores=[astuple(row) for row in score_rows(summary)],
        notes=notes_in(summary),
        scripts=SCRIPTS,
        contact_sheet=(out / "contact_sheet.html").is_file(),
        audit={
            **audit,
            "run": run.name,
            "classes": ("background", *classes),
            "palette": [css_color(color) for color in voc_palette()],
            "heat": [css_color(color) for color in heat_colors()[np.linspace(0, 255, 101).round().astype(int)]],
            "rules": [asdict(RULES[rule]) for rule in Decision],
        },
    )
    (out / "index.html").write_text(page, encoding="utf-8")
