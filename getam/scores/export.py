"""Exports segmentation networks for programs without getam: ONNX and torch.export."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from getam.datasets.images import normalize_rgb
from getam.errors import InputError
from getam.system.files import atomic_file

INPUT, OUTPUT = "images", "logits"

OPSET = 20
"""Version of ONNX's operators; the first with a resize that filters as the networks' does is 18."""

TOLERANCE = 1e-4
"""Largest difference from torch's logits, relative to the largest of them (or to 1, if that is less)."""

LARGEST_BATCH = 64

logger = logging.getLogger(__name__)


class WithNormalization(nn.Module):
    """A segmentation network that takes pixels as they are and gives logits at the images' size.

    Images (B, 3, H, W), uint8 RGB of 0 to 255 -> logits (B, 1 + C, H, W), float32; channel 0 is the background, and
    the label of a pixel is the channel of its largest logit.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network.segment(normalize_rgb(images))
        return F.interpolate(logits.float(), size=images.shape[2:], mode="bilinear", align_corners=False)


def export_onnx(network: nn.Module, out: Path, *, size: int, multiple: int, metadata: Mapping[str, Any]) -> bool:
    """Writes a segmentation network as ONNX, and compares it with torch in onnxruntime.

    Args:
        network: has `segment`, see getam.scores.prediction.
        size: height and width of the images that it is traced with, and of all images if they cannot vary.
        multiple: what the sides of images are multiples of.
        metadata: is written into the file; a value that is no text as JSON.

    Returns:
        Whether images of any size go in; otherwise they are of `size` by `size`.

    Raises:
        InputError: onnx, onnxscript or onnxruntime is missing, or the file's logits are not torch's.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; pip install 'getam[export]'") from None
    module = WithNormalization(network)
    example = _images(size, size)
    names: dict[int, Any] = {0: "batch"}
    any_size = True
    with _quiet():
        try:
            program = _onnx_program(module, example, names | {2: "height", 3: "width"})
        except Exception:
            # torch raises errors of many types where a network's graph depends on the size.
            any_size, program = False, _onnx_program(module, example, names)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    program.model.metadata_props.update(texts)
    with atomic_file(out) as temporary:
        program.save(temporary, external_data=False)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        _, _, *sides = session.get_inputs()[0].shape
        any_size = any_size and all(isinstance(side, str) for side in sides)

        def run(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])

        _compare(module, run, _sizes(size, multiple, any_size=any_size), out)
    return any_size


def export_torch(network: nn.Module, out: Path, *, size: int, multiple: int, metadata: Mapping[str, Any]) -> bool:
    """Writes a segmentation network as a program of torch.export (.pt2), and compares it with the network.

    The arguments, the result and the errors are those of `export_onnx`; the metadata is the extra file metadata.json.
    """
    module = WithNormalization(network)
    example, free = _images(size, size), torch.export.Dim
    batch = free("batch", min=1, max=LARGEST_BATCH)
    any_size = True
    with _quiet():
        try:
            sides = {2: free.DYNAMIC, 3: free.DYNAMIC}
            program = torch.export.export(module, (example,), dynamic_shapes=({0: batch} | sides,))
        except Exception:
            any_size = False
            program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
    _compare(module, program.module(), _sizes(size, multiple, any_size=any_size), out)
    with atomic_file(out) as temporary:
        torch.export.save(program, temporary, extra_files={"metadata.json": json.dumps(metadata)})
    return any_size


def _onnx_program(module: nn.Module, example: Tensor, dynamic: dict[int, Any]) -> Any:
    return torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        dynamic_shapes=(dynamic,),
        input_names=[INPUT],
        output_names=[OUTPUT],
        opset_version=OPSET,
        verbose=False,
    )


def _images(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


def _sizes(size: int, multiple: int, *, any_size: bool) -> list[tuple[int, int]]:
    """(H, W) of the images on which a file is compared with the network."""
    return [(size, size), (size + multiple, 2 * size)] if any_size else [(size, size)]


def _compare(module: nn.Module, run: Callable[[Tensor], Tensor], sizes: Sequence[tuple[int, int]], out: Path) -> None:
    """Compares the logits of a network and of its file.

    Raises:
        InputError: they differ by more than TOLERANCE.
    """
    for height, width in sizes:
        images = _images(height, width)
        expected, found = module(images), run(images)
        difference = float((expected - found).abs().max() / max(1.0, float(expected.abs().max())))
        if not difference <= TOLERANCE:
            raise InputError(
                f"{out}: its logits differ from torch's by {difference:.1e} of the largest, so it is not written; "
                "export with the versions of envs/constraints.txt"
            )
        logger.info("%s: differs from torch by %.1e of the largest logit", out, difference)


@contextmanager
def _quiet() -> Iterator[None]:
    """Drops what torch's exporters print and log of their own steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
