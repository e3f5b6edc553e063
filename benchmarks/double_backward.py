"""A training iteration of the second phase with ViT-B, compared with one backward a class and a second forward."""

from __future__ import annotations

import torch
from reference.literal_double_backward import literal_training_step
from torch import Tensor

from benchmarks.measure import Check, Row, medians, seconds
from getam.datasets.images import normalize_rgb
from getam.networks.end_to_end import EndToEndNetwork
from getam.settings.config import validate_config
from getam.settings.end_to_end import EndToEndSettings
from getam.settings.reading import BASE_CONFIG, merge, read_yaml
from getam.system.distributed import ImageDropout
from getam.training.double_backward import training_step

CLASSES = ((3,), (8,), (3, 14), (1, 19))
"""Present classes of each image: 1.5 on average (VOC: 1.55)."""

MOST_TIME = 0.6
MOST_DEVIATION = 1e-3


def rows(rounds: int) -> list[Row]:
    recipe = paper_recipe("vit_base_patch16_384")
    torch.manual_seed(0)
    network = EndToEndNetwork(recipe, num_classes=20).train()
    for module in network.modules():
        if isinstance(module, ImageDropout):
            # Without dropout, the literal version's second forward pass gives the same result as its first.
            module.p = 0
    batch = inputs(recipe.crop.size)
    found: dict[str, list[float]] = {}
    runs = {
        "ours": lambda: found.update(ours=ours(network, batch, recipe)),
        "literal": lambda: found.update(literal=literal(network, batch, recipe)),
    }
    spent = medians(runs, rounds)
    return [
        Row(
            what=f"training iteration, ViT-B/16, {len(CLASSES)} images of {recipe.crop.size}x{recipe.crop.size}",
            ours=seconds(spent["ours"]),
            other="a backward a class, second forward",
            its=seconds(spent["literal"]),
            time=Check(spent["ours"] / spent["literal"], high=MOST_TIME, form="{:.2f}x the time"),
            deviation=Check(
                max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(*found.values(), strict=True)),
                high=MOST_DEVIATION,
                form="{:.0e}",
            ),
        )
    ]


def paper_recipe(backbone: str) -> EndToEndSettings:
    """The end-to-end settings of configs/voc12.yaml with a backbone from scratch and the taps that fit it."""
    recipe = merge(read_yaml(BASE_CONFIG), read_yaml(BASE_CONFIG.parent / "configs" / "voc12.yaml"))
    recipe["end_to_end"] |= {"backbone": backbone, "pretrained": False}
    if "r50" not in backbone:
        recipe["end_to_end"]["decoder"] |= {"taps": [2, 5, 8], "channels": [96, 192, 384]}
    return validate_config(recipe).end_to_end


def inputs(side: int) -> dict[str, Tensor]:
    """Makes a batch of smooth images, each with a salient rectangle."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(len(CLASSES), 3, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1)
    saliency = torch.zeros(len(CLASSES), side, side, dtype=torch.uint8)
    saliency[:, side // 4 : -side // 4, side // 3 : -side // 5] = 1
    labels = torch.zeros(len(CLASSES), 20)
    for row, present in zip(labels, CLASSES, strict=True):
        row[list(present)] = 1
    images = normalize_rgb((255 * images).to(torch.uint8))
    return {"image": images, "classes": labels, "present": labels, "saliency": saliency}


def ours(network: EndToEndNetwork, batch: dict[str, Tensor], recipe: EndToEndSettings) -> list[float]:
    network.zero_grad()
    return finish(network, training_step(network, batch, recipe.classifier_epochs, recipe).losses)


def literal(network: EndToEndNetwork, batch: dict[str, Tensor], recipe: EndToEndSettings) -> list[float]:
    network.zero_grad()
    return finish(network, literal_training_step(network, batch, recipe).losses)


def finish(network: EndToEndNetwork, losses: dict[str, Tensor]) -> list[float]:
    """Runs the backward pass to the weights; returns the losses and the norm of all gradients."""
    torch.stack(list(losses.values())).sum().backward()
    gradients = [weight.grad.norm() for weight in network.parameters() if weight.grad is not None]
    return [*(float(loss.detach()) for loss in losses.values()), float(torch.stack(gradients).norm())]
