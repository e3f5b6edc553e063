"""The end-to-end network (section 4.3): one backbone, a classifier and a DPT decoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from getam.checkpoints import load_weights, read_description
from getam.classifier import DPTReadout, ViTClassifier, build_classifier, read_tokens
from getam.decoder import DPTDecoder
from getam.errors import InputError
from getam.settings import EndToEndSettings


class EndToEndNetwork(nn.Module):
    """Scores and a segmentation from one backbone.

    The classifier's read-out features are the decoder's deepest input, as in the authors' network.
    """

    def __init__(self, settings: EndToEndSettings, *, num_classes: int) -> None:
        """`num_classes` counts no background."""
        super().__init__()
        classifier = build_classifier(settings, num_classes=num_classes, image_size=settings.crop.size)
        assert isinstance(classifier, ViTClassifier)
        self.classifier: ViTClassifier = classifier
        blocks = len(self.classifier.backbone.blocks)
        if max(settings.decoder.taps) >= blocks:
            raise InputError(
                f"decoder.taps: {list(settings.decoder.taps)} names a block that {settings.backbone} has not; "
                f"its blocks are 0 to {blocks - 1}"
            )
        if settings.maps.start_block >= blocks:
            raise InputError(
                f"maps.start_block: {settings.maps.start_block} leaves no block; the backbone's are 0 to {blocks - 1}"
            )
        dim = self.classifier.backbone.embed_dim
        self.taps = settings.decoder.taps
        self.decoder = DPTDecoder(
            token_dim=dim,
            channels=(*settings.decoder.channels, dim),
            width=settings.decoder.width,
            scales=settings.decoder.scales,
            num_classes=num_classes + 1,
        )

    def forward(self, images: Tensor, *, decode: bool = True) -> tuple[Tensor, Tensor | None]:
        """images (B, 3, H, W), normalized -> scores (B, C), segmentation logits (B, 1 + C, H, W).

        Without `decode` the decoder doesn't run, and there are no logits.
        """
        tokens = read_tokens(self.classifier.backbone, images, taps=self.taps)
        readout = self.classifier.readout
        assert isinstance(readout, DPTReadout)
        features = readout.features(tokens)
        if not decode:
            return readout.scores(features), None
        logits = self.decoder(
            tokens.taps,
            features,
            grid=tokens.grid,
            num_prefix_tokens=tokens.num_prefix_tokens,
            size=tuple(images.shape[2:]),
        )
        return readout.scores(features), logits

    def segment(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W), normalized -> segmentation logits (B, 1 + C, H, W)."""
        logits: Tensor = self(images)[1]
        return logits


def describe_end_to_end(settings: EndToEndSettings, classes: Sequence[str]) -> dict[str, Any]:
    """What model.json says of an end-to-end network."""
    return {
        "kind": "end_to_end",
        "settings": settings.model_dump(mode="json"),
        "classes": list(classes),
        "supervision": "I+S",
    }


def load_end_to_end(folder: Path) -> tuple[EndToEndNetwork, tuple[str, ...]]:
    """Rebuilds an end-to-end network from its folder, in evaluation mode; gives it and its class names."""
    settings, classes = read_description(folder, kind="end_to_end", settings=EndToEndSettings)
    network = EndToEndNetwork(settings, num_classes=len(classes))
    load_weights(folder, network)
    return network.eval(), classes
