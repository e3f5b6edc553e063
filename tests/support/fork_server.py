"""Runs Python code in forks of one process, which has imported what the code imports; support/forks.py starts it.

    python fork_server.py KIND

Each line of standard input is a request as JSON, {code, words, folder, python, environment, seconds}; each is answered
by a line of JSON, [exit code, standard output, standard error]. Code that runs longer than `seconds` is killed.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NoReturn

PROJECT = Path(__file__).resolve().parents[2]


def snakemake() -> None:
    """Imports Snakemake, which takes three times as long as a dry run, and its plugins."""
    # Snakemake imports the modules after the first only while it runs.
    import snakemake.cli

    import snakemake.api  # isort: skip
    import snakemake.dag  # isort: skip
    import snakemake.report.html_reporter  # isort: skip
    import snakemake.scheduling.job_scheduler  # isort: skip
    import snakemake.storage  # isort: skip

    # This reads the entry points of plugins, and imports those.
    snakemake.cli.parse_args([])


def snakemake_and_project() -> None:
    """Imports what the rules import of the project too, and hashes the sources of its stages.

    A fork can't hash others any more: grimp's threads do not live on in it.
    """
    snakemake()
    sys.path.insert(0, str(PROJECT))
    import deeplab.cli
    import getam.cli
    import getam.experiments.table_runs
    import getam.settings.config
    from getam.system.version import source_hash

    for package, stages in (("getam", getam.cli.STAGES), ("deeplab", deeplab.cli.STAGES)):
        for stage in stages:
            source_hash(f"{package}.stages.{stage.replace('-', '_')}")


def networks() -> None:
    """Imports torch and the libraries of networks, and what of the project imports them."""
    sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]
    for stage in ("getam.stages.complete_labels", "getam.stages.refine_maps", "getam.stages.predict_end_to_end"):
        import_module(stage)
    import_module("deeplab.stages.predict_deeplab")
    import_module("getam.tools.predict")


KINDS: dict[str, Callable[[], None]] = {kind.__name__: kind for kind in (snakemake, snakemake_and_project, networks)}


def main() -> None:
    KINDS[sys.argv[1]]()
    # Objects that the collector does not visit stay in memory that the forks share.
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            child = os.fork()
            if child == 0:
                _run(request, output.fileno(), errors.fileno())
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            output.seek(0)
            errors.seek(0)
            print(json.dumps([code, output.read(), errors.read()]), flush=True)


def _run(request: dict, output: int, errors: int) -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    paths = request["environment"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = dict.fromkeys([*filter(None, paths), *sys.path])
    sys.executable = request["python"]
    signal.alarm(request["seconds"])
    become(
        lambda: exec(compile(request["code"], "<string>", "exec"), {"__name__": "__main__"}),
        ["-c", *request["words"]],
        folder=request["folder"],
        environment=request["environment"],
    )


def become(program: Callable[[], object], argv: list[str], *, folder: str, environment: dict[str, str]) -> NoReturn:
    """Runs the program as a process of its own would, and ends with its exit code."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    code = 1
    try:
        program()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
