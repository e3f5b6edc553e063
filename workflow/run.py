"""Runs Snakemake so that a run that was killed, in whatever way, is continued by the same command line.

    python workflow/run.py --cores 8 --resources gpu=2 --configfile configs/voc12.yaml

Options, exit codes and the handling of signals are Snakemake's. A killed Snakemake leaves a lock on its folder,
incomplete outputs and, if it alone was killed, stages that are still running; this script cleans up all of them. While
another Snakemake is running in the folder, it changes nothing, and one message names that process.
"""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from snakemake import cli
from snakemake_internals import is_slurm_job, locks, logs, options_of

HELD = ".snakemake/run.lock"
"""Lock file; the kernel holds the lock as long as a process of this script lives."""
MARK = "GETAM_RUN"
"""Environment variable that marks a stage as started by a run in this folder."""
CACHES = ".snakemake/cache"
"""Folder of caches where the user's own can't be written."""
FILES = ("--configfile", "--configfiles")
PAIRS = ("--config", "-C", "--resources", "--res", "--set-threads", "--set-resources")
"""Options that take every word up to the next option: files, and name=value."""


class Refusal(Exception):
    """The reason why nothing is run, and the cure."""


def main(words: Sequence[str]) -> None:
    """Runs Snakemake and exits with its exit code; exits with 1 and one message if it must not run."""
    try:
        _check_place()
        _check_words(words)
        _name_user()
        options = options_of(words)
        folder = Path(options.directory or ".").resolve()
        _set_caches(folder)
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
        # This runs inside the function so that `lock` is held until the exit.
        cli.main(["--rerun-incomplete", *words])
        del lock
    except Refusal as refusal:
        sys.exit(f"run: {refusal}")
    except KeyboardInterrupt:
        sys.exit(130)


def _check_place() -> None:
    """Checks that Snakemake can read the rules where they lie.

    Raises:
        Refusal: a folder above them has a brace in its name.
    """
    place = Path(__file__).resolve().parent
    if "{" in str(place) or "}" in str(place):
        raise Refusal(f"{place}: Snakemake takes what stands in braces for a variable; rename the folder")


def _name_user() -> None:
    """Gives a user whom the system does not know a name and a home, which Snakemake asks for.

    Containers run with any user's number (docker run --user), and a service without HOME.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = str(os.getuid())
    try:
        Path.home()
    except RuntimeError:
        # As containers set it; it can't be written, so caches go beside the results.
        os.environ["HOME"] = "/"


def _check_words(words: Sequence[str]) -> None:
    """Checks that no option has taken a target for one of its values.

    Raises:
        Refusal: one has, or a configuration does not exist.
    """
    for option, taken in _taken(words):
        for word in taken:
            if option in PAIRS if "=" in word else Path(word).is_file():
                continue
            if option in FILES and Path(word).suffix in (".yaml", ".yml", ".json"):
                raise Refusal(f"{option} {word}: no such file; name an existing configuration")
            given = [each for each in taken if each != word]
            raise Refusal(
                f"{option} takes every word after it, {word} too; put -- before what is to be made: "
                f"{' '.join([option, *given, '--', word])}"
            )


def _taken(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields the options of FILES and PAIRS with the words that each takes."""
    for number, option in enumerate(words):
        if option == "--":
            return
        if option in (*FILES, *PAIRS):
            rest = words[number + 1 :]
            end = next((place for place, word in enumerate(rest) if word.startswith("-")), len(rest))
            yield option, list(rest[:end])


