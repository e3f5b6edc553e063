"""Where things are: wings that import only wings below them, with empty packages and modules of a size to read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from support.workplace import PROJECT

LONGEST = 450
"""Lines of a module; what is longer is two."""


def test_packages_are_empty() -> None:
    # A stage's hash counts the packages of what it imports: a package that imports would make an edit rerun everything.
    packages = [path for name in ("getam", "deeplab") for path in (PROJECT / name).rglob("__init__.py")]
    assert len(packages) > 15
    assert [path for path in packages if path.stat().st_size and path.parent.parent != PROJECT] == []


def test_no_module_lies_beside_the_wings_or_is_too_long_to_read() -> None:
    beside = {path.name for path in (PROJECT / "getam").glob("*.py")}
    assert beside == {"__init__.py", "__main__.py", "cli.py", "errors.py"}
    lengths = {
        str(path.relative_to(PROJECT)): len(path.read_text().splitlines())
        for name in ("getam", "deeplab")
        for path in (PROJECT / name).rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_an_import_against_the_order_is_found(tmp_path: Path) -> None:
    for name in ("getam", "deeplab"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.js"))
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    assert lint_imports(tmp_path).returncode == 0
    for module, line, broken in [
        ("getam/system/files.py", "import getam.pages.rendering", "A wing imports only wings below it"),
        ("getam/stages/audit.py", "import getam.stages.summary", "A stage imports no stage"),
        ("getam/stages/dump_maps.py", "import getam.settings.config", "No stage reads the whole configuration"),
        ("getam/runs/summary.py", "import deeplab.model", "getam doesn't know deeplab"),
        ("deeplab/model.py", "import getam.stages.audit", "deeplab uses getam's libraries alone"),
    ]:
        path = tmp_path / module
        text = path.read_text()
        path.write_text(f"{text}\n\n{line}\n")
        result = lint_imports(tmp_path)
        assert result.returncode == 1, module
        assert f"{broken} BROKEN" in result.stdout, module
        path.write_text(text)


def test_a_wing_that_is_not_in_the_order_is_found(tmp_path: Path) -> None:
    shutil.copytree(PROJECT / "getam", tmp_path / "getam", ignore=shutil.ignore_patterns("__pycache__", "*.js"))
    shutil.copytree(PROJECT / "deeplab", tmp_path / "deeplab", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    (tmp_path / "getam" / "drawer").mkdir()
    (tmp_path / "getam" / "drawer" / "__init__.py").touch()
    assert lint_imports(tmp_path).returncode == 1


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """What `make lint` says of the packages in a folder."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True)
