"""Checks and indexes photographs that lie anywhere, by a list of them: `data.format: folder`.

<name>.csv           columns id, split, image, mask and labels (class names joined by ;), as index.csv has them; the
                     column mask may be missing; in a column labelled, no says that nobody has labelled an image of val;
                     others are not read
<name>.classes.txt   class names in the order of the masks' label values, one a line; optional, by default the names in
                     the list, sorted

Paths are relative to the list's folder, or absolute. A photograph with an empty cell of labels shows none of the
classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from getam.datasets.annotations.tables import JOINERS
from getam.datasets.checked_files import photograph_size
from getam.datasets.class_names import check_class_names, class_name_problem, read_classes
from getam.datasets.consistency import SeenMask, consistent_index
from getam.datasets.documents import read_table
from getam.datasets.index import LABELLED, Index, IndexRow, composed, count_problems, evenly_spaced, is_safe_id
from getam.datasets.named_files import existing
from getam.datasets.voc import SPLITS, UNSAFE_ID, check_in_threads, checked_mask
from getam.errors import InputError, listed

LIST_COLUMNS = ("id", "split", "image", "mask", "labels")
"""The columns of a list, in the order in which one is written."""

NEEDED = frozenset(LIST_COLUMNS) - {"mask"}


@dataclass(frozen=True)
class Entry:
    """A row of a list, and where it stands."""

    where: str
    id: str
    split: str
    image: Path
    mask: Path | None
    labels: tuple[str, ...]
    labelled: bool


def classes_file(path: Path) -> Path:
    """The file with the class names of a list, beside it."""
    return path.with_suffix(".classes.txt")


def read_list(path: Path) -> list[Entry]:
    """Reads a list without looking at its photographs.

    Raises:
        InputError: the file is no such list, an id is no plain file name or occurs twice, or a split is unknown.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; data.format folder reads a list, .csv, which getam new writes")
    table = read_table(path)
    if missing := sorted(NEEDED - {*table.columns}):
        raise InputError(f"{path}: column {missing[0]!r} is missing; a list has {', '.join(LIST_COLUMNS)}")
    entries: list[Entry] = []
    problems: list[str] = []
    lines: dict[str, str] = {}
    for where, found in table.records():
        # The paths are left as they are, since `existing` finds them in either form.
        cells = {name: cell if name in ("image", "mask") else composed(cell) for name, cell in found.items()}
        if not is_safe_id(cells["id"]):
            problems.append(f"{where}: {cells['id']!r}: {UNSAFE_ID}")
        if cells["split"] not in SPLITS:
            problems.append(f"{where}: split {cells['split']!r} is none of {', '.join(SPLITS)}")
        if not cells["image"]:
            problems.append(f"{where}: no path in the column image; write one, or take the row off the list")
        labelled = cells.get(LABELLED) or "yes"
        if labelled not in ("yes", "no"):
            problems.append(f"{where}: {labelled!r} in the column {LABELLED} is neither yes nor no")
        if labelled == "no" and (cells["split"] == "train" or cells["labels"]):
            problems.append(
                f"{where}: is in train, or has labels, and {LABELLED} says no; write yes, or take the row off the list"
            )
        if (first := lines.setdefault(cells["id"], where)) != where:
            problems.append(f"{where}: id {cells['id']!r} stands there twice, first in {first}; leave one")
        entries.append(
            Entry(
                where=where,
                id=cells["id"],
                split=cells["split"],
                image=path.parent / cells["image"],
                mask=path.parent / cells["mask"] if cells.get("mask") else None,
                labels=tuple(filter(None, (name.strip() for name in cells["labels"].split(";")))),
                labelled=labelled != "no",
            )
        )
    if problems:
        raise InputError(listed(problems))
    return entries


def index_folder(
    path: Path,
    *,
    threads: int,
    images: int = 0,
    counts: Mapping[str, int] | None = None,
    splits: Collection[str] = SPLITS,
) -> Index:
    """Checks the photographs of a list and returns their index.

    Every photograph and mask is decoded. Masks are needed only for scores and may be missing. So may the photographs of
    val; the first of `splits` needs some.

    Args:
        path: the list.
        threads: images decoded at the same time.
        images: most images of a split, evenly spaced over the list; 0: all.
        counts: expected number of images by split, before `images` selects some of them; 0: any.
        splits: the splits to index.

    Raises:
        InputError: one message with the first problems and their number.
    """
    entries = read_list(path)
    classes = _classes(path, entries)
    lists = {split: [each for each in entries if each.split == split] for split in SPLITS if split in splits}
    problems = list(count_problems(lists, counts or {}))
    first = next(iter(lists))
    if not lists[first]:
        problems.append(f"{path}: no row of the split {first}; write some")
    if problems:
        raise InputError(listed(problems))
    jobs = [each for entries in lists.values() for each in evenly_spaced(entries, images)]
    seen: dict[Path, SeenMask] = {}
    rows = check_in_threads(lambda entry: _check(entry, classes, seen), jobs, threads)
    return consistent_index(rows, classes, masks=seen, source=path)


def _classes(path: Path, entries: list[Entry]) -> tuple[str, ...]:
    """The names of the classes, in the order of their label values.

    Raises:
        InputError: a label is no class.
    """
    file = classes_file(path)
    known = read_classes(file) if file.is_file() else None
    problems = list(_label_problems(entries, known, file))
    if problems:
        raise InputError(listed(problems))
    names = known if known is not None else tuple(sorted({name for entry in entries for name in entry.labels}))
    check_class_names(names, path)
    return names


def _label_problems(entries: list[Entry], known: tuple[str, ...] | None, file: Path) -> Iterator[str]:
    for entry in entries:
        for name, count in Counter(entry.labels).items():
            if known is not None and name not in known:
                yield f"{entry.where}: label {name!r} is not in {file}; add it there or correct it"
            elif problem := class_name_problem(name):
                yield f"{entry.where}: {problem}"
            elif known is None and {*name} & {*JOINERS}:
                yield (
                    f"{entry.where}: label {name!r} is one name or several; join names by ; or write the names of the "
                    f"classes into {file}"
                )
            elif count > 1:
                yield f"{entry.where}: label {name!r} stands there twice; leave one"


def _check(entry: Entry, classes: tuple[str, ...], seen: dict[Path, SeenMask]) -> IndexRow:
    image, mask = existing(entry.image), None if entry.mask is None else existing(entry.mask)
    for path in filter(None, (image, mask)):
        if "\\" in str(path) and not path.exists():
            raise InputError(f"{entry.where}: {path}: no such file; write a path below the list's folder, with / in it")
    height, width = photograph_size(image)
    if mask is not None:
        if not mask.is_file():
            raise InputError(f"{entry.where}: {mask}: no such mask; add it, or leave the cell empty")
        checked_mask(mask, image, (height, width), classes, seen=seen)
    return IndexRow(
        id=entry.id,
        split=entry.split,
        image=image,
        mask=mask,
        height=height,
        width=width,
        labels=tuple(name for name in classes if name in entry.labels),
        labelled=entry.labelled,
    )
