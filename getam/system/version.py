"""The package's version, as installed, and hashes of its sources: of all, or of those that a stage imports."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grimp import ImportGraph

try:
    VERSION = version("getam")
except PackageNotFoundError:  # run from a checkout that is not installed
    VERSION = "unknown"

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("getam", "deeplab")

FILES_OF = {
    "getam.pages.audit.page": "templates",
    "getam.pages.contact_sheet": "templates",
    "getam.pages.overview": "templates",
    "getam.pages.text.comparison_page": "templates",
    # That template alone: the tables and figures of a run show nothing of the audit page, whose scripts are the rest.
    "getam.pages.text.documents": "templates/document.html",
}
"""What a module renders, a folder or a file in getam/pages: as much of its code as itself."""


@cache
def source_hash(stage: str | None = None) -> str:
    """Changes with any line of the packages getam and deeplab; a version stays the same between releases.

    Args:
        stage: a module's name, "getam.stages.dump_maps"; only what it imports counts, directly or not.
    """
    if stage is None:
        files = {path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    else:
        modules = import_closure(stage)
        files = {_file(module) for module in modules}
        for rendered in {ROOT / "getam" / "pages" / FILES_OF[module] for module in modules & FILES_OF.keys()}:
            files |= {path for path in (rendered, *rendered.rglob("*")) if path.is_file()}
    digest = hashlib.sha256()
    for path in sorted(files):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def import_closure(module: str) -> set[str]:
    """The modules of getam and deeplab that are imported with a module, itself and their packages included.

    Imports inside functions count, since a stage may call them. What a package's __init__ imports counts for a module
    that imports a name from the package (`from getam import AttentionMaps`), and not for one that imports a module
    below it.
    """
    modules = {module, *_graph().find_upstream_modules(module)}
    return {part for name in modules for part in _with_packages(name)}


@cache
def _graph() -> ImportGraph:
    # Not at the top: most commands hash nothing, and start sooner without grimp.
    import grimp

    # No cache on disk: it would lie in the folder of the user's run, and the packages are read in a tenth of a second.
    return grimp.build_graph(*PACKAGES, cache_dir=None, exclude_type_checking_imports=True)


def _with_packages(module: str) -> list[str]:
    names = module.split(".")
    return [".".join(names[:length]) for length in range(1, len(names) + 1)]


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
