"""DeepLab v2 with a dilated ResNet encoder, its multi-scale training loss, and its learning-rate groups.

Chen et al. 2018, "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution,
and Fully Connected CRFs", https://arxiv.org/abs/1606.00915, as kazuto1011/deeplab-pytorch implements it:
with `resnet101` the logits equal that program's (`import_reference_state` renames its weights).

Preprocessing is no part of the model. The reference weights expect BGR in 0..255 with the mean (104.008,
116.669, 122.675) subtracted; encoders trained by this project, or pretrained by
segmentation-models-pytorch, expect RGB in 0..1 normalized by ImageNet's mean and standard deviation.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from huggingface_hub.errors import HTTPError
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.resnet import BasicBlock, Bottleneck

from getam.checkpoints import load_weights, read_description
from getam.errors import InputError
from getam.files import UNKNOWN
from getam.losses import mean_where
from getam.settings import DeepLabSettings

ENCODERS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")

# (stride, dilation) of the ResNet stages after the first, for each output stride.
STAGE_GEOMETRY: dict[int, dict[str, tuple[int, int]]] = {
    8: {"layer2": (2, 1), "layer3": (1, 2), "layer4": (1, 4)},
    16: {"layer2": (2, 1), "layer3": (2, 1), "layer4": (1, 2)},
}


class SummedASPP(nn.Module):
    """Atrous spatial pyramid pooling of DeepLab v2: the sum of dilated 3x3 convolutions.

    (B, C, h, w) features -> (B, num_classes, h, w) logits, without a projection between.
    """

    def __init__(self, in_channels: int, num_classes: int, *, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for rate in rates:
            branch = nn.Conv2d(in_channels, num_classes, kernel_size=3, padding=rate, dilation=rate)
            nn.init.normal_(branch.weight, mean=0.0, std=0.01)
            nn.init.zeros_(branch.get_parameter("bias"))
            self.branches.append(branch)

    def forward(self, features: Tensor) -> Tensor:
        return functools.reduce(torch.add, (branch(features) for branch in self.branches))


class DeepLabV2(nn.Module):
    """DeepLab v2: dilated ResNet, summed ASPP, multi-scale inputs fused by maximum.

    `encoder` is one of `ENCODERS`; `num_classes` counts the background. `output_stride` is the ratio of the
    image's size to the logits'. `scales` are the further scales of the input beside 1; with `()` the
    network is single-scale. `encoder_stages` below 4 leaves the widest and slowest stages out, for tiny
    images on a CPU. `frozen_batch_norm` keeps batch norm's statistics and affine parameters as they
    are, which fits pretrained weights only: from scratch, batch norm has to be trained. `pretrained`
    fetches ImageNet weights.

    The stride of a stage stands on its first block's first convolution: in bottleneck ResNets on the 1x1,
    as in the Caffe/MSRA ResNets that the paper starts from, where torchvision has it on the 3x3. ImageNet
    weights of torchvision's kind therefore see, in the first block of layer2, a 3x3 whose taps are two
    pixels apart.

    Raises InputError for an encoder or an output stride that is not offered, and where pretrained weights
    cannot be fetched.
    """

    def __init__(
        self,
        *,
        encoder: str,
        num_classes: int,
        encoder_stages: Literal[2, 3, 4] = 4,
        output_stride: Literal[8, 16] = 8,
        atrous_rates: Sequence[int] = (6, 12, 18, 24),
        scales: Sequence[float] = (0.5, 0.75),
        frozen_batch_norm: bool = True,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = _dilated_resnet(
            encoder, stages=encoder_stages, output_stride=output_stride, pretrained=pretrained
        )
        self.aspp = SummedASPP(self.encoder.out_channels[-1], num_classes, rates=atrous_rates)
        self.scales = tuple(scales)
        self.frozen_batch_norm = frozen_batch_norm
        if frozen_batch_norm:
            for norm in self._batch_norms():
                norm.requires_grad_(False)
        self.train()

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Logits at the output stride, not upsampled to the image.

        images: (B, 3, H, W), float, normalized, of any size. At output stride 8 the logits' height is
        ceil(q / 2) with q = floor(ceil(H / 2) / 2) + 1 from the max pooling in ceil mode; 321 gives 41.

        In eval mode: (B, num_classes, h, w), the element-wise maximum over the scales, smaller ones
        upsampled. In training mode: the list of all outputs that the loss sums over: the logits at scale 1,
        at each of `scales` in their own smaller size, and the maximum; without `scales` the list of one.
        """
        logits = self._logits(images)
        pyramid = [
            self._logits(F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False))
            for scale in self.scales
        ]
        fused = functools.reduce(torch.maximum, (_resize(scaled, size=logits.shape[-2:]) for scaled in pyramid), logits)
        if not self.training:
            return fused
        return [logits, *pyramid, fused] if pyramid else [logits]

    def train(self, mode: bool = True) -> DeepLabV2:
        """Sets the mode; frozen batch norm stays in eval mode, so that its running statistics never move."""
        super().train(mode)
        if self.frozen_batch_norm:
            for norm in self._batch_norms():
                norm.eval()
        return self

    def parameter_groups(self, *, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups: encoder at 1x the learning rate, ASPP weights at 10x, ASPP biases at 20x.

        Each trainable parameter stands in exactly one group, a dict of `name`, `params`, `lr`,
        `weight_decay`. ASPP biases and the affine parameters of a batch norm that is not frozen have no
        weight decay. Groups without trainable parameters are left out.
        """
        norm = [parameter for module in self._batch_norms() for parameter in module.parameters()]
        norm_ids = {id(parameter) for parameter in norm}
        groups = (
            ("encoder", [p for p in self.encoder.parameters() if id(p) not in norm_ids], 1.0, weight_decay),
            ("batch_norm", norm, 1.0, 0.0),
            ("aspp_weight", [branch.weight for branch in self.aspp.branches], 10.0, weight_decay),
            ("aspp_bias", [branch.bias for branch in self.aspp.branches], 20.0, 0.0),
        )
        return [
            {"name": name, "params": trainable, "lr": factor * learning_rate, "weight_decay": decay}
            for name, parameters, factor, decay in groups
            if (trainable := [parameter for parameter in parameters if parameter.requires_grad])
        ]

    def _logits(self, images: Tensor) -> Tensor:
        return self.aspp(self.encoder(images)[-1])

    def _batch_norms(self) -> list[_BatchNorm]:
        return [module for module in self.encoder.modules() if isinstance(module, _BatchNorm)]


def multi_scale_loss(
    outputs: Sequence[Tensor], labels: Tensor, *, full_resolution: bool = False, synchronize: bool = False
) -> Tensor:
    """Sum over the outputs of the mean cross entropy over labeled pixels.

    outputs: logits, each (B, C, h_i, w_i), as `DeepLabV2` returns them in training mode. labels: (B, H, W),
    int64, 0..C-1 or 255 for pixels that count nowhere. Returns a scalar; an output whose labels are all 255
    adds 0.

    By default the labels are sampled down to each output's size (nearest, at pixel centers, like PIL's
    NEAREST), as the reference recipe does. `full_resolution` instead upsamples the logits (bilinear,
    align_corners=False) to the labels' size: for images so small that a stride of 8 would leave a handful
    of labels. `synchronize`: see getam.losses.mean_where.
    """
    losses = []
    for logits in outputs:
        if full_resolution:
            logits, targets = _resize(logits, size=labels.shape[-2:]), labels
        else:
            targets = _sample_nearest(labels, size=logits.shape[-2:])
        entropy = F.cross_entropy(logits, targets, ignore_index=UNKNOWN, reduction="none")
        losses.append(mean_where(entropy, targets != UNKNOWN, synchronize=synchronize))
    return torch.stack(losses).sum()


def import_reference_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the weights of kazuto1011's DeepLabV2_ResNet101_MSC for `DeepLabV2(encoder="resnet101")`.

    state: its state dict, keys such as `base.layer3.block1.conv3x3.bn.weight`. Returns the same tensors
    under `encoder.layer2.0.bn2.weight`, to be loaded strictly. Raises InputError for a key of another form.
    """
    return {_import_reference_key(key): tensor for key, tensor in state.items()}


