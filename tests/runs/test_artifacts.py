"""The table of what stages write, beside the workflow's rules; what a run's network and maps are called everywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.run_files import CLASSES, halves, segmentation, write_run
from support.workplace import PROJECT, Workplace

from getam.datasets.index import read_index
from getam.experiments.table_runs import content_flags
from getam.experiments.variants import OF_A_ROUND, PARTS, Variants
from getam.pages.audit.gallery import write_gallery
from getam.pages.contact_sheet import write_contact_sheet
from getam.pages.overview import write_overview
from getam.pages.plots.run import write_plots
from getam.pages.text.comparison_page import write_comparison
from getam.pages.text.comparison_text import comparison_text
from getam.pages.text.documents import as_html, as_markdown
from getam.pages.text.summary import scores_table, summary_document
from getam.runs.artifacts import (
    ARTIFACTS,
    Titles,
    capitalized,
    common_segmenter_title,
    maps_title,
    path_of,
    segmenter_title,
)
from getam.runs.comparison import compare_runs
from getam.runs.recorded import titles_of
from getam.runs.summary import summarize
from getam.settings.config import validate_config
from getam.settings.deeplab import SEGMENTERS
from getam.settings.maps import MAP_METHODS
from getam.settings.reading import merge, read_yaml
from getam.system.files import read_json, write_array, write_json
from getam.system.image_files import write_labels

# The table

WITHOUT_WEIGHTS = ("saliency", "deeplab", "end_to_end")


def test_names_and_paths_are_unique() -> None:
    for values in ([artifact.name for artifact in ARTIFACTS], [artifact.path for artifact in ARTIFACTS]):
        assert len({*values}) == len(values)
    assert path_of("maps", "{shard}") == "maps/{shard}"
    with pytest.raises(KeyError):
        path_of("mapps")


def test_every_part_of_a_run_has_files_and_every_file_a_known_part() -> None:
    # The files of further rounds have the paths of the first one's, in a folder of their own.
    assert {artifact.part for artifact in ARTIFACTS} - {""} == PARTS.keys() - {*OF_A_ROUND.values()}


def test_it_is_imported_without_what_takes_seconds() -> None:
    command = "import sys; before = {*sys.modules}; import getam.runs.artifacts; print(*({*sys.modules} - before))"
    output = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, cwd=PROJECT, check=True)
    packages = {name.split(".")[0] for name in output.stdout.split()}
    assert packages & {"torch", "numpy", "PIL", "cv2", "matplotlib", "timm", "jinja2"} == set()


def is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def test_the_rules_write_what_the_table_says(tmp_path: Path) -> None:
    workplace = Workplace(tmp_path / "w", stand_ins=True)
    wanted = ("all", "table4", "results/tiny/weights/classifier.json", "results/tiny/deeplab/predictions_test")
    wanted += ("results/tiny/voc_submission",)
    overlay = workplace.overlay({"run": "tiny", "classifier": {"pretrained": True}})
    (workplace.folder / "data/demo/ImageSets/Segmentation").mkdir(parents=True)
    (workplace.folder / "data/demo/ImageSets/Segmentation/test.txt").touch()
    result = workplace.snakemake("--summary", "--configfile", str(overlay), "--resources", "gpu=2", "--", *wanted)
    assert result.returncode == 0, result.stderr
    lines = (line.split("\t") for line in result.stdout.splitlines() if line.startswith("results/tiny/"))
    written = {(rule, path.removeprefix("results/tiny/")) for path, _, rule, *_ in lines}
    for rule, path in written:
        known = [artifact.path for artifact in ARTIFACTS if artifact.stage == rule]
        assert any(is_inside(path, folder) for folder in known), (rule, path)
    # What other configurations have: masks of COCO, an imported checkpoint, further pretrained weights.
    others = {path_of(name) for name in ("masks", "imported", *(f"{each}_weights" for each in WITHOUT_WEIGHTS))}
    for artifact in ARTIFACTS:
        found = any(rule == artifact.stage and is_inside(path, artifact.path) for rule, path in written)
        assert found == (artifact.path not in others), artifact


def test_every_method_and_architecture_has_a_title() -> None:
    for name, segmenter in SEGMENTERS.items():
        assert segmenter_title(name) == segmenter.title
    for name, method in MAP_METHODS.items():
        assert maps_title(name) == f"{method.name} maps"


# What networks and maps are called


def test_titles_follow_from_what_is_recorded() -> None:
    # Earlier versions recorded no architecture, and had the paper's alone.
    assert [segmenter_title(name) for name in (None, "deeplabv2", "segformer", "later")] == [
        "DeepLab", "DeepLab", "SegFormer", "later"
    ]  # fmt: skip
    assert [maps_title(name) for name in (None, "getam", "cam", "later")] == [
        "raw maps", "GETAM maps", "CAM maps", "later maps"
    ]  # fmt: skip
    assert [maps_title("getam", name) for name in (None, "none", "attention", "both")] == [
        "GETAM maps", "GETAM maps", "propagated GETAM maps", "propagated GETAM maps"
    ]  # fmt: skip
    assert common_segmenter_title(["segformer", "segformer"]) == "SegFormer"
    assert common_segmenter_title(["segformer", None]) == "segmentation network"
    assert capitalized("end to end") == "End to end"
    assert Titles("{maps}").fill("{segmenter}, {maps}") == "{maps}, raw maps"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of both paths, with SegFormer in DeepLab's place and the maps of cam."""
    return segformer_run(tmp_path / "demo", architecture="segformer", method="cam")


