"""Segments or classifies any photographs with a trained model."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

import getam.system.version
from getam.datasets.images import BATCH_PIXELS, fit_long_side, planned_batches, whole_images
from getam.datasets.index import evenly_spaced
from getam.datasets.photographs import SUFFIXES, Photograph, find_photographs
from getam.errors import InputError, listed
from getam.labels.class_maps import over_maximum
from getam.maps.baselines import create_maps
from getam.networks.checkpoints import model_files
from getam.networks.classifier import CNNClassifier, ViTClassifier, load_classifier
from getam.pages.predicted import THUMBNAIL, Predicted, heat_overlay, overlay, with_names, write_sheet
from getam.pages.thumbnails import css_color
from getam.scores.prediction import BATCH_SIZE
from getam.scores.regions import regions
from getam.scores.segmenter import (
    CLASSIFIER,
    Model,
    Segmenter,
    find_model,
    labels_of,
    load_segmenter,
    write_probabilities,
)
from getam.settings.maps import ActivationSettings
from getam.settings.prediction import Scale
from getam.settings.section import POSITIONAL
from getam.system.arguments.network import NetworkArguments
from getam.system.files import atomic_file, fingerprint, users_folder, write_array, write_json, write_text
from getam.system.image_files import read_image, read_labels, read_note, write_labels
from getam.system.names import as_words
from getam.system.progress import image_progress, progress
from getam.system.workers import ThreadPool

PRESENT = 0.5
"""Probability from which on a classifier's class counts as present; the most probable one does in any case."""

SHOWN = 400
"""Most photographs on the contact sheet."""

QUEUED = 4
"""Number of photographs that may wait for a writing thread."""

LARGEST_SIDE = 2**14
"""Largest --long-side, pixels."""

Size = Callable[[Photograph], tuple[int, int]]

logger = logging.getLogger(__name__)


class Arguments(NetworkArguments):
    """Segment photographs: <out>/<name>.png, a palette PNG of label values, 0 background, at the photograph's size.

    A classifier writes scores.csv: a row a photograph, a column a class, probabilities. What is there already, from
    the same model, settings and photograph, is not made again.
    """

    model: Path = Field(
        description="folder of a trained model, such as results/<run>/deeplab", json_schema_extra=POSITIONAL
    )
    photographs: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description=f"files, folders (to any depth; {', '.join(SUFFIXES)}) or patterns", json_schema_extra=POSITIONAL
    )
    out: Path = Field(description="folder of the results")
    overlays: bool = Field(
        default=False, description="also overlays/<name>.jpg: the photograph under the classes' colors [false]"
    )
    probabilities: bool = Field(
        default=False,
        description="also probabilities/<name>.npy: float16 (1 + C, H, W), channel 0 the background [false]",
    )
    regions: bool = Field(
        default=False,
        description="also regions/<name>.json: each class with its area, its mean probability and the boxes of its "
        "regions [false]",
    )
    sheet: bool = Field(
        default=False, description=f"also contact_sheet.html: {SHOWN} of the photographs at most, in one file [false]"
    )
    maps: bool = Field(
        default=False,
        description="of a classifier: also maps/<name>.npy, float32 (K, h, w) in [0, 1], GETAM's map (a CNN's CAM) of "
        f"each class of a probability of {PRESENT} at least, or of the most probable one; maps/<name>.json names "
        "them, and --overlays draws them [false]",
    )
    long_side: Annotated[int, Field(ge=0, le=LARGEST_SIDE)] | None = Field(
        default=None,
        description="photographs whose longer side has more pixels go in scaled down to it; 0: none [the largest of "
        "the training]; into a classifier all go at this side [the training's crop; for maps, its largest]",
    )
    scales: Annotated[tuple[Scale, ...], Field(min_length=1)] = Field(
        default=(1.0,), description="of a segmenter: multiples of the input's size that are averaged [1]"
    )
    flip: bool = Field(default=True, description="of a segmenter: average with the mirrored photograph [true]")
    window: Annotated[int, Field(ge=0, le=4096)] = Field(
        default=0,
        description="of a segmenter: side of windows, pixels, that a photograph is segmented in; 0: whole [0]",
    )
    window_overlap: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=1 / 3, description="part of a window that the next one covers too [1/3]"
    )


