"""The commands: `getam <stage> --flag value ...`.

A stage is a module with a class `Arguments` (a pydantic model of its settings, its paths and the machine's flags) and a
function `run(arguments)`. The flags are derived from the model, which also validates their values.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.util
import itertools
import json
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeVar, get_origin

from pydantic import BaseModel, ValidationError

from getam.errors import InputError, Stopped, want_of_memory
from getam.settings.config import editor_schema, validate_config
from getam.settings.flags import flag_name, leaves, nest
from getam.settings.help import FILES, MACHINE, default_text, example_of, group_of, metavar_of, settings_title
from getam.settings.reading import BASE_CONFIG, PROJECT, describe, merge, read_yaml, recipe_file
from getam.settings.section import POSITIONAL
from getam.system.arguments.training import TrainingArguments
from getam.system.names import printable
from getam.system.progress import set_up_logging
from getam.system.streams import give_up, open_standard_streams
from getam.system.version import VERSION


def commands_in(folder: Path) -> dict[str, str]:
    """The commands of a folder of modules: {name: first line of the module's docstring}, in alphabetical order.

    The files are read, not imported: `getam --help` answers at once, and a new stage is a command by being there.
    """
    modules = sorted(path for path in folder.glob("*.py") if path.stem != "__init__")
    return {path.stem.replace("_", "-"): _first_sentence(path.read_text(encoding="utf-8")) for path in modules}


def _first_sentence(source: str) -> str:
    return source.removeprefix('"""').partition("\n")[0].removesuffix('"""').removesuffix(".")


STAGES = commands_in(Path(__file__).with_name("stages"))
"""Commands that the workflow's rules run."""

TOOLS = commands_in(Path(__file__).with_name("tools"))
"""Commands for people; no rule of the workflow runs them."""

WITHOUT_MODULE = {
    "run": "Runs the workflow in this folder, and goes on with what was stopped: getam run --cores 2",
    "schema": "Prints the schema of config.yaml and of overlays, by which an editor completes keys",
}
"""The commands of `getam` that are neither stages nor tools: name -> one-line help."""

RUN_HELP = """\
usage: getam run --cores N [option ...] [-- target ...]

Run the workflow in this folder, where results/<run>/ comes to lie. What is made already is not made again, and after a
kill the same command goes on.

options:
  --cores N               CPU cores that all jobs share
  --resources gpu=N       GPUs that all jobs share; on a CPU: how many networks run at a time and share the cores
  --configfile FILE ...   recipe and overlays; a later one overrules those before it, and config.yaml has all other
                          values. The project's recipes, such as configs/dinov2.yaml, are found from any folder
  --config KEY=VALUE ...  settings that overrule the files, such as run=second or completion='{alpha: 0.95}'
  -n                      say what would run, and why; run nothing
  -- TARGET ...           make this instead of everything: multi_stage or end_to_end (one of both paths), a rule's name,
                          or a path below results/

Every other option is Snakemake's: snakemake --help lists them.

Example: getam run --cores 2 --configfile configs/dinov2.yaml birds.yaml -- multi_stage"""

TRUTH_VALUES = ("true", "false", "yes", "no", "on", "off", "1", "0")
"""What may follow a flag of a truth value; without one of these the flag alone means true."""

Arguments = TypeVar("Arguments", bound=BaseModel)

logger = logging.getLogger(__name__)


def main() -> None:
    """Entry point of the command `getam`."""
    run_process("getam", STAGES | TOOLS, TOOLS)


def run_process(package: str, stages: Mapping[str, str], tools: Mapping[str, str]) -> NoReturn:
    """Runs the command that this process was started with, and exits; the arguments are those of `command`."""
    open_standard_streams()
    if sys.flags.optimize > 1:
        sys.exit(
            _refused(f"{package}: -OO, or PYTHONOPTIMIZE=2, removes texts that libraries read; unset it, or use -O")
        )
    # Help may be piped to `head`, which closes the pipe early.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        code = command(package, stages, sys.argv[1:], tools)
        sys.stdout.flush()
    except OSError as error:
        # Whatever else a command writes says itself that it could not be written.
        give_up(sys.stdout)
        code = _refused(f"{package}: standard output: cannot be written ({error.strerror}); write it to another place")
    sys.exit(code)


def command(package: str, stages: Mapping[str, str], words: Sequence[str], tools: Mapping[str, str] = TOOLS) -> int:
    """Runs one stage or tool of `package` and returns the exit code.

    0: success; 1: one message on stderr or in the log says what is wrong; 130: Ctrl-C; 128 + N: stopped by signal N,
    with its state saved.

    Args:
        stages: name -> one-line help of all commands.
        words: the command line, without the program's name.
        tools: the commands of `stages` whose modules lie in the package's folder tools/.
    """
    if words and words[0] == "schema" and package == "getam":
        print(json.dumps(editor_schema(), indent=2))
        return 0
    if words and words[0] == "run" and package == "getam":
        if {"-h", "--help"} & {*words}:
            print(RUN_HELP)
            return 0
        _run_workflow(words[1:])
    known = {**stages, **WITHOUT_MODULE} if package == "getam" else stages
    if not words or words[0] in ("-h", "--help"):
        print(_overview(package, known))
        return 0
    if words[0] == "--version":
        print(f"{package} {VERSION}")
        return 0
    if words[0] not in stages:
        near = difflib.get_close_matches(words[0], known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return _refused(f"{package} {words[0]}: no such stage; stages: {', '.join(known)}{hint}")
    folder = "tools" if words[0] in tools else "stages"
    module = importlib.import_module(f"{package}.{folder}.{words[0].replace('-', '_')}")
    try:
        arguments = parse_flags(
            module.Arguments,
            words[1:],
            name=f"{package} {words[0]}",
            section=getattr(module, "SECTION", None),
        )
    except InputError as error:
        return _refused(f"{package} {words[0]}: {error}")
    try:
        set_up_logging(arguments.log)
    except OSError as error:
        cure = "name another file"
        return _refused(f"{package} {words[0]}: --log {arguments.log}: cannot be written ({error.strerror}); {cure}")
    # A tool's output may be piped to `head`; a stage prints nothing, and goes on when nobody reads its log any more.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL if folder == "tools" else signal.SIG_IGN)
    try:
        _run(package, words, module, arguments)
    except InputError as error:
        return _failed(f"{package} {words[0]}", str(error))
    except Stopped as stopped:
        # Under torchrun only the launching process reports the stop.
        if "LOCAL_RANK" not in os.environ:
            name = signal.Signals(stopped.signal).name
            logger.error(
                "%s %s: stopped by %s; the same command goes on from the last saved state", package, words[0], name
            )
        return 128 + stopped.signal
    except KeyboardInterrupt:
        logger.error("%s %s: interrupted", package, words[0])
        return 130
    except Exception as error:
        if reason := want_of_memory(error):
            cure = "free some, or ask for less: fewer threads, smaller batches (batch_size, accumulation) or images"
            return _failed(f"{package} {words[0]}", f"not enough memory ({reason}); {cure}")
        # This is no bad input but a bug or a failing machine: the traceback belongs in the log.
        return _failed(f"{package} {words[0]}", f"failed\n{traceback.format_exc()}")
    return 0


def _refused(message: str) -> int:
    """Says what is wrong before there is a log; returns the exit code."""
    print(printable(message), file=sys.stderr)
    return 1


def _run_workflow(words: Sequence[str]) -> NoReturn:
    """Runs the workflow in the working folder, in place of this process, by Snakemake's options: workflow/run.py.

    A recipe of the project's, such as configs/dinov2.yaml, is found from any folder.
    """
    if importlib.util.find_spec("snakemake") is None:
        sys.exit("getam run: snakemake is not installed; pip install 'getam[workflow]'")
    found = [str(recipe_file(Path(word))) if word.startswith("configs/") else word for word in words]
    workflow = PROJECT / "workflow"
    program = [sys.executable, str(workflow / "run.py"), "--snakefile", str(workflow / "Snakefile")]
    os.execv(sys.executable, [*program, *found])


def _run(package: str, words: Sequence[str], module: ModuleType, arguments: Any) -> None:
    if not isinstance(arguments, TrainingArguments) or (processes := arguments.processes()) == 1:
        module.run(arguments)
        return
    from getam.system import gpu
    from getam.system.arguments.network import check_torch_sees_gpus
    from getam.system.distributed import launch

    gpu.take(processes)
    check_torch_sees_gpus()
    threads = max(1, arguments.threads // processes)
    launch(package, [*words, "--threads", str(threads)], processes=processes)


def _failed(command: str, message: str) -> int:
    if "LOCAL_RANK" in os.environ:
        from getam.system.distributed import report_failure

        if report_failure(message):
            return 1
    logger.error("%s: %s", command, message)
    return 1


def _overview(package: str, stages: Mapping[str, str]) -> str:
    width = max(map(len, stages))
    lines = [f"usage: {package} <stage> --flag value ...   ({package} <stage> --help lists the flags)", ""]
    lines += [f"  {name:<{width}}  {text}" for name, text in sorted(stages.items())]
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    """Raises InputError instead of exiting, so that all bad input ends with one message and exit code 1."""

    def error(self, message: str) -> Any:
        misspelt = re.fullmatch(r"unrecognized arguments: (--[\w.-]+).*", message, re.S)
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        near = difflib.get_close_matches(misspelt[1], known, n=1) if misspelt else []
        raise InputError(f"{message}; " + (f"did you mean {near[0]}?" if near else "--help lists the flags"))


def parse_flags(model: type[Arguments], words: Sequence[str], *, name: str, section: str | None) -> Arguments:
    """Parses a stage's flags into its model.

    Args:
        words: the flags and positional arguments.
        name: name of the command, for --help.
        section: the config section that gives the values of missing flags; None for a command without one.

    Raises:
        InputError: an unknown flag, or a value that the model rejects.
    """
    # For --help alone, since every command would read config.yaml once more.
    asked = any(word in ("-h", "--help") for word in words)
    shown = _section(section, None, model) if asked and section is not None else {}
    required = [(path, field) for path, field in leaves(model) if field.is_required() and path[0] not in shown]
    parser = _Parser(
        prog=name,
        usage=f"{name} [--flag value ...]",
        description=(model.__doc__ or "").strip(),
        epilog=f"Example: {example_of(name, required)}" if asked else None,
        allow_abbrev=False,
    )
    paths, texts, switches = {}, set(), set()
    titles = (FILES, *([settings_title(section)] if section is not None else []), MACHINE)
    groups = {title: parser.add_argument_group(title) for title in titles}
    for path, field in leaves(model):
        if field.annotation in (str, Path):
            texts.add(".".join(path))
        if field.annotation is bool:
            switches.add(flag_name(path))
        text = ((field.description or "") + default_text(path, shown)).replace("%", "%%")
        group = groups[group_of(path, machine=TrainingArguments, section=section, settings=shown)]
        if field.json_schema_extra == POSITIONAL:
            several = get_origin(field.annotation) is tuple
            group.add_argument(".".join(path), metavar=path[-1].upper(), help=text, nargs="+" if several else None)
        else:
            group.add_argument(flag_name(path), dest=".".join(path), metavar=metavar_of(field), help=text)
        paths[".".join(path)] = path
    if section is not None:
        groups[settings_title(section)].add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help=f"overlay whose section `{section}` gives the settings that no flag gives [config.yaml]",
        )
    flags = vars(parser.parse_args(list(_with_values(words, switches))))
    overlay = flags.pop("config", None)
    values = nest(
        {
            paths[key]: value if key in texts or isinstance(value, list) else _parse(value)
            for key, value in flags.items()
            if value is not None
        }
    )
    if section is not None:
        defaults = _section(section, overlay, model)
        values = merge(defaults, values)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(_with_flags(describe(error, model), error)) from None


def _with_values(words: Sequence[str], switches: Container[str]) -> Iterator[str]:
    """Yields the words, with `true` after a switch (a flag of a truth value) that stands without a value."""
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        bare = word in switches and following.lower() not in TRUTH_VALUES
        yield f"{word}=true" if bare else word


def _section(section: str, overlay: Path | None, model: type[BaseModel]) -> dict[str, Any]:
    values: dict[str, Any] = read_yaml(BASE_CONFIG) if BASE_CONFIG.is_file() else {}
    if overlay is not None:
        values = merge(values, read_yaml(overlay))
    if not values:
        return {}
    # The whole configuration is validated, so that a misspelt key of an overlay is an error here as in the workflow.
    settings = getattr(validate_config(values, source=str(overlay or BASE_CONFIG)), section)
    excluded = {name: getattr(settings, name) for name, field in type(settings).model_fields.items() if field.exclude}
    return {name: value for name, value in (settings.model_dump() | excluded).items() if name in model.model_fields}


def _parse(text: str) -> Any:
    """Parses a list or object from JSON; leaves any other text for the model to convert."""
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    return text


def _with_flags(message: str, error: ValidationError) -> str:
    for path in dict.fromkeys(
        tuple(str(part) for part in each["loc"] if isinstance(part, str)) for each in error.errors()
    ):
        if path:
            # A key stands at the beginning of a line, and may be followed by the number of an element.
            key = re.compile(rf"^( *){re.escape('.'.join(path))}(?=:|\.\d)", re.MULTILINE)
            message = key.sub(rf"\g<1>{flag_name(path)}", message)
    return message
