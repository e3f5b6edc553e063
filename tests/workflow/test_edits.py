"""Every key of config.yaml x every rule: an edit of the key reruns exactly the rules that depend on it."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic.fields import FieldInfo
from support.edited_keys import ELSEWHERE, Key, expected
from support.workplace import PROJECT, Workplace, complete_by_stand_ins

from getam.errors import InputError
from getam.settings.choices import Choice
from getam.settings.config import Config, validate_config
from getam.settings.flags import leaves, nest
from getam.settings.reading import merge, read_yaml

TOGETHER: dict[str, dict[str, Any]] = {
    "deeplab.encoder_stages": {"deeplab": {"encoder_stages": 3}},
    "deeplab_prediction.window": {"deeplab_prediction": {"window": 64}},
    "end_to_end_prediction.window": {"end_to_end_prediction": {"window": 64}},
    "relabel.window": {"relabel": {"window": 64}},
    "end_to_end.classifier_epochs": {"end_to_end": {"classifier_epochs": 1}},
    "deeplab.decoder.scales": {"deeplab": {"decoder": {"scales": [2, 1, 1]}}},
    "end_to_end.decoder.scales": {"end_to_end": {"decoder": {"scales": [4, 2, 1]}}},
    "tables.cnn": {"tables": {"cnn": {"backbone": "resnet34"}}},
    "tables.propagated": {"tables": {"propagated": {"completion": {"gamma": 4}}}},
    "tables.backbones": {"tables": {"backbones": {"Small": {"backbone": "vit_small_patch16_224"}}}},
    "tables.test_miou.multi_stage": {"tables": {"test_miou": {"multi_stage": 0.7}}},
    "tables.test_miou.end_to_end": {"tables": {"test_miou": {"end_to_end": 0.7}}},
    "deeplab.frozen_batch_norm": {"deeplab": {"frozen_batch_norm": True, "pretrained": True}},
}
"""Keys whose other values are valid beside others alone, or that need a value of their own."""

BASE = read_yaml(PROJECT / "config.yaml")


def others(value: Any, annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[Any]:
    """Values of a key's kind, of which one may be valid."""
    yield from (key for choice in metadata if isinstance(choice, Choice) for key in choice.table if key != value)
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        yield from (choice for choice in parts if choice != value)
    elif origin in (typing.Union, UnionType, typing.Annotated):
        for part in parts:
            yield from others(value, part)
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value + 2, value - 1, value * 2)
    elif isinstance(value, float):
        yield from (value * 0.75, value + 0.25, 0.5)
    elif isinstance(value, str | Path):
        yield from ("data/demo/DUTS-TR", "data/demo/DUTS-TE", "another")
    elif isinstance(value, tuple):
        yield from ([*value, *value[-1:]], [*value[1:]], [each + 1 for each in value], [1], [2], [64], ["another"])
    elif isinstance(value, Mapping):
        yield {**value, "another": 1}


def edit(path: Key, field: FieldInfo) -> dict[str, Any]:
    """An overlay that changes the key, and is valid."""
    if (name := ".".join(path)) in TOGETHER:
        return TOGETHER[name]
    known = validate_config(BASE)
    before: Any = known
    for part in path:
        before = getattr(before, part)
    for value in others(before, field.annotation, field.metadata):
        overlay = nest({path: value})
        try:
            if validate_config(merge(BASE, overlay)) != known:
                return overlay
        except InputError:
            continue
    pytest.fail(f"{name}: no other value of {before!r} is valid")


EDITED = [(path, field) for path, field in leaves(Config) if ".".join(path) not in ELSEWHERE]


def test_nearly_all_keys_are_edited() -> None:
    assert len(EDITED) > 150


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Like `finished`, but its sources are the project's, which are hashed once."""
    return complete_by_stand_ins(tmp_path_factory.mktemp("complete") / "work")


# Two tests, so that two processes can share the work.
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("half", [0, 1])
def test_every_key_reruns_what_depends_on_it_and_nothing_else(complete: Workplace, half: int) -> None:
    found, wanted = {}, {}
    for path, field in EDITED[half::2]:
        name = ".".join(path)
        overlay = edit(path, field)
        found[name] = complete.plan("--configfile", str(complete.overlay(overlay)))
        wanted[name] = expected(path) | ({"fetch_weights"} if overlay.get("deeplab", {}).get("pretrained") else set())
    assert {name: rules for name, rules in found.items() if rules != wanted[name]} == {}
