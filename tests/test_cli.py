"""The commands: their stages, their flags and how bad input ends."""

from __future__ import annotations

import errno
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from pydantic import BaseModel
from snakemake.cli import get_argument_parser
from support.workplace import PROJECT

import deeplab.cli
import getam.cli
from getam.cli import command, parse_flags
from getam.errors import InputError
from getam.settings.completion import LabelSettings
from getam.settings.config import Config, editor_schema
from getam.settings.data import IndexSettings
from getam.settings.flags import flag_name, leaves
from getam.settings.help import metavar_of
from getam.settings.maps import MapSettings
from getam.settings.reading import read_yaml
from getam.settings.saliency import SaliencyMapSettings, SaliencySettings
from getam.settings.section import POSITIONAL
from getam.system.arguments.machine import MachineArguments
from getam.system.version import VERSION

STAGES = {"getam": getam.cli.STAGES, "deeplab": deeplab.cli.STAGES}
COMMANDS = [(package, stage) for package, stages in STAGES.items() for stage in stages]

PATHS = ["--maps", "m", "--saliency", "s", "--index", "index.csv", "--out", "out"]
"""The flags that complete-labels needs."""


def module_of(package: str, stage: str) -> ModuleType:
    return importlib.import_module(f"{package}.stages.{stage.replace('-', '_')}")


def completion(*words: str) -> Any:
    module = module_of("getam", "complete-labels")
    return parse_flags(module.Arguments, words, name="getam complete-labels", section=module.SECTION)


def refusal(*words: str) -> str:
    with pytest.raises(InputError) as caught:
        completion(*words)
    return str(caught.value)


# Stages


@pytest.mark.parametrize(("package", "stage"), COMMANDS)
def test_a_stage_is_a_module_with_described_arguments_and_run(package: str, stage: str) -> None:
    module = module_of(package, stage)
    assert module.__doc__
    assert issubclass(module.Arguments, MachineArguments)
    # An own docstring, not one that is inherited.
    assert vars(module.Arguments).get("__doc__", "").strip()
    assert callable(module.run)
    for path, field in leaves(module.Arguments):
        assert field.description, ".".join(path)
    assert STAGES[package][stage]


@pytest.mark.parametrize(("package", "stage"), COMMANDS)
def test_a_stage_takes_its_whole_section(package: str, stage: str) -> None:
    module = module_of(package, stage)
    section = getattr(module, "SECTION", None)
    taken = {path for path, field in leaves(module.Arguments) if path[0] not in MachineArguments.model_fields}
    if section is None:
        # Without a section there are paths, splits and shards only; none is a name of a setting's section.
        assert taken
        return
    model = Config.model_fields[section].annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    settings = {path for path, _ in leaves(model)}
    # A section that concerns the workflow or two stages gives each its part.
    parts = {
        "index-dataset": IndexSettings,
        "dump-maps": MapSettings,
        "train-saliency": SaliencySettings,
        "predict-saliency": SaliencyMapSettings,
        "time-labels": LabelSettings,
    }
    if stage in parts:
        part = {path for path, _ in leaves(parts[stage])}
        assert part <= settings
        settings = part
    assert settings <= taken


def test_a_command_is_described_by_the_first_sentence_of_its_module() -> None:
    tools = {"getam": getam.cli.TOOLS, "deeplab": deeplab.cli.TOOLS}
    commands = [
        (f"{package}.{folder}.{name.replace('-', '_')}", text)
        for folder, packages in (("stages", STAGES), ("tools", tools))
        for package, texts in packages.items()
        for name, text in texts.items()
    ]
    assert {"getam.stages.dump_maps", "getam.tools.doctor", "deeplab.stages.train_deeplab"} <= {*dict(commands)}
    for module, text in commands:
        doc = importlib.import_module(module).__doc__
        assert doc is not None
        assert f"{text}." == doc.splitlines()[0], module
        assert text[0].isupper(), module