def segformer_run(run: Path, *, architecture: str, method: str) -> Path:
    write_run(run)
    scores = segmentation(0.8, 0.6, 0.7)
    scores["protocol"]["architecture"] = architecture
    write_json(run / "deeplab" / "metrics.json", scores)
    write_json(run / "end_to_end" / "metrics.json", segmentation(0.5, 0.5, 0.5))
    write_labels(run / "end_to_end" / "predictions" / "three.png", halves(0, 1))
    # The worst half of the images is shown.
    write_labels(run / "deeplab" / "predictions" / "two.png", halves(1, 2))
    for shard, id in (("000", "one"), ("001", "two")):
        write_array(run / "maps" / shard / f"{id}.npy", halves(1, 2)[None].astype("float32"))
        write_json(run / "maps" / shard / "manifest.json", {"ids": [id], "settings": {"method": method}})
    model = {"kind": "deeplab", "settings": {"architecture": architecture}, "history": [{"segmentation": 0.5}]}
    write_json(run / "deeplab" / "model.json", model)
    write_json(run / "deeplab" / "predictions" / "manifest.json", {"ids": ["three"], "settings": {"flip": True}})
    return run


def audit_page(run: Path) -> str:
    (run / "audit").mkdir()
    rows = read_index(run / "index.csv").rows
    write_gallery(run, run / "audit", rows=rows, classes=CLASSES, shards=2, images=0, threads=1)
    return (run / "audit" / "index.html").read_text(encoding="utf-8")


def overview_page(run: Path) -> str:
    (run / "overview").mkdir()
    write_overview(run, run / "overview")
    return (run / "overview" / "overview.html").read_text(encoding="utf-8")


def contact_sheet_page(run: Path) -> str:
    rows = read_index(run / "index.csv").rows
    write_contact_sheet(run, run / "sheet.html", rows=rows, classes=CLASSES, shards=2)
    return (run / "sheet.html").read_text(encoding="utf-8")


def plot_texts(run: Path) -> dict[str, str]:
    (run / "plots").mkdir()
    write_plots(run, run / "plots")
    svg = "{http://www.w3.org/2000/svg}text"
    return {
        path.stem: "\n".join(element.text or "" for element in ElementTree.parse(path).iter(svg))
        for path in (run / "plots").iterdir()
    }


def test_the_audit_page_names_network_and_maps(run: Path) -> None:
    page = audit_page(run)
    assert '"raw": "CAM maps"' in page
    # As a layer, and as a score of an image.
    assert page.count('"deeplab": "SegFormer"') == 2
    assert "SegFormer mIoU" in page
    assert "DeepLab" not in page
    assert "GETAM" not in page


def test_the_overview_names_the_network(run: Path) -> None:
    page = overview_page(run)
    for text in (
        "<td>SegFormer mIoU</td>",
        "<h3>SegFormer</h3>",
        "<h3>SegFormer&#39;s predictions</h3>",
        "Confusion of SegFormer: each row",
        "<figcaption>Training of SegFormer</figcaption>",
    ):
        assert text in page
    # Its largest confusions, and its recorded settings.
    assert page.count("<h3>SegFormer</h3>") == 2
    assert "DeepLab" not in page


