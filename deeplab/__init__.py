"""DeepLab v2, the segmentation network that is trained on the completed pseudo labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeplab.model import DeepLabV2

__all__ = ["DeepLabV2"]


def __getattr__(name: str) -> Any:
    # The import is lazy, as in getam: commands without a network start seconds faster and do not depend on its sources.
    if name == "DeepLabV2":
        from deeplab.model import DeepLabV2

        return DeepLabV2
    raise AttributeError(f"module 'deeplab' has no attribute {name!r}")
