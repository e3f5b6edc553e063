"""Salient object detection: a Swin network (Mao et al. 2021, arXiv 2104.10127) and its saliency maps.

Label completion (Eq. 5) uses the maps to separate object pixels of any class from background pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer, SwinTransformerStage
from torch import Tensor, nn

from getam.errors import InputError
from getam.networks.backbones import create_timm_model
from getam.networks.building import built_from
from getam.networks.checkpoints import describe_model, load_weights, read_description
from getam.networks.fine_tuning import FineTunedNetwork, freeze
from getam.networks.supervision import SALIENCY
from getam.settings.saliency import SaliencySettings

ASPP_DILATIONS = (3, 6, 12, 18)


class SaliencyNetwork(FineTunedNetwork):
    """Saliency network of Swin features, a narrow neck for each and a concatenating decoder.

    The features are taken before the blocks of each stage (after the patch embedding, then after each patch
    merging), as in the authors' code. Deviation: the authors also run the blocks of the last stage, whose output
    is unused; they are left out here, so that every parameter has a gradient. The outputs are the same.

    Args:
        backbone: timm's name of a Swin transformer (the paper's: swin_base_patch4_window12_384).
        backbone_options: further keyword arguments of timm.create_model, such as embed_dim or window_size.
        image_size: height and width of the images, since Swin's attention is built for one size.
        neck_width: channels of each neck.
        pretrained: True, a file, or False, see getam.networks.pretrained.timm_weights.
        segmentation_pretrained: whether weights that were trained on pixel labels are allowed.
        trainable: layers of the backbone that are trained, see getam.networks.fine_tuning.freeze.

    Raises:
        InputError: `backbone` is no Swin, `image_size` is no multiple of its patch size or contradicts
            backbone_options["img_size"], or the weights cannot be used.
    """

    def __init__(
        self,
        *,
        backbone: str,
        backbone_options: dict[str, Any] | None = None,
        image_size: int,
        neck_width: int = 32,
        pretrained: bool | str = False,
        segmentation_pretrained: bool = False,
        trainable: int | Literal["all", "none"] = "all",
    ) -> None:
        super().__init__()
        swin = _create_swin(
            backbone,
            backbone_options or {},
            image_size=image_size,
            pretrained=pretrained,
            allow_pixel_labels=segmentation_pretrained,
        )
        self.initialization = getattr(swin, "initialization", None)
        widths = [info["num_chs"] for info in swin.feature_info]
        self.backbone = SwinFeatures(swin)
        freeze(self.backbone, trainable, key="saliency backbone")
        self.neck = nn.ModuleList(_neck(width, neck_width) for width in widths)
        self.decoder = ConcatenatingDecoder(len(widths) * neck_width)

    def forward(self, images: Tensor) -> Tensor:
        """Saliency logits (B, 1, S, S) of images (B, 3, S, S), float, ImageNet-normalized."""
        features = [neck(feature) for neck, feature in zip(self.neck, self.backbone(images), strict=True)]
        return _resize(self.decoder(features), images.shape[-2:])


class SwinFeatures(nn.Module):
    """A timm Swin without the blocks of its last stage, which returns one feature map for each stage.

    (B, 3, S, S) -> [(B, C, S/p, S/p), (B, 2C, S/2p, S/2p), ...], where p is the patch size.
    """

    def __init__(self, swin: SwinTransformer) -> None:
        super().__init__()
        self.patch_embed = swin.patch_embed
        self.layers = swin.layers
        self.layers[-1].blocks = nn.Sequential()

    def group_matcher(self, *, coarse: bool) -> dict[str, Any]:
        """timm's description of the layers, as its Swin has it: the stem, then each block."""
        blocks = [(r"^layers\.(\d+)\.downsample", (0,)), (r"^layers\.(\d+)\.\w+\.(\d+)", None)]
        return {"stem": r"^patch_embed", "blocks": r"^layers\.(\d+)" if coarse else blocks}

    def forward(self, images: Tensor) -> list[Tensor]:
        features = []
        x = self.patch_embed(images)
        for stage in self.layers:
            assert isinstance(stage, SwinTransformerStage)
            x = stage.downsample(x)
            # timm's Swin works on (B, H, W, C).
            features.append(x.permute(0, 3, 1, 2))
            x = stage.blocks(x)
        return features


