"""One of every kind of timm's ViTs, small, with weights for which attention differs from token to token."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import timm
import torch
from timm.layers import Attention
from timm.models.eva import Eva, EvaBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}


def telling(model: nn.Module) -> Any:
    """Weights large enough for attention that differs from token to token, in double precision."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return model.double().eval()


def stock(name: str, *, grid: tuple[int, int] = (3, 4), **options: Any) -> Any:
    """A model of timm's registry, 32 wide and two blocks deep, for images of `grid` patches."""
    torch.manual_seed(0)
    patch = int(next(iter(re.findall(r"patch(\d+)", name)), 16))
    size = (patch * grid[0], patch * grid[1])
    return telling(timm.create_model(name, **({"img_size": size} | SMALL | options)))


def vit(**options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return telling(VisionTransformer(**({"img_size": (24, 32), "patch_size": 8} | SMALL | options)))


class GatedAttention(Attention):
    """timm's own gate, which no option of VisionTransformer turns on."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, gated=True, **options)


def gated_eva() -> Eva:
    eva = Eva(img_size=(24, 32), patch_size=8, global_pool="token", use_rot_pos_emb=True, **SMALL)
    eva.blocks = nn.ModuleList(EvaBlock(32, num_heads=4, gated_attn=True) for _ in range(2))
    return telling(eva)


# Learned layer scales start near zero, where a block's own attention says next to nothing.
SCALED: dict[str, Any] = {"init_values": 0.5}
DYNAMIC: dict[str, Any] = {"dynamic_img_size": True}
TOKEN: dict[str, Any] = {"global_pool": "token"}
MAP: dict[str, Any] = {"global_pool": "map", "class_token": True}

VISION_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "vit_base_patch16_384": DYNAMIC,
    "vit_small_patch32_224": {},
    "vit_base_r50_s16_384": DYNAMIC,
    # Its convolutional stem gives 768 channels.
    "vit_base_mci_224": DYNAMIC | {"embed_dim": 768, "num_heads": 12},
    "deit_base_patch16_384": DYNAMIC,
    "deit_base_distilled_patch16_384": DYNAMIC,
    "deit3_base_patch16_384": DYNAMIC | SCALED,
    "vit_small_patch14_dinov2": DYNAMIC | SCALED,
    "vit_small_patch14_reg4_dinov2": DYNAMIC | SCALED,
    "vit_base_patch14_reg1_tipsv2": DYNAMIC,
    "vit_base_patch16_radio_v3": DYNAMIC | SCALED,
    "vit_intern300m_patch14_448": {},
    "vit_base_patch16_clip_224": DYNAMIC,
    "vit_base_patch16_siglip_224": DYNAMIC | MAP | {"pool_include_prefix": True},
    "vit_so150m_patch16_reg4_map_256": DYNAMIC | MAP | {"pool_include_prefix": True},
    "vit_base_patch16_siglip_gap_224": DYNAMIC | TOKEN | {"class_token": True, "fc_norm": False},
    "vit_base_patch16_xp_224": DYNAMIC,
    "vit_small_patch16_18x2_224": DYNAMIC | SCALED,
    "vit_base_patch16_rpn_224": DYNAMIC | TOKEN | SCALED | {"class_token": True},
    "beit3_base_patch16_224": DYNAMIC | TOKEN,
    "eva_large_patch14_196": DYNAMIC | TOKEN,
    "flexivit_small": DYNAMIC,
}
EVAS: dict[str, dict[str, Any]] = {
    "eva_giant_patch14_224": DYNAMIC | TOKEN,
    "eva02_tiny_patch14_224": DYNAMIC | TOKEN,
    "eva02_base_patch16_clip_224": DYNAMIC,
    "eva02_enormous_patch14_clip_224": {},
    "vit_small_patch16_dinov3": TOKEN | SCALED,
    "vit_small_plus_patch16_dinov3_qkvb": TOKEN | SCALED,
    "vit_small_patch16_lingbot": SCALED,
    "vit_base_patch16_sapiens2": {"num_kv_heads": (4, 2)},
    "vit_small_patch16_rope_224": DYNAMIC | SCALED,
    "vit_small_patch16_rope_ape_224": SCALED,
    "vit_small_patch16_rope_mixed_224": DYNAMIC | SCALED,
    "vit_small_patch16_rope_mixed_ape_224": SCALED,
    "vit_pe_core_tiny_patch16_384": DYNAMIC,
    "vit_pe_lang_large_patch14_448": DYNAMIC | TOKEN,
    "vit_pe_spatial_tiny_patch16_512": TOKEN,
}
RELATIVE_POSITIONS: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": TOKEN,
    "beitv2_base_patch16_224": TOKEN | SCALED,
    "vit_relpos_base_patch16_cls_224": SCALED,
    "vit_relpos_base_patch16_rpn_224": TOKEN | SCALED | {"class_token": True},
    "vit_srelpos_small_patch16_224": TOKEN | SCALED | {"class_token": True},
}
OPTIONS: dict[str, Callable[[], Any]] = {
    "qk_norm": lambda: vit(qk_norm=True),
    "scale_attn_norm": lambda: vit(scale_attn_norm=True),
    "gated": lambda: vit(attn_layer=GatedAttention),
    "gated eva": gated_eva,
    "pool prr": lambda: vit(global_pool="prr"),
    "no positions": lambda: vit(pos_embed="none"),
    "oblong patches": lambda: vit(patch_size=(8, 4)),
    "two heads of 4": lambda: vit(embed_dim=8, num_heads=2),
    "shared bias of beit": lambda: stock(
        "beit_base_patch16_224", **TOKEN, use_rel_pos_bias=False, use_shared_rel_pos_bias=True
    ),
    "both biases of beit": lambda: stock("beit_base_patch16_224", **TOKEN, use_shared_rel_pos_bias=True),
    "bias table of relpos": lambda: stock("vit_relpos_base_patch16_cls_224", **SCALED, rel_pos_type="bias"),
}
MODELS: dict[str, Callable[[], Any]] = {
    **{
        name: partial(stock, name, **options)
        for name, options in (VISION_TRANSFORMERS | EVAS | RELATIVE_POSITIONS).items()
    },
    **OPTIONS,
}


@cache
def model_of(name: str) -> Any:
    return MODELS[name]()


def images_of(count: int, size: Sequence[int]) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def grids_of(model: Any) -> list[tuple[int, int]]:
    """The grid that the model was built for, and another where it takes any."""
    rows, columns = model.patch_embed.grid_size
    return [(rows, columns), (rows + 1, columns - 2)][: 2 if getattr(model, "dynamic_img_size", False) else 1]


def size_for(model: Any, grid: tuple[int, int]) -> list[int]:
    embed = model.patch_embed
    return [n * side // built for n, side, built in zip(grid, embed.img_size, embed.grid_size, strict=True)]
