"""A trained segmentation network in use: `load_segmenter(path).predict(photograph)`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from getam.datasets.class_names import check_class_names
from getam.datasets.images import fit_long_side, normalized_input
from getam.errors import InputError
from getam.networks.checkpoints import DESCRIPTION, WEIGHTS
from getam.scores.prediction import averaged_probabilities
from getam.settings.prediction import ViewSettings
from getam.settings.reading import describe
from getam.system.files import atomic_file, read_json
from getam.system.image_files import DAMAGED, read_image, upright_rgb, voc_palette

Photograph = np.ndarray | Image.Image | Tensor | str | Path
"""What `Segmenter` takes: uint8 RGB (H, W, 3) or gray (H, W); a PIL image of 8 bits a channel, which is turned upright
as EXIF asks; a tensor (3, H, W), uint8 or floating in [0, 1]; or the path of a file."""

CLASSIFIER = "classifier"
SEGMENTERS = {
    "deeplab": ("deeplab.model", "load_deeplab"),
    "end_to_end": ("getam.networks.end_to_end", "load_end_to_end"),
}
"""Kind of a model, as model.json names it -> module and name of the function that loads it from its folder.

They are imported by name when a model asks for them, since deeplab builds on getam, and getam on nothing of deeplab's.
"""

STRIP = 2**25
"""Most values of probabilities that are upsampled at a time: a large photograph is labelled in strips of rows."""


@dataclass(frozen=True)
class Model:
    """A trained model on disk.

    Attributes:
        folder: holds its model.safetensors and model.json.
        kind: `classifier` or a key of SEGMENTERS.
        description: content of its model.json, whose settings are validated when the network is loaded.
    """

    folder: Path
    kind: str
    description: Mapping[str, Any]

    @property
    def largest_side(self) -> int:
        """The largest longer side, in pixels, that its training scaled photographs to."""
        return int(self.description["settings"]["crop"]["long_side"][1])

    @property
    def crop_size(self) -> int:
        """The side of its training crops, pixels."""
        return int(self.description["settings"]["crop"]["size"])

    def network(self) -> tuple[Any, tuple[str, ...]]:
        """The network of a segmenter, in evaluation mode, with `segment` and `multiple`; its class names."""
        module, name = SEGMENTERS[self.kind]
        network, classes = getattr(importlib.import_module(module), name)(self.folder)
        return network, classes


class Segmenter:
    """A trained segmentation network with its classes; see `load_segmenter`.

    Attributes:
        classes: names of the label values 1, 2, ..., C; 0 is the background.
        palette: the color of every label value, as in the label PNGs: (256, 3), uint8 RGB.
        long_side: photographs whose longer side has more pixels go in scaled down to it; 0: none.
        device: where the network is.
    """

    def __init__(
        self,
        segment: Callable[[Tensor], Tensor],
        *,
        multiple: int,
        classes: Sequence[str],
        views: ViewSettings,
        long_side: int,
        device: torch.device,
    ) -> None:
        self._segment, self._multiple = segment, multiple
        self.classes = tuple(classes)
        self.palette = voc_palette()
        self.views, self.long_side, self.device = views, long_side, device

    def predict(self, photograph: Photograph) -> np.ndarray:
        """Labels a photograph.

        Returns:
            (H, W), uint8: 0 background, 1..C the classes, at the photograph's size.

        Raises:
            InputError: the photograph cannot be read, or is none of the kinds above.
        """
        probabilities, size = self._of(photograph)
        return labels_of(probabilities, size)[0]

    def probabilities(self, photograph: Photograph) -> np.ndarray:
        """The probabilities that `predict` takes the largest of.

        Returns:
            (1 + C, H, W), float32 in [0, 1], summing to 1; channel 0 is the background.

        Raises:
            InputError: see `predict`.
        """
        probabilities, size = self._of(photograph)
        return np.concatenate([values.cpu().numpy() for _, values in upsampled(probabilities, size)], axis=1)

    def _of(self, photograph: Photograph) -> tuple[Tensor, tuple[int, int]]:
        image = rgb_of(photograph)
        size = (image.shape[0], image.shape[1])
        return self.batch(normalized_input(image, self.input_size(size))[None])[0], size

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of a photograph -> (h, w) of the network's input: whole patches, and `long_side` at most."""
        longer = min(max(size), self.long_side) if self.long_side else max(size)
        return fit_long_side(size, longer, multiple=self._multiple)

    @torch.no_grad()
    def batch(self, images: Tensor) -> Tensor:
        """Normalized inputs of one size (B, 3, h, w) -> probabilities (B, 1 + C, h, w) on the network's device."""
        return averaged_probabilities(self._segment, images.to(self.device), self.views, self._multiple)


