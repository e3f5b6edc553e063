"""Ranks backbones by the mAP of a linear layer on their frozen features, to choose one for some photographs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field

from getam.datasets.index import read_index
from getam.errors import InputError
from getam.networks.backbones import check_name, has_class_token
from getam.pages.text.tables import aligned_table
from getam.scores.probe import IMAGES, Probe, chance, image_targets, probe_backbone
from getam.settings.networks import BackboneSettings
from getam.settings.patches import patch_size
from getam.settings.section import ImageSize
from getam.system.arguments.network import NetworkArguments
from getam.system.files import write_json

HEADINGS = ("backbone", "weights", "val mAP", "image size", "features", "seconds")

LARGEST_PATCH = 32
"""A multiple of the patches of all of timm's ViTs whose name doesn't tell their size."""

Item = TypeVar("Item")


def _one_or_several(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


class Arguments(NetworkArguments):
    """Print and write the mAP on val of a linear layer on each backbone's frozen features of train's images.

    No backbone is trained. The layer's penalty is chosen by cross-validation on train.
    """

    index: Path = Field(description="index.csv")
    backbone: Annotated[tuple[str, ...], BeforeValidator(_one_or_several), Field(min_length=1)] = Field(
        description="timm name of a ViT with a class token or of a CNN; several as a JSON list"
    )
    pretrained: Annotated[tuple[bool | str, ...], BeforeValidator(_one_or_several), Field(min_length=1)] = Field(
        default=(True,),
        description="true (weights fetched by the backbone's name), a .safetensors or .pth file, or false (fresh "
        "weights); a JSON list has one for each backbone [true]",
    )
    backbone_options: Annotated[tuple[dict[str, Any], ...], BeforeValidator(_one_or_several), Field(min_length=1)] = (
        Field(
            default=({},),
            description="keyword arguments for timm.create_model; a JSON list has those of each backbone [{}]",
        )
    )
    segmentation_pretrained: bool = Field(
        default=False, description="allow weights that were trained on pixel labels [false]"
    )
    image_size: ImageSize = Field(
        default=224, description="longer side of the network's input, pixels, rounded to whole patches [224]"
    )
    images: Annotated[int, Field(ge=0)] = Field(
        default=IMAGES, description=f"most images of a split, evenly spaced; 0: all [{IMAGES}]"
    )
    out: Path | None = Field(default=None, description="JSON file for the scores [none]")


def run(arguments: Arguments) -> None:
    candidates = _candidates(arguments)
    for settings in candidates:
        check_name(settings.backbone, key="backbone")
    index = read_index(arguments.index)
    device = arguments.prepare()
    found: list[tuple[BackboneSettings, Probe, float]] = []
    for settings in candidates:
        started = time.monotonic()
        probe = probe_backbone(
            settings.model_copy(update={"readout": _readout(settings)}),
            index,
            source=arguments.index,
            image_size=_whole_patches(settings, arguments.image_size),
            images=arguments.images,
            device=device,
            threads=arguments.threads,
            what=f"probe of {settings.backbone}",
        )
        found.append((settings, probe, time.monotonic() - started))
    found.sort(key=lambda each: -each[1].mean_average_precision)
    best = found[0][1]
    of_random = chance(image_targets([index.row(id, source=arguments.index) for id in best.val], index))
    splits = {"train": (best.train, len(index.labelled("train"))), "val": (len(best.val), len(index.labelled("val")))}
    if arguments.out is not None:
        probes = [
            {"backbone": s.backbone, "options": s.backbone_options, "pretrained": s.pretrained, **p.record()}
            for s, p, _ in found
        ]
        images = {name: {"probed": probed, "all": every} for name, (probed, every) in splits.items()}
        write_json(arguments.out, {"split": "val", "images": images, "chance": of_random, "probes": probes})
    print(_table(found))
    counts = " and ".join(f"{probed} of {every} images of {name}" for name, (probed, every) in splits.items())
    print(f"A linear layer on frozen features; {counts}; random scores have {of_random:.3f}.")


def _candidates(arguments: Arguments) -> list[BackboneSettings]:
    """The settings of each backbone that is probed.

    Raises:
        InputError: two lists have different lengths.
    """
    given = {
        "--backbone": arguments.backbone,
        "--pretrained": arguments.pretrained,
        "--backbone-options": arguments.backbone_options,
    }
    count = max(map(len, given.values()))
    if wrong := [f"{flag}: {len(values)}" for flag, values in given.items() if len(values) not in (1, count)]:
        raise InputError(f"{', '.join(wrong)} values where another list has {count}; give one for all, or {count}")
    columns = [_repeated(values, count) for values in given.values()]
    return [
        BackboneSettings(
            backbone=name,
            backbone_options=options,
            pretrained=pretrained,
            segmentation_pretrained=arguments.segmentation_pretrained,
            stem_channels=(),
            readout="token",
            final_norm=True,
            trainable="none",
            backbone_rate=1,
            layer_decay=1,
            embedding="timm",
            normalization="backbone",
        )
        for name, pretrained, options in zip(*columns, strict=True)
    ]


def _repeated(values: Sequence[Item], count: int) -> Sequence[Item]:
    return [*values] * count if len(values) == 1 else values


def _readout(settings: BackboneSettings) -> str:
    """The read-out that takes the features which are probed: the class token's, or a CNN's average."""
    is_vit = has_class_token(settings.backbone, key="backbone", **settings.backbone_options)
    return "token" if is_vit else "pool"


def _whole_patches(settings: BackboneSettings, size: int) -> int:
    multiple = patch_size(settings.backbone, settings.backbone_options) or LARGEST_PATCH
    return max(1, round(size / multiple)) * multiple


def _weights(pretrained: bool | str) -> str:
    if isinstance(pretrained, str):
        return Path(pretrained).name
    return "by name" if pretrained else "fresh"


def _table(found: Sequence[tuple[BackboneSettings, Probe, float]]) -> str:
    rows = [
        (
            settings.backbone,
            _weights(settings.pretrained),
            f"{probe.mean_average_precision:.4f}",
            str(probe.image_size),
            str(probe.features),
            f"{seconds:.0f}",
        )
        for settings, probe, seconds in found
    ]
    return aligned_table(HEADINGS, rows, right={2, 3, 4, 5}, ruled=False)
