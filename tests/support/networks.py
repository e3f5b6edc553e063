"""Small networks, the authors' networks, and a record of a model's state that tests compare."""

from __future__ import annotations

import importlib.util
import json
import math
from functools import cache
from typing import Any

import numpy as np
import torch
from support.references import SHARED, part
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from getam.networks.classifier import ViTClassifier
from getam.networks.released import from_released


def small_vit(**options: Any) -> VisionTransformer:
    """A ViT (patch 8, width 32, 3 blocks, 4 heads) with weights large enough for distinct attention."""
    torch.manual_seed(0)
    options = {"img_size": 32, "num_classes": 5} | options
    vit = VisionTransformer(patch_size=8, embed_dim=32, depth=3, num_heads=4, **options)
    for parameter in vit.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return vit.eval()


def images_of(count: int, *, size: tuple[int, int] = (32, 32), dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def resized_positions(table: Tensor, prefix_tokens: int, grid: tuple[int, int]) -> Tensor:
    """Resizes a position table (1, N, D) to another grid as the authors do: bilinear, without antialiasing."""
    side = math.isqrt(table.shape[1] - prefix_tokens)
    patches = table[:, prefix_tokens:].transpose(1, 2).unflatten(2, (side, side))
    patches = F.interpolate(patches, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([table[:, :prefix_tokens], patches.flatten(2).transpose(1, 2)], dim=1)


@cache
def procedural_classifier(name: str) -> dict[str, Tensor]:
    """Generates the classifier weights of one of the authors' full-size networks from names and shapes."""
    folder = SHARED / "reference"
    specification = importlib.util.spec_from_file_location("procedural_weights", folder / "procedural_weights.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    shapes = json.loads((folder / "shapes.json").read_text())[name]
    parts = ("pretrained.model.", "pretrained.act_postprocess4.", "cls_head.")
    return {
        key: torch.from_numpy(module.tensor_for(key, shape)) for key, shape in shapes.items() if key.startswith(parts)
    }


def reference_model(name: str, arrays: dict[str, np.ndarray], dtype: torch.dtype) -> nn.Module:
    """Builds one of the authors' networks: as our classifier, or as a plain ViT if their head is the ViT's own."""
    state = {
        key.removeprefix("sd/"): torch.from_numpy(value).to(dtype)
        for key, value in arrays.items()
        if key.startswith("sd/")
    }
    if name == "getam_base_vitb":
        state = {key: value.to(dtype) for key, value in procedural_classifier("vitb").items()}
    size = arrays["x"].shape[2:]
    shape: dict[str, Any] = {"img_size": size, "embed_dim": 48, "depth": 4, "num_heads": 3}
    if name == "getam_base_vitb":
        shape |= {"embed_dim": 768, "depth": 12, "num_heads": 12}
    if name == "getam_small_clshead":
        vit = VisionTransformer(patch_size=8, num_classes=20, **shape).to(dtype)
        vit.load_state_dict(state)
        return vit
    prefix = "pretrained.model."
    weights = {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix) and not key.startswith(f"{prefix}head")
    }
    kind = VisionTransformerDistilled if "dist_token" in weights else VisionTransformer
    backbone = kind(patch_size=16, num_classes=0, **shape).to(dtype)
    grid = (size[0] // 16, size[1] // 16)
    weights["pos_embed"] = resized_positions(weights["pos_embed"], int(arrays["start_index"]), grid)
    backbone.load_state_dict(weights)
    model = ViTClassifier(backbone, num_classes=20, readout="project").to(dtype)
    model.readout.reassemble.load_state_dict(part(from_released(state)[0], "classifier.readout.reassemble."))
    model.readout.head.load_state_dict({key: state[f"cls_head.{key}"] for key in ("weight", "bias")})
    return model


def fingerprint(model: nn.Module) -> dict[str, Any]:
    return {
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._backward_pre_hooks))
            for m in model.modules()
        ],
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "fused": [m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")],
        "forwards": ["forward" in vars(m) for m in model.modules()],
        "gradients": [name for name, p in model.named_parameters() if p.grad is not None],
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "modes": torch._C._len_torch_function_stack(),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    states = before.pop("state"), after.pop("state")
    assert after == before
    assert after["gradients"] == []
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]), name