def load_segmenter(
    path: str | Path,
    *,
    device: str | torch.device | None = None,
    long_side: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = True,
    window: int = 0,
    window_overlap: float = 1 / 3,
) -> Segmenter:
    """Loads a trained segmentation network: DeepLab, another segmenter, or the end-to-end network.

    The weights are safetensors and their description is JSON; no pickle is read, and nothing is fetched.

    Args:
        path: folder of model.safetensors and model.json, such as results/<run>/deeplab.
        device: where the network runs; None: a GPU where there is one.
        long_side: photographs whose longer side has more pixels are scaled down to this before the network sees them,
            and their labels scaled up again; 0: never; None: the largest side that the network was trained on.
        scales: the network sees the photograph at these multiples of its size; probabilities are averaged.
        flip: average with the mirrored photograph.
        window: side, in pixels, of square windows in which the photograph is segmented; 0: as a whole.
        window_overlap: part of a window that the next one covers too, at least.

    Raises:
        InputError: the folder holds no such network, or is damaged; a view is not possible.
    """
    try:
        views = ViewSettings(scales=tuple(scales), squares=(), flip=flip, window=window, window_overlap=window_overlap)
    except ValidationError as error:
        raise InputError(describe(error, ViewSettings)) from None
    model = find_model(Path(path))
    if model.kind not in SEGMENTERS:
        described = f"{model.folder / DESCRIPTION}: describes a {model.kind}"
        raise InputError(f"{described}, which segments nothing; name a segmenter")
    network, classes = model.network()
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Segmenter(
        network.to(where).segment,
        multiple=network.multiple,
        classes=classes,
        views=views,
        long_side=model.largest_side if long_side is None else long_side,
        device=where,
    )


def find_model(path: Path) -> Model:
    """Finds a model.

    Args:
        path: its folder, or one of the model's two files.

    Raises:
        InputError: there is no model, several (a run's folder), or one of another kind or with classes that no data set
            may have, such as two of one name.
    """
    folder = path.parent if path.name in (WEIGHTS, DESCRIPTION) else path
    if not (folder / DESCRIPTION).is_file():
        within = sorted(str(file.parent) for file in folder.glob(f"*/{DESCRIPTION}"))
        held = f"it holds the models {', '.join(within)}: name one" if within else "name the folder of a trained model"
        raise InputError(f"{folder}: no {DESCRIPTION} in it; {held}")
    description: Any = read_json(folder / DESCRIPTION)
    kind = description.get("kind") if isinstance(description, dict) else None
    if not isinstance(kind, str) or kind not in (CLASSIFIER, *SEGMENTERS):
        known = ", ".join([*SEGMENTERS, CLASSIFIER])
        raise InputError(f"{folder / DESCRIPTION}: describes none of {known}; name the folder of one")
    classes = description.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{folder / DESCRIPTION}: its classes are no list of names; train the model again")
    # They come onto pages and into tables, and may be anybody's.
    check_class_names(classes, folder / DESCRIPTION)
    return Model(folder, kind, description)


