"""Runs Snakemake from one process, which imports it once and forks for each run.

Each line of standard input is a request as JSON, {folder, python, environment, words, seconds}; each is answered by a
line of JSON, [exit code, standard output, standard error]. A run that takes longer than `seconds` is killed. This saves
time, since importing Snakemake takes three times as long as a dry run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback

import snakemake.cli

# Snakemake imports these modules only while it runs. getam is not among them, since each folder may have its own copy.
import snakemake.api  # isort: skip
import snakemake.dag  # isort: skip
import snakemake.scheduling.job_scheduler  # isort: skip


def main() -> None:
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


def _run(request: dict, output: int, errors: int) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = [path for path in request["environment"]["PYTHONPATH"].split(os.pathsep) if path not in sys.path]
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
