"""The graph of full-size data sets: built in seconds and little memory, since nothing looks at images for it.

Seconds of CPU time, which other processes of the machine cannot take away.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from support.workplace import PROJECT, Workplace

SHARDS = {"data": {"shards": 16}}
SECONDS, GIGABYTES = 10, 1.0
NO_OP_SECONDS = 5
COCO_IMAGES = {"train2014": 82_081, "val2014": 40_137}

MEASURE = """
import resource, subprocess, sys
process = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(process.stdout, process.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20)
"""


class Measured(NamedTuple):
    output: str
    seconds: float
    gigabytes: float


def measured(workplace: Workplace, *words: str) -> Measured:
    """Snakemake's output, CPU time and largest resident memory; it has to end well."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, *workplace.command, "--cores", "8", *words],
        cwd=workplace.folder,
        env=workplace.environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    output, code, seconds, gigabytes = result.stdout.rsplit(maxsplit=3)
    assert code == "0", output
    found = Measured(output, float(seconds), float(gigabytes))
    print(f"{words}: {found.seconds:.1f} s of CPU time, {found.gigabytes:.2f} GB")
    return found


def links(folder: Path, names: list[str]) -> None:
    """So many names of one empty file."""
    folder.mkdir(parents=True)
    file = folder.parent / f"{folder.name}.empty"
    file.touch()
    for number, name in enumerate(names):
        # A file has at most 65,000 names on ext4.
        if number and number % 50_000 == 0:
            file = file.with_name(f"{folder.name}.empty{number}")
            file.touch()
        os.link(file, folder / name)


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Workplace:
    """VOC 2012 by its true lists, train_aug included; the photographs are empty files."""
    workplace = Workplace(tmp_path_factory.mktemp("voc") / "work", stand_ins=True)
    root = workplace.folder / "data" / "VOCdevkit" / "VOC2012"
    ids = {name: (shared / "data" / "voc12" / f"{name}.txt").read_text().split() for name in ("train_aug", "val")}
    assert [len(each) for each in ids.values()] == [10_582, 1_449]
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name, each in ids.items():
        (root / "ImageSets" / "Segmentation" / f"{name.removesuffix('_aug')}.txt").write_text("\n".join(each) + "\n")
    links(root / "JPEGImages", [f"{id}.jpg" for each in ids.values() for id in each])
    links(root / "Annotations", [f"{id}.xml" for each in ids.values() for id in each])
    links(workplace.folder / "data" / "aug", [f"{id}.png" for id in ids["train_aug"]])
    for name in ("DUTS-TR", "DUTS-TE"):
        (workplace.folder / "data" / name).mkdir()
    return workplace


def voc_words(workplace: Workplace) -> tuple[str, ...]:
    changes = workplace.overlay(SHARDS | {"data": SHARDS["data"] | {"augmented": "data/aug"}})
    return ("--configfile", str(PROJECT / "configs" / "voc12.yaml"), str(changes))


def test_the_graph_of_voc_takes_seconds(voc: Workplace) -> None:
    found = measured(voc, "-n", *voc_words(voc))
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", found.output, re.MULTILINE))
    assert {rule: int(jobs[rule]) for rule in ("dump_maps", "complete_labels", "train_deeplab")} == {
        "dump_maps": 16, "complete_labels": 16, "train_deeplab": 1
    }  # fmt: skip
    assert found.seconds < SECONDS
    assert found.gigabytes < GIGABYTES


def test_the_graph_of_coco_takes_seconds(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    root = workplace.folder / "data" / "coco"
    for folder, count in COCO_IMAGES.items():
        links(root / folder, [f"COCO_{folder}_{number:012d}.jpg" for number in range(count)])
        (root / "annotations").mkdir(exist_ok=True)
        # As large as the real one, in bytes that nobody should read.
        with (root / "annotations" / f"instances_{folder}.json").open("wb") as file:
            file.truncate(300_000_000)
    for name in ("DUTS-TR", "DUTS-TE"):
        (workplace.folder / "data" / name).mkdir()
    changes = workplace.overlay({"data": {"shards": 16, "root": "data/coco"}})
    found = measured(workplace, "-n", "--configfile", str(PROJECT / "configs" / "coco14.yaml"), str(changes))
    assert re.search(r"^dump_maps +16$", found.output, re.MULTILINE)
    assert found.seconds < SECONDS
    assert found.gigabytes < GIGABYTES


@pytest.mark.slow
def test_a_run_with_nothing_to_do_is_over_in_seconds(voc: Workplace) -> None:
    assert voc.snakemake(*voc_words(voc), cores=16).returncode == 0
    found = measured(voc, *voc_words(voc))
    assert "Nothing to be done" in found.output
    start_up = measured(voc, "--version")
    assert found.seconds - start_up.seconds < NO_OP_SECONDS
