"""The tables of methods: facts and functions agree, and an entry of each is all that a new method takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.classifiers import classifier
from support.completion import COMPLETION
from support.networks import images_of
from support.workplace import PROJECT

from deeplab.model import BUILDERS, build_deeplab
from deeplab.segmenters import OPTIONS, SmpSegmenter
from getam.cli import STAGES, command
from getam.datasets.formats import FORMATS, DatasetFormat
from getam.datasets.index import Index, IndexRow, read_index, write_index
from getam.datasets.shards import new_shard
from getam.datasets.sources import Sources
from getam.errors import InputError, enumerated
from getam.experiments.label_times import Item, time_labels
from getam.experiments.tables import definitions
from getam.labels.methods import LABEL_MAKERS, make_labels
from getam.maps.attention import ClassMaps
from getam.maps.baselines import MAP_MAKERS, MapMaker, StepPass, create_maps, pass_with_maps
from getam.settings.completion import LABEL_METHODS, LabelMethod, LabelSettings
from getam.settings.config import Config, editor_schema, validate_config
from getam.settings.data import DATA_FORMATS, DataFormat, IndexSettings
from getam.settings.deeplab import SEGMENTERS, DeepLabSettings, Segmenter
from getam.settings.maps import MAP_METHODS, ActivationSettings, MapMethod
from getam.settings.reading import merge, read_yaml
from getam.system.files import read_json, write_array
from getam.system.image_files import read_labels

BASE = read_yaml(PROJECT / "config.yaml")
TABLES: dict[str, tuple[Mapping[str, Any], Collection[str]]] = {
    "map methods": (MAP_METHODS, MAP_MAKERS),
    "label methods": (LABEL_METHODS, LABEL_MAKERS),
    "data formats": (DATA_FORMATS, FORMATS),
    "segmenters that smp has not": ({key: s for key, s in SEGMENTERS.items() if not s.in_smp}, BUILDERS),
}


def config(overlay: Mapping[str, Any]) -> Config:
    return validate_config(merge(BASE, overlay))


@pytest.mark.parametrize("name", TABLES)
def test_every_method_has_facts_and_functions(name: str) -> None:
    facts, functions = TABLES[name]
    assert [*facts] == [*functions]


def test_the_facts_agree_with_the_functions_and_the_settings() -> None:
    for key, method in MAP_METHODS.items():
        assert method.in_training_step == (MAP_MAKERS[key].of_step is not None), key
        assert {*method.options} <= ActivationSettings.model_fields.keys(), key
    for key, segmenter in SEGMENTERS.items():
        assert {*segmenter.options} <= (OPTIONS.keys() if segmenter.in_smp else DeepLabSettings.model_fields.keys()), (
            key
        )
    assert all(method.needs_saliency for method in LABEL_METHODS.values() if method.by_rules)


def test_the_facts_need_no_torch() -> None:
    code = "import sys, getam.settings, getam.datasets.formats, getam.labels.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0


@pytest.mark.parametrize("table", [MAP_METHODS, LABEL_METHODS, DATA_FORMATS, SEGMENTERS])
def test_the_schema_for_editors_lists_the_keys(table: Mapping[str, object]) -> None:
    def enums(schema: Any) -> list[list[str]]:
        below = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
        own = [schema["enum"]] if isinstance(schema, dict) and "enum" in schema else []
        return own + [found for part in below for found in enums(part)]

    assert [*table] in enums(editor_schema())


def test_an_unknown_method_never_falls_through(config: Config) -> None:
    """Settings that skip their validation, as a caller from Python may make them."""

    def unknown(settings: Any, name: str) -> Any:
        return settings.model_copy(update={name: "other"})

    step = (torch.nn.Identity(), torch.zeros(1, 3, 8, 8), [[0]])
    for call, keys in (
        (lambda: create_maps(classifier(), unknown(config.maps, "method")), MAP_METHODS),
        (lambda: pass_with_maps(*step, unknown(config.maps, "method")), MAP_METHODS),
        (lambda: make_labels(np.zeros((0, 1, 1)), [], settings=unknown(COMPLETION, "method")), LABEL_METHODS),
        (lambda: build_deeplab(unknown(config.deeplab, "architecture"), num_classes=2), BUILDERS),
    ):
        with pytest.raises(InputError, match=f"'other' is none of {', '.join(keys)}"):
            call()
    with pytest.raises(InputError, match="a training step makes no rollout"):
        pass_with_maps(*step, config.maps.model_copy(update={"method": "rollout"}))


@pytest.mark.parametrize(
    ("section", "key", "table"),
    [
        ("maps", "method", MAP_METHODS),
        ("completion", "method", LABEL_METHODS),
        ("data", "format", DATA_FORMATS),
        ("deeplab", "architecture", SEGMENTERS),
    ],
)
def test_a_bad_choice_is_answered_with_the_keys(section: str, key: str, table: Mapping[str, object]) -> None:
    *first, last = (f"'{name}'" for name in table)
    expected = f"{', '.join(first)} or {last}" if first else last
    for value in ("other", 3, None, True, ["getam"]):
        with pytest.raises(InputError) as raised:
            config({section: {key: value}})
        assert str(raised.value) == f"config: {section}.{key}: Input should be {expected} (given: {value!r})"


@pytest.mark.parametrize(
    ("method", "missing"), [("activation", "saliency map"), ("crf", "photograph"), ("rrm", "photograph")]
)
def test_what_a_label_method_reads_has_to_be_given(method: str, missing: str) -> None:
    settings = COMPLETION.model_copy(update={"method": method})
    with pytest.raises(InputError, match=f"completion.method: {method} reads the {missing}, which was not given"):
        make_labels(np.zeros((0, 4, 4), np.float32), [], settings=settings)


# Toys


class ToyMaps(ClassMaps):
    """A map of ones for every class."""

    def _compute(self, images: torch.Tensor, classes: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        grid = tuple(side // 8 for side in images.shape[2:])
        return self.model(images).detach(), [torch.ones(len(indices), *grid) for indices in classes]


def toy_step(model: Any, images: torch.Tensor, classes: Any, settings: ActivationSettings) -> StepPass:
    return StepPass(torch.zeros(1, 1), torch.zeros(1, 2, 8, 8), [torch.ones(1, 1, 1)])


def test_a_map_method_is_an_entry_of_two_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAP_METHODS, "toy", MapMethod("Toy", in_training_step=True, needs_vit=False))
    monkeypatch.setitem(MAP_MAKERS, "toy", MapMaker(lambda model, settings: ToyMaps(model), toy_step))
    known = config({"maps": {"method": "toy"}, "end_to_end": {"maps": {"method": "toy"}}})
    with create_maps(classifier(), known.maps) as maps:
        _, found = maps(images_of(2, size=(16, 24)), [[0], [1, 2]])
    assert [values.shape for values in found] == [(1, 2, 3), (2, 2, 3)]
    assert pass_with_maps(classifier(), torch.zeros(1, 3, 8, 8), [[0]], known.end_to_end.maps).maps[0].tolist() == [
        [[1]]
    ]
    assert "Toy" in [row.label for row in definitions(known)["figure2"].rows]
    cnn = {"classifier": {"backbone": "resnet50", "readout": "pool", "stem_channels": []}}
    assert config(merge(cnn, {"maps": {"method": "toy"}})).maps.method == "toy"
    with pytest.raises(InputError, match=r" or 'toy' \(given: 'toyy'\)"):
        config({"maps": {"method": "toyy"}})


def toy_labels(
    maps: np.ndarray, classes: list[int], image: np.ndarray, saliency: np.ndarray, settings: LabelSettings
) -> np.ndarray:
    """The first class where something is salient and red."""
    assert maps.shape[1:] == image.shape[:2] == saliency.shape
    return np.where((saliency > 100) & (image[..., 0] > 100), classes[0] + 1, 0).astype(np.uint8)


def test_a_label_method_is_an_entry_of_two_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not in processes: those that a pool starts know no table that was patched here.
    facts = LabelMethod("toy", "both", needs_saliency=True, reads_photograph=True)
    monkeypatch.setitem(LABEL_METHODS, "toy", facts)
    monkeypatch.setitem(LABEL_MAKERS, "toy", toy_labels)
    known = config({"completion": {"method": "toy"}})
    assert known.completion.needs_saliency
    assert "Toy" in [row.label for row in definitions(known)["table7"].rows]
    others = enumerated([key for key, method in LABEL_METHODS.items() if not method.needs_saliency], "or")
    assert "toy" not in others
    with pytest.raises(InputError, match=rf"there is no completion; set completion\.method: {others}, end_to_end"):
        config({"completion": {"method": "toy"}, "saliency": {"source": "none"}})

    rng = np.random.default_rng(0)
    photograph, saliency = rng.integers(0, 255, (6, 8, 3), np.uint8), rng.integers(0, 255, (6, 8), np.uint8)
    (tmp_path / "saliency").mkdir()
    Image.fromarray(photograph).save(tmp_path / "one.png")
    Image.fromarray(saliency).save(tmp_path / "saliency" / "one.png")
    row = IndexRow("one", "train", tmp_path / "one.png", None, 6, 8, ("b",))
    write_index(tmp_path / "index.csv", Index((row,), ("a", "b")))
    with new_shard(tmp_path / "maps", ids=["one"], suffix=".npy", classes=("a", "b"), settings=None) as shard:
        shard.submit("one", write_array, np.ones((1, 6, 8), np.float16))
    words = [word for name in ("maps", "saliency", "index", "out") for word in (f"--{name}", str(tmp_path / name))]
    words[5] += ".csv"
    assert command("getam", STAGES, ["complete-labels", *words, "--method", "toy", "--threads", "1"]) == 0
    np.testing.assert_array_equal(
        read_labels(tmp_path / "out" / "one.png"),
        toy_labels(np.ones((1, 6, 8)), [1], photograph, saliency, known.completion),
    )
    assert read_json(tmp_path / "out" / "manifest.json")["supervision"] == "I+S"

    item = Item(photograph, np.ones((1, 6, 8), np.float32), [1], saliency)
    seconds = time_labels([item], COMPLETION, batch_sizes=[1], device=torch.device("cpu"))
    assert [*seconds] == [method.name for method in LABEL_METHODS.values()]
    assert "toy" in seconds


def index_toy(settings: IndexSettings, splits: Collection[str], masks: Path, threads: int) -> Index:
    """Photographs in a folder a split, whose names begin with their class."""
    rows = []
    for split in splits:
        for path in sorted((settings.root / split).glob("*.png")):
            height, width = np.asarray(Image.open(path)).shape[:2]
            rows.append(IndexRow(path.stem, split, path, None, height, width, (path.stem.split("_")[0],)))
    return Index(tuple(rows), ("cat", "dog"))


TOY_FORMAT = DatasetFormat(
    index=index_toy,
    input_files=lambda settings: [settings.root / "about.txt"],
    sources=lambda settings, splits: Sources([str(settings.root / "about.txt")]),
    findings=lambda settings: iter([("about.txt", "a toy")]),
    converts_masks=lambda settings: False,
)


def test_a_data_format_is_an_entry_of_two_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(DATA_FORMATS, "toy", DataFormat("a toy", own_labels="the toy's labels are in its names"))
    monkeypatch.setitem(FORMATS, "toy", TOY_FORMAT)
    for split, name in (("train", "cat_1"), ("train", "dog_1"), ("val", "dog_2")):
        (tmp_path / "toy" / split).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (len(name), 2, 3)).save(tmp_path / "toy" / split / f"{name}.png")
    words = ["--format", "toy", "--root", str(tmp_path / "toy"), "--out", str(tmp_path / "run" / "index.csv")]
    assert command("getam", STAGES, ["index-dataset", *words]) == 0
    index = read_index(tmp_path / "run" / "index.csv")
    assert [(row.id, row.split, row.labels) for row in index.rows] == [
        ("cat_1", "train", ("cat",)),
        ("dog_1", "train", ("dog",)),
        ("dog_2", "val", ("dog",)),
    ]
    assert command("getam", STAGES, ["index-dataset", *words, "--labels", "masks"]) == 1
    assert "the toy's labels are in its names; write annotations" in capsys.readouterr().err


def test_a_segmenter_of_smp_is_an_entry_of_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SEGMENTERS, "fpn", Segmenter("FPN"))
    monkeypatch.setitem(
        SEGMENTERS, "deeplabv3", Segmenter("DeepLabV3", ("output_stride", "atrous_rates"), three_rates=True)
    )
    for overlay in ({"architecture": "fpn"}, {"architecture": "deeplabv3", "atrous_rates": [2, 3, 5]}):
        network = build_deeplab(config({"deeplab": overlay}).deeplab, num_classes=3).eval()
        assert isinstance(network, SmpSegmenter)
        with torch.no_grad():
            assert network(torch.zeros(1, 3, 40, 48)).shape == (1, 3, 40, 48)
    with pytest.raises(InputError, match="atrous_rates: deeplabv3 takes three"):
        config({"deeplab": {"architecture": "deeplabv3"}})
    with pytest.raises(InputError, match="normalization: caffe is deeplabv2's; write imagenet for fpn"):
        config({"deeplab": {"architecture": "fpn", "normalization": "caffe"}})
