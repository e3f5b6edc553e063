"""The image classifier: a timm ViT with a class token and a read-out, or a timm CNN for the CAM baseline.

The read-out `project` is the authors' (DPT's read-out projection, then convolutions and an average), from Eq. 6 of
the paper's appendix; `ignore` and `add` are DPT's alternatives; `token` is timm's plain head on the normalized class
token; `max` is the maximum over the patches; `pool` is a CNN's average of features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers import HybridEmbed
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor, nn

from getam.errors import InputError
from getam.networks.backbones import (
    Normalization,
    check_image_size,
    check_name,
    create_timm_model,
    create_vit,
    find_backbone,
)
from getam.networks.building import built_from
from getam.networks.checkpoints import describe_model, load_weights, read_description
from getam.networks.dpt import Reassemble
from getam.networks.fine_tuning import FineTunedNetwork, freeze
from getam.networks.released import compute_as_released
from getam.networks.supervision import IMAGE_LABELS
from getam.networks.tokens import Tokens, patch_side, read_tokens
from getam.settings.classifier import ClassifierSettings
from getam.settings.networks import BackboneSettings


def create_backbone(settings: BackboneSettings, *, image_size: int) -> Any:
    """Builds the timm ViT of the settings, for inputs of any size that is a multiple of the patch size.

    Raises:
        InputError: timm has no such model, the model does not accept the options or has no class token, its patches do
            not divide `image_size`, or its weights cannot be fetched.
    """
    options: dict[str, Any] = dict(settings.backbone_options)
    if settings.stem_channels:
        options["embed_layer"] = partial(_conv_embed, stem_channels=settings.stem_channels)
    check_name(settings.backbone, key="backbone")
    check_image_size(
        settings.backbone,
        image_size,
        key="backbone",
        stem_channels=settings.stem_channels,
        **{"dynamic_img_size": True, **options},
    )
    backbone = create_vit(
        settings.backbone,
        # The authors' networks keep the position embeddings at the size of the pretraining.
        image_size=image_size if settings.embedding == "timm" else None,
        pretrained=settings.pretrained,
        allow_pixel_labels=settings.segmentation_pretrained,
        key="backbone",
        options=options,
    )
    if getattr(backbone, "cls_token", None) is None:
        raise InputError(
            f"backbone: {settings.backbone} has no class token; GETAM needs a ViT that has one, and the baseline of a "
            "CNN's CAM the read-out pool"
        )
    vit = find_backbone(backbone)
    if settings.embedding == "released":
        compute_as_released(vit)
    return vit


def create_cnn(settings: BackboneSettings) -> Any:
    """Builds the timm CNN of the settings.

    Raises:
        InputError: timm has no such model, the model does not accept the options or is no CNN, or its weights cannot
            be fetched.
    """
    check_name(settings.backbone, key="backbone")
    backbone = create_timm_model(
        settings.backbone,
        pretrained=settings.pretrained,
        allow_pixel_labels=settings.segmentation_pretrained,
        key="backbone",
        **settings.backbone_options,
    )
    info = getattr(backbone, "feature_info", None)
    if getattr(backbone, "cls_token", None) is not None or not info:
        raise InputError(f"readout: pool is a CNN's, {settings.backbone} is none; write project")
    side = 2 * info[-1]["reduction"]
    problem = f"backbone: {settings.backbone} gives no features for an image of {side}x{side}"
    cure = "choose a CNN for the read-out pool"
    try:
        with torch.no_grad():
            features = backbone.eval().forward_features(torch.zeros(1, 3, side, side))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise InputError(f"{problem} ({error}); {cure}") from None
    if features.shape != (1, backbone.num_features, 2, 2):
        raise InputError(f"{problem} of shape (1, {backbone.num_features}, 2, 2): {tuple(features.shape)}; {cure}")
    return backbone.train()


def _conv_embed(
    *, img_size: int, patch_size: int, embed_dim: int, stem_channels: tuple[int, ...], **options: Any
) -> HybridEmbed:
    channels = (*stem_channels, embed_dim)
    if 2 ** len(channels) != patch_size:
        raise InputError(
            f"stem_channels: {len(stem_channels)} widths and the embedding layer reduce by {2 ** len(channels)}, "
            f"but patch_size is {patch_size}"
        )
    options.pop("bias", None)
    stem = ConvStem(depth=len(channels), channels=channels, stride=(2,) * len(channels))
    return HybridEmbed(stem, img_size=img_size, patch_size=1, embed_dim=embed_dim, proj=False, **options)


class Readout(nn.Module, ABC):
    """Base of the read-outs, which make class scores of a ViT's tokens, in two steps."""

    def forward(self, tokens: Tokens) -> Tensor:
        """Scores (B, C)."""
        return self.scores(self.features(tokens))

    def activation_map(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Scores (B, C), and CAM (B, C, n_h, n_w), see `activation`."""
        features = self.features(tokens)
        return self.scores(features), self.activation(features, tokens.grid)

    @abstractmethod
    def features(self, tokens: Tokens) -> Tensor:
        """What both `scores` and `activation` read; (B, ...), of the read-out's own shape."""

    @abstractmethod
    def scores(self, features: Tensor) -> Tensor:
        """Scores (B, C) of `features`."""

    @abstractmethod
    def activation(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """CAM (B, C, n_h, n_w) of `features`: the ReLU of the head applied at each patch, before they are pooled."""


class TokenReadout(Readout):
    """The plain ViT head: final norm -> class token -> linear."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(dim, num_classes)

    def features(self, tokens: Tokens) -> Tensor:
        """All tokens after the final norm, (B, P + n_h * n_w, d)."""
        return tokens.normalized

    def scores(self, features: Tensor) -> Tensor:
        return self.head(features[:, 0])

    def activation(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        scores: Tensor = self.head(features[:, -grid[0] * grid[1] :])
        return scores.transpose(1, 2).unflatten(2, grid).relu()


class MaxReadout(Readout):
    """Maximum over the patches -> linear without bias (ToCo, Ru et al. 2023, and the methods that follow it).

    y_c = <w_c, max_j f_j>, the maximum of each feature over the patch tokens f_j. The class token is not read.

    Args:
        dim: width d of the tokens.
        final_norm: whether the tokens after the final norm are read, or those before it.
    """

    def __init__(self, dim: int, num_classes: int, *, final_norm: bool) -> None:
        super().__init__()
        self.final_norm = final_norm
        self.head = nn.Linear(dim, num_classes, bias=False)

    def features(self, tokens: Tokens) -> Tensor:
        """The patch tokens as a feature map, (B, d, n_h, n_w)."""
        patches = tokens.output(final_norm=self.final_norm)[:, tokens.num_prefix_tokens :]
        return patches.transpose(1, 2).unflatten(2, tokens.grid)

    def scores(self, features: Tensor) -> Tensor:
        return self.head(features.amax((2, 3)))

    def activation(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        return _activation(features, self.head)


class DPTReadout(Readout):
    """The authors' read-out: feature map of the tokens (1x1 conv, 3x3 conv with stride 2) -> average -> linear.

    Args:
        dim: width d of the tokens.
        readout: treatment of the class token: `project` (the authors'), `ignore` or `add`, see Reassemble.
        final_norm: whether the tokens after the final norm are read, or those before it (the authors').
    """

    def __init__(self, dim: int, num_classes: int, readout: str, *, final_norm: bool = False) -> None:
        super().__init__()
        self.final_norm = final_norm
        self.reassemble = Reassemble(token_dim=dim, channels=dim, scale=0.5, readout=readout)
        self.head = nn.Linear(dim, num_classes)

    def features(self, tokens: Tokens) -> Tensor:
        """The feature map before the average, (B, d, ceil(n_h / 2), ceil(n_w / 2)), the DPT decoder's deepest input."""
        return self.reassemble(tokens.output(final_norm=self.final_norm), tokens.grid, tokens.num_prefix_tokens)

    def scores(self, features: Tensor) -> Tensor:
        return self.head(features.mean((2, 3)))

    def activation(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        maps = _activation(features, self.head)
        height, width = maps.shape[2:]
        # The windows of the convolution with stride 2 are centered on tokens 0, 2, 4, ...; tokens after the last center
        # repeat its value.
        maps = nn.functional.interpolate(
            maps, size=(2 * height - 1, 2 * width - 1), mode="bilinear", align_corners=True
        )
        padding = (0, grid[1] - maps.shape[3], 0, grid[0] - maps.shape[2])
        return nn.functional.pad(maps, padding, mode="replicate")


def _activation(features: Tensor, head: nn.Linear) -> Tensor:
    """Applies the head's weights at each position, and ReLU: (B, d, h, w) -> (B, C, h, w)."""
    return torch.einsum("bdhw,cd->bchw", features, head.weight).relu()


class ViTClassifier(FineTunedNetwork):
    """Image classifier with a ViT: images (B, 3, H, W), ImageNet-normalized -> logits (B, C).

    Args:
        backbone: a timm ViT with a class token.
        readout: `project`, `ignore`, `add`, `token` or `max`, see the module.
        final_norm: whether the read-out reads the tokens after the final norm; `token` does so always.
        normalization: converts ImageNet-normalized images to the backbone's mean and deviation; None: no conversion.
    """

    def __init__(
        self,
        backbone: Any,
        *,
        num_classes: int,
        readout: str,
        final_norm: bool = False,
        normalization: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.normalization = normalization or nn.Identity()
        self.backbone: Any = backbone
        self.readout: Readout
        if readout == "token":
            self.readout = TokenReadout(backbone.embed_dim, num_classes)
        elif readout == "max":
            self.readout = MaxReadout(backbone.embed_dim, num_classes, final_norm=final_norm)
        else:
            self.readout = DPTReadout(backbone.embed_dim, num_classes, readout, final_norm=final_norm)

    @property
    def stride(self) -> int:
        """Side of a patch in image pixels."""
        return patch_side(self.backbone)

    def forward(self, images: Tensor) -> Tensor:
        return self.readout(self.tokens(images))

    def tokens(self, images: Tensor, *, taps: Sequence[int | str] = (), final_norm: bool = False) -> Tokens:
        """The backbone's tokens of images (B, 3, H, W), ImageNet-normalized; see `read_tokens`."""
        return read_tokens(self.backbone, self.normalization(images), taps=taps, final_norm=final_norm)

    def activation_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, C) and the read-out's class activation maps (B, C, n_h, n_w), >= 0."""
        return self.readout.activation_map(self.tokens(images))


class CNNClassifier(FineTunedNetwork):
    """Image classifier with a CNN: a linear head on the average of its last features; same shapes as ViTClassifier."""

    def __init__(self, backbone: Any, *, num_classes: int, normalization: nn.Module | None = None) -> None:
        super().__init__()
        self.normalization = normalization or nn.Identity()
        self.backbone: Any = backbone
        self.head = nn.Linear(backbone.num_features, num_classes)

    @property
    def stride(self) -> int:
        """Ratio of the image's resolution to that of the last features."""
        return self.backbone.feature_info[-1]["reduction"]

    def forward(self, images: Tensor) -> Tensor:
        return self._scores(self._features(images))

    def _features(self, images: Tensor) -> Tensor:
        return self.backbone.forward_features(self.normalization(images))

    def _scores(self, features: Tensor) -> Tensor:
        return self.head(features.mean((2, 3)))

    def activation_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, C) and the class activation maps (B, C, n_h, n_w), >= 0."""
        features = self._features(images)
        return self._scores(features), _activation(features, self.head)


def build_classifier(settings: BackboneSettings, *, num_classes: int, image_size: int) -> ViTClassifier | CNNClassifier:
    """Builds the classifier of the settings; random weights depend on torch's global seed.

    Raises:
        InputError: the backbone cannot be built, or does not suit the read-out.
    """
    is_cnn = settings.readout == "pool"
    backbone = create_cnn(settings) if is_cnn else create_backbone(settings, image_size=image_size)
    freeze(backbone, settings.trainable, key="backbone")
    normalization = None
    if settings.normalization == "backbone":
        normalization = Normalization(backbone.pretrained_cfg["mean"], backbone.pretrained_cfg["std"])
    if is_cnn:
        return CNNClassifier(backbone, num_classes=num_classes, normalization=normalization)
    return ViTClassifier(
        backbone,
        num_classes=num_classes,
        readout=settings.readout,
        final_norm=settings.final_norm,
        normalization=normalization,
    )


def describe_classifier(settings: BackboneSettings, classes: Sequence[str]) -> dict[str, Any]:
    """The description of a classifier for model.json."""
    return describe_model("classifier", settings, learned_from=IMAGE_LABELS, classes=classes)


def load_classifier(folder: Path) -> tuple[ViTClassifier | CNNClassifier, tuple[str, ...]]:
    """Loads a classifier from its folder; returns it in evaluation mode, and its class names."""
    settings, classes = read_description(folder, kind="classifier", settings=ClassifierSettings)
    with built_from(folder):
        model = build_classifier(settings, num_classes=len(classes), image_size=settings.crop.size)
    load_weights(folder, model)
    return model.eval(), classes
