"""Variants of a run: the same run with a few settings changed, sharing every file that does not depend on the changes.

PARTS states on which settings each part of a run depends, directly or through the parts that it is made from. A file of
a variant lies in a folder named after those changes that affect the file: in the run's own folder if none does.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from getam.errors import InputError
from getam.runs.artifacts import ARTIFACTS, BY_NAME, of_kind
from getam.settings.config import Config, validate_config
from getam.settings.flags import leaves
from getam.settings.networks import PretrainedSettings
from getam.settings.reading import merge
from getam.settings.saliency import SaliencySettings

Path = tuple[str, ...]
"""The nested keys of a setting: ("maps", "fusion")."""

Changes = Mapping[Path, Any]

LONGEST_NAME = 80
"""Longest folder name that spells out all changes, in letters; longer ones end in a hash."""


class Part(NamedTuple):
    """A part of a run: the artifacts that depend on the same settings."""

    name: str
    keys: tuple[str, ...]
    """Dotted keys of the sections and settings that the part depends on directly."""
    of: tuple[str, ...] = ()
    """Names of the parts that it is made from."""


PARTS = {
    part.name: part
    for part in (
        Part("index", ("data.labels", "data.negatives", "data.images", "data.counts")),
        Part("classifier", ("classifier",), ("index",)),
        Part("maps", ("maps", "data.shards"), ("classifier",)),
        Part("refined", ("refine",), ("maps",)),
        Part(
            "saliency_model",
            (
                "data.saliency_train",
                "data.saliency_val",
                *(f"saliency.{name}" for name in SaliencySettings.model_fields),
            ),
        ),
        Part("saliency", ("saliency.stretch", "data.shards"), ("saliency_model", "index")),
        Part("pseudo_labels", ("completion",), ("refined", "saliency")),
        Part("label_scores", ("score_labels",), ("pseudo_labels",)),
        Part("deeplab", ("deeplab",), ("pseudo_labels",)),
        Part("deeplab_prediction", ("deeplab_prediction",), ("deeplab",)),
        Part("relabelled", ("relabel",), ("deeplab",)),
        Part("relabelled_scores", ("score_labels",), ("relabelled",)),
        Part("relabelled_prediction", ("deeplab_prediction",), ("relabelled",)),
        Part("end_to_end", ("end_to_end", "checkpoint"), ("index", "saliency")),
        Part("end_to_end_prediction", ("end_to_end_prediction",), ("end_to_end",)),
        *(
            Part(
                f"weights/{section}",
                tuple(f"{section}.{key}" for key in (network, *options, *PretrainedSettings.model_fields)),
            )
            for section, (network, *options) in {
                "classifier": ("backbone", "backbone_options"),
                "saliency": ("backbone", "backbone_options"),
                "deeplab": ("encoder", "architecture", "encoder_options"),
                "end_to_end": ("backbone", "backbone_options"),
            }.items()
        ),
    )
}


IMPORTED = Part("end_to_end", ("checkpoint",), ("index",))
"""The part end_to_end of a run that imports a checkpoint, to which no setting of a training matters."""

CHECKPOINT = ("checkpoint", "file")
"""The setting that says whether a run imports one."""

OF_A_ROUND = {
    "pseudo_labels": "relabelled",
    "label_scores": "relabelled_scores",
    "deeplab": "relabelled",
    "deeplab_prediction": "relabelled_prediction",
}
"""Parts of which each round from the second on has its own files -> the part on whose settings those depend."""

ROUNDS = ("rounds",)
"""The setting that says how often the segmenter is trained; no file depends on it."""

OF_A_SPLIT = frozenset(artifact.part for artifact in (*of_kind("shards"), BY_NAME["label_scores"]))
"""Parts that are made of train or of another split (see `Variants.add_split`): image by image, and their scores."""


class Variants:
    """A run and its variants, with the configuration and the files of each.

    A variant is identified by the name of its folder below results/: `demo/variants/completion.alpha-0.8`. The run's
    pseudo labels of another split, on which nothing is trained, have a name as well: `demo/val`. So have the further
    rounds of a run or a variant: under the name `demo/rounds/2`, pseudo labels, segmenter and their scores are those of
    the second round, and all else is the run's.
    """

    def __init__(self, values: Mapping[str, Any], settings: Config) -> None:
        """`values`: the run's merged configuration; `settings`: the same, validated."""
        self.values = values
        self.run = settings.run
        self._is_imported = bool(value_of(settings, CHECKPOINT))
        self._settings = {settings.run: settings}
        self._changes: dict[str, Changes] = {settings.run: {}}
        self._splits: dict[str, str] = {}
        self._rounds: dict[str, tuple[str, int]] = {}
        self._register_rounds(settings.run, settings.rounds)

    def __iter__(self) -> Iterator[str]:
        """The names of all folders: the run's, the variants', and those with files that several variants share."""
        return iter(self._settings)

    def __getitem__(self, name: str) -> Config:
        """The settings with which the files in a folder are made."""
        return self._settings[name]

    def add(self, overlay: Mapping[str, Any], *, source: str) -> str:
        """Registers a variant.

        Args:
            overlay: the settings that differ, nested as in config.yaml.
            source: who asks for the variant, for messages.

        Returns:
            The variant's name; the run's own if nothing differs.

        Raises:
            InputError: the settings are not valid, or one of them must not differ between variants of a run.
        """
        settings = validate_config(merge(self.values, overlay), source=source)
        changes = _changes(self._settings[self.run], settings)
        for path in changes:
            if path != ROUNDS and not any(_is_part_of(path, key) for part in PARTS.values() for key in part.keys):
                raise InputError(
                    f"{source}: {'.'.join(path)}: runs that share their stages cannot differ in it; make another run "
                    "of it (run: NAME)"
                )
        for part in PARTS:
            self._register(self._changes_of(part, changes))
        name = self._register(changes)
        self._register_rounds(name, settings.rounds)
        return name

    def round(self, name: str, number: int) -> str:
        """The name of a round of a run or a variant; its own name for the first.

        Raises:
            KeyError: it has fewer rounds.
        """
        view = name if number == 1 else f"{name}/rounds/{number}"
        self._settings[view]
        return view

    def rounds(self, name: str) -> list[str]:
        """The names of all rounds of a run or a variant, the first one's being its own."""
        return [self.round(name, number) for number in range(1, self[name].rounds + 1)]

    def first_round(self, name: str) -> str:
        """The run or variant of whose rounds `name` is one."""
        return self._rounds[name][0] if name in self._rounds else name

    def round_before(self, name: str) -> str:
        """The name of the round before a further round, whose segmenter predicts its pseudo labels.

        Raises:
            KeyError: `name` is no further round.
        """
        of, number = self._rounds[name]
        return self.round(of, number - 1)

    def is_round(self, name: str) -> bool:
        """Whether it is a round after the first."""
        return name in self._rounds

    def _register_rounds(self, name: str, count: int) -> None:
        changes = self._changes[name]
        for number in range(2, count + 1):
            for each in (name, *(self._register(self._changes_of(part, changes)) for part in OF_A_ROUND.values())):
                view = f"{each}/rounds/{number}"
                self._rounds[view] = (each, number)
                self._settings[view], self._changes[view] = self._settings[each], self._changes[each]

    def add_split(self, split: str) -> str:
        """Registers the pseudo labels of another split, made by the networks trained on train; returns their name."""
        name = f"{self.run}/{split}"
        self._settings[name] = self._settings[self.run]
        self._changes[name] = {}
        self._splits[name] = split
        return name

    def split(self, name: str) -> str:
        """The split for whose images maps and pseudo labels are made."""
        return self._splits.get(name, "train")

    def _changes_of(self, part: str, changes: Changes) -> Changes:
        """Those of a variant's changes that matter to a part of it."""
        imported = self._is_imported and CHECKPOINT not in changes
        return {path: value for path, value in changes.items() if _matters(path, part, imported=imported)}

    def _register(self, changes: Changes) -> str:
        name = f"{self.run}/variants/{_name(changes)}" if changes else self.run
        if name not in self._settings:
            # The settings are not validated: a subset of valid changes may be invalid alone, such as a CNN classifier
            # without `maps.method: cam`.
            self._settings[name] = _changed(self._settings[self.run], changes)
            self._changes[name] = changes
        return name

    def file(self, name: str, file: str) -> str:
        """The path of a file of a run or a variant, relative to the folder that contains results/.

        Args:
            name: the run or variant.
            file: path within a run, such as "deeplab/metrics.json".

        Raises:
            KeyError: no artifact of a run has such a path.
        """
        part = _part_of(file)
        if name in self._splits and part in OF_A_SPLIT:
            return f"results/{name}/{file}"
        if name in self._rounds and part in OF_A_ROUND:
            folder = self._register(self._changes_of(OF_A_ROUND[part], self._changes[name]))
            return f"results/{folder}/rounds/{self._rounds[name][1]}/{file}"
        return f"results/{self._register(self._changes_of(part, self._changes[name]))}/{file}"

    def files(self, name: str) -> dict[str, str]:
        """The paths of all files: {path within a run: actual path}; {} if all lie in the folder of `name` itself."""
        found = {artifact.path: self.file(name, artifact.path) for artifact in ARTIFACTS if artifact.part}
        return {} if all(path == f"results/{name}/{file}" for file, path in found.items()) else found


