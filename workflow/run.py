"""Runs Snakemake so that a run which was killed, in whatever way, goes on by the same words.

    python workflow/run.py --cores 8 --resources gpu=2 --configfile configs/voc12.yaml

The words are Snakemake's; so are the exit code and what signals do. A killed Snakemake leaves a lock on its folder,
incomplete outputs and, where it alone was killed, stages that run on: all are dealt with here. While a Snakemake lives
in the folder nothing is touched, and one message says who it is.
"""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from snakemake import cli
from snakemake_internals import is_slurm_job, locks, logs, options_of

HELD = ".snakemake/run.lock"
"""Locked by the kernel as long as a process of this file lives."""
MARK = "GETAM_RUN"
"""Variable of the environment by which a stage is known as one of this folder's."""


class Refusal(Exception):
    """Why nothing is run, and the cure."""


def main(words: Sequence[str]) -> None:
    """Exits as Snakemake does; with 1 after one message where it is not to be run."""
    options = options_of(words)
    folder = Path(options.directory or ".").resolve()
    try:
        if options.keep_incomplete:
            raise Refusal(
                "--keep-incomplete: what failed stages leave would count as complete, and later stages be made of it: "
                "leave it out; what a stopped stage has done is kept without"
            )
        if not options.dryrun:
            lock = _held(folder)
            if options.executor == "slurm":
                _check_slurm(folder)
            else:
                _end_orphans(folder)
            _unlock(folder, words)
            os.environ[MARK] = str(folder)
        # Here, so that `lock` lives until the exit.
        cli.main(["--rerun-incomplete", *words])
        del lock
    except Refusal as refusal:
        sys.exit(f"run: {refusal}")
    except KeyboardInterrupt:
        sys.exit(130)


def _held(folder: Path) -> FileLock:
    """The lock of the folder, in which no other Snakemake lives."""
    lock = FileLock(folder / HELD, timeout=0)
    others: list[str] = []
    try:
        (folder / HELD).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        others = _living(folder, "snakemake")
    except Timeout:
        others = _living(folder, "snakemake", "run.py") or ["a process on another host"]
    except (OSError, NotImplementedError) as error:
        raise Refusal(f"{folder / HELD}: cannot be locked ({error}); run where files can be locked") from None
    if others:
        lock.release()
        who = ", ".join(others)
        raise Refusal(f"{folder}: the workflow is running here already ({who}); wait for it or stop it")
    return lock


def _living(folder: Path, *programs: str) -> list[str]:
    """Other processes of this host that run one of the programs in the folder, in words."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter(["username", "cmdline", "cwd"]):
        names = [Path(word).name for word in (process.info["cmdline"] or [])[:3]]
        # Not an editor that has one of them open.
        runs = names[:1] == ["snakemake"] or (names and names[0].startswith("python") and {*programs} & {*names})
        if runs and process.pid not in own and process.info["cwd"] == str(folder):
            found.append(f"process {process.pid} of {process.info['username']} on {platform.node()}")
    return found


def _check_slurm(folder: Path) -> None:
    """Refuses to submit again what Slurm still runs: its jobs outlive a Snakemake that is killed."""
    try:
        command = ["squeue", "--me", "--noheader", "--format=%i|%j|%Z"]
        listed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Refusal(f"squeue has to say whether jobs of a killed run are left ({error}); run where it does") from None
    jobs = (line.strip().split("|", 2) for line in listed.splitlines())
    if left := [job for job, name, where in jobs if is_slurm_job(name) and where == str(folder)]:
        raise Refusal(f"{folder}: a killed run has left jobs in Slurm; wait for them, or scancel {' '.join(left)}")


def _end_orphans(folder: Path) -> None:
    """Ends the stages that a killed Snakemake has left, and waits for it: trainings save their state first."""
    said: set[int] = set()
    while marked := _marked(folder):
        for process in marked:
            with suppress(psutil.Error):
                # A shell would die alone. A stage ends its own workers.
                if _is_shell(process) or process.ppid() in {other.pid for other in marked if not _is_shell(other)}:
                    continue
                if process.pid not in said:
                    print(
                        "run: ends what a killed run has left:", process.pid, *process.cmdline()[1:3], file=sys.stderr
                    )
                    process.terminate()
                said.add(process.pid)
        psutil.wait_procs(marked, timeout=1)


def _marked(folder: Path) -> list[psutil.Process]:
    """The living processes of a run in this folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _is_shell(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.name() in ("bash", "sh")
    return False


def _unlock(folder: Path, words: Sequence[str]) -> None:
    """Removes the lock that a killed Snakemake has left, unless it may live where it cannot be seen."""
    locked = max((path.stat().st_mtime for path in locks(folder)), default=None)
    if locked is None:
        return
    ours = {"Host": platform.node(), "User": getpass.getuser()}
    for log, said in logs(folder):
        # A living Snakemake writes to its log after it has locked; clocks may differ.
        if said and said != ours and log.stat().st_mtime >= locked - 60:
            who = f"{said['User']} on {said['Host']}"
            raise Refusal(f"{folder}: locked by Snakemake of {who} ({log.name}); where it is dead, snakemake --unlock")
    print("run: the last run was killed; going on", file=sys.stderr)
    command = [sys.executable, "-m", "snakemake", "--quiet", "--unlock", *words]
    if code := subprocess.run(command).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
