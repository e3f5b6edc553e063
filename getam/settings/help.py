"""What --help says besides a flag's description: its values, its default, its group, and an example of the command."""

from __future__ import annotations

import shlex
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from getam.settings.choices import Choice
from getam.settings.flags import as_text, flag_name
from getam.settings.section import POSITIONAL

FILES, MACHINE = "what it reads and writes", "the machine"

KINDS = {bool: "{true,false}", int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}

SAMPLES = {
    "archive": "results.tgz",
    "axis": "",
    "backbone": "vit_small_patch14_dinov2",
    "import-checkpoint backbone": "vitb_hybrid",
    "batch_sizes": "[1, 4]",
    "caption": "Pseudo labels on train.",
    "classifier": "results/demo/classifier",
    "file": "model.pth",
    "import-saliency file": "final.pth",
    "folder": "saliency",
    "new folder": "photographs",
    "collect-maps folder": "cams",
    "export-labels format": "labelme",
    "export-labels labels": "results/demo/pseudo_labels",
    "import-labels labels": "to_correct",
    "images": "16",
    "index": "results/demo/index.csv",
    "maps": "results/demo/refined/000",
    "refine-maps maps": "results/demo/maps/000",
    "score-labels maps": "results/demo/refined",
    "plot-fusions maps": '{"sum": "results/demo/maps", "product": "maps_of_products"}',
    "methods": '[{"label": "GETAM", "maps": "results/demo/refined", "scores": "results/demo/pseudo_labels.json"}]',
    "model": "results/demo/deeplab",
    "export-checkpoint model": "results/demo/end_to_end",
    "predict-end-to-end model": "results/demo/end_to_end",
    "predict-saliency model": "results/demo/saliency_network",
    "name": "voc12",
    "network": "resnet18",
    "options": "{}",
    "ordered": "true",
    "out": "out",
    "export-checkpoint out": "model.pth",
    "evaluate-deeplab out": "metrics.json",
    "evaluate-end-to-end out": "metrics.json",
    "index-dataset out": "index.csv",
    "photographs": "photographs",
    "predictions": "results/demo/deeplab/predictions",
    "evaluate-end-to-end predictions": "results/demo/end_to_end/predictions",
    "pretrained": "true",
    "pseudo_labels": "results/demo/pseudo_labels",
    "relabel pseudo_labels": "results/demo/pseudo_labels/000",
    "rows": '[{"label": "demo", "own": true, "value": null, "paper": {}, "given": {}, "scores": {}}]',
    "run": "results/demo",
    "run_a": "results/demo",
    "run_b": "results/other",
    "saliency": "results/demo/saliency/000",
    "time-labels saliency": "results/demo/saliency",
    "section": "classifier",
    "segmentation_pretrained": "false",
    "shard": "0",
    "shards": "2",
    "split": "val",
    "dump-maps split": "train",
    "title": "A table",
    "train": "data/demo/DUTS-TR",
    "truth": "data/demo/SegmentationClass",
    "val": "data/demo/DUTS-TE",
}
"""Values of required arguments for the example in --help, by field, or by command and field."""


def metavar_of(field: FieldInfo) -> str:
    """The values that a flag takes, in short: `{released,paper}`, `INT`, `PATH`, or `JSON` for lists and objects."""
    for note in field.metadata:
        if isinstance(note, Choice):
            return "{" + ",".join(note.table) + "}"
    return _metavar(field.annotation)


def _metavar(annotation: Any) -> str:
    if annotation in KINDS:
        return KINDS[annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "{" + ",".join(map(str, inner)) + "}"
    if origin in (Union, types.UnionType):
        kinds = dict.fromkeys(_metavar(each) for each in inner if each is not type(None))
        return "|".join(kinds)
    return _metavar(inner[0]) if hasattr(annotation, "__metadata__") else "JSON"


def default_text(path: Iterable[str], defaults: Mapping[str, Any]) -> str:
    """` [0.9]`, the default of a setting in its section's values; empty if they have none."""
    value: Any = defaults
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return ""
        value = value[name]
    text = value if isinstance(value, str) else as_text(value)
    return f" [{text or 'empty'}]"


def group_of(path: tuple[str, ...], *, machine: type[BaseModel], section: str | None, settings: Iterable[str]) -> str:
    """The heading under which --help lists a flag.

    Args:
        machine: the model of the flags that say what a command may use of the machine.
        section: name of the section of config.yaml that the command reads.
        settings: names of that section's settings.
    """
    if path[0] in machine.model_fields:
        return MACHINE
    return settings_title(section) if section is not None and path[0] in settings else FILES


def settings_title(section: str) -> str:
    """The heading of the settings of a section."""
    return f"settings, by default those of the section `{section}`"


def example_of(name: str, fields: Iterable[tuple[tuple[str, ...], FieldInfo]]) -> str:
    """A command line with the given fields, which are those that have no default.

    Args:
        name: of the command, such as `getam dump-maps`.
    """
    command, positional, flagged = name.rpartition(" ")[2], [], []
    for path, field in fields:
        key = ".".join(path)
        sample = SAMPLES.get(f"{command} {key}", SAMPLES.get(key, metavar_of(field)))
        if field.json_schema_extra == POSITIONAL:
            positional.append(sample)
        else:
            flagged += [flag_name(path), sample] if sample else [f"{flag_name(path)}="]
    return shlex.join([*name.split(), *positional, *flagged])
