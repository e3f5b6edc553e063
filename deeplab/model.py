"""DeepLab v2 with a dilated ResNet encoder, its multi-scale training loss, and its learning-rate groups.

Chen et al. 2018, "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution,
and Fully Connected CRFs", https://arxiv.org/abs/1606.00915, as kazuto1011/deeplab-pytorch implements it:
with `resnet101` the logits equal that program's (deeplab.import_kazuto1011_state renames its weights).

Images come normalized by ImageNet's mean and standard deviation, as encoders trained by this project or by
torchvision expect them. The reference's weights expect BGR in 0..255 with CAFFE_MEAN subtracted:
`normalization="caffe"` converts.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from deeplab.multi_scale import MultiScaleNetwork, optimizer_groups
from deeplab.segmenters import SmpSegmenter
from getam.datasets.images import denormalize_rgb
from getam.errors import InputError, chosen
from getam.networks.checkpoints import describe_model, load_weights, read_description
from getam.networks.pretrained import encoder_weights, load_encoder
from getam.settings.deeplab import SEGMENTERS, DeepLabSettings

CAFFE_MEAN = (104.008, 116.669, 122.675)
"""Blue, green and red, levels of 0..255."""

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


class DeepLabV2(MultiScaleNetwork):
    """DeepLab v2: dilated ResNet, summed ASPP, multi-scale inputs fused by maximum.

    `encoder` is one of `ENCODERS`; `num_classes` counts the background. `output_stride` is the ratio of the
    image's size to the logits'. `scales` are the further scales of the input beside 1; with `()` the
    network is single-scale. `encoder_stages` below 4 leaves the widest and slowest stages out, for tiny
    images on a CPU. `frozen_batch_norm` keeps batch norm's statistics and affine parameters as they
    are, which fits pretrained weights only: from scratch, batch norm has to be trained. `pretrained`
    (True: fetched; or a file) and `segmentation_pretrained`: see getam.networks.pretrained.encoder_weights.

    `bottleneck_stride`: which convolution of a bottleneck has the stride of its stage. 1x1 is that of the
    Caffe/MSRA ResNets that the paper starts from and of the reference's weights; 3x3 is torchvision's, for
    whose ImageNet weights it should be chosen.

    Raises InputError for an encoder or an output stride that is not offered, and where pretrained weights
    cannot be fetched.
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
            segmentation=segmentation_pretrained,
        )
        super().__init__(resnet, scales=scales, frozen_batch_norm=frozen_batch_norm)
        self.normalization = normalization
        self.aspp = SummedASPP(resnet.out_channels[-1], num_classes, rates=atrous_rates)
        self.train()

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) of any size -> (B, num_classes, h, w), not upsampled to the image.

        At output stride 8 the logits' height is ceil(q / 2) with q = floor(ceil(H / 2) / 2) + 1 from the max pooling in
        ceil mode; 321 gives 41.
        """
        if self.normalization == "caffe":
            images = denormalize_rgb(images).flip(1) - images.new_tensor(CAFFE_MEAN)[:, None, None]
        return self.aspp(self.encoder(images)[-1])

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
        return optimizer_groups(groups, learning_rate=learning_rate)


def _dilated_resnet(
    name: str,
    *,
    stages: int,
    output_stride: int,
    bottleneck_stride: str,
    pretrained: bool | str,
    segmentation: bool,
) -> ResNetEncoder:
    """ResNet with `stages` of its four stages, dilated to the output stride, with a ceil-mode max pool."""
    if name not in ENCODERS:
        raise InputError(f"encoder {name!r} is no ResNet that DeepLabV2 can dilate: use one of {', '.join(ENCODERS)}")
    if output_stride not in STAGE_GEOMETRY:
        raise InputError(f"output_stride {output_stride} is not offered: use one of {sorted(STAGE_GEOMETRY)}")
    weights = encoder_weights(name, pretrained, segmentation=segmentation)
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
    """Dilates each 3x3 of a stage, in the first block too, and strides the first block's convolution."""
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (dilation, dilation)
    first: BasicBlock | Bottleneck = stage[0]
    strided = first.conv2 if isinstance(first, Bottleneck) and bottleneck_stride == "3x3" else first.conv1
    strided.stride = first.downsample[0].stride = (stride, stride)


def build_deeplab(settings: DeepLabSettings, *, num_classes: int) -> MultiScaleNetwork:
    """Builds the network of the settings; the global seed decides fresh weights. `num_classes` counts background."""
    if settings.architecture in SEGMENTERS and SEGMENTERS[settings.architecture].in_smp:
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
    return chosen(BUILDERS, settings.architecture, name="deeplab.architecture")(settings, num_classes)


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


BUILDERS = {"deeplabv2": _build_deeplabv2}
"""The architectures of settings.SEGMENTERS that segmentation-models-pytorch has not."""


def describe_deeplab(settings: DeepLabSettings, classes: Sequence[str], *, learned_from: str) -> dict[str, Any]:
    """What model.json says of a segmenter.

    Args:
        classes: names, without background.
        learned_from: supervision of the labels that it is trained on.
    """
    return describe_model("deeplab", settings, learned_from=learned_from, classes=classes)


def load_deeplab(folder: Path) -> tuple[MultiScaleNetwork, tuple[str, ...]]:
    """Rebuilds a segmenter from its folder, in evaluation mode; gives it and its class names."""
    settings, classes = read_description(folder, kind="deeplab", settings=DeepLabSettings)
    model = build_deeplab(settings, num_classes=len(classes) + 1)
    load_weights(folder, model)
    return model.eval(), classes
