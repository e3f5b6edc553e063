"""GETAM: weakly-supervised semantic segmentation from image-level labels (arXiv 2112.02841)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from getam.labels.completion import complete_labels
    from getam.maps.attention import AttentionMaps
    from getam.maps.pamr import pamr
    from getam.maps.propagation import propagate
    from getam.scores.segmenter import load_segmenter
    from getam.training.losses import dense_energy_loss

__all__ = ["AttentionMaps", "complete_labels", "dense_energy_loss", "load_segmenter", "pamr", "propagate"]


def __getattr__(name: str) -> Any:
    # Public names are imported on first use: the workflow and the command line import this package for its settings,
    # and importing torch would cost them seconds.
    match name:
        case "AttentionMaps":
            from getam.maps.attention import AttentionMaps

            return AttentionMaps
        case "complete_labels":
            from getam.labels.completion import complete_labels

            return complete_labels
        case "dense_energy_loss":
            from getam.training.losses import dense_energy_loss

            return dense_energy_loss
        case "load_segmenter":
            from getam.scores.segmenter import load_segmenter

            return load_segmenter
        case "pamr":
            from getam.maps.pamr import pamr

            return pamr
        case "propagate":
            from getam.maps.propagation import propagate

            return propagate
    raise AttributeError(f"module 'getam' has no attribute {name!r}")
