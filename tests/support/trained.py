"""Small networks of random weights, saved as trained ones: a classifier, a segmenter, an end-to-end network."""

from __future__ import annotations

from pathlib import Path

import torch

from deeplab.model import build_deeplab, describe_deeplab
from getam.networks.checkpoints import save_model
from getam.networks.classifier import build_classifier, describe_classifier
from getam.networks.end_to_end import EndToEndNetwork, describe_end_to_end
from getam.settings.config import Config

CLASSES = ("cat", "dog & co", "zebra")
KINDS = ("classifier", "deeplab", "end_to_end")


def save_trained(folder: Path, config: Config) -> Path:
    """Saves a network of each of KINDS in the folder of its name."""
    torch.manual_seed(0)
    classifier = build_classifier(config.classifier, num_classes=3, image_size=config.classifier.crop.size)
    save_model(folder / "classifier", classifier, describe_classifier(config.classifier, CLASSES))
    described = describe_deeplab(config.deeplab, CLASSES, learned_from="I+S")
    save_model(folder / "deeplab", build_deeplab(config.deeplab, num_classes=4), described)
    network = EndToEndNetwork(config.end_to_end, num_classes=3)
    for parameter in network.decoder.parameters():
        # Large enough for more than one class in an image.
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    save_model(folder / "end_to_end", network, describe_end_to_end(config.end_to_end, CLASSES))
    return folder
