"""Networks from timm by name, with one message where timm cannot build what the settings ask for."""

from __future__ import annotations

from typing import Any

import timm
import torch

from getam.errors import InputError
from getam.pretrained import Weights, timm_weights


def create_timm_model(
    name: str, *, pretrained: bool | str, key: str, segmentation: bool = False, **options: Any
) -> Any:
    """Builds a timm model without a head.

    Args:
        pretrained, segmentation: see getam.pretrained.timm_weights.
        key: the setting that names the model, for messages.
        options: keyword arguments of timm.create_model.

    Returns:
        the model; where its weights came from stands in its attribute `initialization`.

    Raises:
        InputError: the model doesn't take the options, or its weights cannot be had or are not its own.
    """
    weights = timm_weights(name, pretrained, segmentation=segmentation)
    random_state = torch.get_rng_state()
    model = _create(name, key, **options)
    if weights is not None:
        fresh = {parameter: value.detach().clone() for parameter, value in model.named_parameters()}
        torch.set_rng_state(random_state)
        model = _create_with(weights, name, **options)
        _check_loaded(model, fresh, weights)
        model.initialization = weights.origin
    return model


def _create(name: str, key: str, **options: Any) -> Any:
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **options)
    except (TypeError, ValueError, KeyError, ArithmeticError, AssertionError) as error:
        raise InputError(f"{key}_options: {name} does not take them: {error}") from None
    except (OSError, RuntimeError) as error:
        raise InputError(f"{key}: {name} cannot be built ({error}); choose another") from None


def _create_with(weights: Weights, name: str, **options: Any) -> Any:
    """The model with the weights, which timm renames and resizes where its models need it."""
    try:
        return timm.create_model(
            name, pretrained=True, num_classes=0, pretrained_cfg_overlay={"state_dict": dict(weights.state)}, **options
        )
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"pretrained: {weights.origin['source']} does not fit {name} with these options ({reason}); "
            "name a file of that model"
        ) from None


def _check_loaded(model: Any, fresh: dict[str, torch.Tensor], weights: Weights) -> None:
    """timm keeps silent about weights that a file lacks: what is as random as before has not been loaded."""
    left = [
        name
        for name, value in model.named_parameters()
        if value.numel() > 1 and value.min() != value.max() and torch.equal(value, fresh[name])
    ]
    if left:
        raise InputError(
            f"pretrained: {weights.origin['source']} lacks {len(left)} of the model's weights, first {left[0]}; name a "
            "file of that model (stem_channels, if any, have to be [])"
        )
