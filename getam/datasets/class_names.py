"""Names of classes: what can be one, and classes.txt, the file of a data set's names."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from getam.datasets.index import composed
from getam.errors import InputError
from getam.settings.foreign import DOCUMENT_BYTES, read_text
from getam.system.image_files import UNKNOWN
from getam.system.names import is_formula

NO_CLASSES = frozenset(
    {
        *("background", "_background_", "__background__", "bg", "unlabeled", "unlabelled"),
        *("void", "ignore", "__ignore__"),
    }
)
"""Names that tools give to pixels of no class or of an unknown one, in lower case."""

NOTHING = frozenset({"nan", "none", "null", "n/a"})
"""What programs write into a cell that has no text, in lower case."""

LONGEST_NAME = 200
"""Most letters of a class's name."""


def class_name_problem(name: str) -> str | None:
    """What keeps a text from being the name of a class, with the cure; None if nothing does."""
    if len(name) > LONGEST_NAME:
        return f"class name {name[:20]!r}... has {len(name)} letters; rename the class in {LONGEST_NAME} at most"
    if not name or name != name.strip():
        return f"class name {name!r} is empty or has blanks around it; rename the class"
    if name.casefold() in NO_CLASSES:
        return f"{name!r} is no class but label value 0 (unknown pixels are {UNKNOWN}); take it off the list"
    if name.casefold() in NOTHING:
        return f"{name!r} is what programs write for no name; leave the cell empty, or take the name off"
    if ";" in name or not name.isprintable():
        return f"class name {name!r} holds ';' or a control character; rename the class"
    if is_formula(name):
        return f"class name {name!r} begins like a formula of a spreadsheet (= + - @); rename the class"
    return None


def alike_names(names: Iterable[str]) -> list[list[str]]:
    """The groups of names that differ in case alone."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[name.casefold()].append(name)
    return [group for group in alike.values() if len(group) > 1]


def check_class_names(names: Sequence[str], path: Path) -> None:
    """Raises InputError if names cannot be the classes of a data set; `path` is the file that they come from."""
    if not names:
        raise InputError(f"{path}: no class names; write one a line, without background")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: class {repeated[0][:LONGEST_NAME]!r} stands there twice; names must differ")
    if len(names) >= UNKNOWN:
        raise InputError(f"{path}: {len(names)} classes; label PNGs hold at most {UNKNOWN - 1}")
    for name in names:
        if problem := class_name_problem(name):
            raise InputError(f"{path}: {problem}")


def read_classes(path: Path) -> tuple[str, ...]:
    """Reads classes.txt: one class name a line, without background.

    Raises:
        InputError: there are no names, too many, or duplicates, or one cannot be a class name.
    """
    names = tuple(line.strip() for line in read_lines(path) if line.strip())
    check_class_names(names, path)
    return names


def read_lines(path: Path) -> list[str]:
    """The lines of a user's text file, in UTF-8 with or without a byte order mark.

    Raises:
        InputError: the file is missing or is no UTF-8 text.
    """
    try:
        # Some editors write a byte order mark at the start of a UTF-8 file, and letters are compared as composed.
        return composed(read_text(path, DOCUMENT_BYTES, encoding="utf-8-sig")).splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the data set needs it") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error}); save it as such") from None
