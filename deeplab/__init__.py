"""DeepLab v2, the segmentation network that is trained on the completed pseudo labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeplab.model import DeepLabV2

__all__ = ["DeepLabV2"]


def __getattr__(name: str) -> Any:
    # As in getam: what needs no network starts seconds faster, and does not depend on its sources.
    if name == "DeepLabV2":
        from deeplab.model import DeepLabV2

        return DeepLabV2
    raise AttributeError(f"module 'deeplab' has no attribute {name!r}")
