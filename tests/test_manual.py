"""README and docs/ say what is there: every command, setting, file and link in them is looked up."""

from __future__ import annotations

import importlib.util
import itertools
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image
from pydantic import ValidationError
from support.trained import save_trained
from support.workplace import PROJECT, Workplace

import deeplab.cli
import getam
import getam.cli
from getam.cli import command, parse_flags
from getam.errors import InputError
from getam.settings.config import Config, validate_config
from getam.settings.flags import flag_name, leaves
from getam.settings.reading import merge, read_yaml

README = PROJECT / "README.md"
PAGES = [README, PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]

COMMANDS = {
    "getam": getam.cli.STAGES | getam.cli.TOOLS,
    "deeplab": deeplab.cli.STAGES | deeplab.cli.TOOLS,
}
TOOLS = {"getam": getam.cli.TOOLS, "deeplab": deeplab.cli.TOOLS}

WITHOUT_MODULE = ("--help", "schema", "run")

OTHERS = {"source", "tensorboard", "git", "pre-commit", "pip"}
"""Programs that are not this project's."""

SETTINGS = {".".join(path) for path, _ in leaves(Config)}
SECTIONS = {path[0] for path, _ in leaves(Config) if len(path) > 1}


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    language: str
    title: str
    text: str


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        for fence in re.finditer(r"^```(\w+)(?: title=\"([^\"\n]+)\")?\n(.*?)^```$", page.read_text(), re.M | re.S):
            if fence[1] in languages:
                found.append(Block(page.name, fence[1], fence[2] or "", fence[3]))
    return found


