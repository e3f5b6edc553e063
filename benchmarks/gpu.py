"""Speed and memory of GETAM maps and training iterations on a GPU, bfloat16 autocast compared with float32."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor

from benchmarks.double_backward import inputs as training_inputs
from benchmarks.double_backward import paper_recipe
from benchmarks.measure import Check, Row, Run, alternating, deviation, faster, timed
from getam import AttentionMaps
from getam.networks.end_to_end import EndToEndNetwork
from getam.settings.end_to_end import EndToEndSettings
from getam.training.batches import moved
from getam.training.double_backward import training_step

BACKBONES: Mapping[str, Mapping[str, Any]] = {
    "vit_base_patch16_384": {},
    "vit_base_r50_s16_384": {},
    "deit_base_patch16_384": {},
    "deit_base_distilled_patch16_384": {},
}
"""timm name -> options of timm.create_model."""

BATCHES = (16, 32)
PRECISIONS = ("float32", "bfloat16")
START_BLOCK = 6
WARM_UP = 3
REPEATS = 5
"""Number of batches in one timing."""


def rows(
    rounds: int,
    *,
    device: str = "cuda",
    backbones: Mapping[str, Mapping[str, Any]] = BACKBONES,
    batches: tuple[int, ...] = BATCHES,
    image_size: int = 384,
    start_block: int = START_BLOCK,
    recipe: EndToEndSettings | None = None,
) -> list[Row]:
    """Measures the maps of each backbone, then training iterations of `recipe` (default: the paper's hybrid)."""
    table = []
    # By default cuDNN computes float32 convolutions in TF32, unlike matrix products; this turns it off.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for name, options in backbones.items():
            torch.manual_seed(0)
            vit = timm.create_model(name, num_classes=20, img_size=image_size, **options).eval().to(device)
            for batch in batches:
                images = torch.randn(batch, 3, image_size, image_size, device=device)
                compute = {precision: partial(maps, vit, images, start_block, precision) for precision in PRECISIONS}
                exact, rounded = (run() for run in compute.values())
                deviates = Check(deviation(rounded, exact), form="{:.0e}")
                del exact, rounded
                what = f"maps, {name}, batch {batch}, bfloat16"
                table.append(_row(what, compute, images, batch, "img/s", rounds, deviates))
        table.append(_training_row(recipe or paper_recipe("vit_base_r50_s16_384"), device, rounds))
    return table


def _training_row(recipe: EndToEndSettings, device: str, rounds: int) -> Row:
    """Measures iterations of the second phase, including the optimizer's step."""
    torch.manual_seed(0)
    network = EndToEndNetwork(recipe, num_classes=20).to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
    batch = moved(training_inputs(recipe.crop.size), torch.device(device))
    compute = {precision: partial(train, network, optimizer, batch, recipe, precision) for precision in PRECISIONS}
    what = f"training iteration, {recipe.backbone}, batch {len(batch['image'])}, crop {recipe.crop.size}, bfloat16"
    return _row(what, compute, batch["image"], 1, "it/s", rounds, None)


def train(
    network: EndToEndNetwork,
    optimizer: torch.optim.Optimizer,
    batch: Mapping[str, Tensor],
    recipe: EndToEndSettings,
    precision: str,
) -> None:
    optimizer.zero_grad()
    with torch.autocast(batch["image"].device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        losses = training_step(network, dict(batch), recipe.classifier_epochs, recipe).losses
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()


def _row(
    what: str,
    compute: Mapping[str, Run],
    images: Tensor,
    count: int,
    unit: str,
    rounds: int,
    deviates: Check | None,
) -> Row:
    """Measures a row; `count` is the number of `unit`s in one run."""
    for run in compute.values():
        for _ in range(WARM_UP):
            run()
    memory = {precision: _extra_memory(run, images) for precision, run in compute.items()}
    spent = alternating({f"{what}, {p}": partial(_seconds, run, images) for p, run in compute.items()}, rounds)
    its, own = (statistics.median(values) for values in spent.values())
    return Row(
        what=what,
        ours=f"{count / own:.3g} {unit}",
        other="float32",
        its=f"{count / its:.3g} {unit}",
        time=faster(own, its),
        memory=(memory["bfloat16"], memory["float32"]),
        deviation=deviates,
    )


def maps(vit: Any, images: Tensor, start_block: int, precision: str) -> list[Tensor]:
    # Images have one or two classes in turn: 1.5 on average, about as many as in VOC.
    classes = [[number % 20, (number + 7) % 20][: 1 + number % 2] for number in range(len(images))]
    with (
        torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"),
        AttentionMaps(vit, coupling="released", start_block=start_block) as attention_maps,
    ):
        return attention_maps(images, classes)[1]


def _seconds(run: Run, images: Tensor) -> float:
    """Seconds of one batch."""

    def repeat() -> None:
        for _ in range(REPEATS):
            run()
        _synchronize(images)

    _synchronize(images)
    return timed(repeat) / REPEATS


def _synchronize(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)


def _extra_memory(run: Run, images: Tensor) -> int | None:
    """Peak memory beyond inputs and model, bytes; None on a CPU."""
    if not images.is_cuda:
        return None
    torch.cuda.synchronize(images.device)
    torch.cuda.reset_peak_memory_stats(images.device)
    before = torch.cuda.memory_allocated(images.device)
    run()
    torch.cuda.synchronize(images.device)
    return torch.cuda.max_memory_allocated(images.device) - before
