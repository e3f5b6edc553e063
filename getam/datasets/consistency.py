"""What only all images of a data set together show: masks that contradict labels or each other, classes without images.

A mask whose values mean other classes is a mask like any other. But its photograph's labels say something else, or its
palette gives its values the colors of others.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from getam.datasets.checked_files import NO_COLOR, MaskFacts
from getam.datasets.class_names import alike_names
from getam.datasets.index import Index, IndexRow
from getam.errors import InputError, enumerated
from getam.system.image_files import UNKNOWN

NAMED = 10
"""Most classes that a warning names; it counts the others."""

Color = tuple[int, ...]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeenMask:
    """What a mask shows.

    Attributes:
        path: its file.
        values: its label values.
        colors: the color that its palette gives to each of them but 255; empty if it has none.
    """

    path: Path
    values: frozenset[int]
    colors: Mapping[int, Color]


def seen_mask(path: Path, facts: MaskFacts) -> SeenMask:
    """What a file of label values shows."""
    known = {
        value: (color >> 16, color >> 8 & 255, color & 255)
        for value, color in zip(facts.values, facts.colors, strict=True)
        if color != NO_COLOR and value != UNKNOWN
    }
    # A ramp of grays is what programs write that know of no palette; and colors that do not differ say nothing.
    is_ramp = all(color == (value,) * 3 for value, color in known.items())
    return SeenMask(path, frozenset(facts.values), {} if is_ramp or len({*known.values()}) < len(known) else known)


def consistent_index(
    rows: tuple[IndexRow, ...], classes: tuple[str, ...], *, masks: Mapping[Path, SeenMask], source: Path
) -> Index:
    """The index of checked images, if their masks fit labels and each other; warnings say what may be wrong.

    Args:
        masks: the mask of each photograph that has one; none where masks are made from the labels.
        source: where the masks come from, for messages.

    Raises:
        InputError: no mask shows a class, or most show other classes than their image's labels; or masks give one color
            to two values.
    """
    shown = [(row, masks[row.image]) for row in rows if row.image in masks]
    _check_labels(shown, classes, source)
    _check_colors([mask for _, mask in shown])
    for message in _class_warnings(rows, classes):
        logger.warning("index_dataset: %s", message)
    return Index(rows, classes)


def check_class_values(masks: Collection[SeenMask], classes: tuple[str, ...], source: Path, *, cure: str) -> None:
    """Refuses masks of which none shows a class.

    In most of them 255 is the object, as many tools export it: a network that predicts background alone would score an
    mIoU of 1 on them, since 255 is not scored.

    Args:
        cure: what one may do instead of writing the classes' values.

    Raises:
        InputError: there are masks, and all their values are 0 and 255.
    """
    values = frozenset().union(*(mask.values for mask in masks))
    if masks and values <= {0, UNKNOWN}:
        raise InputError(
            f"{source}: no mask shows a class, only {' and '.join(map(str, sorted(values)))}; write the value of its "
            f"class into an object's pixels ({_value_order(classes)} and so on; 255 is void, which isn't scored), or "
            f"{cure}"
        )


def _value_order(classes: tuple[str, ...]) -> str:
    return f"{classes[0]} is 1" + (f", {classes[1]} is 2" if len(classes) > 1 else "")


def _check_labels(shown: Sequence[tuple[IndexRow, SeenMask]], classes: tuple[str, ...], source: Path) -> None:
    """Refuses masks that don't show what their images are labelled with; warns of some among many.

    Masks of other classes than labels come from a classes.txt in another order, or with a line for the background, or
    from values that mean object.
    """
    labelled = [
        (row, mask, [classes[value - 1] for value in sorted(mask.values - {0, UNKNOWN})])
        for row, mask in shown
        if row.labels
    ]
    if labelled:
        check_class_values([mask for _, mask in shown], classes, source, cure="remove the masks")
    apart = [(row, mask, names) for row, mask, names in labelled if not {*names} & {*row.labels}]
    if not apart:
        return
    order = _value_order(classes)
    row, mask, names = apart[0]
    example = f"{mask.path} shows {_said(names)}, its image is labelled {_said(row.labels)}"
    others = sum(bool(names) for *_, names in apart)
    showing = sum(bool(names) for *_, names in labelled)
    if 2 * others > showing:
        raise InputError(
            f"{source}: {others} of {showing} masks show other classes than their image's labels: {example}; put "
            f"the classes into the order of the masks' values ({order} and so on; 0 is background), or correct masks "
            "or labels"
        )
    logger.warning(
        "index_dataset: %d of %d masks show none of their image's labels: %s; look whether their values are those of "
        "the classes (%s and so on)",
        len(apart),
        len(labelled),
        example,
        order,
    )


def _check_colors(masks: Sequence[SeenMask]) -> None:
    """Refuses masks whose values a program has renumbered, image by image, as their palettes show; warns of a doubt."""
    values: dict[Color, tuple[int, Path]] = {}
    colors: dict[int, tuple[Color, Path]] = {}
    doubt = ""
    for mask in masks:
        for value, color in mask.colors.items():
            other_value, where = values.setdefault(color, (value, mask.path))
            other_color, elsewhere = colors.setdefault(value, (color, mask.path))
            found = f"{mask.path}: its palette gives value {value} the color {color}"
            # Background has one color in all palettes that a person chooses, a class may have several.
            if other_value != value or (value == 0 and other_color != color):
                other = f"value {other_value} in {where}" if other_value != value else f"{other_color} in {elsewhere}"
                raise InputError(
                    f"{found}, which is {other}: a program has renumbered the values; save all masks with one palette"
                )
            if other_color != color and not doubt:
                doubt = (
                    f"{found}, which is {other_color} in {elsewhere}; look whether a program has renumbered the values"
                )
    if doubt:
        logger.warning("index_dataset: %s", doubt)


def _class_warnings(rows: Sequence[IndexRow], classes: tuple[str, ...]) -> Iterator[str]:
    train = [row for row in rows if row.split == "train"]
    shown = {name for row in train for name in row.labels}
    if train and (missing := [name for name in classes if name not in shown]):
        more = [f"{len(missing) - NAMED} more"] if len(missing) > NAMED else []
        yield (
            f"no image of train shows {len(missing)} of {len(classes)} classes, which can't be learned: "
            f"{enumerated([*map(repr, missing[:NAMED]), *more], 'and')}"
        )
    for names in alike_names(classes):
        yield f"the classes {_said(names)} differ in case alone; are they one?"


def _said(names: Sequence[str]) -> str:
    return enumerated(map(repr, names), "and") if names else "no class"
