"""Writes a segmentation network as ONNX or as a program of torch.export, with a model card beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

import getam.system.version
from getam.errors import InputError
from getam.pages.text.documents import as_markdown
from getam.pages.text.model_card import model_card
from getam.scores.export import export_onnx, export_torch
from getam.scores.segmenter import SEGMENTERS, find_model
from getam.settings.section import POSITIONAL
from getam.system.arguments.machine import MachineArguments
from getam.system.files import read_json, write_text

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


class Arguments(MachineArguments):
    """Write <out>, whose input is images (B, 3, H, W), uint8 RGB of 0 to 255, and whose output is logits
    (B, 1 + C, H, W), float32; and <out>.md, the model card. Normalization is inside, the classes are in the metadata.
    """

    model: Path = Field(
        description="folder of a trained segmenter, such as results/<run>/deeplab", json_schema_extra=POSITIONAL
    )
    format: Literal["onnx", "torch"] = Field(default="onnx", description="onnx, or torch (torch.export, .pt2) [onnx]")
    out: Path | None = Field(default=None, description="the file [model.onnx or model.pt2 in the model's folder]")


def run(arguments: Arguments) -> None:
    arguments.set_threads()
    model = find_model(arguments.model)
    folder = model.folder
    if model.kind not in SEGMENTERS:
        raise InputError(f"{folder}: is a {model.kind}; a segmenter is exported, such as results/<run>/deeplab")
    out = arguments.out or folder / f"model{SUFFIXES[arguments.format]}"
    if out.suffix != SUFFIXES[arguments.format]:
        raise InputError(f"--out {out}: {arguments.format} files end in {SUFFIXES[arguments.format]}")
    network, classes = model.network()
    multiple = network.multiple
    size = max(multiple, model.crop_size // multiple * multiple)
    metadata = {
        "classes": ["background", *classes],
        "multiple": multiple,
        "supervision": str(model.description.get("supervision", "")),
        "input": "images (B, 3, H, W), uint8 RGB of 0 to 255",
        "output": "logits (B, 1 + C, H, W), float32; channel 0 is the background",
        "program": f"getam {getam.system.version.VERSION}",
    }
    export = export_onnx if arguments.format == "onnx" else export_torch
    any_size = export(network, out, size=size, multiple=multiple, metadata=metadata)
    sides = f"{size} pixels"
    if any_size:
        sides = f"multiples of {multiple} pixels" if multiple > 1 else "of any size"
    lines = {
        "onnx": (
            "import onnxruntime",
            "",
            f"session = onnxruntime.InferenceSession({out.name!r})",
            'labels = session.run(None, {"images": images})[0].argmax(1)  # numpy, (B, H, W)',
        ),
        "torch": (
            "import torch",
            "",
            f"network = torch.export.load({out.name!r}).module()",
            "labels = network(images).argmax(1)  # (B, H, W)",
        ),
    }
    usage = (
        f"Images (B, 3, H, W), uint8 RGB of 0 to 255, whose height and width are {sides}, give logits "
        "(B, 1 + C, H, W), float32, of which channel 0 is the background. Normalization is inside; the classes are in "
        "the metadata."
    )
    scores, data = folder / "metrics.json", folder.parent / "index.json"
    card = model_card(
        model.description,
        name=f"{folder.resolve().parent.name}/{folder.resolve().name}",
        scores=read_json(scores) if scores.is_file() else None,
        data=read_json(data) if data.is_file() else None,
        usage=usage,
        code="\n".join(lines[arguments.format]),
    )
    write_text(out.with_name(f"{out.name}.md"), as_markdown(card))
    print(f"{out}: height and width are {sides}; the model card is {out.name}.md beside it")