def test_the_help_lists_the_tools(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("getam", getam.cli.STAGES | getam.cli.TOOLS, []) == 0
    assert "export-checkpoint" in capsys.readouterr().out


def test_the_stages_are_the_rules_of_the_workflow() -> None:
    text = "\n".join(path.read_text() for path in (PROJECT / "workflow" / "rules").glob("*.smk"))
    rules = re.findall(r"^rule (\w+):", text, re.MULTILINE)
    assert sorted(rules) == sorted(stage.replace("-", "_") for _, stage in COMMANDS)


# Flags


def test_settings_that_no_flag_gives_come_from_config_yaml() -> None:
    arguments = completion(*PATHS)
    assert arguments.alpha == read_yaml(PROJECT / "config.yaml")["completion"]["alpha"]
    assert arguments.maps == Path("m")


def test_an_overlay_gives_defaults_and_a_flag_overrules_it(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("completion: {alpha: 0.25, opening: 3}\nrefine: {iterations: 3}\n")
    arguments = completion(*PATHS, "--config", str(overlay))
    assert (arguments.alpha, arguments.opening) == (0.25, 3)
    arguments = completion(*PATHS, "--config", str(overlay), "--alpha", "0.75")
    assert (arguments.alpha, arguments.opening) == (0.75, 3)


def test_nested_flags_and_an_overlay_are_merged(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("classifier: {crop: {size: 64}, backbone_options: {depth: 6}}")
    module = module_of("getam", "train-classifier")
    words = ["--index", "i", "--out", "o", "--config", str(overlay), "--crop.long-side", "[70, 80]"]
    arguments = parse_flags(module.Arguments, words, name="stage", section=module.SECTION)
    assert (arguments.crop.size, arguments.crop.long_side) == (64, (70, 80))
    assert arguments.backbone_options == {"depth": 6}
    arguments = parse_flags(
        module.Arguments, [*words, "--backbone-options", "{}"], name="stage", section=module.SECTION
    )
    assert arguments.backbone_options == {}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        pytest.param("completion:\n", "completion", id="empty section"),
        pytest.param("completion: [0.9]\n", "completion", id="list for a section"),
        pytest.param("completion: {alhpa: 0.9}\n", "alhpa", id="unknown key"),
        pytest.param("complation: {alpha: 0.9}\n", "complation", id="unknown section"),
    ],
)
def test_a_bad_overlay_is_refused_by_its_key(tmp_path: Path, text: str, key: str) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(text)
    assert key in refusal(*PATHS, "--config", str(overlay))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*PATHS, "--alpha", "2"], "--alpha: Input should be less than or equal to 1 (given: '2')"),
        ([*PATHS, "--alpha", "nan"], "--alpha: Input should be a finite number"),
        ([*PATHS, "--alpha", "much"], "--alpha: Input should be a valid number"),
        ([*PATHS, "--alpha"], "argument --alpha: expected one argument"),
        ([*PATHS, "--opening", "4"], "opening: 4 is even"),
        ([*PATHS, "--saliency-threshold", "-1"], "--saliency-threshold: "),
        ([*PATHS, "--threads", "0"], "--threads: "),
        ([*PATHS, "--device", "tpu"], "--device: Input should be 'auto', 'cpu' or 'cuda'"),
        ([*PATHS, "--alhpa", "0.9"], "unrecognized arguments: --alhpa 0.9"),
        ([*PATHS, "stray"], "unrecognized arguments: stray"),
        # No abbreviations: a flag that comes later must not change the meaning of an old command.
        ([*PATHS, "--alph", "0.9"], "unrecognized arguments: --alph 0.9"),
        (PATHS[:-2], "--out: missing"),
        ([*PATHS, "--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
    ],
)
def test_bad_flags_are_named(words: list[str], message: str) -> None:
    assert message in refusal(*words)


def test_all_bad_flags_stand_in_one_message() -> None:
    message = refusal(*PATHS[:-2], "--alpha", "2", "--gamma", "-1")
    assert re.findall(r"^ +(--\S+): ", message, re.MULTILINE) == ["--alpha", "--gamma", "--out"]


def test_a_bad_nested_flag_is_named() -> None:
    module = module_of("getam", "train-classifier")
    words = ["--index", "i", "--out", "o", "--crop.size", "7"]
    with pytest.raises(InputError, match=r"^--crop\.size: "):
        parse_flags(module.Arguments, words, name="stage", section=module.SECTION)


