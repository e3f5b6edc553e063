"""DeepLab v2 with a dilated ResNet encoder, and functions that build and load any segmentation network by its settings.

Chen et al. 2018, "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution,
and Fully Connected CRFs", https://arxiv.org/abs/1606.00915, as implemented by kazuto1011/deeplab-pytorch:
with `resnet101` the logits equal those of that program (deeplab.import_kazuto1011_state renames its weights).

Images are normalized by ImageNet's mean and standard deviation, as encoders trained by this project or by
torchvision expect. kazuto1011's weights expect BGR in 0..255 with CAFFE_MEAN subtracted; with
`normalization="caffe"` the network converts its inputs accordingly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from deeplab.multi_scale import Group, MultiScaleNetwork, encoder_groups, optimizer_groups
from deeplab.segmenters import SmpSegmenter
from deeplab.vit_segmenters import build_vit_segmenter
from getam.datasets.images import column, denormalize_rgb
from getam.errors import InputError, chosen
from getam.networks.building import built_from
from getam.networks.checkpoints import describe_model, load_weights, read_description
from getam.networks.fine_tuning import freeze
from getam.networks.pretrained import encoder_weights, load_encoder
from getam.settings.deeplab import SEGMENTERS, DeepLabSettings

CAFFE_MEAN = (104.008, 116.669, 122.675)
"""Mean of blue, green and red in 0..255 that Caffe's ResNets subtract."""

ENCODERS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")

STAGE_GEOMETRY: dict[int, dict[str, tuple[int, int]]] = {
    8: {"layer2": (2, 1), "layer3": (1, 2), "layer4": (1, 4)},
    16: {"layer2": (2, 1), "layer3": (2, 1), "layer4": (1, 2)},
}
"""Output stride -> (stride, dilation) of the ResNet stages after the first."""


class SummedASPP(nn.Module):
    """Atrous spatial pyramid pooling of DeepLab v2: the sum of dilated 3x3 convolutions.

    Features (B, C, h, w) -> logits (B, num_classes, h, w), without an intermediate projection.
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


class DeepLabV2(MultiScaleNetwork):
    """DeepLab v2: dilated ResNet, summed ASPP, multi-scale inputs fused by maximum.

    Args:
        encoder: one of ENCODERS.
        num_classes: number of classes, background included.
        encoder_stages: number of ResNet stages; fewer than 4 leave out the widest and slowest stages, for tiny images
            on a CPU.
        output_stride: ratio of the image's size to that of the logits.
        atrous_rates: dilations of the summed convolutions.
        scales: scales of the input in addition to 1; () for a single-scale network.
        frozen_batch_norm: whether batch norm keeps its statistics and affine parameters, which is right only with
            pretrained weights: from scratch, batch norm must be trained.
        bottleneck_stride: the convolution of a bottleneck that has the stage's stride. `1x1` is that of the Caffe/MSRA
            ResNets, from which the paper starts, and of kazuto1011's weights. `3x3` is torchvision's and should be
            chosen for its ImageNet weights.
        normalization: input of the encoder: `imagenet`, or `caffe` (BGR in 0..255 with CAFFE_MEAN subtracted).
        pretrained: True to fetch weights, a file, or False, see getam.networks.pretrained.encoder_weights.
        segmentation_pretrained: whether weights that were trained on pixel labels are allowed.

    Raises:
        InputError: there is no such encoder or output stride, or the pretrained weights cannot be obtained.
    """

    architecture = "deeplabv2"

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
        bottleneck_stride: Literal["1x1", "3x3"] = "1x1",
        normalization: Literal["imagenet", "caffe"] = "imagenet",
        pretrained: bool | str = False,
        segmentation_pretrained: bool = False,
    ) -> None:
        resnet = _dilated_resnet(
            encoder,
            stages=encoder_stages,
            output_stride=output_stride,
            bottleneck_stride=bottleneck_stride,
            pretrained=pretrained,
            allow_pixel_labels=segmentation_pretrained,
        )
        super().__init__(resnet, scales=scales, frozen_batch_norm=frozen_batch_norm)
        self.normalization = normalization
        self.aspp = SummedASPP(resnet.out_channels[-1], num_classes, rates=atrous_rates)
        self.train()

    def logits(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) of any size -> logits (B, num_classes, h, w), not upsampled to the image's size.

        At output stride 8, h = ceil(q / 2), where q = floor(ceil(H / 2) / 2) + 1 is the height after the max pooling in
        ceil mode; an H of 321 gives 41.
        """
        if self.normalization == "caffe":
            images = denormalize_rgb(images).flip(1) - column(CAFFE_MEAN, images)
        return self.aspp(self.encoder(images)[-1])

    def parameter_groups(
        self, *, learning_rate: float, weight_decay: float, backbone_rate: float = 0.1, layer_decay: float = 1.0
    ) -> list[dict[str, Any]]:
        """Optimizer groups: by default encoder at 1x the learning rate, ASPP weights at 10x, ASPP biases at 20x.

        Each trainable parameter is in exactly one group, a dict of `name`, `params`, `lr` and `weight_decay`.
        ASPP biases and the affine parameters of trained batch norms have no weight decay. Groups without trainable
        parameters are left out. For the arguments see MultiScaleNetwork.
        """
        norm_ids = {id(parameter) for module in self._batch_norms() for parameter in module.parameters()}
        groups: list[Group] = [
            *encoder_groups(
                self.encoder,
                lambda name, parameter: id(parameter) not in norm_ids,
                titles=("encoder", "batch_norm"),
                weight_decay=weight_decay,
                layer_decay=layer_decay,
            ),
            ("aspp_weight", [branch.weight for branch in self.aspp.branches], 1 / backbone_rate, weight_decay),
            ("aspp_bias", [branch.bias for branch in self.aspp.branches], 2 / backbone_rate, 0.0),
        ]
        return optimizer_groups(groups, learning_rate=learning_rate)


