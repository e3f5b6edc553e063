"""The hash of a stage's sources: which modules count for which stage, beside what Python really imports."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

import deeplab.cli
import getam.cli
from getam.system import version
from getam.system.version import ROOT, import_closure, source_hash

STAGES = {
    name.replace("-", "_"): f"{package}.stages.{name.replace('-', '_')}"
    for package, stages in (("getam", getam.cli.STAGES), ("deeplab", deeplab.cli.STAGES))
    for name in stages
    if name not in getam.cli.TOOLS | deeplab.cli.TOOLS
}
ALL = set(STAGES)
DEEPLAB = {"train_deeplab", "predict_deeplab", "relabel", "evaluate_deeplab"}
TRAININGS = {"train_classifier", "train_saliency", "train_deeplab", "train_end_to_end"}
END_TO_END = {"import_checkpoint", "train_end_to_end", "predict_end_to_end"}
LABELS = {"complete_labels", "time_labels", "train_end_to_end"}
PREDICTIONS = {"predict_deeplab", "predict_end_to_end", "relabel"}
SEGMENTERS = {"train_deeplab", "predict_deeplab", "relabel"}
CLASSIFIER = {"train_classifier", "dump_maps"} | END_TO_END
NETWORKS = CLASSIFIER | TRAININGS | SEGMENTERS | {"fetch_weights", "predict_saliency"}
ON_GPUS = (NETWORKS | {"refine_maps", "time_labels"}) - {"fetch_weights", "import_checkpoint"}
FIGURES = {"compare_maps", "plot_fusions", "time_labels"}
TABLES = FIGURES | {"make_table"}
TITLES = (TABLES | {"audit", "plot_scores", "summary"}) - {"time_labels"}
SCORED = {
    "evaluate_deeplab",
    "evaluate_end_to_end",
    "score_labels",
    "train_classifier",
    "train_end_to_end",
} | PREDICTIONS
WITHOUT_IMAGES = TABLES | {
    "audit", "collect_maps", "collect_saliency", "complete_labels", "evaluate_deeplab", "evaluate_end_to_end",
    "index_dataset", "make_demo", "plot_scores", "score_labels", "summary",
}  # fmt: skip
WITHOUT_SHARDS = {"fetch_weights", "index_dataset", "make_demo", "make_table", "plot_scores", "summary"}

STAGES_OF: dict[str, set[str]] = {
    "getam.maps.attention getam.maps.baselines getam.maps.recorder getam.maps.propagation": {
        "dump_maps",
        "train_end_to_end",
    },
    "getam.labels.class_maps": {"audit", "compare_maps", "plot_fusions", "dump_maps", "refine_maps", "score_labels"}
    | LABELS
    | PREDICTIONS,
    "getam.labels.refined_maps": {
        "audit",
        "compare_maps",
        "complete_labels",
        "refine_maps",
        "score_labels",
        "time_labels",
    },
    "getam.labels.crf getam.labels.mean_field": LABELS | PREDICTIONS,
    "getam.networks.classifier getam.networks.released": CLASSIFIER,
    "getam.networks.dpt getam.networks.tokens": CLASSIFIER | SEGMENTERS,
    "getam.networks.decoders getam.networks.linear_head": END_TO_END | SEGMENTERS,
    "getam.datasets.coco getam.datasets.folder getam.datasets.formats": {"index_dataset"},
    "getam.datasets.repeated getam.datasets.sources": {"index_dataset"},
    "getam.labels.completion getam.labels.decisions": {"audit"} | LABELS,
    "getam.labels.methods getam.labels.rrm getam.labels.bands": LABELS,
    # Names and paths of what stages write: no training, and nothing that maps or labels, may hang on them.
    "getam.runs.artifacts getam.runs.summary": TITLES,
    "getam.pages.text.documents getam.pages.text.tables": {"summary"} | TABLES,
    "getam.pages.rendering": {"audit", "summary"} | TABLES,
    "getam.pages.text.summary": {"summary"},
    "getam.experiments.label_times": {"time_labels"},
    "getam.pages.map_sheet": {"compare_maps"},
    "getam.experiments.map_values": {"plot_fusions"},
    "getam.system.names": ALL
    - {"evaluate_deeplab", "evaluate_end_to_end", "fetch_weights", "make_demo", "voc_submission"},
    "getam.datasets.demo.scenes getam.datasets.demo.drawing getam.datasets.demo.shapes": {"make_demo"},
    "getam.system.distributed": (NETWORKS - {"fetch_weights", "predict_saliency"}),
    "getam.training.double_backward": {"train_end_to_end"},
    "getam.datasets.duts": {"train_saliency"},
    "getam.networks.end_to_end": END_TO_END,
    "getam.scores.evaluation": SCORED,
    "getam.datasets.working_size": LABELS | SCORED | {"refine_maps"},
    "getam.scores.probe": {"train_classifier"},
    "getam.system.gpu": ON_GPUS,
    "getam.training.losses": SEGMENTERS | {"train_end_to_end", "train_saliency"},
    "getam.networks.backbones getam.networks.pretrained": NETWORKS,
    "getam.networks.building": NETWORKS - {"fetch_weights"},
    "getam.networks.fine_tuning": NETWORKS - {"fetch_weights"},
    "getam.datasets.images getam.system.seeds": ALL - WITHOUT_IMAGES,
    "getam.pages.audit.gallery getam.runs.image_results getam.pages.audit.page": {"audit"},
    "getam.pages.pictures": {"audit", "compare_maps", "train_end_to_end"},
    "getam.pages.plots.style": (TABLES - {"compare_maps"}) | {"audit", "plot_scores"},
    "getam.scores.prediction": PREDICTIONS | {"train_end_to_end"},
    "getam.system.progress getam.system.streams": ALL
    - {"evaluate_deeplab", "evaluate_end_to_end", "fetch_weights", "make_demo", "plot_scores", "summary"}
    - {"compare_maps", "make_table", "time_labels", "voc_submission"},
    "getam.maps.pamr": {"refine_maps", "train_end_to_end"},
    "getam.runs.curves getam.pages.plots.run getam.pages.plots.scores getam.runs.timings getam.pages.plots.training": {
        "audit",
        "plot_scores",
    },
    "getam.pages.contact_sheet getam.pages.thumbnails getam.scores.images getam.pages.overview": {"audit"},
    "getam.runs.recorded": {"audit", "plot_scores"},
    "getam.runs.comparison getam.pages.text.comparison_page getam.pages.text.comparison_text": set(),
    "getam.runs.folder": TITLES,
    "getam.networks.saliency": {"predict_saliency", "train_saliency"},
    "getam.scores.saliency": {"train_saliency"},
    "getam.datasets.class_names getam.datasets.consistency getam.datasets.sbd getam.datasets.voc"
    " getam.datasets.checked_files": {
        "import_checkpoint",
        "index_dataset",
    },
    "getam.runs.verdicts getam.labels.corrections": {"complete_labels"},
    # Read by hand-run commands alone.
    "getam.labels.outlines": set(),
    "getam.datasets.naming": {"collect_maps", "collect_saliency"},
    "getam.datasets.voc_files getam.datasets.named_files getam.datasets.photographs getam.datasets.documents": {
        "import_checkpoint",
        "index_dataset",
    },
    "getam.datasets.annotations.matching getam.datasets.annotations.records getam.datasets.annotations.tables": {
        "import_checkpoint",
        "index_dataset",
    },
    "getam.scores.voc_submission": {"voc_submission"},
    "getam.training.loop getam.system.arguments.training getam.training.folder getam.training.log": TRAININGS,
    "getam.training.optimization getam.training.stop_signals getam.training.batches getam.training.position": TRAININGS,
    "getam.networks.checkpoints getam.networks.supervision": ALL
    - {"audit", "fetch_weights", "index_dataset", "make_demo", "plot_scores", "summary", "voc_submission"}
    - TABLES,
    "getam.networks.weight_files": ALL
    - {"audit", "index_dataset", "make_demo", "plot_scores", "summary", "voc_submission"}
    - TABLES,
    "getam.datasets.shards getam.system.version getam.system.workers": ALL - WITHOUT_SHARDS,
    "getam.datasets.index": ALL - {"fetch_weights", "make_demo", "make_table", "plot_scores", "summary"},
    "getam.experiments.seed_report getam.experiments.table_report getam.experiments.table_scores": {"make_table"},
    "getam.pages.plots.spread getam.runs.spread": {"make_table"},
    "getam getam.errors getam.system.files getam.system.opening getam.system.arguments.machine": ALL,
    "getam.system.image_files getam.system.image_headers": ALL - {"make_table", "plot_scores", "summary"},
    "getam.system.arguments.network": ON_GPUS,
    # Sections: an edit of the audit page's settings makes that page anew, and no network.
    "getam.settings.section getam.settings.foreign": ALL,
    "getam.settings.choices": ALL
    - {"collect_maps", "collect_saliency", "evaluate_deeplab", "evaluate_end_to_end", "fetch_weights", "make_demo"}
    - {"predict_saliency", "score_labels", "train_classifier", "train_saliency", "voc_submission"},
    "getam.settings.demo": {"make_demo"},
    "getam.settings.data": {"index_dataset"},
    "getam.settings.classifier": CLASSIFIER,
    "getam.settings.maps": TITLES | {"dump_maps", "refine_maps"} | END_TO_END,
    "getam.settings.saliency": {"predict_saliency", "train_saliency"},
    "getam.settings.completion": {"audit", "complete_labels", "time_labels"} | END_TO_END,
    "getam.settings.crf": {"audit", "complete_labels", "time_labels"} | END_TO_END | SCORED,
    "getam.settings.prediction": SCORED,
    "getam.settings.relabel": {"relabel"},
    "getam.settings.deeplab": TITLES | SEGMENTERS,
    "getam.settings.decoder": TITLES | END_TO_END | SEGMENTERS,
    "getam.settings.end_to_end": END_TO_END,
    "getam.settings.audit": {"audit"},
    "getam.settings.score_labels": {"score_labels"},
    "getam.settings.patches": NETWORKS,
    "getam.settings.networks": ALL - {"index_dataset", "make_demo", "time_labels", "voc_submission"},
    "getam.settings.training": ALL
    - {"collect_maps", "collect_saliency", "complete_labels", "evaluate_deeplab", "evaluate_end_to_end"}
    - {"index_dataset", "make_demo", "score_labels", "time_labels"},
    "getam.settings.reading": {"import_checkpoint"},
    "deeplab": DEEPLAB,
    "deeplab.model deeplab.multi_scale deeplab.segmenters deeplab.vit_segmenters": SEGMENTERS,
    # Read by hand-run commands alone.
    "getam.networks.imports.saliency deeplab.import_kazuto1011_state": set(),
    "getam.datasets.annotations.finding getam.datasets.annotations.json_files getam.datasets.annotations.masks": set(),
    "getam.datasets.annotations.xml_files getam.datasets.split getam.settings.recipes getam.runs.hours": set(),
    "getam.pages.predicted getam.scores.segmenter": set(),
    "getam.pages.text.model_card getam.scores.export getam.scores.regions getam.datasets.archives": set(),
    # The commands, and what the workflow alone reads.
    "getam.__main__ getam.cli deeplab.__main__ deeplab.cli": set(),
    "getam.experiments.table_runs getam.experiments.tables getam.experiments.variants": set(),
    "getam.settings.config getam.settings.flags getam.settings.help getam.settings.tables": set(),
}
"""The stages that an edit of each module reruns, but for a stage's own."""


