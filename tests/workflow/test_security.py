"""Hostile files and names end to end, through Snakemake and the real commands: refused with one message, or harmless.

Whatever is executed would make a file `pwned`.
"""

from __future__ import annotations

import html
import json
import os
import pickle
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from support.workplace import TINY, Workplace

from getam.datasets.demo.scenes import write_demo
from getam.pages.audit.page import SCRIPTS

CANARY = "pwned"
OVERLAY = {"run": "hostile", "data": {"labels": "annotations"}}
INDEX = "results/hostile/index.csv"


class Payload:
    """Makes the file `pwned` where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {CANARY}",)


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path / "work", stand_ins=False, forked=True)


def run(workplace: Workplace, target: str, values: Mapping[str, Any], *words: str) -> subprocess.CompletedProcess[str]:
    """Runs for a target, on the tiny configuration with `values`."""
    overlay = str(workplace.overlay({**OVERLAY, **values}))
    return workplace.snakemake("--max-threads", "1", "--configfile", str(TINY), overlay, *words, "--", target)


def check_refused(workplace: Workplace, result: subprocess.CompletedProcess[str], message: str) -> None:
    output = result.stdout + result.stderr
    assert result.returncode == 1, output
    assert output.count(message) == 1, output
    assert "Traceback" not in output
    check_nothing_executed(workplace)


def check_nothing_executed(workplace: Workplace) -> None:
    assert [path for path in workplace.folder.rglob("*") if path.name == CANARY] == []


def bring_data(folder: Path, *, ids: Mapping[str, str] = {}, classes: Mapping[str, str] = {}) -> None:
    """Writes the demo's data set with other ids and class names."""
    sizes = {"train_images": 4, "val_images": 2, "saliency_images": 4, "saliency_val_images": 2, "image_size": 96}
    write_demo(folder, **sizes, seed=0)
    for path in [path for path in folder.rglob("*") if path.suffix in (".txt", ".xml")]:
        text = path.read_text()
        for old, new in {**ids, **classes}.items():
            written = html.escape(new) if path.suffix == ".xml" else new
            text = re.sub(rf"\b{old}\b", written.replace("\\", r"\\"), text)
        path.write_text(text)
    for old, new in ids.items():
        for path in [path for path in folder.rglob(f"{old}.*") if "/" not in new]:
            path.rename(path.with_name(f"{new}{path.suffix}"))


@pytest.mark.parametrize("section", ["classifier", "deeplab"])
def test_pretrained_weights_run_no_code(workplace: Workplace, section: str) -> None:
    (workplace.folder / "weights.pth").write_bytes(pickle.dumps({"a": Payload()}))
    torch.save({"a": Payload()}, workplace.folder / "zipped.pth")
    for name in ("weights.pth", "zipped.pth"):
        result = run(workplace, f"results/hostile/weights/{section}.json", {section: {"pretrained": name}})
        check_refused(workplace, result, f"{name}: is no file of weights (Weights only load failed)")


def test_a_checkpoint_of_the_authors_runs_no_code(workplace: Workplace) -> None:
    torch.save({"model": Payload()}, workplace.folder / "vitb.pth")
    checkpoint = {"file": "vitb.pth", "backbone": "vitb"}
    result = run(workplace, "results/hostile/imported/model.safetensors", {"checkpoint": checkpoint})
    check_refused(workplace, result, "getam import-checkpoint: vitb.pth: ")


def test_a_pickle_among_the_maps_runs_no_code(workplace: Workplace) -> None:
    assert run(workplace, INDEX, {}).returncode == 0
    results = workplace.folder / "results" / "hostile"
    classes = (results / "classes.txt").read_text().split()
    for stage in ("refined", "saliency"):
        (results / stage / "000").mkdir(parents=True)
        manifest = {"ids": ["train_00000"], "classes": classes, "settings": {}}
        (results / stage / "000" / "manifest.json").write_text(json.dumps(manifest))
    np.save(results / "refined" / "000" / "train_00000.npy", np.array([Payload()], object), allow_pickle=True)
    (results / "saliency" / "000" / "train_00000.png").write_bytes(b"")
    labels = "results/hostile/pseudo_labels/000"
    result = run(workplace, labels, {}, "--allowed-rules", "complete_labels")
    check_refused(workplace, result, "refined/000/train_00000.npy: not a plain .npy array (")
    assert not (workplace.folder / labels).exists()


