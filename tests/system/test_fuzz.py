"""The fuzzing entry finds faults that are planted in the audit page's reader of verdicts."""

from __future__ import annotations

import importlib
from pathlib import Path
from random import Random

import pytest

PLANTS = {
    "throws": ("page.json", "      return undefined;\n", "      throw error;\n", "SyntaxError"),
    "dies": ("page.csv", "at += found[0].length", "process.exit(7)", r"ended its process \(7\)"),
    "hangs": ("page.csv", "at += found[0].length", "for (;;)", "hangs"),
    "grows": ("page.csv", "const rows = [[]]", "const rows = [[]], some = new Uint8Array(2e8).fill(1)", "MB"),
    "ends of lines": ("page.json", r'[",\r\n]/.test(text) ?', r'[",]/.test(text) ?', "as csv"),
    "formulas": ("page.csv", 'text.replace(APOSTROPHES, "$1")', "text", "as csv"),
    "notes": ("page.storage", 'note: note ?? ""', "note", "reading 'replace'"),
    "ids": ("page.json", "if (here.has(id))", "if (id)", "verdicts on"),
}
"""Kind of files, a piece of the script, what stands in its place, and what is found then."""


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "fuzz"))
    page, readers = importlib.import_module("page"), importlib.import_module("readers")
    kind, piece, other, found = PLANTS[name]
    script = page.SCRIPT.read_text()
    assert script.count(piece) == 1
    (tmp_path / "verdicts.js").write_text(script.replace(piece, other))
    monkeypatch.setattr(page, "SCRIPT", tmp_path / "verdicts.js")
    monkeypatch.setattr(readers, "MEMORY", 150)
    if name == "hangs":
        monkeypatch.setattr(page, "PATIENCE", 1)
    [reader] = [each for each in readers.verdicts(tmp_path) if each.name == kind]

    def read_some() -> None:
        for number in range(500):
            random = Random(f"0 {kind} {number}")
            (tmp_path / kind).write_bytes(reader.change(random, random.choice(reader.seeds)))
            reader.read(tmp_path / kind)

    with pytest.raises(page.Fault, match=found):
        read_some()
