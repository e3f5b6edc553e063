"""A user's file that is changed in place reruns what depends on it, and nothing else does; with stand-ins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.downstream import AFTER_COMPLETION, AFTER_INDEX, DEEPLAB, END_TO_END, SCORES
from support.workplace import Workplace

LONG_AGO = 1_600_000_000
SCORED_AGAIN = {"score_labels", "evaluate_deeplab", "evaluate_end_to_end"} | SCORES
FROM_THE_INDEX = {"index_dataset"} | AFTER_INDEX
FROM_THE_MAPS_OF_SALIENCY = {"collect_saliency"} | AFTER_COMPLETION | END_TO_END
WITHOUT = {
    "saliency": {"source": "none"},
    "completion": {"method": "crf"},
    "end_to_end": {"completion": {"method": "rrm"}, "saliency_weight": 0},
}
IDS = {"train": ("a", "b", "c"), "val": ("d",)}

FILES = (
    "mine/classes.txt",
    "mine/image_labels.txt",
    *(f"mine/JPEGImages/{id}.jpg" for id in ("a", "b", "c", "d", "of_no_list")),
    *(f"mine/Annotations/{id}.xml" for id in ("a", "b", "c", "d")),
    *(f"mine/SegmentationClass/{id}.png" for id in ("a", "d")),
    *(f"{folder}/{name}" for folder in ("pairs", "other_pairs") for name in ("Image/p.jpg", "Mask/p.png")),
    *(f"maps_of_saliency/{id}_sal.png" for id in ("a", "b", "c")),
)


def set_up(folder: Path) -> None:
    """Writes a data set in VOC layout, the same as a list, and as COCO's; all files have a time of long ago."""
    texts = dict.fromkeys(FILES, "x\n")
    texts |= {f"mine/ImageSets/Segmentation/{split}.txt": "\n".join(ids) + "\n" for split, ids in IDS.items()}
    rows = [(id, split, f"mine/JPEGImages/{id}.jpg", "", "cat") for split, ids in IDS.items() for id in ids]
    rows[0] = ("a", "train", "mine/JPEGImages/a.jpg", "mine/SegmentationClass/a.png", "cat")
    lines = [("id", "split", "image", "mask", "labels"), *rows]
    texts["list.csv"] = "".join(f"{','.join(line)}\n" for line in lines)
    for split in IDS:
        texts[f"coco/annotations/instances_{split}2014.json"] = texts[f"coco/{split}2014/{split}_1.jpg"] = "x\n"
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (LONG_AGO, LONG_AGO))


class Case(NamedTuple):
    overlay: Mapping[str, Any]
    edits: Mapping[str, set[str]]
    """A file -> the rules that its change reruns."""
    target: str = "all"


def data(**values: Any) -> dict[str, Any]:
    return {"root": "mine", "saliency_train": "pairs", "saliency_val": "other_pairs", "shards": 1} | values


LABELS = {"index_dataset", "train_classifier", "dump_maps", "refine_maps", "complete_labels", "score_labels"}
CASES = {
    "annotations": Case(
        {"data": data(labels="annotations")},
        {
            "mine/Annotations/b.xml": FROM_THE_INDEX,
            "mine/JPEGImages/d.jpg": FROM_THE_INDEX,
            "mine/SegmentationClass/a.png": SCORED_AGAIN,
            "mine/image_labels.txt": set(),
            "mine/JPEGImages/of_no_list.jpg": set(),
            "other_pairs/Mask/p.png": {"train_saliency", "predict_saliency"} | AFTER_COMPLETION | END_TO_END,
        },
    ),
    "maps of one's own, trained on masks": Case(
        {
            "data": data(labels="file"),
            "saliency": {"source": "folder", "folder": "maps_of_saliency"},
            "deeplab": {"labels": "truth"},
        },
        {
            "mine/image_labels.txt": (FROM_THE_INDEX - {"predict_saliency"}) | FROM_THE_MAPS_OF_SALIENCY,
            "maps_of_saliency/c_sal.png": FROM_THE_MAPS_OF_SALIENCY,
            "mine/SegmentationClass/a.png": SCORED_AGAIN | DEEPLAB,
            "mine/Annotations/b.xml": set(),
            "pairs/Mask/p.png": set(),
        },
    ),
    "labels of masks": Case(
        {"data": data(labels="masks")} | WITHOUT, {"mine/SegmentationClass/a.png": LABELS}, "score_labels"
    ),
    "folder": Case(
        {"data": data(format="folder", root="list.csv")} | WITHOUT,
        {
            "mine/JPEGImages/d.jpg": LABELS,
            "mine/SegmentationClass/a.png": {"score_labels"},
            "mine/SegmentationClass/d.png": set(),
        },
        "score_labels",
    ),
    "coco": Case(
        {"data": data(format="coco", root="coco")} | WITHOUT,
        {"coco/val2014/val_1.jpg": LABELS, "coco/annotations/instances_val2014.json": LABELS},
        "score_labels",
    ),
}


def elsewhere(workplace: Workplace, folder: Path) -> Workplace:
    """A copy of the whole folder, as rsync -a makes it for an archive that keeps seconds alone."""
    copy = workplace.copied(folder)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_relative_to(folder / "results"):
            seconds = int(path.stat().st_mtime)
            os.utime(path, (seconds, seconds))
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_file_that_was_changed_in_place_reruns_what_depends_on_it(tmp_path: Path, name: str) -> None:
    workplace = Workplace(tmp_path / "work", stand_ins=True)
    set_up(workplace.folder)
    words = ["--configfile", str(workplace.overlay(CASES[name].overlay)), "--", CASES[name].target]
    finished = workplace.snakemake(*words, cores=8)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    copy = elsewhere(workplace, tmp_path / "copy")
    assert workplace.plan(*words) == set()
    assert copy.plan(*words) == set()
    for file, rerun in CASES[name].edits.items():
        path = copy.folder / file
        # The same length, and a time before the run: the text of an older copy of the file.
        path.write_text("y\n")
        os.utime(path, (LONG_AGO + 1000, LONG_AGO + 1000))
        assert copy.plan(*words) == rerun, file
        os.utime(path)
        assert copy.plan("--rerun-triggers", "mtime", *words) == rerun, file
        os.utime(path, (LONG_AGO, LONG_AGO))
        assert copy.plan(*words) == set()