def commands() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every command of the pages' blocks."""
    for block in blocks("bash", "console"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                yield block.page, words[: words.index(">")] if ">" in words else words


def commands_of(*programs: str) -> list[Any]:
    found = [(page, words) for page, words in commands() if words[0] in programs]
    return [pytest.param(words, id=f"{page}: {shlex.join(words)[:80]}") for page, words in found]


def inline_code() -> Iterator[tuple[str, str]]:
    """(page, code) of what stands between backticks outside of blocks."""
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
        for code in re.findall(r"`([^`]+)`", text):
            yield page.name, " ".join(code.split())


WRITTEN = {block.title for block in blocks("yaml") if block.title}
"""Files that the manual tells its reader to write."""


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    # Commands name overlays as they are seen from there.
    monkeypatch.chdir(PROJECT)


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The names of all rules, and of those that can be asked for, as Snakemake lists them."""
    workplace = Workplace(tmp_path_factory.mktemp("rules"), stand_ins=True)
    listed = {option: workplace.snakemake(option) for option in ("--list-rules", "--list-target-rules")}
    assert all(result.returncode == 0 for result in listed.values()), listed
    return {option: set(result.stdout.split()) for option, result in listed.items()}


def outputs() -> dict[str, list[str]]:
    """{rule: its outputs below results/{run}/, wildcards in braces}, as the files of rules have them."""
    found = {}
    for file in (PROJECT / "workflow" / "rules").glob("*.smk"):
        for name, block in re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", file.read_text(), re.M | re.S):
            stated = re.search(r"^    output:\n(.*?)(?=^    \w)", block, re.M | re.S)
            if stated:
                found[name] = re.findall(r"results/{run}/[^\"]+", stated[1])
    return found


def is_target(word: str, rules: dict[str, set[str]]) -> bool:
    """Whether Snakemake makes something of a target: a rule whose files are one a run, or a file of a run."""
    if not word.startswith("results/"):
        return word in rules["--list-target-rules"] or all(
            set(re.findall(r"{(\w+)}", path)) == {"run"} for path in outputs().get(word, ["{}"])
        )
    patterns = [re.sub(r"{\w+}", ".+", path) for paths in outputs().values() for path in paths]
    return any(re.fullmatch(pattern, word) for pattern in patterns)


# Commands


def test_every_command_is_of_a_program_that_is_looked_at() -> None:
    known = {"getam", "deeplab", "snakemake", "make", "python", "pytest"} | OTHERS
    unknown = [(page, words) for page, words in commands() if words[0] not in known]
    assert not unknown
    assert len(list(commands())) > 50


@pytest.mark.parametrize("words", commands_of("getam", "deeplab"))
def test_a_command_of_the_package_is_parsed_by_its_own_flags(words: list[str], rules: dict[str, set[str]]) -> None:
    program, name, *flags = words
    if name == "run":
        check_snakemake(flags, rules)
    if name in WITHOUT_MODULE:
        return
    assert name in COMMANDS[program]
    if "--help" in flags:
        return
    folder = "tools" if name in TOOLS[program] else "stages"
    module = importlib.import_module(f"{program}.{folder}.{name.replace('-', '_')}")
    parse_flags(module.Arguments, flags, name=f"{program} {name}", section=getattr(module, "SECTION", None))
    for overlay in re.findall(r"configs/\w+\.yaml", " ".join(flags)):
        assert overlay in WRITTEN or Path(overlay).is_file(), overlay


@pytest.mark.parametrize("words", commands_of("snakemake"))
def test_a_command_of_snakemake_names_what_is_there(words: list[str], rules: dict[str, set[str]]) -> None:
    check_snakemake(words[1:], rules)


def check_snakemake(words: list[str], rules: dict[str, set[str]]) -> None:
    """Flags by Snakemake's own parser; targets, rules, profiles, overlays and settings by what there is."""
    from snakemake.cli import get_argument_parser

    asked = get_argument_parser().parse_args(words)
    assert [word for word in asked.targets if not is_target(word, rules)] == []
    assert {*(asked.set_threads or {}), *(asked.set_resources or {})} <= rules["--list-rules"]
    if asked.workflow_profile:
        assert Path(asked.workflow_profile, "config.yaml").is_file()
    values = read_yaml(PROJECT / "config.yaml")
    for overlay in map(Path, asked.configfile or []):
        written = [block.text for block in blocks("yaml") if block.title == str(overlay)]
        values = merge(values, yaml.safe_load(written[0]) if written else read_yaml(overlay))
    for setting in asked.config or []:
        key, _, value = setting.partition("=")
        values = merge(values, {key: yaml.safe_load(value)})
    validate_config(values)


@pytest.mark.parametrize("words", commands_of("make"))
def test_a_target_of_make_exists(words: list[str], rules: dict[str, set[str]]) -> None:
    assert words[1] in make_targets()
    for word in words[2:]:
        name, _, value = word.partition("=")
        assert re.search(rf"^{name} \?=", (PROJECT / "Makefile").read_text(), re.M), name
        if name == "ARGS":
            check_snakemake(shlex.split(value), rules)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (PROJECT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("words", commands_of("python"))
def test_a_script_exists(words: list[str], rules: dict[str, set[str]]) -> None:
    if words[1] == "workflow/run.py":
        check_snakemake(words[2:], rules)
    elif words[1] == "-m":
        assert importlib.util.find_spec(words[2])
    else:
        assert Path(words[1]).is_file()


@pytest.mark.parametrize("words", commands_of("pytest"))
def test_tests_that_are_run_exist(words: list[str]) -> None:
    check_pytest(words)


def check_pytest(words: list[str]) -> None:
    markers = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    for flag, word in itertools.pairwise(words):
        if flag == "-m":
            assert word in {marker.partition(":")[0] for marker in markers}
        elif word.startswith("tests/"):
            assert Path(word).exists(), word


def test_commands_within_a_sentence_exist() -> None:
    checked = 0
    for page, code in inline_code():
        program, *words = code.split()
        if program in COMMANDS and words and words[0] not in WITHOUT_MODULE:
            assert words[0] in COMMANDS[program], f"{page}: {code}"
        elif program == "make" and words:
            assert words[0] in make_targets(), f"{page}: {code}"
        elif program == "pytest":
            check_pytest([program, *words])
        else:
            continue
        checked += 1
    assert checked > 20


# Settings


def test_settings_within_a_sentence_exist_and_take_the_values_that_stand_there() -> None:
    base, checked = read_yaml(PROJECT / "config.yaml"), 0
    for page, code in inline_code():
        found = re.fullmatch(r"(\w+(?:\.\w+)+)(?:: (.+))?", code)
        if found is None or found[1].split(".")[0] not in SECTIONS or "/" in code or is_file_name(code):
            continue
        key, value = found.groups()
        assert key in SETTINGS or any(name.startswith(f"{key}.") for name in SETTINGS), f"{page}: {code}"
        checked += 1
        if value is not None:
            changes: Any = yaml.safe_load(value)
            for name in reversed(key.split(".")):
                changes = {name: changes}
            assert key not in refused(merge(base, changes)), f"{page}: {code}"
    assert checked > 30


def is_file_name(code: str) -> bool:
    return code.endswith((".py", ".smk", ".yaml", ".json", ".md", ".csv", ".html"))


def refused(values: dict[str, Any]) -> set[str]:
    """The settings that are refused by themselves; not those that only don't suit the others."""
    try:
        Config.model_validate(values)
    except ValidationError as error:
        return {".".join(map(str, problem["loc"])) for problem in error.errors()}
    return set()


@pytest.mark.parametrize("block", [pytest.param(block, id=block.page) for block in blocks("yaml")])
def test_an_overlay_is_valid(block: Block) -> None:
    validate_config(merge(read_yaml(PROJECT / "config.yaml"), yaml.safe_load(block.text)))


def test_the_reference_has_every_setting_with_its_flag() -> None:
    text = hook("settings_reference")["reference"]()
    for path, field in leaves(Config):
        [row] = [line for line in text.splitlines() if line.startswith(f'| <span id="{".".join(path)}">')]
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert len(cells) == 4
        assert all(cells), row
        assert (field.description or "")[:20].replace("<", "&lt;") in cells[3]
    assert f"`completion.alpha`<br>`{flag_name(('alpha',))}` | number ≥&nbsp;0, ≤&nbsp;1 | `0.9` | quantile" in text
    assert "<br>*paper: 0.9 on VOC, 0.95 on COCO*" in text
    # The workflow's own: no command takes it.
    assert '<span id="data.shards"></span>`data.shards` |' in text


def test_pages_have_the_lines_that_tables_take_the_place_of() -> None:
    assert hook("settings_reference")["MARKER"] in (PROJECT / "docs" / "settings.md").read_text()
    for marker in hook("command_list")["TABLES"]:
        assert marker in (PROJECT / "docs" / "commands.md").read_text()


def hook(name: str) -> dict[str, Any]:
    return runpy.run_path(str(PROJECT / "docs" / "hooks" / f"{name}.py"))


# Python


def test_public_names_are_those_that_the_manual_has() -> None:
    named = re.findall(r"^::: getam\.(\w+)$", (PROJECT / "docs" / "api.md").read_text(), re.M)
    assert sorted(named) == sorted(getam.__all__)
    for name in getam.__all__:
        assert getattr(getam, name).__name__ == name
    with pytest.raises(AttributeError, match="'getam' has no attribute 'nothing'"):
        _ = getam.nothing


def test_the_packages_load_no_torch_until_it_is_needed() -> None:
    code = "import sys, getam, deeplab, getam.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


@pytest.mark.parametrize("block", [pytest.param(block, id=block.page) for block in blocks("python")])
def test_examples_import_what_is_there(block: Block) -> None:
    compile(block.text, block.page, "exec")
    imports = [line for line in block.text.splitlines() if re.match(r"(from|import) ", line)]
    exec("\n".join(imports), {})


def test_the_examples_of_the_api_and_of_a_network_in_use_run(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_trained(tmp_path / "results" / "msrc", config)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photograph.jpg")
    monkeypatch.chdir(tmp_path)
    assert command("getam", COMMANDS["getam"], ["export", "results/msrc/deeplab", "--threads", "1"]) == 0
    for block in blocks("python"):
        if block.page in ("api.md", "use_the_network.md"):
            exec(block.text, {})


def test_the_recipes_of_extending_are_of_the_code_as_it_is() -> None:
    """Lines of context, and those that they take away, stand in the file that they change; what they add does not."""
    recipes = [block for block in blocks("diff") if block.page == "extending.md"]
    assert len(recipes) >= 4
    for block in recipes:
        lines = (PROJECT / block.title).read_text().splitlines()
        for line in block.text.splitlines():
            if line.startswith("+"):
                assert not re.search(r"\w", line[1:]) or line[1:] not in lines, f"{block.title}: {line}"
            elif line.strip() != "...":
                assert line[1:] in lines, f"{block.title}: {line}"


def functions_of_extending() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for block in blocks("python"):
        if block.page == "extending.md":
            exec(block.text, found)
    return found


def test_the_label_method_of_the_example_labels() -> None:
    maps = np.array([[[4, 1, 0]], [[1, 1, 0]]], np.float32)
    label = functions_of_extending()["threshold_labels"]
    assert label(maps, [2, 5], 0.3).tolist() == [[3, 6, 0]]
    assert label(maps[:0], [], 0.3).tolist() == [[0, 0, 0]]
    with pytest.raises(InputError, match="disagree"):
        label(maps, [2], 0.3)


def test_the_format_of_the_example_is_read(tmp_path: Path) -> None:
    for split, name in (("train", "one__dog+cat"), ("val", "two__dog")):
        (tmp_path / split).mkdir()
        Image.new("RGB", (8, 6)).save(tmp_path / split / f"{name}.jpg")
    read = functions_of_extending()["index_pairs"]
    index = read(tmp_path, splits=("train", "val", "test"))
    assert index.classes == ("cat", "dog")
    assert [(row.id, row.split, row.labels) for row in index.rows] == [
        ("one__dog+cat", "train", ("cat", "dog")),
        ("two__dog", "val", ("dog",)),
    ]
    Image.new("RGB", (8, 6)).save(tmp_path / "val" / "three.jpg")
    with pytest.raises(InputError, match=r"three\.jpg: is not called"):
        read(tmp_path, splits=("val",))


# Links


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_links_and_pictures_exist(page: Path) -> None:
    check_links(page.read_text(), page.parent)


def check_links(text: str, folder: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        path = folder / file if file else None
        assert path is None or path.exists(), target
        if anchor and (path is None or path.suffix == ".md"):
            headings = text if path is None else path.read_text()
            assert anchor in anchors(headings) or anchor in SETTINGS | SECTIONS, target


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as mkdocs and GitHub make them."""
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def test_the_front_page_of_the_site_has_links_that_exist() -> None:
    pytest.importorskip("mkdocs")
    page = hook("front_page")["front_page"](README.read_text())
    check_links(page, PROJECT / "docs")


def test_every_page_is_in_the_manuals_contents() -> None:
    listed = set(re.findall(r"(\w+\.md)$", (PROJECT / "mkdocs.yml").read_text(), re.M))
    assert listed == {page.name for page in (PROJECT / "docs").glob("*.md")} | {"index.md"}


def test_pictures_of_the_manual_are_shown() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    assert all(path.name in text for path in (PROJECT / "docs" / "pictures").iterdir())


# The front door


def test_readme_is_a_front_door() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 200
    first_screen = "\n".join(lines[:50])
    assert "images + image labels ── index_dataset" in first_screen
    assert "make demo" in first_screen
    assert "make test" in first_screen


def test_no_page_speaks_of_modules_that_are_not_there() -> None:
    for page, code in inline_code():
        if re.fullmatch(r"(?:getam|deeplab|workflow|tests|configs|envs|benchmarks|docs)/[\w/.-]+", code):
            assert (PROJECT / code).exists() or code in WRITTEN, f"{page}: {code}"
