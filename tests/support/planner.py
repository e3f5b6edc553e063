"""Runs Snakemake from one process, which imports it once and forks for each run.

Each line of standard input is a request as JSON, {folder, python, environment, words, seconds}; each is answered by a
line of JSON, [exit code, standard output, standard error]. A run that takes longer than `seconds` is killed. This saves
time, since importing Snakemake takes three times as long as a dry run. With the word `project`, the runs are of folders
that use the project's own packages: those are imported and hashed once too.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import snakemake.cli

# Snakemake and the rules import these modules only while they run.
import snakemake.api  # isort: skip
import snakemake.dag  # isort: skip
import snakemake.report.html_reporter  # isort: skip
import snakemake.scheduling.job_scheduler  # isort: skip
import snakemake.storage  # isort: skip


def main() -> None:
    # This reads the entry points of plugins, and imports those.
    snakemake.cli.parse_args([])
    if sys.argv[1:] == ["project"]:
        _prepare_project()
    # Objects that the collector does not visit stay in memory that the runs share.
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


def _prepare_project() -> None:
    """Imports what the rules import of the project, and hashes the sources of its stages.

    A fork can't hash others any more: grimp's threads do not live on in it.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import deeplab.cli
    import getam.cli
    import getam.experiments.table_runs
    import getam.settings.config
    from getam.system.version import source_hash

    for package, stages in (("getam", getam.cli.STAGES), ("deeplab", deeplab.cli.STAGES)):
        for stage in stages:
            source_hash(f"{package}.stages.{stage.replace('-', '_')}")


def _run(request: dict, output: int, errors: int) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    paths = request["environment"]["PYTHONPATH"].split(os.pathsep)
    sys.path[:] = dict.fromkeys([*paths, *sys.path])
    sys.argv = ["snakemake", *request["words"]]
    sys.executable = request["python"]
    signal.alarm(request["seconds"])
    code = 1
    try:
        snakemake.cli.main(request["words"])
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
