"""Chooses a recipe for a user's own photographs, and writes the overlay that says what is theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from getam.errors import InputError
from getam.settings.config import Config, validate_config
from getam.settings.reading import BASE_CONFIG, merge, read_yaml

DINOV2, PAPERS = "configs/dinov2.yaml", "configs/voc12.yaml"
"""Recipes, as paths from the folder of config.yaml."""

MANY = 5000
"""Photographs in train from which on the paper's networks are taken where there is a GPU: about half of the 10,582 that
their recipe was made for."""


@dataclass(frozen=True)
class OwnData:
    """What is there of a user's own.

    Attributes:
        run: name of the run.
        list: the list of photographs.
        train, val: number of photographs in each split.
        masks: number of photographs of val that have a mask.
        gpus: number of GPUs of this machine.
        weights: pretrained weights: true (fetched by name), a file, or false.
        saliency: folder of the user's saliency maps, if there is one.
    """

    run: str
    list: Path
    train: int
    val: int
    masks: int
    gpus: int
    weights: bool | str
    saliency: Path | None


@dataclass(frozen=True)
class Recipe:
    """A recipe and the overlay that follows it.

    Attributes:
        config: the recipe as a path from the folder of config.yaml; None: config.yaml alone.
        why: why it was chosen, as a sentence.
        overlay: content of the overlay.
        settings: the whole configuration, validated.
    """

    config: str | None
    why: str
    overlay: str
    settings: Config


def choose_recipe(data: OwnData) -> Recipe:
    """Chooses a recipe by what is there.

    Raises:
        InputError: config.yaml is not where the package is installed.
    """
    config, why = _chosen(data)
    if not BASE_CONFIG.is_file():
        raise InputError(f"{BASE_CONFIG}: no such file; install getam from its checkout, which has the recipes")
    base = read_yaml(BASE_CONFIG)
    if config is not None:
        base = merge(base, read_yaml(BASE_CONFIG.parent / config))
    overlay = _overlay(data, why, config, base)
    settings = validate_config(merge(base, yaml.safe_load(overlay)), source="overlay")
    return Recipe(config, why, overlay, settings)


def _chosen(data: OwnData) -> tuple[str | None, str]:
    """The recipe, and why it was chosen."""
    if data.weights is False:
        return (
            None,
            "Small networks from scratch, since they get no weights: docs/measured.md says how much that costs.",
        )
    if data.gpus and data.train >= MANY and data.weights is True:
        return PAPERS, f"The paper's networks, since there is a GPU, and train has {MANY} photographs or more."
    reason = "there is no GPU" if not data.gpus else f"train has less than {MANY} photographs"
    if data.gpus and data.train >= MANY:
        reason = "the weights are a file"
    return DINOV2, f"Pretrained DINOv2 (ViT-S/14) in every network, since {reason}."


def _overlay(data: OwnData, why: str, config: str | None, base: Mapping[str, Any]) -> str:
    lines = [
        f"# {why}",
        f"# getam new wrote this file, and it is yours to change. Other values stand in {config or 'config.yaml'}.",
        "",
        f"run: {_scalar(data.run)} # results go to results/<run>/",
        "",
        "data:",
        "  format: folder",
        f"  root: {_scalar(str(data.list))} # {data.train} photographs in train, {data.val} in val",
    ]
    if config == PAPERS:
        lines += [
            "  labels: annotations # those of the list",
            '  augmented: ""',
            "  counts: {train: 0, val: 0, test: 0} # any number",
        ]
    lines += [f"# {_scored(data)}", ""]
    end_to_end = {}
    if data.saliency is not None:
        lines += ["saliency:", "  source: folder", f"  folder: {_scalar(str(data.saliency))}"]
    else:
        without = _without_saliency(base["tables"]["propagated"])
        end_to_end = without.pop("end_to_end")
        lines += [
            "# Without saliency maps the pseudo labels come from propagated maps alone (docs/beyond.md).",
            "saliency: {source: none}",
            # In the order of the recipe's sections.
            *(f"{name}: {_flow(without[name])}" for name in base if name in without),
        ]
    lines.append("")
    if data.weights is not False:
        if data.weights is True:
            lines.append("# true fetches weights from huggingface.co; without a connection name their file.")
        lines += [f"{name}: {_flow({'pretrained': data.weights})}" for name in ("classifier", "deeplab")]
        end_to_end = {"pretrained": data.weights, **end_to_end}
    if end_to_end:
        lines += ["end_to_end:", *(f"  {name}: {_scalar(value)}" for name, value in end_to_end.items())]
    return "\n".join(lines) + "\n"


def _scored(data: OwnData) -> str:
    """What can be scored, as a sentence."""
    if not data.val:
        return "There is no val: no network is scored."
    if not data.masks:
        return "There are no masks in val: the classifier is scored, pixels are not."
    return f"{data.masks} photographs of val have a mask, on which pixels are scored."


def _without_saliency(propagated: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run without saliency maps: labels by bands, on maps that spread.

    Args:
        propagated: the recipe's changes for propagated maps.
    """

    def labels(completion: Mapping[str, Any]) -> dict[str, Any]:
        bands = completion.get("bands")
        return {"method": "bands", **({"bands": bands} if bands else {})}

    end_to_end = propagated["end_to_end"]
    return {
        **propagated,
        "completion": labels(propagated["completion"]),
        "end_to_end": {"saliency_weight": 0, **end_to_end, "completion": labels(end_to_end["completion"])},
    }


def _scalar(value: Any) -> str:
    """A text, a number or a truth value as YAML on one line, quoted where it has to be."""
    return _flow([value])[1:-1]


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    return str(yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)).strip()
