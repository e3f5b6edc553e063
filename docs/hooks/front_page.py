"""The site's front page is README.md: its links into docs/ are made relative to docs/, and nothing else is changed."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PROJECT = Path(__file__).resolve().parents[2]

BESIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff")
"""Files that README links and the site has no page of; the site names them without a link."""


def front_page(readme: str) -> str:
    """README.md as a page of docs/."""
    for name in BESIDE:
        readme = readme.replace(f"[{name}]({name})", f"`{name}`")
    return re.sub(r"\]\(docs/", "](", readme)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=front_page(readme)))
    return files