BOMBS = {
    "billion laughs": '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>',
    "external entity": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>',
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_an_xml_bomb_is_refused(workplace: Workplace, bomb: str) -> None:
    bring_data(workplace.folder / "mine")
    (workplace.folder / "mine" / "Annotations" / "train_00001.xml").write_text(BOMBS[bomb])
    result = run(workplace, INDEX, own_data("mine"))
    check_refused(workplace, result, "mine/Annotations/train_00001.xml: not a harmless, well-formed XML file")
    assert not (workplace.folder / INDEX).exists()


def own_data(folder: str) -> dict[str, Any]:
    return {
        "data": {
            "root": folder,
            "labels": "annotations",
            "saliency_train": f"{folder}/DUTS-TR",
            "saliency_val": f"{folder}/DUTS-TE",
        }
    }


UNSAFE_IDS = ("../train_00000", "/etc/passwd", "-rf", ".hidden", "a\x1b[2Jb", "<script>alert(1)</script>", "a\\b")


@pytest.mark.parametrize("id", UNSAFE_IDS)
def test_an_id_that_is_no_plain_file_name_is_refused(workplace: Workplace, id: str) -> None:
    bring_data(workplace.folder / "mine")
    with (workplace.folder / "mine" / "ImageSets" / "Segmentation" / "train.txt").open("a") as file:
        file.write(f"{id}\n")
    result = run(workplace, INDEX, own_data("mine"))
    check_refused(workplace, result, "not a plain file name")
    assert "\x1b" not in result.stdout + result.stderr


@pytest.mark.parametrize("name", ["a;rm -rf b", "a\x07b", "a\u202eb"])
def test_a_class_name_that_breaks_the_index_is_refused(workplace: Workplace, name: str) -> None:
    bring_data(workplace.folder / "mine", classes={"blip": name})
    result = run(workplace, INDEX, own_data("mine"))
    check_refused(workplace, result, "holds ';' or a control character; rename the class")
    assert not {"\x07", "\u202e"} & {*result.stdout, *result.stderr}


@pytest.mark.parametrize("name", [f"$(touch {CANARY})", "a; touch pwned", "../mine", "a b", "", "-rf", "<b>"])
def test_a_name_of_a_run_is_a_plain_word(workplace: Workplace, name: str) -> None:
    check_refused(workplace, run(workplace, INDEX, {"run": name}), "run: ")
    assert not (workplace.folder / "results").exists()


def hostile(text: str) -> str:
    return text.replace("CANARY", CANARY)


HOSTILE_FOLDER = hostile("mine $(touch CANARY) `touch CANARY`; touch CANARY & 'x' \"y\" *")
HOSTILE_IDS = {
    "train_00000": hostile("a;touch CANARY;$(touch CANARY)"),
    "train_00001": hostile("a b'c\"d`touch CANARY`"),
    "train_00002": "<img src=x onerror=alert(1)>",
    "val_00000": hostile("v && touch CANARY | x & y"),
}
HOSTILE_CLASSES = {
    "blip": "<script>alert(1)<",
    "crux": hostile("$(touch CANARY) `touch CANARY`"),
    "delta": "\"'><b>x & y</b>",
    "zebo": "a | b, c",
}


def test_shell_characters_in_a_data_set_are_only_characters(workplace: Workplace) -> None:
    bring_data(workplace.folder / HOSTILE_FOLDER, ids=HOSTILE_IDS, classes=HOSTILE_CLASSES)
    result = run(workplace, INDEX, own_data(HOSTILE_FOLDER))
    assert result.returncode == 0, result.stdout + result.stderr
    text = (workplace.folder / INDEX).read_text()
    assert all(id in text.replace('""', '"') for id in HOSTILE_IDS.values())
    check_nothing_executed(workplace)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_whole_run_on_hostile_names_shows_them_as_text(workplace: Workplace) -> None:
    bring_data(workplace.folder / HOSTILE_FOLDER, ids=HOSTILE_IDS, classes=HOSTILE_CLASSES)
    values = own_data(HOSTILE_FOLDER) | {"audit": {"images": 8}}
    tiny = yaml.safe_load(TINY.read_text())
    values |= {name: {**tiny[name], "batch_size": 4} for name in ("classifier", "saliency", "deeplab", "end_to_end")}
    result = run(workplace, "all", values, "--resources", "gpu=2")
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    check_nothing_executed(workplace)
    results = workplace.folder / "results" / "hostile"
    audit = results / "audit"
    page = (audit / "index.html").read_text()
    summary = (results / "summary.md").read_text()
    for name in (*HOSTILE_IDS.values(), *HOSTILE_CLASSES.values()):
        assert "<" not in name or name not in page + summary
    shown = json.loads(re.search(r'<script type="application/json" id="audit">(.*?)</script>', page, re.DOTALL)[1])
    assert {*shown["classes"]} >= set(HOSTILE_CLASSES.values())
    listed = (audit / "lists" / "000.js").read_text().removeprefix("getamAudit.list(").removesuffix(");\n")
    assert {row[1] for row in json.loads(listed)} >= set(HOSTILE_IDS.values())
    # The names open no tag: all tags are the template's. tests/pages/test_browser.py opens a page of such names.
    assert page.count("<script") == 1 + len(SCRIPTS)
    assert not re.search(r"<img|<b>|onerror=(?!alert\(1\)\\u003e)", page)
    assert not re.search(r"<(script|b|img)", summary)
