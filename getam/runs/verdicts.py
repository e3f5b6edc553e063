"""Reads a person's verdicts on the images of a run, from a file that the audit page exports."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from getam.errors import InputError, listed
from getam.settings.foreign import VERDICTS_BYTES, read_bytes
from getam.system.names import from_words

Word = Literal["good", "bad", "unsure"]
WORDS: tuple[str, ...] = get_args(Word)
COLUMNS = ("id", "verdict", "note")

CURE = "export it from the audit page again"


@dataclass(frozen=True)
class Verdict:
    """A person's verdict on one image."""

    id: str
    word: str
    note: str = ""


def rejected_ids(path: Path, known: Collection[str]) -> frozenset[str]:
    """The ids with the verdict "bad" in a file; see `read_verdicts`."""
    return frozenset(verdict.id for verdict in read_verdicts(path, known) if verdict.word == "bad")


def read_verdicts(path: Path, known: Collection[str]) -> list[Verdict]:
    """Reads a .json or .csv file that the audit page has exported.

    JSON: {"run": ..., "verdicts": [{"id": ..., "verdict": "good" | "bad" | "unsure", "note": ...}]}; CSV: the columns
    id, verdict, note. A note may be missing.

    Args:
        known: the ids of the index.

    Raises:
        InputError: the file does not exist, is larger than VERDICTS_BYTES or has another format; a verdict is none of
            the three words; an id is unknown or has two different verdicts.
    """
    read = {".json": _read_json, ".csv": _read_csv}.get(path.suffix.lower())
    if read is None:
        raise InputError(f"{path}: neither .json nor .csv; {CURE}")
    try:
        text = read_bytes(path, VERDICTS_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name one that the audit page has exported, or none: ''") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}); {CURE}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file of verdicts") from None
    except ValueError:
        raise InputError(f"{path}: more than {VERDICTS_BYTES} bytes are no file of verdicts; {CURE}") from None
    try:
        found = list(read(text))
    except (ValueError, TypeError, KeyError, RecursionError, csv.Error) as error:
        raise InputError(f"{path}: no verdicts of the audit page ({error}); {CURE}") from None
    verdicts: dict[str, Verdict] = {}
    problems = []
    for where, verdict in found:
        before = verdicts.setdefault(verdict.id, verdict)
        if verdict.word not in WORDS:
            problems.append(
                f"{path}, {where}: verdict {verdict.word!r} of {verdict.id!r} is none of {', '.join(WORDS)}"
            )
        elif verdict.id not in known:
            problems.append(f"{path}, {where}: id {verdict.id!r} is not in index.csv; name verdicts on this data set")
        elif before.word != verdict.word:
            problems.append(f"{path}, {where}: {verdict.id!r} is {verdict.word}, and {before.word} above; keep one")
    if problems:
        raise InputError(listed(problems))
    return [*verdicts.values()]


def _read_json(text: str) -> Iterator[tuple[str, Verdict]]:
    content = json.loads(text)
    if not isinstance(content, dict) or not isinstance(content.get("verdicts"), list):
        raise ValueError("there is no list `verdicts` in it")
    for number, entry in enumerate(content["verdicts"], start=1):
        where = f"verdict {number}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where} is no object")
        yield where, _verdict(where, entry)


def _read_csv(text: str) -> Iterator[tuple[str, Verdict]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    missing = {*COLUMNS[:2]} - {*(reader.fieldnames or ())}
    if missing:
        raise ValueError(f"column {min(missing)!r} is missing")
    for row in reader:
        where = f"line {reader.line_num}"
        if None in row or None in row.values():
            raise ValueError(f"{where} has not one field a column")
        yield where, _verdict(where, {name: from_words(field) for name, field in row.items()})


def _verdict(where: str, entry: dict[str, Any]) -> Verdict:
    words = [entry.get(name, "") for name in COLUMNS]
    if not all(isinstance(word, str) for word in words) or not {*COLUMNS[:2]} <= entry.keys():
        raise ValueError(f"{where} lacks an id or a verdict that is text")
    return Verdict(*words)
