from __future__ import annotations

from pathlib import Path

import pytest

from getam.errors import InputError
from getam.runs.recorded import dotted, recorded_settings, setting_text
from getam.system.files import write_json


def test_settings_are_told_from_facts_and_from_what_was_found(tmp_path: Path) -> None:
    model = {
        "kind": "classifier",
        "settings": {"epochs": 3, "crop": {"size": 96, "long_side": [88, 112]}, "backbone_options": {}},
        "classes": ["cat", "dog"],
        "supervision": "I",
        "initialization": None,
        "history": [{"loss": 1.0}],
        "version": "0.1.0",
    }
    write_json(tmp_path / "classifier" / "model.json", model)
    for number, ids in enumerate((["a", "b"], ["c"])):
        manifest = {"ids": ids, "classes": ["cat", "dog"], "settings": {"alpha": 0.9}, "version": "0.1.0"}
        write_json(tmp_path / "pseudo_labels" / f"{number:03d}" / "manifest.json", manifest)
    classifier, completion = recorded_settings(tmp_path)
    assert (classifier.section, classifier.source) == ("classifier", "classifier/model.json")
    assert classifier.settings == {
        "epochs": 3, "crop.size": 96, "crop.long_side": [88, 112], "backbone_options": {}
    }  # fmt: skip
    assert classifier.facts == {"supervision": "I", "initialization": None, "version": "0.1.0", "classes": 2}
    assert completion.settings == {"alpha": 0.9}
    assert completion.facts == {"version": "0.1.0", "images": 3, "shards": 2, "classes": 2}


def test_shards_of_different_settings_are_said(tmp_path: Path) -> None:
    for number, alpha in enumerate((0.9, 0.8)):
        write_json(tmp_path / "maps" / f"{number:03d}" / "manifest.json", {"ids": [], "settings": {"alpha": alpha}})
    (maps,) = recorded_settings(tmp_path)
    assert maps.settings == {"alpha": 0.9}
    assert maps.facts["note"].startswith("the shards were made by different settings")


@pytest.mark.parametrize("content", [[], {"settings": 3}])
def test_what_no_stage_writes_is_named(tmp_path: Path, content: object) -> None:
    write_json(tmp_path / "classifier" / "model.json", content)
    with pytest.raises(InputError, match=r"classifier/model\.json: not the description .*run the stage again"):
        recorded_settings(tmp_path)


def test_values_are_shown_as_they_are_written() -> None:
    assert [setting_text(value) for value in ("a b", "", None, True, 0.001, [1, 2], {})] == [
        "a b", '""', "null", "true", "0.001", "[1, 2]", "{}"
    ]  # fmt: skip
    assert dict(dotted({"a": {"b": {"c": 1}}, "d": 2})) == {"a.b.c": 1, "d": 2}
