"""A small classifier, and the methods that make maps from it."""

from __future__ import annotations

import torch
from support.networks import small_vit
from torch import nn

from getam.networks.classifier import ViTClassifier

CLASSES = [[4, 1], [0]]


METHODS = ["getam", "attention_gradient", "rollout", "grad_cam", "cam"]


def classifier(dtype: torch.dtype = torch.float32) -> ViTClassifier:
    backbone = small_vit(num_classes=0, dynamic_img_size=True)
    torch.manual_seed(3)
    model = ViTClassifier(backbone, num_classes=5, readout="project").to(dtype)
    for parameter in model.readout.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model