def _dilated_resnet(
    name: str,
    *,
    stages: int,
    output_stride: int,
    bottleneck_stride: str,
    pretrained: bool | str,
    allow_pixel_labels: bool,
) -> ResNetEncoder:
    """Builds a ResNet of the first `stages` stages, dilated to the output stride, whose max pooling uses ceil mode."""
    if name not in ENCODERS:
        raise InputError(f"encoder {name!r} is no ResNet that DeepLabV2 can dilate: use one of {', '.join(ENCODERS)}")
    if output_stride not in STAGE_GEOMETRY:
        raise InputError(f"output_stride {output_stride} is not offered: use one of {sorted(STAGE_GEOMETRY)}")
    weights = encoder_weights(name, pretrained, allow_pixel_labels=allow_pixel_labels)
    resnet = smp.encoders.get_encoder(name, in_channels=3, depth=stages + 1, weights=None)
    if weights is not None:
        load_encoder(resnet, weights)
    for unused in range(stages + 1, 5):
        delattr(resnet, f"layer{unused}")
    resnet.maxpool.ceil_mode = True
    for stage, (stride, dilation) in list(STAGE_GEOMETRY[output_stride].items())[: stages - 1]:
        _set_geometry(getattr(resnet, stage), stride=stride, dilation=dilation, bottleneck_stride=bottleneck_stride)
    return resnet


def _set_geometry(stage: nn.Sequential, *, stride: int, dilation: int, bottleneck_stride: str) -> None:
    """Sets the dilation of all 3x3 convolutions of a stage, the first block included, and the first block's stride."""
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (dilation, dilation)
    first: BasicBlock | Bottleneck = stage[0]
    strided = first.conv2 if isinstance(first, Bottleneck) and bottleneck_stride == "3x3" else first.conv1
    strided.stride = first.downsample[0].stride = (stride, stride)


def build_deeplab(settings: DeepLabSettings, *, num_classes: int) -> MultiScaleNetwork:
    """Builds the network of the settings; random weights depend on torch's global seed.

    Args:
        num_classes: number of classes, background included.

    Raises:
        InputError: the architecture does not exist, or the network cannot be built; see DeepLabV2, SmpSegmenter and
            build_vit_segmenter.
    """
    build = _build_smp if _is_in_smp(settings) else chosen(BUILDERS, settings.architecture, name="deeplab.architecture")
    network = build(settings, num_classes)
    freeze(network.encoder, settings.trainable, key="encoder")
    return network.train()


def _is_in_smp(settings: DeepLabSettings) -> bool:
    return settings.architecture in SEGMENTERS and SEGMENTERS[settings.architecture].in_smp


def _build_smp(settings: DeepLabSettings, num_classes: int) -> SmpSegmenter:
    return SmpSegmenter(
        architecture=settings.architecture,
        encoder=settings.encoder,
        num_classes=num_classes,
        output_stride=settings.output_stride,
        atrous_rates=settings.atrous_rates,
        scales=settings.scales,
        frozen_batch_norm=settings.frozen_batch_norm,
        pretrained=settings.pretrained,
        segmentation_pretrained=settings.segmentation_pretrained,
    )


def _build_deeplabv2(settings: DeepLabSettings, num_classes: int) -> DeepLabV2:
    return DeepLabV2(
        encoder=settings.encoder,
        num_classes=num_classes,
        encoder_stages=settings.encoder_stages,
        output_stride=settings.output_stride,
        bottleneck_stride=settings.bottleneck_stride,
        normalization=settings.normalization,
        atrous_rates=settings.atrous_rates,
        scales=settings.scales,
        frozen_batch_norm=settings.frozen_batch_norm,
        pretrained=settings.pretrained,
        segmentation_pretrained=settings.segmentation_pretrained,
    )


BUILDERS: dict[str, Callable[[DeepLabSettings, int], MultiScaleNetwork]] = {
    "deeplabv2": _build_deeplabv2,
    "dpt": build_vit_segmenter,
    "linear": build_vit_segmenter,
}
"""The functions that build those architectures of SEGMENTERS that segmentation-models-pytorch does not have."""


def describe_deeplab(settings: DeepLabSettings, classes: Sequence[str], *, learned_from: str) -> dict[str, Any]:
    """The description of a segmentation network for model.json.

    Args:
        classes: class names, without background.
        learned_from: supervision of the labels that it is trained on.
    """
    return describe_model("deeplab", settings, learned_from=learned_from, classes=classes)


def load_deeplab(folder: Path) -> tuple[MultiScaleNetwork, tuple[str, ...]]:
    """Loads a segmentation network from its folder; returns it in evaluation mode, and its class names."""
    settings, classes = read_description(folder, kind="deeplab", settings=DeepLabSettings)
    with built_from(folder):
        model = build_deeplab(settings, num_classes=len(classes) + 1)
    load_weights(folder, model)
    return model.eval(), classes