def modules() -> Iterator[str]:
    """All modules but the packages of wings, which are empty (tests/test_layout.py)."""
    for package in version.PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if path.name == "__init__.py" and not path.stat().st_size:
                continue
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_every_module_counts_for_the_stages_that_import_it() -> None:
    expected = {name: stages for names, stages in STAGES_OF.items() for name in names.split()}
    expected |= {module: {stage} for stage, module in STAGES.items()}
    closures = {stage: import_closure(module) for stage, module in STAGES.items()}
    for module in modules():
        found = {stage for stage, closure in closures.items() if module in closure}
        wanted = set() if ".tools" in module else expected[module]
        assert found == wanted, module
    assert expected.keys() <= set(modules())


IMPORTS = """
import importlib, json, os, sys
import torch, torchvision, timm, segmentation_models_pytorch, torchmetrics, matplotlib
for stage in json.loads(sys.argv[1]):
    reading, writing = os.pipe()
    if os.fork() == 0:
        importlib.import_module(stage)
        names = [name for name in sys.modules if name.split(".")[0] in ("getam", "deeplab")]
        os.write(writing, json.dumps(names).encode())
        os._exit(0)
    os.close(writing)
    print(json.dumps([stage, json.loads(os.fdopen(reading).read())]))
    os.wait()
"""