def rgb_of(photograph: Photograph) -> np.ndarray:
    """A photograph as (H, W, 3), uint8 RGB, upright.

    Raises:
        InputError: it cannot be read or has another type, shape or range than `Photograph` says.
    """
    if isinstance(photograph, str | Path):
        return read_image(Path(photograph))
    if isinstance(photograph, Tensor):
        photograph = _pixels_of(photograph)
    if isinstance(photograph, np.ndarray):
        channels = photograph.shape[2] if photograph.ndim == 3 else 1
        if photograph.dtype != np.uint8 or photograph.ndim not in (2, 3) or channels not in (1, 3, 4):
            raise InputError(
                f"photograph: an array {photograph.shape} of {photograph.dtype}; give uint8 RGB (H, W, 3) of 0 to 255"
            )
        if not photograph.size:
            raise InputError(f"photograph: no pixels in an array {photograph.shape}")
        photograph = Image.fromarray(photograph[..., 0] if photograph.ndim == 3 and channels == 1 else photograph)
    if not isinstance(photograph, Image.Image):
        raise InputError(f"photograph: a {type(photograph).__name__}; give an array, a PIL image, a tensor or a path")
    if photograph.mode.startswith(("I", "F")):
        raise InputError(f"photograph: more than 8 bits a channel ({photograph.mode}); convert it to 8 bits")
    try:
        return upright_rgb(photograph)
    except DAMAGED as error:
        # A PIL image reads its file only now.
        raise InputError(f"photograph: cannot be decoded ({error}); give an intact one") from None


def _pixels_of(photograph: Tensor) -> np.ndarray:
    if photograph.ndim != 3 or len(photograph) not in (1, 3):
        raise InputError(f"photograph: a tensor {tuple(photograph.shape)}; give one photograph as (3, H, W)")
    if photograph.is_floating_point():
        if photograph.numel() and not (photograph.min() >= 0 and photograph.max() <= 1):
            raise InputError("photograph: a floating tensor that isn't within 0 to 1; give it before normalization")
        photograph = (photograph * 255).round().to(torch.uint8)
    return photograph.detach().permute(1, 2, 0).cpu().numpy()


def upsampled(probabilities: Tensor, size: tuple[int, int]) -> Iterator[tuple[slice, Tensor]]:
    """Resizes probabilities (K, h, w) bilinearly (align_corners=False) to `size` (H, W), in strips of rows.

    Yields:
        Rows and their values (K, rows, W). What has at most STRIP values is one strip.
    """
    count, low, _ = probabilities.shape
    height, width = size
    length = max(1, STRIP // (count * width))
    if length >= height:
        yield slice(0, height), F.interpolate(probabilities[None], size=size, mode="bilinear")[0]
        return
    # The two axes are independent: the rows of a strip are mixed first, then its columns.
    centers = ((torch.arange(height, device=probabilities.device) + 0.5) * (low / height) - 0.5).clamp(min=0)
    above = centers.floor().long()
    below = (above + 1).clamp(max=low - 1)
    part = (centers - above)[:, None]
    for start in range(0, height, length):
        rows = slice(start, min(start + length, height))
        mixed = probabilities[:, above[rows]] * (1 - part[rows]) + probabilities[:, below[rows]] * part[rows]
        yield rows, F.interpolate(mixed[None], size=(mixed.shape[1], width), mode="bilinear")[0]


def labels_of(probabilities: Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels of probabilities (K, h, w) at `size` (H, W), and the probability of each pixel's label.

    Returns:
        (H, W), uint8; (H, W), float32.
    """
    labels, confidence = np.empty(size, np.uint8), np.empty(size, np.float32)
    for rows, values in upsampled(probabilities, size):
        highest, winner = values.max(0)
        labels[rows], confidence[rows] = winner.to(torch.uint8).cpu().numpy(), highest.float().cpu().numpy()
    return labels, confidence


def write_probabilities(path: Path, probabilities: Tensor, size: tuple[int, int]) -> None:
    """Writes probabilities (K, h, w) at `size` (H, W) as a .npy file: float16 (K, H, W)."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (len(probabilities), *size)}
        np.lib.format.write_array_header_1_0(file, header)
        # A channel at a time: those of a large photograph together take a gigabyte.
        for channel in probabilities:
            for _, values in upsampled(channel[None], size):
                file.write(values.half().cpu().numpy().astype("<f2").tobytes())