def test_the_contact_sheet_names_the_network(run: Path) -> None:
    page = contact_sheet_page(run)
    assert "<figcaption>SegFormer</figcaption>" in page
    assert "IoU SegFormer 0.250" in page
    assert "DeepLab" not in page


def test_the_plots_name_the_network(run: Path) -> None:
    found = plot_texts(run)
    assert "SegFormer, val, mean 0.700" in found["iou"]
    assert "SegFormer, val: % of each row's pixels" in found["confusion_deeplab"]
    assert "SegFormer" in found["training_deeplab"].splitlines()
    assert "End to end, val: % of each row's pixels" in found["confusion_end_to_end"]
    assert not [name for name, text in found.items() if "DeepLab" in text]


def test_the_summary_names_the_network(run: Path) -> None:
    summary = summarize(run)
    document = summary_document(summary, "demo")
    for text in (as_markdown(document), as_html(document), scores_table(summary)):
        assert "SegFormer pixel accuracy" in text
        assert "DeepLab" not in text
    assert '<th class="right">SegFormer (val)</th>' in as_html(document)


def test_a_network_that_lies_elsewhere_is_named_by_its_scores(run: Path) -> None:
    (run / "deeplab" / "model.json").unlink()
    assert titles_of(run) == Titles("SegFormer", "CAM maps")
    scores = read_json(run / "deeplab" / "metrics.json")
    del scores["protocol"]["architecture"]
    write_json(run / "deeplab" / "metrics.json", scores)
    assert titles_of(run).segmenter == "DeepLab"


def test_propagated_maps_are_named_so(run: Path) -> None:
    manifest = min(run.glob("maps/*/manifest.json"))
    content = read_json(manifest)
    content["settings"]["propagation"] = "features"
    write_json(manifest, content)
    assert titles_of(run).maps == "propagated CAM maps"


def test_the_papers_run_is_named_as_the_paper_names_it(tmp_path: Path) -> None:
    run = segformer_run(tmp_path / "demo", architecture="deeplabv2", method="getam")
    page = audit_page(run)
    assert '"raw": "GETAM maps"' in page
    assert page.count('"deeplab": "DeepLab"') == 2
    assert "Confusion of DeepLab: each row" in overview_page(run)


def test_a_name_that_a_file_holds_is_text_on_every_page(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>{maps}"
    run = segformer_run(tmp_path / "demo", architecture=hostile, method=hostile)
    summary = as_html(summary_document(summarize(run), "demo"))
    for page in (audit_page(run), overview_page(run), contact_sheet_page(run), summary):
        assert "<script>alert" not in page
        assert "alert(1)" in page
    assert f"{hostile}, val, mean 0.700" in plot_texts(run)["iou"]


def test_runs_of_two_networks_are_compared_under_both_names(run: Path, tmp_path: Path) -> None:
    other = segformer_run(tmp_path / "other", architecture="deeplabv2", method="cam")
    comparison = compare_runs(other, run)
    changes = {score.name: score.change for score in comparison.scores}
    assert changes["DeepLab / SegFormer mIoU"] == 0
    assert changes["End to end mIoU"] == 0
    assert "DeepLab mIoU" not in changes
    assert "DeepLab / SegFormer pixel accuracy" in comparison_text(comparison)
    write_comparison(comparison, tmp_path / "compare.html")
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "<td>DeepLab / SegFormer mIoU</td>" in page
    assert "<td>deeplab.architecture</td>" in page
    same = {score.name for score in compare_runs(run, run).scores}
    assert "SegFormer mIoU" in same
    assert not [name for name in same if "DeepLab" in name]


def test_the_tables_of_a_run_name_its_network_and_a_sweep_of_networks_none() -> None:
    def content(overlay: dict[str, object], table: str) -> str:
        values = merge(read_yaml(PROJECT / "config.yaml"), {"deeplab": {"architecture": "segformer"}, **overlay})
        return " ".join(content_flags(Variants(values, validate_config(values)), table))

    for table in ("table3", "table6", "table7"):
        text = content({}, table)
        assert '"SegFormer, val"' in text
        assert "of the SegFormer that is trained on them" in text
        assert "DeepLab" not in text
    assert '"SegFormer, val"' in content({"sweep": {"key": "completion.gamma", "values": [32, 64]}}, "sweep")
    sweep = {"sweep": {"key": "deeplab.architecture", "values": ["deeplabv2", "segformer"]}}
    assert '"Segmentation network, val"' in content(sweep, "sweep")
    assert '"SegFormer, val"' not in content(sweep, "sweep")