class ConvNorm(nn.Module):
    """Convolution and batch norm without activation: as in the authors' code, the neck is a linear map."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class ConcatenatingDecoder(nn.Module):
    """Resizes features to the finest one's size, concatenates and refines them, and sums dilated convolutions.

    [(B, C_i, H_i, W_i), ...], finest first, with sum(C_i) = `channels` -> logits (B, 1, H_0, W_0).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.refine = ResidualChannelAttention(channels)
        self.head = nn.ModuleList(
            nn.Conv2d(channels, 1, 3, padding=dilation, dilation=dilation, bias=False) for dilation in ASPP_DILATIONS
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        size = features[0].shape[-2:]
        x = self.refine(torch.cat([_resize(feature, size) for feature in features], dim=1))
        return torch.stack([conv(x) for conv in self.head]).sum(dim=0)


class ResidualChannelAttention(nn.Module):
    """RCAB (Zhang et al. 2018, RCAN) without batch norm: x + a * f(x), (B, C, H, W) -> (B, C, H, W).

    f is two 3x3 convolutions; a, in (0, 1), is a factor for each channel, computed from the global average of f(x).
    """

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        squeezed = max(channels // reduction, 1)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        attention = torch.sigmoid(self.expand(F.relu(self.squeeze(y.mean(dim=(2, 3), keepdim=True)))))
        return x + attention * y


def _create_swin(
    backbone: str, options: dict[str, Any], *, image_size: int, pretrained: bool | str, allow_pixel_labels: bool
) -> SwinTransformer:
    names = timm.list_models(module="swin_transformer")
    # A name may carry the tag of its weights: swin_base_patch4_window12_384.ms_in1k.
    if backbone.split(".")[0] not in names:
        raise InputError(f"saliency backbone {backbone!r} is not a timm Swin; choose one of {', '.join(names)}")
    if options.get("img_size", image_size) != image_size:
        raise InputError(
            f"saliency image_size is {image_size}, but backbone_options has img_size {options['img_size']}; "
            "drop img_size from backbone_options"
        )
    swin = create_timm_model(
        backbone,
        pretrained=pretrained,
        allow_pixel_labels=allow_pixel_labels,
        key="saliency backbone",
        **{**options, "img_size": image_size},
    )
    assert isinstance(swin, SwinTransformer)
    patch = swin.feature_info[0]["reduction"]
    if image_size % patch:
        raise InputError(
            f"saliency image_size {image_size} is not a multiple of {patch}, the patch size of {backbone}; "
            f"use {image_size // patch * patch}"
        )
    return swin


def _neck(in_channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNorm(in_channels, width, kernel=1),
        ConvNorm(width, width, kernel=3),
        ConvNorm(width, width, kernel=3),
    )


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def saliency_map(logits: Tensor, size: tuple[int, int], *, stretch: bool) -> Tensor:
    """Makes the saliency map of one image from its logits.

    Args:
        logits: (1, S, S); they are resized bilinearly (align_corners=False).
        size: (H, W) of the map.
        stretch: whether to scale the probabilities p to their own range, (p - min) / (max - min + 1e-8), as in the
            authors' code. The map of an image without a salient object then has full range too, instead of values
            near 0.

    Returns:
        (H, W), uint8, 255 for p = 1.

    Raises:
        ValueError: the logits have another shape.
    """
    if logits.dim() != 3 or logits.shape[0] != 1:
        raise ValueError(f"logits of one image must be (1, S, S), these are {tuple(logits.shape)}")
    resized = F.interpolate(logits.detach().float()[None], size=size, mode="bilinear", align_corners=False)
    values = torch.sigmoid(resized[0, 0])
    if stretch:
        low, high = values.aminmax()
        values = (values - low) / (high - low + 1e-8)
    return (255 * values).round().to(torch.uint8)


def build_saliency(settings: SaliencySettings) -> SaliencyNetwork:
    """Builds the network of the settings; random weights depend on torch's global seed."""
    return SaliencyNetwork(
        backbone=settings.backbone,
        backbone_options=settings.backbone_options,
        image_size=settings.image_size,
        neck_width=settings.neck_width,
        pretrained=settings.pretrained,
        segmentation_pretrained=settings.segmentation_pretrained,
        trainable=settings.trainable,
    )


def describe_saliency(settings: SaliencySettings) -> dict[str, Any]:
    """The description of a saliency network for model.json."""
    return describe_model("saliency", settings, learned_from=SALIENCY)


def load_saliency(folder: Path) -> tuple[SaliencyNetwork, int]:
    """Loads a saliency network from its folder; returns it in evaluation mode, and the side of its inputs in pixels."""
    settings, _ = read_description(folder, kind="saliency", settings=SaliencySettings)
    with built_from(folder):
        model = build_saliency(settings)
    load_weights(folder, model)
    return model.eval(), settings.image_size