# Part of the reference's bottleneck -> (convolution, batch norm) of torchvision's.
_BLOCK_PARTS = {
    "reduce": ("conv1", "bn1"),
    "conv3x3": ("conv2", "bn2"),
    "increase": ("conv3", "bn3"),
    "shortcut": ("downsample.0", "downsample.1"),
}
_STEM_KEY = re.compile(r"base\.layer1\.conv1\.(conv|bn)\.(\w+)")
_BLOCK_KEY = re.compile(rf"base\.layer([2-5])\.block([1-9]\d*)\.({'|'.join(_BLOCK_PARTS)})\.(conv|bn)\.(\w+)")
_ASPP_KEY = re.compile(r"base\.aspp\.c(\d+)\.(\w+)")


def _import_reference_key(key: str) -> str:
    if match := _STEM_KEY.fullmatch(key):
        kind, tensor = match.groups()
        return f"encoder.{kind}1.{tensor}"
    if match := _BLOCK_KEY.fullmatch(key):
        stage, block, part, kind, tensor = match.groups()
        convolution, norm = _BLOCK_PARTS[part]
        module = convolution if kind == "conv" else norm
        # The reference counts the stem as layer1, and blocks from 1.
        return f"encoder.layer{int(stage) - 1}.{int(block) - 1}.{module}.{tensor}"
    if match := _ASPP_KEY.fullmatch(key):
        branch, tensor = match.groups()
        return f"aspp.branches.{branch}.{tensor}"
    raise InputError(
        f"{key!r} is no key of kazuto1011's DeepLabV2_ResNet101_MSC, whose keys start with base.layer1 "
        "to base.layer5 or base.aspp: give its state dict alone, without optimizer state or `module.` prefix"
    )