INSIDE_OF_FUNCTIONS = {
    "getam.networks.checkpoints",
    "getam.networks.weight_files",
    "getam.labels.bands",
    "getam.labels.completion",
    "getam.labels.decisions",
    "getam.labels.mean_field",
}
"""What stages import only when they run."""


def test_nothing_that_python_imports_is_left_out_and_little_else_is_in() -> None:
    command = [sys.executable, "-c", IMPORTS, json.dumps([*STAGES.values()])]
    output = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    imported = {stage: set(names) for stage, names in map(json.loads, output.splitlines())}
    assert imported.keys() == set(STAGES.values())
    for stage, names in imported.items():
        assert names <= import_closure(stage), stage
        assert import_closure(stage) - names <= INSIDE_OF_FUNCTIONS, stage


SYNTHETIC = {
    "getam/__init__.py": "def __getattr__(name):\n    from getam.lazy import Lazy\n    return Lazy\n",
    "getam/lazy.py": "class Lazy: ...\n",
    "getam/errors.py": (ROOT / "getam" / "errors.py").read_text(),
    "getam/system/__init__.py": "",
    "getam/system/version.py": (ROOT / "getam" / "system" / "version.py").read_text(),
    "getam/pages/__init__.py": "",
    "getam/pages/overview.py": "",
    "getam/pages/templates/page.html": "<html>",
    "getam/one.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from getam.types import T\n"
    "else:\n    import getam.other\n",
    "getam/types.py": "",
    "getam/other.py": "def f():\n    try:\n        from getam import deep\n    except ImportError:\n        pass\n",
    "getam/deep.py": "import os\nimport numpy.linalg\n",
    "getam/reads.py": "from getam import Lazy\n",
    "getam/shows.py": "from getam.pages.overview import show\n",
    "deeplab/__init__.py": "",
}

