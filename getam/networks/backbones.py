"""Builds timm models by name, and finds the ViT in a model; each failure is reported by one message."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from getam.datasets.images import MEAN, STD
from getam.errors import InputError, reason_of
from getam.networks.pretrained import Weights, timm_weights
from getam.settings.patches import PADDING, patch_size, size_problem

FILLING = 0.7311
"""The number that fills every tensor of a file, to find out which tensors of a model are loaded from it."""


def check_name(name: str, *, key: str) -> None:
    """Raises InputError, with the near names, if timm has no model of this name.

    Args:
        key: the setting that names the model, for the message.
    """
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=5))
        raise InputError(f"{key}: timm has no model {name!r}; near ones: {near or 'none'}")


def create_vit(
    name: str,
    *,
    image_size: int | None,
    pretrained: bool | str,
    allow_pixel_labels: bool,
    key: str,
    options: Mapping[str, Any],
) -> Any:
    """Builds a timm ViT, for inputs of any size that is a multiple of the patch size.

    Args:
        image_size: side of the images that the position table is made for; None for the model's own. The table is
            resized for images of another size, in each pass.
        name, pretrained, allow_pixel_labels, key, options: see `create_timm_model`.

    Raises:
        InputError: timm has no such model, the model takes images of one size alone or does not accept the options, or
            its weights cannot be fetched.
    """
    check_name(name, key=key)
    size = {} if image_size is None else {"img_size": image_size}
    try:
        return create_timm_model(
            name,
            pretrained=pretrained,
            allow_pixel_labels=allow_pixel_labels,
            key=key,
            **{**size, "dynamic_img_size": True, **options},
        )
    except InputError as error:
        if "dynamic_img_size" not in str(error):
            raise
        raise InputError(f"{key}: {name} takes images of one size alone; choose a ViT that takes any") from None


def create_timm_model(
    name: str, *, pretrained: bool | str, key: str, allow_pixel_labels: bool = False, **options: Any
) -> Any:
    """Builds a timm model without a head.

    Args:
        name: timm's name, with or without the tag of the weights.
        pretrained, allow_pixel_labels: see getam.networks.pretrained.timm_weights.
        key: the setting that names the model, for messages.
        options: keyword arguments of timm.create_model.

    Returns:
        The model. With pretrained weights, its attribute `initialization` is their origin.

    Raises:
        InputError: the model does not accept the options, or the weights cannot be obtained or do not fit the model.
    """
    weights = timm_weights(name, pretrained, allow_pixel_labels=allow_pixel_labels)
    if weights is None:
        return _create(name, key, **options)
    random_state = torch.get_rng_state()
    # The model is first built without weights, so that an error in the options is not blamed on the weights.
    _create(name, key, **options)
    filled = {
        key: torch.full_like(value, FILLING) if value.is_floating_point() else value
        for key, value in weights.state.items()
    }
    torch.set_rng_state(random_state)
    other = _create_with(Weights(filled, weights.origin), name, **options)
    torch.set_rng_state(random_state)
    model = _create_with(weights, name, **options)
    _check_complete(model, other, weights)
    model.initialization = weights.origin
    return model


def check_image_size(
    name: str, image_size: int, *, key: str, stem_channels: Sequence[int] = (), **options: Any
) -> None:
    """Checks that the side of a ViT's training images is a multiple of its patches, before timm fails at the first one.

    Where the settings don't tell the size of the patches, the network is built once without weights.

    Args:
        name: timm's name.
        image_size: the side, pixels.
        key: the setting that names the model, for messages.
        stem_channels: widths of a convolutional stem, see BackboneSettings.
        options: keyword arguments of timm.create_model.

    Raises:
        InputError: it is no multiple.
    """
    if options.get(PADDING):
        return
    if (patch := patch_size(name, options, stem_channels)) is None:
        try:
            with torch.random.fork_rng(devices=[]):
                model = _create(name, key, **options)
        except InputError:
            # The build that follows says what is wrong with the options.
            return
        # A hybrid reckons the ratio from the size that it is built for, so it is built for timm's own.
        ratio = getattr(getattr(model, "patch_embed", None), "feat_ratio", lambda: 1)()
        patch = ratio if isinstance(ratio, int) else max(ratio)
    if problem := size_problem(image_size, patch, key="crop.size", network=name):
        raise InputError(problem)


def has_class_token(name: str, *, key: str, **options: Any) -> bool:
    """Whether a timm model is a ViT with a class token; it is built once without weights.

    Args:
        key: the setting that names the model, for messages.
        options: keyword arguments of timm.create_model.

    Raises:
        InputError: the model does not accept the options.
    """
    with torch.random.fork_rng(devices=[]):
        return getattr(_create(name, key, **options), "cls_token", None) is not None


def _create(name: str, key: str, **options: Any) -> Any:
    # timm would fetch a name such as hf-hub:..., and read one such as local-dir:..., which no list has.
    check_name(name, key=key)
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **options)
    except (TypeError, ValueError, KeyError, ArithmeticError, AssertionError) as error:
        raise InputError(f"{key}_options: {name} does not take them: {error}") from None
    except (OSError, RuntimeError) as error:
        raise InputError(f"{key}: {name} cannot be built ({error}); choose another") from None


def _create_with(weights: Weights, name: str, **options: Any) -> Any:
    """Builds the model with the weights; timm renames and resizes them where the model needs it."""
    try:
        return timm.create_model(
            name, pretrained=True, num_classes=0, pretrained_cfg_overlay={"state_dict": dict(weights.state)}, **options
        )
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise InputError(
            f"pretrained: {weights.origin['source']} does not fit {name} with these options ({reason_of(error)}); "
            "name a file of that model"
        ) from None


def _check_complete(model: Any, other: Any, weights: Weights) -> None:
    """Raises InputError if a file lacks some of the model's weights, which timm does not report.

    Args:
        model: was built with the weights of the file.
        other: was built from the same random state, with FILLING in the place of each weight. Whatever timm computes
            from a weight, such as a position table of another size or a kernel of another patch, differs between the
            two. A tensor that is equal in both comes from the random state or a constant, and not from the file.
    """
    filled = other.state_dict()
    left = [
        key
        for key, value in model.state_dict().items()
        if value.is_floating_point() and torch.equal(value, filled[key])
    ]
    if left:
        raise InputError(
            f"pretrained: {weights.origin['source']} lacks {len(left)} of the model's tensors, first {left[0]}; name a "
            "file of that model (stem_channels, if any, have to be [])"
        )


class Normalization(nn.Module):
    """Converts ImageNet-normalized images (B, 3, H, W) to another mean and deviation; it has no weights.

    Args:
        mean, std: mean and deviation of the result, three numbers each, for RGB in [0, 1].
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        to, of = torch.tensor(std)[:, None, None], torch.tensor(STD)[:, None, None]
        shift = torch.tensor(MEAN)[:, None, None] - torch.tensor(mean)[:, None, None]
        self.register_buffer("scale", of / to, persistent=False)
        self.register_buffer("shift", shift / to, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> the same shape."""
        return images * self.scale + self.shift


def find_backbone(model: nn.Module) -> nn.Module:
    """Finds the timm ViT with a class token in a model.

    Raises:
        InputError: the model contains none, several, or one that is not built like timm's, or the model is compiled.
    """
    found: list[Any] = [
        m for m in model.modules() if hasattr(m, "blocks") and isinstance(getattr(m, "cls_token", None), Tensor)
    ]
    if not found:
        raise InputError(f"{type(model).__name__} holds no ViT with a class token; choose a backbone that has one")
    if any(type(module).__name__ == "OptimizedModule" for module in model.modules()):
        raise InputError("the model is compiled, which hides its blocks; give the module that torch.compile was given")
    if len(found) > 1:
        raise InputError(f"{type(model).__name__} holds {len(found)} ViTs; give AttentionMaps the one that classifies")
    (backbone,) = found
    embedding = getattr(backbone, "patch_embed", None)
    if not (hasattr(backbone, "num_prefix_tokens") and hasattr(embedding, "dynamic_feat_size")):
        raise InputError(
            f"{type(backbone).__name__} has a class token but not the blocks and patch embedding of timm's ViTs; "
            "choose another backbone"
        )
    return backbone
