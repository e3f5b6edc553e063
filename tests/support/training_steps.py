"""A small end-to-end network and a batch for a training step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from getam.datasets.images import normalize_rgb
from getam.networks.end_to_end import EndToEndNetwork
from getam.settings.end_to_end import EndToEndSettings
from getam.system.distributed import ImageDropout
from getam.system.image_files import UNKNOWN

SIZE = 32


def build(settings: EndToEndSettings) -> EndToEndNetwork:
    torch.manual_seed(0)
    network = EndToEndNetwork(settings, num_classes=3)
    for parameter in network.classifier.parameters():
        # The usual initial weights of 0.02 give maps near 0.
        torch.nn.init.normal_(parameter, std=0.3)
    return network.train()


def make_batch() -> dict[str, Tensor]:
    """A batch of two images with a salient square each; the second is padded at the bottom."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, 4, 4), generator=generator).float()
    saliency = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    saliency[:, 8:20, 8:24] = 1
    saliency[1, 24:] = UNKNOWN
    return {
        "image": normalize_rgb(F.interpolate(images, size=SIZE, mode="bicubic").clamp(0, 255).to(torch.uint8)),
        "classes": torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]),
        "saliency": saliency,
    }


def without_dropout(network: EndToEndNetwork) -> EndToEndNetwork:
    for module in network.modules():
        if isinstance(module, ImageDropout):
            module.p = 0
    return network
