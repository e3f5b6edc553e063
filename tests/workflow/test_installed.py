"""A wheel of getam, installed beside the environment's packages, runs the workflow from an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.workplace import PROJECT, TINY

from getam.system.files import read_json


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a wheel is installed into; the wheel is built from a copy, as from an unpacked archive."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "results", "data", "site", ".snakemake", "__pycache__", ".*_cache"
    )
    shutil.copytree(PROJECT, source, ignore=ignored, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    alone = ("--no-deps", "--no-build-isolation", "--no-index")
    subprocess.run([*pip, "wheel", *alone, "--wheel-dir", folder / "wheels", source], check=True)
    (wheel,) = (folder / "wheels").glob("getam-*.whl")
    subprocess.run([*pip, "install", *alone, "--target", folder / "site", wheel], check=True)
    return folder / "site"


def run(installed: Path, where: Path, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs `getam` as the wheel has it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GETAM_", "PYTHONPATH"))}
    environment |= {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "getam", *map(str, words)]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_the_workflow_and_the_network_in_use(installed: Path, tmp_path: Path) -> None:
    assert run(installed, tmp_path, "run", "--cores", 2, "--resources", "gpu=2", "--configfile", TINY).returncode == 0
    results = tmp_path / "results" / "tiny"
    assert read_json(results / "summary.json")
    assert (results / "audit" / "index.html").is_file()
    # What ran was the wheel's, not the checkout's.
    assert str(PROJECT) not in (tmp_path / "results" / "tiny" / "logs" / "train_classifier.log").read_text()
    again = run(installed, tmp_path, "run", "--cores", 2, "--configfile", TINY)
    assert "Nothing to be done" in again.stdout + again.stderr
    photographs = tmp_path / "data" / "demo" / "JPEGImages"
    run(installed, tmp_path, "predict", results / "deeplab", photographs, "--out", "predicted", "--sheet")
    assert len(list((tmp_path / "predicted").glob("*.png"))) == len(list(photographs.iterdir()))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".snakemake", "data", "predicted", "results"]


def test_recipes_are_found_from_any_folder(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "run", "-n", "--cores", 1, "--configfile", "configs/rehearsal.yaml")
    assert "train_deeplab" in done.stdout + done.stderr
    missing = run(installed, tmp_path, "run", "-n", "--cores", 1, "--configfile", "configs/none.yaml", check=False)
    assert missing.returncode != 0


def test_commands_have_their_defaults(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "index-dataset", "--root", "nowhere", "--out", "index.csv", check=False)
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "give it a value" not in done.stderr
    assert "  run " in run(installed, tmp_path, "--help").stdout