def depends_on(file: str, path: Path, *, round: int = 1) -> bool:
    """Whether a file of a run, in one of its rounds, depends on a setting."""
    part = _part_of(file)
    return _matters(path, OF_A_ROUND.get(part, part) if round > 1 else part)


def value_of(settings: BaseModel, path: Path) -> Any:
    """The value of a setting, by its nested keys."""
    value: Any = settings
    for name in path:
        value = getattr(value, name)
    return value


@cache
def _part_of(file: str) -> str:
    """The part of the artifact that contains the file; of nested artifacts, the innermost counts."""
    found = [
        (len(artifact.path), artifact.part)
        for artifact in ARTIFACTS
        if artifact.part and _leads_to(artifact.path, file)
    ]
    if not found:
        raise KeyError(file)
    return max(found)[1]


def _leads_to(name: str, file: str) -> bool:
    return file == name or file.startswith(f"{name}/")


@cache
def _matters(path: Path, part: str, *, imported: bool = False) -> bool:
    _, keys, of = IMPORTED if imported and part == IMPORTED.name else PARTS[part]
    return any(_is_part_of(path, key) for key in keys) or any(_matters(path, each, imported=imported) for each in of)


def _is_part_of(path: Path, key: str) -> bool:
    names = tuple(key.split("."))
    return path[: len(names)] == names


