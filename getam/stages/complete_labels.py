"""Makes the pseudo labels of a shard: by completion from refined maps and saliency (Eq. 4-5), or by another method."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from getam.datasets.index import IndexRow, read_index, read_photograph
from getam.datasets.shards import CORRECTED, MANIFEST, REJECTED, new_shard, rows_of
from getam.datasets.working_size import nearest, say_scaled_down, shrunk, shrunk_maps, working_size
from getam.errors import InputError, enumerated
from getam.labels.corrections import corrected_files, read_correction
from getam.labels.crf import with_known_backend
from getam.labels.methods import make_labels
from getam.labels.refined_maps import read_refined, refined_file
from getam.networks.supervision import IMAGE_LABELS, SALIENCY, SUPERVISION, VERDICTS, joined, of_shards
from getam.runs.verdicts import rejected_ids
from getam.settings.completion import LABEL_METHODS, LabelSettings, PseudoLabelSettings, label_methods
from getam.settings.section import section_of
from getam.system.arguments.machine import MachineArguments
from getam.system.image_files import UNKNOWN, read_gray, write_labels
from getam.system.progress import progress

# This module imports neither torch nor modules that import it: worker processes import this module, and start seconds
# faster without torch.

SECTION = "completion"

logger = logging.getLogger(__name__)


class Arguments(PseudoLabelSettings, MachineArguments):
    """Write pseudo_labels/<shard>/<id>.png: palette PNG (H, W), 0..C, 255 unknown."""

    maps: Path = Field(description="folder of a shard of refine-maps")
    saliency: Path = Field(
        description="folder of saliency maps <id>.png, 8-bit gray; read by "
        f"{enumerated(label_methods(need_saliency=True), 'and')} alone"
    )
    index: Path = Field(description="index.csv")
    out: Path = Field(description="folder of the shard")


def run(arguments: Arguments) -> None:
    settings = section_of(PseudoLabelSettings, arguments)
    method = LABEL_METHODS[settings.method]
    if method.runs_crf:
        settings = settings.model_copy(update={"crf": with_known_backend(settings.crf)})
    in_processes = method.runs_crf and settings.crf.backend == "pydensecrf"
    if not in_processes:
        import torch

        # Several images at the same time are faster than several threads within the small loops of one image.
        torch.set_num_threads(1)
    index = read_index(arguments.index)
    rows = rows_of(arguments.maps, index)
    verdicts = [Path(settings.verdicts)] if settings.verdicts else []
    bad = frozenset[str]().union(*(rejected_ids(path, index.by_id.keys()) for path in verdicts))
    corrected = corrected_files(Path(settings.corrected), index) if settings.corrected else {}
    # Who has corrected an image's labels wants them used.
    bad -= corrected.keys()
    rejected = [row.id for row in rows if row.id in bad]
    if rejected:
        logger.info("%d of %d images are rejected by %s", len(rejected), len(rows), settings.verdicts)
    if settings.corrected:
        corrected = {row.id: corrected[row.id] for row in rows if row.id in corrected}
        logger.info("%d of %d images are corrected in %s", len(corrected), len(rows), settings.corrected)
    if method.runs_crf:
        computed = [row for row in rows if row.labels and row.id not in bad and row.id not in corrected]
        say_scaled_down(computed, settings.long_side, what="complete_labels")
    if settings.rejected == "leave_out":
        rows = [row for row in rows if row.id not in bad]
    with (
        new_shard(
            arguments.out,
            ids=[row.id for row in rows],
            suffix=".png",
            classes=index.classes,
            settings=settings,
            threads=arguments.threads,
            in_processes=in_processes,
            inputs=[
                arguments.index,
                *verdicts,
                *corrected.values(),
                *(path for row in rows for path in _inputs(row, arguments.maps, arguments.saliency, settings)),
            ],
            manifest_entries={SUPERVISION: _supervision(arguments)}
            | ({REJECTED: rejected} if verdicts else {})
            | ({CORRECTED: list(corrected)} if settings.corrected else {}),
        ) as shard,
    ):
        todo = shard.unfinished_rows(rows)
        hollow = 0
        for row in (row for row in todo if row.id in corrected):
            labels = read_correction(corrected[row.id], row, len(index.classes))
            hollow += {UNKNOWN} <= {*np.unique(labels).tolist()} <= {0, UNKNOWN}
            write_labels(shard.path(row.id), labels)
        if hollow:
            # As the masks of many tools, in which 255 is the object.
            logger.warning("%d corrected labels in %s show no class, only unknown pixels", hollow, settings.corrected)
        todo = [row for row in todo if row.id not in corrected]
        written = shard.write_all(
            todo,
            _write,
            lambda row: (row, index.class_indices(row), arguments.maps, arguments.saliency, settings, row.id in bad),
        )
        for _ in progress(written, total=len(todo), unit="image", what="complete_labels", size=int):
            pass


def _supervision(arguments: Arguments) -> str:
    maps = of_shards([arguments.maps], unknown=IMAGE_LABELS)
    if arguments.verdicts or arguments.corrected:
        maps = joined(maps, VERDICTS)
    if not arguments.needs_saliency:
        return maps
    # The user's own saliency maps have no manifest.
    described = [arguments.saliency] if (arguments.saliency / MANIFEST).is_file() else []
    return joined(maps, SALIENCY, of_shards(described, unknown=SALIENCY))


def _inputs(row: IndexRow, maps: Path, saliency: Path, settings: LabelSettings) -> Iterator[Path]:
    """The files from which an image's pseudo label is made."""
    yield refined_file(maps, row.id)
    if settings.needs_saliency:
        yield saliency / f"{row.id}.png"
    if LABEL_METHODS[settings.method].reads_photograph:
        yield row.image


def _write(
    path: Path,
    row: IndexRow,
    classes: Sequence[int],
    maps: Path,
    saliency: Path,
    settings: PseudoLabelSettings,
    rejected: bool,
) -> None:
    if rejected:
        write_labels(path, np.full((row.height, row.width), UNKNOWN, np.uint8))
        return
    method = LABEL_METHODS[settings.method]
    maps_path = refined_file(maps, row.id)
    size = working_size(row, settings.long_side) if method.runs_crf else (row.height, row.width)
    values = shrunk_maps(_read_maps(maps_path, row), size)
    inside = shrunk(_read_saliency(saliency / f"{row.id}.png", row), size) if settings.needs_saliency else None
    image = shrunk(read_photograph(row), size) if method.reads_photograph else None
    try:
        labels = make_labels(values, classes, image=image, saliency=inside, settings=settings)
    except InputError as error:
        raise InputError(f"{maps_path}: {error}") from None
    write_labels(path, nearest(labels, (row.height, row.width)))


def _read_maps(path: Path, row: IndexRow) -> np.ndarray:
    maps = read_refined(path)
    expected = (len(row.labels), row.height, row.width)
    if maps.shape != expected:
        raise InputError(f"{path}: shape {maps.shape} is not {expected} (K, H, W); refine it again")
    return maps


def _read_saliency(path: Path, row: IndexRow) -> np.ndarray:
    saliency = read_gray(path)
    if saliency.shape != (row.height, row.width):
        raise InputError(
            f"{path}: size {saliency.shape} is not the image's {(row.height, row.width)} (H, W); predict it again"
        )
    return saliency
