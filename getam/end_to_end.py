"""The end-to-end network (section 4.3): one backbone, a classifier and a DPT decoder, and its double-backward step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from getam.baselines import coupling_of
from getam.checkpoints import load_weights, read_description
from getam.classifier import DPTReadout, ViTClassifier, build_classifier, read_tokens
from getam.completion import complete_labels
from getam.decoder import DPTDecoder
from getam.errors import InputError
from getam.files import UNKNOWN
from getam.images import denormalize_rgb
from getam.losses import balanced_cross_entropy, dense_energy_loss, saliency_loss
from getam.maps import AttentionRecorder, getam
from getam.refine import normalize, pamr
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

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (B, 3, H, W), normalized -> scores (B, C), segmentation logits (B, 1 + C, H, W)."""
        tokens = read_tokens(self.classifier.backbone, images, taps=self.taps)
        readout = self.classifier.readout
        assert isinstance(readout, DPTReadout)
        features = readout.features(tokens)
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
        return self(images)[1]


def training_losses(
    network: EndToEndNetwork, batch: dict[str, Tensor], epoch: int, settings: EndToEndSettings
) -> dict[str, Tensor]:
    """L = L_cls in the first phase, L_cls + L_seg + L_sal in the second (section 4.3).

    In the second phase one forward pass serves both backward passes: the first, with respect to the attention
    outputs alone, gives the maps; PAMR and completion make targets of them; the caller's is the second, and the
    only one that reaches the weights.

    Args:
        batch: image (B, 3, H, W) normalized; classes (B, C) multi-hot; saliency (B, H, W) uint8 in {0, 1}, 255
            outside the image.
    """
    images, labels = batch["image"], batch["classes"]
    if epoch < settings.classifier_epochs:
        return {"classification": F.multilabel_soft_margin_loss(network.classifier(images), labels)}
    backbone = network.classifier.backbone
    with AttentionRecorder(backbone, start_block=settings.maps.start_block, detach_below=False) as recorder:
        scores, logits = network(images)
    present = [row.nonzero().flatten().tolist() for row in labels]
    if settings.maps.method == "cam":
        with torch.no_grad():
            _, activation = network.classifier.activation_map(images)
        maps = [activation[b, indices] for b, indices in enumerate(present)]
    else:
        maps = getam(
            scores,
            recorder.calls,
            present,
            coupling=coupling_of(settings.maps),
            num_prefix_tokens=backbone.num_prefix_tokens,
            grid=backbone.patch_embed.dynamic_feat_size(tuple(images.shape[2:])),
            retain_graph=True,
            fusion=settings.maps.fusion,
        )
    saliency = batch["saliency"]
    outside = saliency == UNKNOWN
    salient = ((saliency > 0) & ~outside).to(torch.uint8)
    photographs = denormalize_rgb(images)
    targets = complete_targets(photographs, maps, present, salient, settings)
    targets = targets.masked_fill(outside, UNKNOWN)
    losses = {
        "classification": F.multilabel_soft_margin_loss(scores, labels),
        "segmentation": balanced_cross_entropy(logits, targets.long()),
        "saliency": saliency_loss(logits, salient, ~outside, weight=settings.saliency_weight),
    }
    if settings.energy.weight:
        losses["energy"] = dense_energy_loss(
            photographs,
            logits.softmax(1),
            targets,
            (~outside).to(images.dtype),
            sigma_rgb=settings.energy.sigma_rgb,
            sigma_xy=settings.energy.sigma_xy,
            scale=settings.energy.scale,
            weight=settings.energy.weight,
        )
    return losses


@torch.no_grad()
def complete_targets(
    photographs: Tensor,
    maps: Sequence[Tensor],
    classes: Sequence[Sequence[int]],
    saliency: Tensor,
    settings: EndToEndSettings,
) -> Tensor:
    """Pseudo labels of a batch: PAMR on the maps, then Eq. 4-5.

    Args:
        photographs: (B, 3, H, W), RGB in 0..255.
        maps: for each image (K_b, n_h, n_w).
        saliency: (B, H, W), {0, 1}.

    Returns:
        (B, H, W), uint8.
    """
    most = max(len(indices) for indices in classes)
    stacked = torch.stack([F.pad(values, (0, 0, 0, 0, 0, most - len(values))) for values in maps])
    refined = normalize(
        pamr(photographs, stacked, iterations=settings.refine.iterations, dilations=settings.refine.dilations)
    )
    return torch.stack(
        [
            complete_labels(
                refined[b, : len(indices)],
                indices,
                saliency[b],
                alpha=settings.completion.alpha,
                gamma=settings.completion.gamma,
                conflict=settings.completion.conflict,
                opening=settings.completion.opening,
            )
            for b, indices in enumerate(classes)
        ]
    )


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
