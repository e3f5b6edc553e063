"""The installed version of the package, and hashes of all its sources or of those that a stage imports."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from getam.errors import InputError

if TYPE_CHECKING:
    from grimp import ImportGraph

try:
    VERSION = version("getam")
except PackageNotFoundError:  # The package is run from a checkout that is not installed.
    VERSION = "unknown"

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("getam", "deeplab")

FILES_OF = {
    "getam.pages.audit.page": "templates",
    "getam.pages.contact_sheet": "templates",
    "getam.pages.overview": "templates",
    "getam.pages.predicted": "templates",
    "getam.pages.text.comparison_page": "templates",
    # Tables and figures of a run use only this template; the other files of the folder belong to the audit page.
    "getam.pages.text.documents": "templates/document.html",
}
"""Templates that a module renders, a folder or a file in getam/pages; they count as part of the module's code."""


@cache
def source_hash(stage: str | None = None) -> str:
    """SHA-256 of the sources of getam and deeplab, in hexadecimal digits.

    It changes with every edit, whereas VERSION stays the same between releases.

    Args:
        stage: name of a module, such as "getam.stages.dump_maps", to hash only the sources that it imports, directly
            or indirectly; None: all sources.
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
    """The modules of getam and deeplab that a module imports, directly or not, with itself and all parent packages.

    Imports inside functions count, since a stage may call these functions. The imports of a package's __init__ count
    for a module that imports a name from the package (`from getam import AttentionMaps`), but not for one that imports
    a module below the package.
    """
    modules = {module, *_graph().find_upstream_modules(module)}
    return {part for name in modules for part in _with_packages(name)}


@cache
def _graph() -> ImportGraph:
    # grimp is imported here because most commands hash nothing and start sooner without it.
    import grimp

    # A cache on disk would end up in the user's working folder; reading the packages takes only a tenth of a second.
    try:
        return grimp.build_graph(*PACKAGES, cache_dir=None, exclude_type_checking_imports=True)
    except grimp.exceptions.SourceSyntaxError as error:
        raise InputError(
            f"{error.filename}:{error.lineno}: not valid Python; correct it: a stage's hash is made from the imports "
            "of all modules"
        ) from None


def _with_packages(module: str) -> list[str]:
    names = module.split(".")
    return [".".join(names[:length]) for length in range(1, len(names) + 1)]


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
