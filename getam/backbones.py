"""Networks from timm by name, with one message where timm cannot build what the settings ask for."""

from __future__ import annotations

from typing import Any

import timm

from getam.errors import InputError


def create_timm_model(name: str, *, pretrained: bool, key: str, **options: Any) -> Any:
    """Builds a timm model without a head.

    Args:
        key: the setting that names the model, for messages.
        options: keyword arguments of timm.create_model.

    Raises:
        InputError: the model doesn't take the options, or its weights cannot be fetched.
    """
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except (TypeError, ValueError, KeyError, ArithmeticError, AssertionError) as error:
        raise InputError(f"{key}_options: {name} does not take them: {error}") from None
    except (OSError, RuntimeError) as error:
        raise InputError(f"{key}: {name} cannot be built ({error}); without network set pretrained to false") from None