def run(arguments: Arguments) -> None:
    model = find_model(arguments.model)
    _check_options(arguments, model.kind)
    photographs, problems = find_photographs(arguments.photographs, leave_out=arguments.out)
    device = arguments.prepare()
    with users_folder(arguments.out):
        damaged = (_classify if model.kind == CLASSIFIER else _segment)(arguments, model, photographs, device)
    problems += damaged
    if problems:
        rest = len(photographs) - len(damaged)
        raise InputError(f"{listed(problems)}\nThe results of {rest} other photographs are in {arguments.out}")


def _check_options(arguments: Arguments, kind: str) -> None:
    """Refuses options that the kind of model has no use for."""
    wrong = ("probabilities", "regions", "sheet") if kind == CLASSIFIER else ("maps",)
    given = [f"--{name}" for name in wrong if getattr(arguments, name)]
    if given:
        has = "segments nothing" if kind == CLASSIFIER else "makes no class maps; a classifier does"
        raise InputError(f"{arguments.model}: is a {kind}, which {has}; leave out {', '.join(given)}")


class _Inputs:
    """Reads photographs as network inputs, and notes those that cannot be decoded, which the others do not wait for."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.damaged: dict[Photograph, str] = {}

    def batches(
        self, batches: Sequence[Sequence[Photograph]], size: Size
    ) -> Iterator[tuple[Sequence[Photograph], Tensor]]:
        """Yields the photographs of each batch and their inputs (B, 3, h, w); those of damaged ones are black."""
        return whole_images(batches, read=self._read, size=size, threads=self.threads)

    def _read(self, photograph: Photograph) -> np.ndarray:
        try:
            return read_image(photograph.path)
        except InputError as error:
            self.damaged[photograph] = str(error)
            return np.zeros((photograph.height, photograph.width, 3), np.uint8)


def _segment(arguments: Arguments, model: Model, photographs: Sequence[Photograph], device: torch.device) -> list[str]:
    """Writes what a segmenter says about photographs; returns a message for each that cannot be decoded."""
    segmenter = load_segmenter(
        model.folder,
        device=device,
        long_side=arguments.long_side,
        scales=arguments.scales,
        flip=arguments.flip,
        window=arguments.window,
        window_overlap=arguments.window_overlap,
    )
    results = _Results(arguments, model.folder, segmenter)
    results.check(photographs)

    def size(photograph: Photograph) -> tuple[int, int]:
        return segmenter.input_size((photograph.height, photograph.width))

    pixels = BATCH_PIXELS[device.type] / max(arguments.scales) ** 2
    batches = planned_batches(photographs, size=size, batch_size=BATCH_SIZE, pixels=pixels)
    # Whole batches, since the last bits of an image's result may depend on the batch.
    todo = [batch for batch in batches if not all(map(results.finished, batch))]
    if len(todo) < len(batches):
        logger.info(
            "%d of %d photographs are done already", sum(map(len, batches)) - sum(map(len, todo)), len(photographs)
        )
    inputs = _Inputs(arguments.threads)

    def written() -> Iterator[None]:
        pending: deque[Future[None]] = deque()
        with ThreadPool(arguments.threads) as pool:
            for batch, images in inputs.batches(todo, size):
                for photograph, values in zip(batch, segmenter.batch(images), strict=True):
                    if photograph in inputs.damaged:
                        yield
                        continue
                    pending.append(pool.submit(results.write, photograph, values))
                    if len(pending) > pool.workers + QUEUED:
                        yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    for _ in progress(written(), total=sum(map(len, todo)), unit="photograph", what="predict"):
        pass
    if arguments.sheet:
        _write_sheet(arguments, results, [each for each in photographs if each not in inputs.damaged])
    return list(inputs.damaged.values())


@dataclass(frozen=True)
class _Results:
    """The files of each photograph's results.

    A label PNG carries the key of what it was made from, and is written before the other files of its photograph, so
    that a later call knows which are finished.
    """

    arguments: Arguments
    model: Path
    segmenter: Segmenter

    def labels(self, photograph: Photograph) -> Path:
        # The name may have dots, which with_suffix would cut at.
        return self.arguments.out / f"{photograph.name}.png"

    def others(self, photograph: Photograph, *, wanted: bool = True) -> dict[str, Path]:
        """The files besides the labels that are wanted, or those that are not, by the name of their option."""
        suffixes = {"overlays": ".jpg", "probabilities": ".npy", "regions": ".json"}
        return {
            option: self.arguments.out / option / f"{photograph.name}{suffix}"
            for option, suffix in suffixes.items()
            if getattr(self.arguments, option) is wanted
        }

    @cached_property
    def made_by(self) -> str:
        """All that the results of every photograph depend on."""
        views, files = self.segmenter.views.model_dump_json(), fingerprint(model_files(self.model.resolve()))
        return f"{getam.system.version.VERSION} {views} {self.segmenter.long_side} {files}"

    def key(self, photograph: Photograph) -> str:
        """Hash of all that the results of a photograph depend on."""
        return hashlib.sha256(f"{self.made_by} {fingerprint([photograph.path])}".encode()).hexdigest()

    def check(self, photographs: Sequence[Photograph]) -> None:
        """Refuses to write over files that this command has not written."""
        given = {photograph.path for photograph in photographs}
        in_the_way = []
        for photograph in photographs:
            labels, others = self.labels(photograph), self.others(photograph).values()
            # A photograph may carry a note as results do.
            if labels.exists() and (labels.resolve() in given or read_note(labels) is None):
                in_the_way.append(labels)
            in_the_way += [
                path for path in others if path.exists() and (path.resolve() in given or not labels.exists())
            ]
        _leave(in_the_way)

    def finished(self, photograph: Photograph) -> bool:
        labels = self.labels(photograph)
        if not labels.is_file() or read_note(labels) != self.key(photograph):
            return False
        written = labels.stat().st_mtime_ns
        others = self.others(photograph).values()
        return all(path.is_file() and path.stat().st_mtime_ns >= written for path in others)

    def write(self, photograph: Photograph, probabilities: Tensor) -> None:
        """Writes the files of a photograph from its probabilities (1 + C, h, w)."""
        size = (photograph.height, photograph.width)
        labels, confidence = labels_of(probabilities, size)
        file, key = self.labels(photograph), self.key(photograph)
        if file.is_file() and read_note(file) != key:
            # Files of an earlier call, which would lie beside labels that they do not belong to.
            for path in self.others(photograph, wanted=False).values():
                path.unlink(missing_ok=True)
        write_labels(file, labels, note=key)
        for option, path in self.others(photograph).items():
            if option == "overlays":
                _write_jpeg(path, with_names(overlay(read_image(photograph.path), labels), self._legend(labels)))
            elif option == "probabilities":
                write_probabilities(path, probabilities, size)
            else:
                described = {"photograph": str(photograph.path), "height": size[0], "width": size[1]}
                write_json(path, described | {"classes": regions(labels, confidence, self.segmenter.classes)})

    def _legend(self, labels: np.ndarray) -> list[tuple[str, tuple[int, ...]]]:
        values = [value for value in np.unique(labels).tolist() if value]
        return [(self.segmenter.classes[value - 1], tuple(self.segmenter.palette[value].tolist())) for value in values]


def _leave(in_the_way: Sequence[Path]) -> None:
    """Refuses to write over files."""
    if in_the_way:
        problems = [f"{path}: is there already, and is no result of getam predict" for path in in_the_way]
        raise InputError(f"{listed(problems)}; choose another --out")


def _write_jpeg(path: Path, picture: Image.Image) -> None:
    with atomic_file(path) as temporary:
        picture.save(temporary, format="JPEG", quality=90)


def _write_sheet(arguments: Arguments, results: _Results, photographs: Sequence[Photograph]) -> None:
    classes, shown, present = results.segmenter.classes, [], set()
    chosen = evenly_spaced(photographs, SHOWN)
    for photograph in progress(chosen, total=len(chosen), unit="photograph", what="contact sheet"):
        image, labels = read_image(photograph.path), read_labels(results.labels(photograph))
        counts = np.bincount(labels.ravel(), minlength=256)
        values = [value for value in np.argsort(-counts[1:], kind="stable") + 1 if counts[value]]
        present.update(values)
        facts = ", ".join(f"{classes[value - 1]} {100 * counts[value] / labels.size:.1f} %" for value in values)
        pictures = {
            "photograph": overlay(image, np.zeros_like(labels), longest=THUMBNAIL),
            "prediction": overlay(image, labels, longest=THUMBNAIL),
        }
        shown.append(Predicted(photograph.name, pictures, facts or "background alone"))
    colors = [(classes[value - 1], css_color(results.segmenter.palette[value])) for value in sorted(present)]
    out = arguments.out / "contact_sheet.html"
    write_sheet(out, shown, total=len(photographs), model=str(arguments.model), colors=colors)


def _classify(arguments: Arguments, model: Model, photographs: Sequence[Photograph], device: torch.device) -> list[str]:
    """Writes a classifier's scores and maps; returns a message for each photograph that cannot be decoded."""
    if arguments.overlays:
        given = {photograph.path for photograph in photographs}
        _leave([path for each in photographs if (path := _heat_overlay(arguments, each)).resolve() in given])
    network, classes = load_classifier(model.folder)
    network.to(device)
    inputs = _Inputs(arguments.threads)

    def batches_of(longest: int) -> tuple[list[list[Photograph]], Size]:
        def size(photograph: Photograph) -> tuple[int, int]:
            own = (photograph.height, photograph.width)
            return fit_long_side(own, longest or max(own), multiple=network.stride)

        pixels = BATCH_PIXELS[device.type]
        return planned_batches(photographs, size=size, batch_size=BATCH_SIZE, pixels=pixels), size

    # Without --long-side the photographs go in as those of val do when the classifier is scored.
    batches, size = batches_of(model.crop_size if arguments.long_side is None else arguments.long_side)
    scores: dict[Photograph, list[float]] = {}
    for batch, images in image_progress(inputs.batches(batches, size), batches, what="classify"):
        with torch.no_grad():
            scores |= dict(zip(batch, network(images.to(device)).sigmoid().cpu().tolist(), strict=True))
    intact = [photograph for photograph in photographs if photograph not in inputs.damaged]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["photograph", *classes])
    writer.writerows([as_words(each.name), *(f"{score:.6f}" for score in scores[each])] for each in intact)
    write_text(arguments.out / "scores.csv", table.getvalue())
    if not arguments.maps:
        return list(inputs.damaged.values())
    batches, size = batches_of(model.largest_side if arguments.long_side is None else arguments.long_side)
    with create_maps(network, _map_settings(network)) as maps_of:
        for batch, images in image_progress(inputs.batches(batches, size), batches, what="maps"):
            present = [_present(scores[photograph]) for photograph in batch]
            for photograph, indices, values in zip(batch, present, maps_of(images.to(device), present)[1], strict=True):
                if photograph not in inputs.damaged:
                    named = {classes[index]: scores[photograph][index] for index in indices}
                    _write_maps(arguments, photograph, named, values.float().cpu())
    return list(inputs.damaged.values())


