"""The package's version, as installed, and hashes of its sources: of all, or of those that a stage imports."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    VERSION = version("getam")
except PackageNotFoundError:  # run from a checkout that is not installed
    VERSION = "unknown"

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("getam", "deeplab")

FILES_OF = {
    "getam.pages.text.comparison_page": "templates",
    "getam.pages.contact_sheet": "templates",
    # That template alone: the tables and figures of a run show nothing of the audit page, whose scripts are the rest.
    "getam.pages.text.documents": "templates/document.html",
    "getam.pages.overview": "templates",
    "getam.pages.audit.page": "templates",
}
"""What lies beside a module that renders it, a folder or a file: as much of its code as itself."""


@cache
def source_hash(stage: str | None = None) -> str:
    """Changes with any line of the packages getam and deeplab; a version stays the same between releases.

    Args:
        stage: a module's name, "getam.stages.dump_maps"; only what it imports counts, directly or not.
    """
    if stage is None:
        files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    else:
        modules = import_closure(stage)
        files = [_file(module) for module in modules]
        read = {_file(module).parent / FILES_OF[module] for module in modules & FILES_OF.keys()}
        files += {path for each in read for path in (each, *each.rglob("*")) if path.is_file()}
    digest = hashlib.sha256()
    for path in sorted(files):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def import_closure(module: str) -> set[str]:
    """The modules of getam and deeplab that are imported with a module, itself and their packages included."""
    found: set[str] = set()
    todo = set(_with_packages(module))
    while todo:
        name = todo.pop()
        found.add(name)
        todo |= {part for imported in _imports(name) for part in _with_packages(imported)} - found
    return found


def _with_packages(module: str) -> Iterator[str]:
    names = module.split(".")
    for length in range(1, len(names) + 1):
        yield ".".join(names[:length])


@cache
def _imports(module: str) -> frozenset[str]:
    """What a module imports of the packages, inside of functions too.

    Not inside of those of a package's __init__, which give its names to who asks for them: `from getam import
    AttentionMaps` imports what __init__ imports anywhere.
    """
    tree = ast.parse(_file(module).read_bytes())
    lazily = _file(module).name != "__init__.py"
    found: set[str] = set()
    for node in _statements(tree.body, into_functions=lazily):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{module}: imports are absolute here"
            for alias in node.names:
                if _is_module(f"{node.module}.{alias.name}"):
                    found.add(f"{node.module}.{alias.name}")
                    continue
                found.add(node.module)
                if node.module in PACKAGES:
                    found |= _imported_anywhere(node.module)
    return frozenset(name for name in found if name.split(".")[0] in PACKAGES)


def _imported_anywhere(package: str) -> set[str]:
    nodes = _statements(ast.parse(_file(package).read_bytes()).body, into_functions=True)
    return {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module is not None}


def _statements(body: Iterable[ast.AST], *, into_functions: bool) -> Iterator[ast.AST]:
    """All statements that run, but those that only a type checker sees."""
    for node in body:
        yield node
        if isinstance(node, ast.FunctionDef) and not into_functions:
            continue
        only_checked = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for block in ("body", "orelse", "handlers", "finalbody", "cases"):
            if not (only_checked and block == "body"):
                yield from _statements(getattr(node, block, ()), into_functions=into_functions)


def _is_module(name: str) -> bool:
    return name.split(".")[0] in PACKAGES and _file(name).is_file()


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
