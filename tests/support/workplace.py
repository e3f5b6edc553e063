"""A temporary folder in which tests run the project's workflow."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from support.forks import COMMANDS, PROJECT, SNAKEMAKE, SNAKEMAKE_AND_PROJECT, put_commands

TINY = PROJECT / "tests" / "tiny.yaml"
ONE_THREAD_A_JOB = ("--max-threads", "1", "--resources", "gpu=2", "--configfile", str(TINY))

STAND_IN = """#!{python} -S
import pathlib, sys
stage, out = sys.argv[1], pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
if stage.startswith("train-"):
    files = [out / name for name in ("model.safetensors", "model.json", "metrics.json")]
elif stage in ("make-table", "compare-maps", "plot-fusions", "time-labels"):
    files = [out.with_suffix(suffix) for suffix in (".json", ".md", ".html", ".svg", ".png")]
elif out.suffix:
    masks = ["masks/content"] if "coco" in sys.argv else []
    beside = {{"index-dataset": ["classes.txt", "index.json", *masks], "summary": ["summary.md", "summary.html"]}}
    files = [out, *(out.parent / name for name in beside.get(stage, []))]
else:
    files = [out / "content"]
for file in files:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(" ".join(sys.argv))
with (pathlib.Path(sys.argv[0]).parents[1] / "started.txt").open("a") as file:
    file.write(stage + "\\n")
"""
SCRIPT = """
import runpy, sys
sys.path.insert(0, "workflow")
runpy.run_path("workflow/run.py", run_name="__main__")
"""
"""What `python workflow/run.py` does, in a process that runs already."""


class Workplace:
    """A folder with the project's workflow.

    With `stand_ins`, the commands are scripts that only write their output files; with `forked`, they are forks of a
    process that has imported torch; with neither, the environment's. With `sources`, the folder has its own copy of the
    packages, which tests may edit.
    """

    def __init__(self, folder: Path, *, stand_ins: bool, sources: bool = False, forked: bool = False) -> None:
        self.folder = folder
        self.sources = sources
        self.own_commands = stand_ins or forked
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("workflow", "envs"):
            shutil.copytree(PROJECT / name, folder / name)
        shutil.copy(PROJECT / "config.yaml", folder)
        if sources:
            for name in ("getam", "deeplab"):
                shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        if self.own_commands:
            put_commands(folder / "bin", STAND_IN.format(python=sys.executable) if stand_ins else COMMANDS.client())

    def copied(self, folder: Path) -> Workplace:
        """A copy of the whole folder, in which files keep their times."""
        copy = object.__new__(Workplace)
        copy.folder, copy.sources, copy.own_commands = folder, self.sources, self.own_commands
        shutil.copytree(self.folder, folder, symlinks=True)
        return copy

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python") if self.own_commands else sys.executable

    @property
    def command(self) -> list[str]:
        return [self.python, "-m", "snakemake"]

    @property
    def entry(self) -> list[str]:
        """The command that `make run` starts."""
        return [self.python, "workflow/run.py"]

    @property
    def environment(self) -> dict[str, str]:
        packages = os.pathsep.join([str(self.folder if self.sources else PROJECT), *filter(None, sys.path)])
        return {**os.environ, "PYTHONPATH": packages, "PYTHONDONTWRITEBYTECODE": "1"}

    def snakemake(self, *words: str, cores: int = 2) -> subprocess.CompletedProcess[str]:
        return self.forked("import snakemake.cli; snakemake.cli.main()", "--cores", str(cores), *words)

    def run(self, *words: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs `entry` with these words."""
        return self.forked(SCRIPT, *words, environment=environment)

    def forked(
        self, code: str, *words: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs Python code that uses Snakemake in the folder, in a process of its own that starts at once."""
        forks = SNAKEMAKE if self.sources else SNAKEMAKE_AND_PROJECT
        environment = self.environment if environment is None else environment
        return forks.run(code, *words, folder=self.folder, python=self.python, environment=environment)

    def started(self) -> list[str]:
        """The stages for which stand-ins were called, in the order of the calls."""
        return (self.folder / "started.txt").read_text().split()

    def plan(self, *words: str, cores: int = 2) -> set[str]:
        """The rules that `snakemake -n` lists, without target rules."""
        result = self.snakemake("-n", *words, cores=cores)
        output = result.stdout + result.stderr
        assert result.returncode == 0, output
        if "Nothing to be done" in output:
            return set()
        table = re.search(r"^job +count\n[- ]+\n(.*?)^total ", output, re.MULTILINE | re.DOTALL)
        assert table, output
        return {line.split()[0] for line in table[1].splitlines()} - {"all", "multi_stage", "end_to_end"}

    def overlay(self, values: Mapping[str, Any]) -> Path:
        path = self.folder / "overlay.yaml"
        path.write_text(yaml.safe_dump(dict(values)))
        return path


def complete_by_stand_ins(folder: Path, *, sources: bool = False) -> Workplace:
    """A workplace where the whole workflow has run by stand-ins."""
    workplace = Workplace(folder, stand_ins=True, sources=sources)
    result = workplace.snakemake(cores=8)
    assert result.returncode == 0, result.stdout + result.stderr
    return workplace


def pseudo_labels(workplace: Workplace) -> dict[str, bytes]:
    """The bytes of the pseudo labels of the tiny run, by their paths in its folder of them."""
    folder = workplace.folder / "results" / "tiny" / "pseudo_labels"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*.png"))}
