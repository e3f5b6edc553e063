"""The environments of the rules and the versions that pip installs say the same."""

from __future__ import annotations

import re
import tomllib

import yaml
from packaging.requirements import Requirement
from support.workplace import PROJECT

ENVS = PROJECT / "envs"


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins() -> dict[str, str]:
    lines = (ENVS / "constraints.txt").read_text().splitlines()
    pinned = [line.split("==") for line in lines if not line.startswith("#")]
    return {_normalized(name): version for name, version in pinned}


def _requirements() -> dict[str, list[Requirement]]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    groups = {"run": project["dependencies"], **project["optional-dependencies"]}
    return {group: [Requirement(line) for line in lines] for group, lines in groups.items()}


def _project() -> dict[str, list[str]]:
    return {group: [each.name for each in requirements] for group, requirements in _requirements().items()}


def test_constraints_pin_each_package_once() -> None:
    lines = [line for line in (ENVS / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    # No hashes, no addresses, no packages from a folder.
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)
    assert len(_pins()) == len(lines)


def test_constraints_pin_every_direct_dependency() -> None:
    for group, names in _project().items():
        missing = [name for name in names if _normalized(name) not in _pins()]
        assert not missing, f"{group}: {missing} are not in envs/constraints.txt"


def test_pins_are_versions_that_the_project_allows() -> None:
    for requirements in _requirements().values():
        for each in requirements:
            assert each.specifier.contains(_pins()[_normalized(each.name)]), each
    [snakemake] = [each for each in _requirements()["workflow"] if each.name == "snakemake"]
    # The Snakefile says so too, where Snakemake was not installed by pip.
    [least] = re.findall(r'^min_version\("(.+)"\)', (PROJECT / "workflow" / "Snakefile").read_text(), re.MULTILINE)
    assert f">={least}" in str(snakemake.specifier)


def test_environments_agree_with_the_pins() -> None:
    environments = sorted(ENVS.glob("*.yaml"))
    assert environments
    for path in environments:
        environment = yaml.safe_load(path.read_text())
        assert "defaults" not in environment["channels"]
        *_, pip = environment["dependencies"]
        installed = dict(package.split("==") for package in pip["pip"])
        assert {_normalized(name) for name in installed} == {_normalized(name) for name in _project()["run"]}, path
        assert {name: _pins()[_normalized(name)] for name in installed} == installed, path


def test_every_environment_a_rule_names_exists() -> None:
    rules = "\n".join(path.read_text() for path in (PROJECT / "workflow" / "rules").glob("*.smk"))
    named = re.findall(r'CONDA_ENV = "\.\./\.\./(.+)"', rules)
    assert named
    assert all((PROJECT / name).is_file() for name in named)