def test_a_choice_of_integers_is_taken_from_a_flag() -> None:
    module = module_of("deeplab", "train-deeplab")
    words = ["--index", "i", "--pseudo-labels", "p", "--shards", "1", "--out", "o", "--output-stride", "16"]
    assert parse_flags(module.Arguments, words, name="stage", section=module.SECTION).output_stride == 16


# Commands


@pytest.mark.parametrize("package", STAGES)
@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_the_overview_lists_every_stage(package: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(package, STAGES[package], words) == 0
    output = capsys.readouterr().out
    for stage, text in STAGES[package].items():
        assert re.search(rf"^  {stage} +{re.escape(text)}$", output, re.MULTILINE)


@pytest.mark.parametrize(("package", "stage"), COMMANDS)
def test_the_help_of_a_stage_describes_every_flag(
    package: str, stage: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as end:
        command(package, STAGES[package], [stage, "--help"])
    assert end.value.code == 0
    output = capsys.readouterr().out
    for path, field in leaves(module_of(package, stage).Arguments):
        name = path[-1].upper() if field.json_schema_extra == POSITIONAL else f"{flag_name(path)} {metavar_of(field)}"
        assert re.search(rf"^ +{re.escape(name)}", output, re.MULTILINE)
        assert field.description
        assert field.description in output


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("getam", STAGES["getam"], ["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == editor_schema()


def test_an_unknown_stage_ends_with_the_list_of_stages(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("getam", STAGES["getam"], ["dump-map"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("getam dump-map: no such stage; stages: audit, collect-maps, ")
    assert command("deeplab", STAGES["deeplab"], ["schema"]) == 1


def test_a_misspelt_name_finds_commands_without_a_module_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("getam", STAGES["getam"], ["rnu"]) == 1
    assert capsys.readouterr().err.endswith("; did you mean run?\n")


def test_the_help_of_the_workflow_has_options_that_snakemake_knows(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("getam", STAGES["getam"], ["run", "--help"]) == 0
    output = capsys.readouterr().out
    options = re.findall(r"^  (-[-\w]*\w)", output, re.M)
    assert {"--cores", "--configfile", "-n"} <= {*options}
    assert {*options} <= {*get_argument_parser()._option_string_actions}
    assert output.startswith("usage: getam run ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--alpha", "2"], "--alpha: "),
        (["--bogus", "2"], "unrecognized arguments: --bogus 2"),
        (["--index", "nowhere/index.csv"], "--out: missing"),
    ],
)
def test_bad_flags_end_a_command_with_one_message(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("getam", STAGES["getam"], ["complete-labels", *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("getam complete-labels: ")
    assert message in error
    assert "Traceback" not in error


def test_bad_input_ends_a_command_with_one_message_also_in_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "logs" / "stage.log"
    out = tmp_path / "out"
    words = ["--maps", "m", "--saliency", "s", "--index", str(tmp_path / "index.csv"), "--out", str(out)]
    assert command("getam", STAGES["getam"], ["complete-labels", *words, "--log", str(log)]) == 1
    error = capsys.readouterr().err
    assert f"getam complete-labels: {tmp_path / 'index.csv'}: no such file; run index-dataset again" in error
    assert error.count("\n") == 1
    assert log.read_text() == error
    assert not out.exists()


def test_a_defect_leaves_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(arguments: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(module_of("getam", "summary"), "run", broken)
    assert command("getam", STAGES["getam"], ["summary", "--run", "r", "--out", "o"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "ZeroDivisionError: a defect" in error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "MemoryError"),
        (
            RuntimeError(
                "[a.cpp:1] err == 0. Allocator: can't allocate memory: you tried to allocate 8 bytes. Code 12"
            ),
            "Allocator: can't allocate memory: you tried to allocate 8 bytes. Code 12",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB."), "CUDA out of memory. Tried to allocate 2 GiB"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory"),
    ],
)
def test_want_of_memory_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, reason: str
) -> None:
    def large(arguments: object) -> None:
        raise error

    monkeypatch.setattr(module_of("getam", "summary"), "run", large)
    assert command("getam", STAGES["getam"], ["summary", "--run", "r", "--out", "o"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"getam summary: not enough memory ({reason}); free some, or ask for less: fewer threads, " in said


def test_a_python_without_docstrings_is_refused(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-OO", "-c", "from getam.cli import main; main()", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 1
    assert result.stderr == "getam: -OO, or PYTHONOPTIMIZE=2, removes texts that libraries read; unset it, or use -O\n"


def test_an_interrupted_command_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module_of("getam", "summary"), "run", interrupted)
    assert command("getam", STAGES["getam"], ["summary", "--run", "r", "--out", "o"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_device_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["--index", "i", "--out", str(tmp_path / "out"), "--device", "cuda"]
    assert command("getam", STAGES["getam"], ["train-classifier", *words]) == 1
    assert "--device cuda: torch sees no CUDA device; use --device cpu" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    log = tmp_path / "file" / "stage.log"
    assert command("getam", STAGES["getam"], ["summary", "--run", "r", "--out", "o", "--log", str(log)]) == 1
    assert str(log) in capsys.readouterr().err


def test_the_process_ends_with_1_and_without_traceback(tmp_path: Path) -> None:
    program = "from getam.cli import main; main()"
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"data": {"root": "nowhere", "labels": "file"}}))
    words = ["index-dataset", "--config", str(overlay), "--out", "results/index.csv"]
    result = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d getam index-dataset: nowhere: no such folder; set data\.root to .*\n", result.stderr
    )
    assert {path.name for path in tmp_path.iterdir()} == {"overlay.yaml"}


# --help

EVERY = [
    (package, folder, name)
    for package, program in (("getam", getam.cli), ("deeplab", deeplab.cli))
    for folder, names in (("stages", program.STAGES), ("tools", program.TOOLS))
    for name in names
]


@pytest.mark.parametrize(("package", "folder", "name"), EVERY)
def test_help_has_values_defaults_and_an_example_that_is_parsed(
    package: str, folder: str, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "4000")
    module = importlib.import_module(f"{package}.{folder}.{name.replace('-', '_')}")
    section = getattr(module, "SECTION", None)
    with pytest.raises(SystemExit) as ended:
        parse_flags(module.Arguments, ["--help"], name=f"{package} {name}", section=section)
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "VALUE" not in text
    assert "the machine:" in text
    (example,) = re.findall(r"^Example: (.*)", text, re.M | re.S)
    words = shlex.split(example)
    assert words[:2] == [package, name]
    parse_flags(module.Arguments, words[2:], name=example, section=section)
    if section is not None:
        assert f"settings, by default those of the section `{section}`:" in text


def test_help_shows_choices_defaults_and_groups(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        completion("--help")
    text = capsys.readouterr().out
    for part in (
        "--conflict {unknown,lowest}",
        "--alpha NUMBER",
        "--bands.high NUMBER",
        "--index PATH",
        "--opening {released}|INT",
    ):
        assert part in text
    assert re.search(r"--alpha NUMBER .*\[0\.9\]$", text, re.M)
    assert re.search(r"--crf\.iterations INT .*\[10\]$", text, re.M)
    titles = ["what it reads and writes:", "settings, by default those of the section `completion`:", "the machine:"]
    assert [line for line in text.splitlines() if line in titles] == titles


def test_a_misspelt_flag_or_command_names_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal("--alhpa", "0.9", *PATHS) == "unrecognized arguments: --alhpa 0.9; did you mean --alpha?"
    assert "--help lists the flags" in refusal("--qqqq", "1", *PATHS)
    assert command("getam", getam.cli.STAGES | getam.cli.TOOLS, ["complete-lables"]) == 1
    assert capsys.readouterr().err.endswith("; did you mean complete-labels?\n")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    for package, program in (("getam", getam.cli), ("deeplab", deeplab.cli)):
        assert command(package, program.STAGES, ["--version"]) == 0
        assert capsys.readouterr().out == f"{package} {VERSION}\n"


def test_a_switch_needs_no_value() -> None:
    module = importlib.import_module("getam.tools.predict")
    for words, overlays, sheet in (
        (["--overlays", "model", "photographs"], True, False),
        (["--sheet", "model", "--overlays", "false", "photographs"], False, True),
        (["model", "photographs", "--overlays=yes", "--sheet"], True, True),
    ):
        arguments = parse_flags(module.Arguments, [*words, "--out", "out"], name="getam predict", section=None)
        assert (arguments.overlays, arguments.sheet) == (overlays, sheet)
        assert (arguments.model, arguments.photographs) == (Path("model"), ("photographs",))