def _dilated_resnet(name: str, *, stages: int, output_stride: int, pretrained: bool) -> ResNetEncoder:
    """A ResNet of segmentation-models-pytorch, made DeepLab v2's: dilated, with ceil-mode pooling."""
    if name not in ENCODERS:
        raise InputError(f"encoder {name!r} is no ResNet that DeepLabV2 can dilate: use one of {', '.join(ENCODERS)}")
    if output_stride not in STAGE_GEOMETRY:
        raise InputError(f"output_stride {output_stride} is not offered: use one of {sorted(STAGE_GEOMETRY)}")
    weights = "imagenet" if pretrained else None
    try:
        resnet = smp.encoders.get_encoder(name, in_channels=3, depth=stages + 1, weights=weights)
    # The hub's own errors are OSErrors (no connection, offline mode, HTTP status); a dead proxy's is not.
    except (OSError, HTTPError) as error:
        raise InputError(
            f"the ImageNet weights of encoder {name} could not be fetched ({type(error).__name__}): "
            "set pretrained to false and load a state file, or fill the Hugging Face cache (HF_HOME) on a "
            "machine with a connection"
        ) from error
    for unused in range(stages + 1, 5):
        delattr(resnet, f"layer{unused}")
    resnet.maxpool.ceil_mode = True
    for stage, (stride, dilation) in list(STAGE_GEOMETRY[output_stride].items())[: stages - 1]:
        _set_geometry(getattr(resnet, stage), stride=stride, dilation=dilation)
    return resnet


def _set_geometry(stage: nn.Sequential, *, stride: int, dilation: int) -> None:
    """Dilates each 3x3 of a stage, in the first block too, and puts the stride on the first block's conv1."""
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (dilation, dilation)
    first: BasicBlock | Bottleneck = stage[0]
    first.conv1.stride = first.downsample[0].stride = (stride, stride)


def _resize(logits: Tensor, *, size: Sequence[int]) -> Tensor:
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def _sample_nearest(labels: Tensor, *, size: Sequence[int]) -> Tensor:
    """(B, H, W) labels at the centers of `size` cells, (B, h, w)."""
    # Source row floor((i + 1/2) H / h), in integers: no rounding where a center falls on a pixel's edge.
    height, width = labels.shape[-2:]
    rows = (2 * torch.arange(size[0], device=labels.device) + 1) * height // (2 * size[0])
    columns = (2 * torch.arange(size[1], device=labels.device) + 1) * width // (2 * size[1])
    return labels[:, rows[:, None], columns]


def build_deeplab(settings: DeepLabSettings, *, num_classes: int) -> DeepLabV2:
    """Builds the network of the settings; the global seed decides fresh weights. `num_classes` counts background."""
    return DeepLabV2(
        encoder=settings.encoder,
        num_classes=num_classes,
        encoder_stages=settings.encoder_stages,
        output_stride=settings.output_stride,
        atrous_rates=settings.atrous_rates,
        scales=settings.scales,
        frozen_batch_norm=settings.frozen_batch_norm,
        pretrained=settings.pretrained,
    )


def describe_deeplab(settings: DeepLabSettings, classes: Sequence[str]) -> dict[str, Any]:
    """What model.json says of a DeepLabv2; `classes` without background."""
    return {"kind": "deeplab", "settings": settings.model_dump(mode="json"), "classes": list(classes)}


def load_deeplab(folder: Path) -> tuple[DeepLabV2, tuple[str, ...]]:
    """Rebuilds a DeepLabv2 from its folder, in evaluation mode; gives it and its class names."""
    settings, classes = read_description(folder, kind="deeplab", settings=DeepLabSettings)
    model = build_deeplab(settings, num_classes=len(classes) + 1)
    load_weights(folder, model)
    return model.eval(), classes