def _present(scores: Sequence[float]) -> list[int]:
    """The indices of the classes of a probability of PRESENT at least, ascending; of the most probable one if none."""
    return [index for index, score in enumerate(scores) if score >= PRESENT] or [int(np.argmax(scores))]


def _map_settings(network: ViTClassifier | CNNClassifier) -> ActivationSettings:
    """GETAM from the middle block on, as the released recipe has it, or a CNN's CAM."""
    return ActivationSettings(
        method="cam" if isinstance(network, CNNClassifier) else "getam",
        coupling="released",
        start_block=0 if isinstance(network, CNNClassifier) else len(network.backbone.blocks) // 2,
        fusion="sum",
        propagation="none",
        propagation_blocks=1,
        propagation_threshold=0,
        propagation_power=1,
        propagation_steps=1,
        boundary_prior=0,
    )


def _write_maps(arguments: Arguments, photograph: Photograph, scores: Mapping[str, float], maps: Tensor) -> None:
    """Writes the maps (K, h, w) of the classes of `scores`, each divided by its maximum."""
    values = over_maximum(maps, maps.amax((1, 2), keepdim=True)).numpy()
    write_array(arguments.out / "maps" / f"{photograph.name}.npy", values)
    write_json(
        arguments.out / "maps" / f"{photograph.name}.json", {"photograph": str(photograph.path), "classes": scores}
    )
    if arguments.overlays:
        picture = heat_overlay(read_image(photograph.path), values.max(0))
        names = [(f"{name} {score:.2f}", (255, 255, 255)) for name, score in scores.items()]
        _write_jpeg(_heat_overlay(arguments, photograph), with_names(picture, names))


def _heat_overlay(arguments: Arguments, photograph: Photograph) -> Path:
    return arguments.out / "overlays" / f"{photograph.name}.jpg"
