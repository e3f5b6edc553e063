"""A user's own photographs: getam new, then the whole workflow by the overlay that it has written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.workplace import ONE_THREAD_A_JOB, TINY, Workplace

from getam.cli import STAGES, TOOLS, command
from getam.system.files import read_json
from getam.system.image_files import read_labels


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_photographs_without_masks_and_without_val_end_in_a_summary_that_says_so(
    tiny: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny.folder / "data" / "demo"
    shutil.copytree(data / "JPEGImages", tmp_path / "photographs")
    shutil.copytree(data / "Annotations", tmp_path / "labels")
    negative = next((tmp_path / "labels").iterdir())
    negative.write_text("<annotation/>")
    monkeypatch.chdir(tiny.folder)
    words = [str(tmp_path / "photographs"), "--labels", str(tmp_path / "labels"), "--weights", "false", "--val", "0"]
    assert command("getam", STAGES | TOOLS, ["new", *words, "--out", "own.yaml"]) == 0
    result = tiny.snakemake(*ONE_THREAD_A_JOB, "own.yaml")
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    results = tiny.folder / "results" / "own"
    summary = read_json(results / "summary.json")
    assert [summary["classifier"]["val_map"], summary["deeplab"]["val_miou"]] == [None, None]
    assert "saliency" not in summary
    text = (results / "summary.md").read_text()
    assert "Not scored: Classifier (no image of val has a label); Pseudo labels (no image of train has a mask);" in text
    assert (results / "audit" / "index.html").is_file()
    assert len(list((results / "pseudo_labels").glob("*/*.png"))) == 32
    assert not read_labels(next((results / "pseudo_labels").glob(f"*/{negative.stem}.png"))).any()
    assert tiny.plan("--configfile", str(TINY), "own.yaml") == set()
