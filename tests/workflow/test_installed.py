"""A wheel of getam, installed beside the environment's packages, runs the workflow from an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.forks import Commands, put_commands
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


@pytest.fixture(scope="module")
def forked(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with commands in the place of the environment's: forks of one process with the wheel's packages."""
    folder = tmp_path_factory.mktemp("forked") / "bin"
    commands = Commands(installed)
    put_commands(folder, commands.client())
    yield folder
    commands.end()


def run(
    installed: Path, where: Path, *words: object, check: bool = True, commands: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `getam` as the wheel has it, as a process of its own or by the commands of a folder."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GETAM_", "PYTHONPATH"))}
    packages = [str(installed)] if commands is None else [str(installed), *filter(None, sys.path)]
    environment |= {"PYTHONPATH": os.pathsep.join(packages), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "getam", *map(str, words)]
    if commands is not None:
        # The rules use the commands beside the Python that runs Snakemake.
        command = (
            [str(commands / "python"), *command[1:]] if words[0] == "run" else [str(commands / "getam"), *command[3:]]
        )
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


def folder_of_photographs(demo: Path, folder: Path) -> None:
    """The demo's images and their labels as a person has them: one folder, with a table."""
    shutil.copytree(demo / "JPEGImages", folder)
    lines = ["file,labels\n"]
    for photograph in sorted(folder.iterdir()):
        annotation = (demo / "Annotations" / f"{photograph.stem}.xml").read_text()
        lines.append(f"{photograph.name},{';'.join(sorted(set(re.findall('<name>(.+?)</name>', annotation))))}\n")
    (folder / "labels.csv").write_text("".join(lines))


def commands_of_section(page: str, title: str) -> list[list[str]]:
    """The words of each `getam` command in a section of a page of the manual."""
    section = (PROJECT / "docs" / page).read_text().split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"^```bash\n(.*?)^```", section, re.M | re.S)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


@pytest.mark.slow
def test_the_way_from_a_folder_to_a_network_that_the_manual_shows(
    installed: Path, forked: Path, tmp_path: Path
) -> None:
    tiny = yaml.safe_load(TINY.read_text())
    demo = tmp_path / "data" / "demo"
    run(installed, tmp_path, "make-demo", "--out", "data/demo", "--config", TINY, commands=forked)
    folder_of_photographs(demo, tmp_path / "birds")
    # Networks from scratch in the place of a recipe with weights.
    overlay = tmp_path / "tiny.yaml"
    overlay.write_text(yaml.safe_dump({key: tiny[key] for key in ("classifier", "refine", "deeplab", "end_to_end")}))
    for words in commands_of_section("own_data.md", "From a folder to a network"):
        if "configs/rehearsal.yaml" in words or words[0] == "estimate":
            continue
        replaced = [str(overlay) if word == "configs/dinov2.yaml" else word for word in words]
        run(installed, tmp_path, *replaced, *(("--weights", "false") if words[0] == "new" else ()), commands=forked)
    photographs = {path.stem for path in (tmp_path / "birds").glob("*.jpg")}
    assert {path.stem for path in (tmp_path / "predicted").glob("*.png")} == photographs
    assert (tmp_path / "predicted" / "contact_sheet.html").is_file()
    assert (tmp_path / "birds.onnx").is_file()
    assert (tmp_path / "results" / "birds" / "audit" / "index.html").is_file()


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
