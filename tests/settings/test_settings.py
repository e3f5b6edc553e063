"""config.yaml against its models: what is refused and how, and that flags carry every setting unchanged."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import BaseModel
from support.workplace import PROJECT

from getam.cli import parse_flags
from getam.errors import InputError, enumerated
from getam.settings.classifier import ClassifierSettings
from getam.settings.completion import CompletionSettings, LabelSettings
from getam.settings.config import Config, editor_schema, validate_config
from getam.settings.data import IndexSettings
from getam.settings.flags import flag_name, flags, leaves, nest
from getam.settings.maps import MAP_METHODS
from getam.settings.patches import size_problem
from getam.settings.reading import BASE_CONFIG, merge, read_yaml
from getam.settings.section import Section, section_of

BASE = PROJECT / "config.yaml"
OVERLAYS = [*sorted((PROJECT / "configs").glob("*.yaml")), PROJECT / "tests" / "tiny.yaml"]
LEAVES = {path for path, _ in leaves(Config)}
SECTIONS = [name for name, field in Config.model_fields.items() if field.annotation not in (str, bool, int)]


def config(overlay: dict[Any, Any] | None = None) -> Config:
    return validate_config(merge(read_yaml(BASE), overlay or {}))


def index_settings(root: str) -> IndexSettings:
    return section_of(IndexSettings, config().data).model_copy(update={"root": Path(root), "labels": "file"})


def through_flags(settings: Any) -> Any:
    return parse_flags(type(settings), flags(settings), name="stage", section=None)


def refusal(overlay: dict[Any, Any]) -> str:
    with pytest.raises(InputError) as caught:
        config(overlay)
    return str(caught.value)


# The files


@pytest.mark.parametrize("overlay", [None, *OVERLAYS], ids=lambda path: path.name if path else "config.yaml")
def test_the_configurations_of_the_project_are_valid(overlay: Path | None) -> None:
    config(read_yaml(overlay) if overlay else None)


def test_the_editor_schema_is_the_models() -> None:
    written = json.loads((PROJECT / "workflow" / "config.schema.json").read_text())
    assert written == editor_schema(), "run `getam schema > workflow/config.schema.json`"


def test_the_editor_schema_knows_every_key_and_requires_none() -> None:
    schema, full = editor_schema(), Config.model_json_schema()
    # An overlay states only what differs.
    assert '"required":' in json.dumps(full)
    assert '"required":' not in json.dumps(schema)
    assert schema["properties"].keys() == Config.model_fields.keys()
    for name, model in full["$defs"].items():
        assert schema["$defs"][name]["properties"] == model["properties"]
        assert schema["$defs"][name]["additionalProperties"] is False


def commented_keys(text: str) -> dict[str, bool]:
    """Every key with a value on its line, and whether a comment explains it there or at a namesake."""
    explained: dict[str, bool] = {}
    for line in text.splitlines():
        match = re.fullmatch(r" *(\w+): +([^#]*?) *(# .+)?", line)
        if match and match[2] and not match[2].startswith("{"):
            explained[match[1]] = explained.get(match[1], False) or bool(match[3])
    return explained


def test_commented_keys_reads_comments_after_values_and_at_namesakes() -> None:
    text = "a: 1 # one\nb:\n  a: 2\n  c: [1, 2] # two\n  d: 3\n# e: 4\n"
    assert commented_keys(text) == {"a": True, "c": True, "d": False}


def test_every_value_of_config_yaml_is_explained() -> None:
    explained = commented_keys(BASE.read_text())
    assert len(explained) > 50
    assert [key for key, comment in explained.items() if not comment] == []


def test_every_section_of_config_yaml_has_a_heading() -> None:
    lines = BASE.read_text().splitlines()
    heads = [number for number, line in enumerate(lines) if re.fullmatch(r"\w+:", line)]
    assert [lines[number].rstrip(":") for number in heads] == SECTIONS
    assert all(lines[number - 1].startswith("# ") for number in heads)


def test_every_setting_has_a_description_and_no_default() -> None:
    for path, field in leaves(Config):
        assert field.description, ".".join(path)
        # config.yaml is the home of every value that decides a result.
        assert field.is_required() != bool(field.exclude), ".".join(path)


# What is refused


REFUSALS: dict[str, tuple[dict[Any, Any], str]] = {
    "unknown key": ({"completion": {"alhpa": 0.9}}, "completion.alhpa: unknown key; did you mean alpha?"),
    "unknown nested key": (
        {"end_to_end": {"decoder": {"tap": [0, 1, 2]}}},
        "end_to_end.decoder.tap: unknown key; did you mean taps?",
    ),
    "unknown section": ({"complation": {}}, "complation: unknown key; did you mean completion?"),
    "nothing near": ({"refine": {"zzz": 1}}, "refine.zzz: unknown key; known here: iterations, dilations"),
    "key that is no word": ({"refine": {1: 2}}, "refine.1: "),
    "wrong type": ({"deeplab": {"epochs": "many"}}, "deeplab.epochs: Input should be a valid integer"),
    "fraction for a count": ({"deeplab": {"epochs": 1.5}}, "deeplab.epochs: Input should be a valid integer"),
    "number for a text": (
        {"run": 2024},
        "run: is a number to YAML, not a text; write it into a file, in quotes: run: ",
    ),
    "truth for a text": ({"run": True}, "run: is a truth value to YAML, not a text; write it into a file, in quotes"),
    "date for a path": (
        {"data": {"saliency_train": date(2024, 5, 1)}},
        'data.saliency_train: is a date to YAML, not a text; write it into a file, in quotes: saliency_train: "..."',
    ),
    "number for a list": ({"maps": {"scales": 1}}, "maps.scales: Input should be a valid tuple"),
    "too short a list": ({"end_to_end": {"decoder": {"taps": [0, 1]}}}, "end_to_end.decoder.taps.2: "),
    "empty list": ({"refine": {"dilations": []}}, "refine.dilations: "),
    "no section": ({"completion": None}, "completion: Input should be a valid dictionary"),
    "above its range": ({"completion": {"alpha": 1.01}}, "completion.alpha: Input should be less than or equal to 1"),
    "below its range": ({"completion": {"gamma": 0}}, "completion.gamma: Input should be greater than 0"),
    "threshold of 1": ({"completion": {"saliency_threshold": 1}}, "completion.saliency_threshold: "),
    "no choice": (
        {"maps": {"method": "gradcam"}},
        f"maps.method: Input should be {enumerated(map(repr, MAP_METHODS), 'or')} (given: 'gradcam')",
    ),
    "a CNN has no attention": (
        {"classifier": {"backbone": "resnet50", "readout": "pool", "stem_channels": []}},
        "maps.method: getam needs a ViT, but classifier.readout is pool, a CNN's; write cam",
    ),
    "a CNN has its own stem": (
        {"classifier": {"backbone": "resnet50", "readout": "pool"}},
        "stem_channels: a CNN (readout pool) has its own stem; write []",
    ),
    "no map of a training step": (
        {"end_to_end": {"maps": {"method": "rollout"}}},
        "maps.method: a training step makes no rollout; write getam, attention_gradient or cam",
    ),
    "no opening": (
        {"completion": {"opening": "authors"}},
        "completion.opening: write 0, an odd number of pixels below 100, or released (given: 'authors')",
    ),
    "boolean for a count": ({"classifier": {"epochs": True}}, "epochs: a number is needed, not true"),
    "boolean for a fraction": ({"completion": {"alpha": False}}, "alpha: a number is needed, not false"),
    "boolean in a list": ({"maps": {"scales": [True]}}, "scales: a number is needed, not true"),
    "NaN": ({"completion": {"alpha": float("nan")}}, "completion.alpha: Input should be a finite number"),
    "NaN as text": ({"completion": {"gamma": "nan"}}, "completion.gamma: Input should be a finite number"),
    "NaN in a list": ({"maps": {"scales": [float("nan")]}}, "maps.scales.0: Input should be a finite number"),
    "infinity": ({"completion": {"gamma": float("inf")}}, "completion.gamma: Input should be a finite number"),
    "even opening": ({"completion": {"opening": 10}}, "opening: 10 is even and would shift labels; write 0 or an odd"),
    "reversed range": ({"classifier": {"crop": {"long_side": [112, 88]}}}, "long_side: [112, 88] is not a range"),
    "no epoch left": (
        {"end_to_end": {"epochs": 7, "classifier_epochs": 7}},
        "classifier_epochs: 7 leaves none of the 7 epochs",
    ),
    "crop of no whole patches": (
        {
            "classifier": {
                "backbone": "vit_small_patch14_dinov2.lvd142m",
                "backbone_options": {},
                "stem_channels": [],
                "crop": {"size": 225},
            }
        },
        "classifier: crop.size: 225 is no multiple of 14, the side of vit_small_patch14_dinov2.lvd142m's patches; "
        "write 224 or 238",
    ),
    "crop of another patch": (
        {"end_to_end": {"backbone_options": {"patch_size": 12}, "stem_channels": [], "crop": {"size": 64}}},
        "end_to_end: crop.size: 64 is no multiple of 12, the side of vit_tiny_patch16_224's patches; write 60 or 72",
    ),
    "crop of no whole patches of a stem": (
        {"classifier": {"crop": {"size": 100}}},
        "crop.size: 100 is no multiple of 8, the side of vit_tiny_patch16_224's patches; write 96 or 104",
    ),
    "read-out of no decoder": ({"end_to_end": {"readout": "pool"}}, "readout: pool is a CNN's, and the decoder reads"),
    "encoder that is no ViT": (
        {"deeplab": {"architecture": "linear"}},
        "encoder: resnet18 is no name of timm's ViTs, one of which linear needs",
    ),
    "warm-up": ({"deeplab": {"epochs": 2, "warmup_epochs": 3}}, "warmup_epochs: 3 is more than the 2 epochs"),
    "no layers": ({"classifier": {"trainable": 0}}, "trainable: 0 is no part of a backbone; write all, none, or"),
    "layer decay": ({"saliency": {"layer_decay": 1.1}}, "layer_decay"),
    "slash in the run": ({"run": "../out"}, "run: String should match pattern"),
    "line end in the run": ({"run": "demo\n"}, "run: String should match pattern"),
    "hidden run": ({"run": ".demo"}, "run: String should match pattern"),
    "space in the run": ({"run": "my demo"}, "run: String should match pattern"),
}


@pytest.mark.parametrize(
    "name",
    REFUSALS,
)
def test_bad_values_are_refused_by_their_key(name: str) -> None:
    overlay, message = REFUSALS[name]
    given = refusal(overlay)
    assert given.startswith("config: ")
    assert message in given
    assert "\n" not in given.strip() or name == "NaN in a list"


def test_a_missing_key_is_named() -> None:
    values = read_yaml(BASE)
    del values["completion"]["alpha"]
    with pytest.raises(InputError, match=r"^config\.yaml: completion\.alpha: missing; give it a value$"):
        validate_config(values, source="config.yaml")


def test_all_offenders_stand_in_one_message() -> None:
    lines = refusal({"completion": {"alpha": 2, "gamma": -1}, "runn": 1}).splitlines()
    assert lines[0] == "config: "
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["completion.alpha", "completion.gamma", "runn"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("completion: [", "not valid YAML"),
        ("- 1\n", "must hold sections"),
        ("", "must hold sections"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        (
            "run: a\ndata:\n  root: x\nrun: b",
            "not valid YAML: 'run' stands in line 1 and again in line 4; join the two",
        ),
        (
            "data:\n  root: x\n  labels: file\n  root: y",
            "not valid YAML: 'root' stands in line 2 and again in line 4; join the two",
        ),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "overlay.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(f"{path}: {message}")):
        read_yaml(path)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: no such file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "photo.yaml").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(InputError, match=r"photo\.yaml: not valid YAML"):
        read_yaml(tmp_path / "photo.yaml")


def test_a_folder_for_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        read_yaml(tmp_path)


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    # YAML 1.1 takes 1e-4 for a string, for it has no point.
    overlay = yaml.safe_load("classifier: {learning_rate: 1e-4}\ncompletion: {alpha: '0.9', opening: '3'}")
    assert overlay["classifier"]["learning_rate"] == "1e-4"
    settings = config(overlay)
    assert settings.classifier.learning_rate == 1e-4
    assert settings.completion.alpha == 0.9
    assert settings.completion.opening == 3


def test_settings_are_frozen() -> None:
    completion = config().completion
    with pytest.raises(ValueError, match="frozen"):
        completion.alpha = 0.5


# merge


def test_merge_goes_into_mappings_and_leaves_its_arguments() -> None:
    base = {"run": "demo", "deeplab": {"epochs": 10, "crop": {"size": 80, "color_jitter": 0}}}
    overlay = {"deeplab": {"crop": {"size": 128}}, "new": {"key": 1}}
    before = copy.deepcopy((base, overlay))
    assert merge(base, overlay) == {
        "run": "demo",
        "deeplab": {"epochs": 10, "crop": {"size": 128, "color_jitter": 0}},
        "new": {"key": 1},
    }
    assert (base, overlay) == before


def test_merge_replaces_lists_and_free_form_options_whole() -> None:
    base = {"classifier": {"stem_channels": [32, 64], "backbone_options": {"depth": 4, "num_heads": 4}}}
    assert merge(base, {"classifier": {"stem_channels": [16]}})["classifier"]["stem_channels"] == [16]
    for options in ({"depth": 6}, {}):
        overlay = {"classifier": {"backbone_options": options}}
        assert merge(base, overlay)["classifier"]["backbone_options"] == options


def test_nest_is_the_inverse_of_leaves() -> None:
    settings = config().end_to_end
    values: dict[tuple[str, ...], Any] = {}
    for path, field in leaves(type(settings)):
        if field.exclude:
            continue
        value: Any = settings
        for name in path:
            value = getattr(value, name)
        values[path] = value
    assert nest(values) == settings.model_dump()


# flags


def test_flag_names() -> None:
    assert flag_name(("alpha",)) == "--alpha"
    assert flag_name(("maps", "start_block")) == "--maps.start-block"


@pytest.mark.parametrize("overlay", [None, *OVERLAYS], ids=lambda path: path.name if path else "config.yaml")
@pytest.mark.parametrize(
    "section",
    SECTIONS,
)
def test_flags_give_a_section_back(section: str, overlay: Path | None) -> None:
    settings = getattr(config(read_yaml(overlay) if overlay else None), section)
    assert through_flags(settings) == settings
    assert flags(through_flags(settings)) == flags(settings)


@examples(deadline=None)
@given(
    alpha=st.floats(0, 1),
    gamma=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    opening=st.integers(0, 49).map(lambda half: 2 * half + 1) | st.just(0),
)
def test_flags_give_every_number_back(alpha: float, gamma: float, opening: int) -> None:
    settings = CompletionSettings(alpha=alpha, gamma=gamma, conflict="lowest", opening=opening, saliency_threshold=0.5)
    assert through_flags(settings) == settings


PLAIN = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(lambda text: text[0] not in "[{-")


@examples(deadline=None)
@given(root=PLAIN)
def test_flags_give_every_path_back(root: str) -> None:
    settings = index_settings(root)
    assert through_flags(settings) == settings


@pytest.mark.parametrize("options", [{}, {"a": "yes", "b": None, "c": [1, 2.5, False], "d": {"e": "1"}}])
def test_flags_give_options_of_a_backbone_back(options: dict[str, Any]) -> None:
    settings = config({"classifier": {"backbone_options": options}}).classifier
    assert through_flags(settings).backbone_options == options


def test_flags_give_small_numbers_in_options_back() -> None:
    settings = config({"classifier": {"backbone_options": {"init_values": 1e-6}}}).classifier
    assert through_flags(settings).backbone_options == {"init_values": 1e-6}


@pytest.mark.parametrize(
    "root",
    [
        "[old]/voc",
        "[old]",
    ],
)
def test_flags_give_odd_paths_back(root: str) -> None:
    settings = index_settings(root)
    assert through_flags(settings) == settings


@pytest.mark.parametrize(
    ("section", "ways"),
    [
        ("completion", ["{alpha: 0.7}", "{alpha: 0.70}", "{alpha: '0.7'}", "{alpha: 7.0e-1}", "{alpha: 7e-1}"]),
        ("completion", ["{gamma: 77}", "{gamma: 77.0}", "{gamma: '77'}"]),
        ("maps", ["{scales: [1, 0.7]}", "{scales: [1.0, .7]}", "{scales: ['1', '0.70']}"]),
        ("saliency", ["{epochs: 77}", "{epochs: 77.0}", "{epochs: '77'}"]),
        ("deeplab", ["{output_stride: 16}", "{output_stride: '16'}"]),
        ("data", ["{root: data/x}", "{root: data/x/}", "{root: data//x}"]),
    ],
)
def test_one_value_gives_equal_flags_however_it_is_written(section: str, ways: list[str]) -> None:
    written = [flags(getattr(config({section: yaml.safe_load(way)}), section)) for way in ways]
    assert written == [written[0]] * len(ways)
    # Not config.yaml's value, so that an overlay without effect is noticed.
    assert written[0] != flags(getattr(config(), section))


def test_flags_are_in_the_order_of_the_model() -> None:
    values = read_yaml(BASE)
    turned = {**values, "completion": dict(reversed(values["completion"].items()))}
    assert flags(validate_config(turned).completion) == flags(config().completion)


def test_only_takes_the_settings_out_of_arguments() -> None:
    class Arguments(LabelSettings):
        out: Path

    arguments = Arguments(**config().end_to_end.completion.model_dump(), out=Path("x"))
    assert section_of(LabelSettings, arguments) == config().end_to_end.completion
    assert type(section_of(LabelSettings, arguments)) is LabelSettings


def test_verdicts_are_the_stages_alone_and_known_by_their_suffix() -> None:
    assert config({"completion": {"verdicts": "a.JSON"}}).completion.verdicts == "a.JSON"
    assert "verdicts: a.txt is neither .json nor .csv" in refusal({"completion": {"verdicts": "a.txt"}})
    assert "unknown key" in refusal({"end_to_end": {"completion": {"verdicts": "a.csv"}}})


def test_sections_share_the_strictness_of_their_base() -> None:
    models: list[type[BaseModel]] = [Config]
    seen = []
    while models:
        model = models.pop()
        seen.append(model)
        models += [
            field.annotation
            for field in model.model_fields.values()
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ]
    assert ClassifierSettings in seen
    assert all(issubclass(model, Section) for model in seen)
    assert all(model.__doc__ and "__doc__" in vars(model) for model in seen)


def differing(a: Any, b: Any, path: str = "") -> set[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        return {
            key for name in {*a, *b} for key in differing(a.get(name), b.get(name), f"{path}.{name}" if path else name)
        }
    return set() if a == b else {path}


def test_the_recipe_of_coco_is_that_of_voc_but_for_what_it_says() -> None:
    voc, coco = (read_yaml(PROJECT / "configs" / f"{name}.yaml") for name in ("voc12", "coco14"))
    assert {key for key in differing(voc, coco) if not key.startswith("data.")} == {
        "run",
        "audit.images",
        "classifier.epochs",
        "completion.alpha",
        "deeplab.epochs",
        "deeplab.crop.long_side",
        "end_to_end.epochs",
        "end_to_end.classifier_epochs",
        "end_to_end.completion.alpha",
    }


def test_the_recipe_of_photographs_is_that_of_dinov2_but_for_its_paths() -> None:
    dinov2, msrc = (read_yaml(PROJECT / "configs" / f"{name}.yaml") for name in ("dinov2", "msrc"))
    networks = {f"{section}.pretrained" for section in ("classifier", "deeplab", "end_to_end")}
    assert differing(dinov2, msrc) == {"run", "data", "saliency", *networks}


def test_the_recipe_of_hard_photographs_differs_where_it_says_so() -> None:
    path = PROJECT / "configs" / "photos20.yaml"
    dinov2, photos20 = read_yaml(PROJECT / "configs" / "dinov2.yaml"), read_yaml(path)
    networks = {f"{section}.pretrained" for section in ("classifier", "deeplab", "end_to_end")}
    tuned = {"maps.image_size", "maps.flip", "completion.alpha", "completion.gamma", "score_labels.threshold"}
    labels = {"end_to_end.completion.alpha", "end_to_end.completion.gamma"}
    propagated = {"tables.propagated.maps.image_size", "tables.propagated.maps.scales"}
    assert differing(dinov2, photos20) == {"run", "data", "saliency", *networks, *tuned, *labels, *propagated}
    # The two of the end-to-end path stand in one line, and the two of propagated maps.
    assert path.read_text().count(" # photos20") == len(tuned) + 2


def test_the_recipe_beyond_the_paper_is_that_of_dinov2_but_for_its_rounds() -> None:
    path = PROJECT / "configs" / "beyond.yaml"
    dinov2, beyond = read_yaml(PROJECT / "configs" / "dinov2.yaml"), read_yaml(path)
    assert differing(dinov2, beyond) == {"rounds"}
    # The lines for photographs without saliency are an overlay that is valid.
    lines = path.read_text().split("has these lines:\n#\n", 1)[1].split("\n\n", 1)[0].splitlines()
    without = yaml.safe_load("\n".join(line.removeprefix("#   ") for line in lines))
    # They are those of the table of propagated maps, with bands.
    propagated = beyond["tables"]["propagated"]

    def by_bands(section: dict[str, Any]) -> dict[str, Any]:
        return {**section, "completion": {"method": "bands", "bands": section["completion"]["bands"]}}

    end_to_end = {"saliency_weight": 0, **by_bands(propagated["end_to_end"])}
    assert without == {"saliency": {"source": "none"}, **by_bands(propagated), "end_to_end": end_to_end}
    settings = config(merge(beyond, without))
    assert settings.saliency.source == "none"
    assert settings.completion.method == settings.end_to_end.completion.method == "bands"
    assert settings.maps.propagation == settings.end_to_end.maps.propagation == "attention"


NOT_OF_A_VIT = {"atrous_rates", "bottleneck_stride", "encoder_stages"}
"""DeepLabv2's settings, which a ViT's segmenter does not read."""


@pytest.mark.parametrize("name", ["voc12", "coco14"])
def test_dinov2_after_another_recipe_is_dinov2(name: str) -> None:
    base, other, dinov2 = (
        read_yaml(path)
        for path in (BASE_CONFIG, PROJECT / "configs" / f"{name}.yaml", PROJECT / "configs" / "dinov2.yaml")
    )
    alone, after = merge(base, dinov2), merge(merge(base, other), dinov2)
    # These are the data set's, or about saliency, or not read where no dense CRF runs. How maps are stored depends on
    # the size of the data set.
    elsewhere = {"run", "tables", "sweep", "audit", "data", "saliency"}
    assert after["end_to_end_prediction"]["crf"]["iterations"] == after["deeplab_prediction"]["crf"]["iterations"] == 0
    assert {
        key
        for key in differing(alone, after)
        if key.partition(".")[0] not in elsewhere and "prediction.crf" not in key and not key.endswith("pretrained")
    } == {"end_to_end.energy.scale", "refine.storage"} | {f"deeplab.{option}" for option in NOT_OF_A_VIT}


@pytest.mark.parametrize("name", ["voc12", "coco14"])
def test_the_recipes_are_at_the_scale_of_the_paper(name: str) -> None:
    recipe = config(read_yaml(PROJECT / "configs" / f"{name}.yaml"))
    assert recipe.classifier.backbone == recipe.end_to_end.backbone == "vit_base_r50_s16_384.orig_in21k_ft_in1k"
    assert recipe.saliency.backbone == "swin_base_patch4_window12_384.ms_in1k"
    deeplab = recipe.deeplab
    assert (deeplab.architecture, deeplab.encoder, deeplab.crop.size) == ("deeplabv2", "resnet101", 321)
    assert (deeplab.scales, deeplab.atrous_rates, deeplab.frozen_batch_norm) == ((0.5, 0.75), (6, 12, 18, 24), True)
    assert recipe.classifier.backbone_options == recipe.end_to_end.backbone_options == {}
    assert recipe.saliency.backbone_options == {}
    for section in ("classifier", "saliency", "deeplab", "end_to_end"):
        assert getattr(recipe, section).pretrained is True
        assert getattr(recipe, section).segmentation_pretrained is False


@pytest.mark.parametrize("name", ["voc12", "coco14"])
def test_a_recipe_leaves_nothing_to_the_demo(name: str) -> None:
    stated = set(_paths(read_yaml(PROJECT / "configs" / f"{name}.yaml")))
    own = ("demo", "checkpoint", "audit", "code_hash")
    assert {path for path in LEAVES if path[0] not in own} - stated == set()


def _paths(tree: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        if isinstance(value, dict) and (*prefix, key) not in LEAVES:
            yield from _paths(value, (*prefix, key))
        else:
            yield (*prefix, key)


@pytest.mark.parametrize("name", ["voc12", "coco14"])
def test_every_value_of_a_recipe_names_its_source(name: str) -> None:
    lines = (PROJECT / "configs" / f"{name}.yaml").read_text().splitlines()
    values = [
        line for line in lines if re.match(r" +\w+: *[^ #]", line) and "root:" not in line and "format:" not in line
    ]
    assert [line for line in values if " # " not in line] == []


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("false", False), ("weights/vit.pth", "weights/vit.pth")]
)
def test_pretrained_is_a_truth_value_or_a_file(text: str, expected: bool | str) -> None:
    values = read_yaml(BASE)
    values["deeplab"]["pretrained"] = text
    assert validate_config(values).deeplab.pretrained == expected
    assert through_flags(validate_config(values).deeplab).pretrained == expected


def test_coco_takes_its_own_labels_alone() -> None:
    assert "COCO's labels are in its JSON" in refusal({"data": {"format": "coco", "labels": "masks"}})


def test_without_saliency_every_key_that_needs_it_is_named() -> None:
    message = refusal({"saliency": {"source": "none"}})
    for key in ("completion.method", "end_to_end.completion.method", "end_to_end.saliency_weight: 0"):
        assert key in message
    assert "saliency.folder: name the folder" in refusal({"saliency": {"source": "folder"}})


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "vit_base_r50_s16_384"},
        {"backbone": "flexivit_small"},
        {"backbone": "vit_small_patch14_dinov2", "backbone_options": {"patch_size": 25}},
        {"backbone": "vit_small_patch14_dinov2", "backbone_options": {"dynamic_img_pad": True}},
        {"backbone": "resnet50", "readout": "pool"},
        {"backbone": "a_cnn_patch14", "readout": "pool"},
    ],
    ids=str,
)
def test_a_crop_of_any_size_is_valid_where_no_patch_forbids_it(changes: dict[str, Any]) -> None:
    values = config().classifier.model_dump() | {"stem_channels": [], "backbone_options": {}} | changes
    crop = {"long_side": [200, 300], "size": 225, "color_jitter": 0}
    assert ClassifierSettings.model_validate(values | {"crop": crop}).crop.size == 225


@pytest.mark.parametrize(
    ("size", "patch", "expected"), [(20, 14, "28"), (16, 32, "32"), (4090, 14, "4088"), (31, 14, "28 or 42")]
)
def test_the_multiples_that_a_message_gives_are_valid(size: int, patch: int, expected: str) -> None:
    problem = size_problem(size, patch, key="crop.size", network="net")
    assert problem == f"crop.size: {size} is no multiple of {patch}, the side of net's patches; write {expected}"
    assert size_problem(2 * patch, patch, key="crop.size", network="net") is None


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"classifier": {"backbone": "vit\x1b[2J"}}, "classifier: backbone"),
        ({"classifier": {"backbone_options": {"a": [{"b": "\x9b1m"}]}}}, "classifier: backbone_options"),
        ({"classifier": {"backbone_options": {"a\x07": 1}}}, "classifier: backbone_options"),
        ({"data": {"root": "mine\nelse"}}, "data: root"),
    ],
)
def test_control_characters_are_refused(values: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=f"^config: {key}: holds a control character; write it without$"):
        config(values)
    assert config({"data": {"root": "mine für 写真\u00a0"}}).data.root == Path("mine für 写真\u00a0")


@pytest.mark.parametrize(
    "option", ["checkpoint_path", "cache_dir", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"]
)
@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("classifier", "backbone_options"),
        ("saliency", "backbone_options"),
        ("end_to_end", "backbone_options"),
        ("deeplab", "encoder_options"),
    ],
)
def test_options_that_load_or_fetch_weights_are_refused(section: str, key: str, option: str) -> None:
    with pytest.raises(InputError, match=rf"{section}\.{key}: {option}: loads weights .* section's `pretrained`"):
        config({section: {key: {option: "elsewhere.pth"}}})


def test_sizes_that_no_network_has_are_refused() -> None:
    with pytest.raises(InputError, match=r"classifier\.backbone_options: depths: no network has more than 65536"):
        config({"classifier": {"backbone_options": {"depths": [2, 10**9]}}})