ASK = """
import json, sys
from getam.system.version import import_closure, source_hash
modules = sys.argv[1:]
print(json.dumps({name: [sorted(import_closure(name)), source_hash(name)] for name in modules}))
"""


class Package:
    """Packages of few lines by the names of getam and deeplab, with the real version.py among them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in SYNTHETIC.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def ask(self, *modules: str) -> dict[str, tuple[set[str], str]]:
        """The import closure and the hash of each module."""
        environment = os.environ | {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", ASK, *modules]
        result = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=True)
        return {name: (set(closure), digest) for name, (closure, digest) in json.loads(result.stdout).items()}


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return Package(tmp_path)


def test_imports_are_followed_as_they_run(package: Package) -> None:
    found = package.ask("getam.one", "getam.reads")
    assert found["getam.one"][0] == {"getam", "getam.one", "getam.other", "getam.deep"}
    assert found["getam.reads"][0] == {"getam", "getam.reads", "getam.lazy"}
    # A graph that was kept on disk would lie in the folder of a user's run.
    assert {path.name for path in package.folder.iterdir()} == {"getam", "deeplab"}


def test_a_source_that_is_no_python_is_named(package: Package) -> None:
    package.write("getam/types.py", "class T: ...\ndef broken(:\n")
    with pytest.raises(subprocess.CalledProcessError) as error:
        package.ask("getam.one")
    assert re.search(r"InputError: .*getam/types\.py:2: not valid Python", error.value.stderr)


def test_a_hash_is_of_content_names_and_what_a_module_shows(package: Package) -> None:
    def hashes() -> dict[str, str]:
        names = ("getam.one", "getam.deep", "getam.shows")
        return {name: digest for name, (_, digest) in package.ask(*names).items()}

    before = hashes()
    assert hashes() == before
    package.write("getam/types.py", "T = int\n")
    assert hashes() == before
    package.write("getam/deep.py", "import os\n")
    after = hashes()
    assert {name for name in before if before[name] != after[name]} == {"getam.one", "getam.deep"}
    package.write("getam/pages/templates/page.html", "<p>")
    assert {name for name, value in hashes().items() if value != after[name]} == {"getam.shows"}


def test_the_templates_of_every_page_count() -> None:
    graph = grimp.build_graph(*version.PACKAGES, cache_dir=None, exclude_type_checking_imports=True)
    assert graph.find_modules_that_directly_import("getam.pages.rendering") == version.FILES_OF.keys()
    for name in version.FILES_OF.values():
        assert (ROOT / "getam" / "pages" / name).exists()


def test_an_edit_of_the_audit_page_makes_no_table_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in version.PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(version, "ROOT", tmp_path)

    def hashes() -> dict[str, str]:
        source_hash.cache_clear()
        return {stage: source_hash(f"getam.stages.{stage}") for stage in sorted(TABLES | {"audit", "summary"})}

    try:
        before = hashes()
        (tmp_path / "getam" / "pages" / "templates" / "audit" / "app.js").write_text("")
        scripts = hashes()
        (tmp_path / "getam" / "pages" / "templates" / "document.html").write_text("")
        document = hashes()
    finally:
        source_hash.cache_clear()
    assert {stage for stage in before if before[stage] != scripts[stage]} == {"audit"}
    assert {stage for stage in before if scripts[stage] != document[stage]} == TABLES | {"audit", "summary"}
