"""Files that a user brings are found by the ids in their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from getam.datasets.naming import files_of_ids
from getam.errors import InputError


def found(folder: Path, ids: Sequence[str]) -> dict[str, Path]:
    return files_of_ids(folder, ids, (".png", ".jpg"), what="saliency map", setting="saliency.folder")


@pytest.mark.parametrize("missing", [0, 2])
def test_the_map_that_is_missing_of_a_naming_is_named(tmp_path: Path, missing: int) -> None:
    ids = [f"2007_{number:06}" for number in range(5)]
    for id in ids:
        (tmp_path / f"sal_{id}_map.png").touch()
    (tmp_path / f"sal_{ids[missing]}_map.png").unlink()
    message = f"sal_{ids[missing]}_map.png: no such saliency map, nor .jpg; add it, or set saliency.source"
    with pytest.raises(InputError, match=message) as raised:
        found(tmp_path, ids)
    assert "problems" not in str(raised.value)


def test_names_may_hold_the_id_between_other_text(tmp_path: Path) -> None:
    for id in ("1", "11"):
        (tmp_path / f"map_{id}_sal.png").touch()
    assert found(tmp_path, ["1", "11"]) == {id: tmp_path / f"map_{id}_sal.png" for id in ("1", "11")}
    for id in ("1", "11"):
        (tmp_path / f"other_{id}.png").touch()
    with pytest.raises(InputError, match=r"holds saliency maps of several namings \(map_<id>_sal, other_<id>\)"):
        found(tmp_path, ["1", "11"])
