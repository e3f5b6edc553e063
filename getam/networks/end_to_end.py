"""The end-to-end network (section 4.3): a classifier and a decoder on one backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from getam.errors import InputError
from getam.networks.building import built_from
from getam.networks.checkpoints import describe_model, load_weights, read_description
from getam.networks.classifier import DPTReadout, ViTClassifier, build_classifier
from getam.networks.decoders import build_decoder
from getam.networks.supervision import IMAGE_LABELS, SALIENCY, joined
from getam.settings.end_to_end import EndToEndSettings


class EndToEndNetwork(nn.Module):
    """Computes class scores and a segmentation from one backbone.

    The read-outs `project`, `ignore` and `add` make a feature map, which is the DPT decoder's deepest input too, as in
    the authors' network; with another read-out the decoder makes its own.

    Args:
        num_classes: number of classes without the background.

    Raises:
        InputError: the backbone cannot be built, or does not have the taps or the start_block of the settings.
    """

    def __init__(self, settings: EndToEndSettings, *, num_classes: int) -> None:
        super().__init__()
        classifier = build_classifier(settings, num_classes=num_classes, image_size=settings.crop.size)
        assert isinstance(classifier, ViTClassifier)
        self.classifier: ViTClassifier = classifier
        blocks = len(self.classifier.backbone.blocks)
        if settings.maps.start_block >= blocks:
            raise InputError(
                f"maps.start_block: {settings.maps.start_block} leaves no block; the backbone's are 0 to {blocks - 1}"
            )
        self.final_norm = settings.final_norm
        # These have no weights; hooks on them see what a training step makes maps of.
        self.readout_features, self.scores_for_maps = nn.Identity(), nn.Identity()
        self.decoder = build_decoder(
            settings.architecture,
            settings.decoder,
            self.classifier.backbone,
            name=settings.backbone,
            num_classes=num_classes + 1,
            given_deepest=isinstance(self.classifier.readout, DPTReadout),
        )

    def forward(self, images: Tensor, *, decode: bool = True) -> tuple[Tensor, Tensor | None]:
        """Images (B, 3, H, W), normalized -> scores (B, C), segmentation logits (B, 1 + C, H, W).

        With `decode=False` the decoder does not run, and the logits are None.

        If the backbone is frozen, the graphs of both begin after it, so that no backward pass of a loss runs through
        it in vain. Maps are taken of the scores that `scores_for_maps` passes on: the same values, with a graph from
        the block on at which a recorder of attention starts one.
        """
        readout = self.classifier.readout
        tokens = self.classifier.tokens(images, taps=self.decoder.taps, final_norm=self.final_norm)
        frozen = not any(parameter.requires_grad for parameter in self.classifier.backbone.parameters())
        if frozen and tokens.last.requires_grad:
            self.scores_for_maps(readout(tokens))
            tokens = tokens.detached()
        features = self.readout_features(readout.features(tokens))
        scores = readout.scores(features)
        if not frozen:
            self.scores_for_maps(scores)
        if not decode:
            return scores, None
        logits = self.decoder(
            tokens.taps,
            features if self.decoder.given_deepest else tokens.output(final_norm=self.final_norm),
            grid=tokens.grid,
            num_prefix_tokens=tokens.num_prefix_tokens,
            size=tuple(images.shape[2:]),
        )
        return scores, logits

    @property
    def multiple(self) -> int:
        """Predictions round the sides of their inputs to a multiple of this."""
        return self.classifier.stride

    def segment(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalized -> segmentation logits (B, 1 + C, H, W)."""
        logits: Tensor = self(images)[1]
        return logits


def describe_end_to_end(
    settings: EndToEndSettings, classes: Sequence[str], *, saliency: str = SALIENCY
) -> dict[str, Any]:
    """The description of an end-to-end network for model.json; `saliency` is the supervision of the saliency maps."""
    without_saliency = not settings.completion.needs_saliency and not settings.saliency_weight
    learned_from = IMAGE_LABELS if without_saliency else joined(IMAGE_LABELS, SALIENCY, saliency)
    return describe_model("end_to_end", settings, learned_from=learned_from, classes=classes)


def load_end_to_end(folder: Path) -> tuple[EndToEndNetwork, tuple[str, ...]]:
    """Loads an end-to-end network from its folder; returns it in evaluation mode, and its class names."""
    settings, classes = read_description(folder, kind="end_to_end", settings=EndToEndSettings)
    with built_from(folder):
        network = EndToEndNetwork(settings, num_classes=len(classes))
    load_weights(folder, network)
    return network.eval(), classes