def _changes(base: Config, settings: Config) -> dict[Path, Any]:
    """The settings that differ, in the order of the configuration, without those that never rerun a stage."""
    found = {}
    for path, field in leaves(Config):
        before, after = value_of(base, path), value_of(settings, path)
        if before != after and not field.exclude:
            found[path] = after
    return found


Model = TypeVar("Model", bound=BaseModel)


def _changed(settings: Model, changes: Changes) -> Model:
    update: dict[str, Any] = {}
    below: dict[str, dict[Path, Any]] = {}
    for (name, *rest), value in changes.items():
        if rest:
            below.setdefault(name, {})[tuple(rest)] = value
        else:
            update[name] = value
    update |= {name: _changed(getattr(settings, name), each) for name, each in below.items()}
    return settings.model_copy(update=update)


def _name(changes: Changes) -> str:
    """A folder name that spells out the changes; if that is too long or unsafe, a hash makes it unique."""
    texts = [f"{'.'.join(path)}-{_text(value)}" for path, value in changes.items()]
    plain = "_".join(texts)
    if len(plain) <= LONGEST_NAME and re.fullmatch(r"[\w.-]+", plain, re.ASCII):
        return plain
    first = re.sub(r"[^A-Za-z0-9_.-]+", "-", texts[0])[:LONGEST_NAME]
    others = f"-and-{len(texts) - 1}-more" if len(texts) > 1 else ""
    return f"{first}{others}-{hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:8]}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