def _set_caches(folder: Path) -> None:
    """Names folders for the caches of Snakemake and of the stages where the user's own can't be written."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    if not _is_writable(cache):
        # Weights that lie there are read.
        for name, known in {"HF_HOME": cache / "huggingface", "TORCH_HOME": cache / "torch"}.items():
            if known.is_dir():
                os.environ.setdefault(name, str(known))
        os.environ["XDG_CACHE_HOME"] = str(folder / CACHES)
        print(f"run: {cache} cannot be written; caches go to {folder / CACHES}", file=sys.stderr)
    if "MPLCONFIGDIR" not in os.environ and not _is_writable(
        Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
    ):
        os.environ["MPLCONFIGDIR"] = str(folder / CACHES / "matplotlib")


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _held(folder: Path) -> FileLock:
    """Locks the folder.

    Raises:
        Refusal: another Snakemake is running in the folder, or it cannot be locked.
    """
    lock = FileLock(folder / HELD, timeout=0)
    others: list[str] = []
    try:
        (folder / HELD).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        others = _living(folder, "snakemake")
    except Timeout:
        others = _living(folder, "snakemake", "run.py") or ["a process on another host"]
    except (OSError, NotImplementedError) as error:
        cure = "run in a folder that you may write, where files can be locked"
        raise Refusal(f"{folder / HELD}: cannot be locked ({error}); {cure}") from None
    if others:
        lock.release()
        who = ", ".join(others)
        raise Refusal(f"{folder}: the workflow is running here already ({who}); wait for it or stop it")
    return lock


def _living(folder: Path, *programs: str) -> list[str]:
    """Describes the other processes on this host that run one of the programs in the folder."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter(["username", "cmdline", "cwd"]):
        names = [Path(word).name for word in (process.info["cmdline"] or [])[:3]]
        # This leaves out other programs, such as an editor in which one of the files is open.
        runs = names[:1] == ["snakemake"] or (names and names[0].startswith("python") and {*programs} & {*names})
        if runs and process.pid not in own and process.info["cwd"] == str(folder):
            found.append(f"process {process.pid} of {process.info['username']} on {platform.node()}")
    return found


def _check_slurm(folder: Path) -> None:
    """Checks that Slurm has no jobs of a killed run, which would be submitted a second time.

    Raises:
        Refusal: jobs are left, or squeue cannot be run.
    """
    try:
        command = ["squeue", "--me", "--noheader", "--format=%i|%j|%Z"]
        listed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Refusal(f"squeue has to say whether jobs of a killed run are left ({error}); run where it does") from None
    jobs = (line.strip().split("|", 2) for line in listed.splitlines())
    if left := [job for job, name, where in jobs if is_slurm_job(name) and where == str(folder)]:
        raise Refusal(f"{folder}: a killed run has left jobs in Slurm; wait for them, or scancel {' '.join(left)}")


def _end_orphans(folder: Path) -> None:
    """Terminates the stages that a killed Snakemake left running, and waits, since trainings save their state first."""
    terminated: set[int] = set()
    while marked := _marked(folder):
        for process in marked:
            with suppress(psutil.Error):
                # Shells are left out, since they would die without their stage; a stage ends its own workers.
                if _is_shell(process) or process.ppid() in {other.pid for other in marked if not _is_shell(other)}:
                    continue
                if process.pid not in terminated:
                    print(
                        "run: ends what a killed run has left:", process.pid, *process.cmdline()[1:3], file=sys.stderr
                    )
                    process.terminate()
                terminated.add(process.pid)
        psutil.wait_procs(marked, timeout=1)


def _marked(folder: Path) -> list[psutil.Process]:
    """The living processes that a run in this folder started."""
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
    """Removes the lock of a killed Snakemake.

    Raises:
        Refusal: the Snakemake belongs to another host or user, where it may still be running.
    """
    locked = max((path.stat().st_mtime for path in locks(folder)), default=None)
    if locked is None:
        return
    ours = {"Host": platform.node(), "User": getpass.getuser()}
    for log, owner in logs(folder):
        # A running Snakemake writes to its log after it has locked the folder; a minute allows for different clocks.
        if owner and owner != ours and log.stat().st_mtime >= locked - 60:
            who = f"{owner['User']} on {owner['Host']}"
            raise Refusal(f"{folder}: locked by Snakemake of {who} ({log.name}); where it is dead, snakemake --unlock")
    print("run: the last run was killed; going on", file=sys.stderr)
    command = [sys.executable, "-m", "snakemake", "--quiet", "--unlock", *words]
    if code := subprocess.run(command).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
