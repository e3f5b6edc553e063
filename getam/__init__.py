"""GETAM: weakly-supervised semantic segmentation from image-level labels (arXiv 2112.02841)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from getam.maps import AttentionMaps

__all__ = ["AttentionMaps"]


def __getattr__(name: str) -> Any:
    # The workflow and the command line import this package for its settings; torch would cost them seconds.
    if name == "AttentionMaps":
        from getam.maps import AttentionMaps

        return AttentionMaps
    raise AttributeError(f"module 'getam' has no attribute {name!r}")
