"""The training step of the end-to-end network (section 4.3): maps by a first backward pass, weights by a second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from getam.baselines import coupling_of
from getam.classifier import DPTReadout
from getam.completion import complete_labels, open_classes
from getam.end_to_end import EndToEndNetwork
from getam.files import UNKNOWN
from getam.images import denormalize_rgb
from getam.labels import WITHOUT_SALIENCY, make_labels
from getam.losses import balanced_cross_entropy, dense_energy_loss, saliency_loss
from getam.maps import AttentionRecorder, getam
from getam.refine import pamr
from getam.settings import EndToEndSettings


@dataclass(frozen=True)
class StepPictures:
    """What a step of the second phase can be shown by; the tensors are detached."""

    photographs: Tensor
    """(B, 3, H, W), RGB in 0..255"""
    maps: Tensor
    """(B, K, H, W), >= 0, raw values: an image's refined maps, then zeros where it has fewer classes than K"""
    targets: Tensor
    """(B, H, W), uint8: 0 background, label values, 255 unknown"""
    logits: Tensor
    """(B, 1 + C, H, W)"""


@dataclass(frozen=True)
class TrainingStep:
    """Losses of a step, whose sum is minimized, and what it can be shown by (None in the first phase)."""

    losses: dict[str, Tensor]
    pictures: StepPictures | None = None


def training_step(model: nn.Module, batch: dict[str, Tensor], epoch: int, settings: EndToEndSettings) -> TrainingStep:
    """L = L_cls in the first phase, L_cls + L_seg + L_sal in the second (section 4.3).

    In the second phase one forward pass serves both backward passes. The first backward pass, with respect to the
    attention outputs alone, gives the maps, of which PAMR and completion make targets; the second one is the caller's,
    and it alone reaches the weights. Maps, targets and losses stay on the batch's device (crf and rrm, which are
    baselines, run on the CPU).

    Args:
        model: the EndToEndNetwork, or DistributedDataParallel around it.
        batch: image (B, 3, H, W) normalized; classes (B, C) multi-hot; saliency (B, H, W) uint8 in {0, 1}, 255
            outside the image.
        epoch: counted from 0; the first phase lasts `settings.classifier_epochs`.
    """
    images, labels = batch["image"], batch["classes"]
    if epoch < settings.classifier_epochs:
        scores, _ = model(images, decode=False)
        return TrainingStep({"classification": F.multilabel_soft_margin_loss(scores, labels)})
    scores, logits, maps = maps_of_step(model, images, classes_of(labels), settings)
    return losses_of(scores, logits, maps, batch, settings)


def maps_of_step(
    model: nn.Module, images: Tensor, present: Sequence[Sequence[int]], settings: EndToEndSettings
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The forward pass of a step in the second phase, and the class maps from it.

    Args:
        model: the EndToEndNetwork, or DistributedDataParallel around it.
        images: (B, 3, H, W), normalized.
        present: class indices of each image.

    Returns:
        scores (B, C) and segmentation logits (B, 1 + C, H, W), both with a graph; for each image the maps
        (K_b, n_h, n_w) of its classes, without one.
    """
    network: Any = getattr(model, "module", model)
    assert isinstance(network, EndToEndNetwork)
    backbone = network.classifier.backbone
    grid = backbone.patch_embed.dynamic_feat_size(tuple(images.shape[2:]))
    if settings.maps.method == "cam":
        readout = network.classifier.readout
        assert isinstance(readout, DPTReadout)
        with _outputs_of(readout.reassemble) as features:
            scores, logits = model(images)
        with torch.no_grad():
            activation = readout.activation(features[0], grid)
        maps = [activation[b, indices] for b, indices in enumerate(present)]
    else:
        recorder = AttentionRecorder(backbone, start_block=settings.maps.start_block, detach_below=False)
        with recorder, _outputs_of(network) as outputs:
            scores, logits = model(images)
        maps = getam(
            # These are the network's own scores: those that DistributedDataParallel returns have a graph that leads
            # through the decoder too.
            outputs[0][0],
            recorder.calls,
            present,
            coupling=coupling_of(settings.maps),
            num_prefix_tokens=backbone.num_prefix_tokens,
            grid=grid,
            retain_graph=True,
            fusion=settings.maps.fusion,
        )
    return scores, logits, maps


@contextmanager
def _outputs_of(module: nn.Module) -> Iterator[list[Any]]:
    """The outputs of a module's forward passes inside the context, in their order."""
    outputs: list[Any] = []
    with module.register_forward_hook(lambda module, inputs, output: outputs.append(output)):
        yield outputs


def losses_of(
    scores: Tensor, logits: Tensor, maps: Sequence[Tensor], batch: dict[str, Tensor], settings: EndToEndSettings
) -> TrainingStep:
    """The second phase's losses from its maps: PAMR and completion make targets, then L_cls + L_seg + L_sal.

    Args:
        scores: (B, C).
        logits: (B, 1 + C, H, W).
        maps: for each image (K_b, n_h, n_w), of the classes that its label names, without a graph.
        batch: see `training_step`.
    """
    images, labels = batch["image"], batch["classes"]
    present = classes_of(labels)
    saliency = batch["saliency"]
    outside = saliency == UNKNOWN
    salient = (saliency > 0) & ~outside
    photographs = denormalize_rgb(images)
    refined = refine_maps(photographs, maps, settings)
    targets, mined = make_targets(photographs, refined, present, salient, settings)
    targets = targets.masked_fill(outside, UNKNOWN)
    losses = {
        "classification": F.multilabel_soft_margin_loss(scores, labels),
        "segmentation": balanced_cross_entropy(logits, targets.long(), synchronize=True),
        "saliency": saliency_loss(
            logits,
            mined if settings.saliency_target == "released" else salient,
            ~outside,
            weight=settings.saliency_weight,
            synchronize=True,
        ),
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
    return TrainingStep(losses, StepPictures(photographs, refined, targets, logits.detach()))


def classes_of(labels: Tensor) -> list[list[int]]:
    """Multi-hot (B, C) -> class indices of each image, ascending."""
    return [row.nonzero().flatten().tolist() for row in labels]


@torch.no_grad()
def refine_maps(photographs: Tensor, maps: Sequence[Tensor], settings: EndToEndSettings) -> Tensor:
    """PAMR on a batch's maps.

    Args:
        photographs: (B, 3, H, W), RGB in 0..255.
        maps: for each image (K_b, n_h, n_w).

    Returns:
        (B, K, H, W), K the most classes of an image; zeros where an image has fewer.
    """
    stacked = torch.nn.utils.rnn.pad_sequence(list(maps), batch_first=True)
    return pamr(photographs, stacked, iterations=settings.refine.iterations, dilations=settings.refine.dilations)


@torch.no_grad()
def make_targets(
    photographs: Tensor,
    refined: Tensor,
    classes: Sequence[Sequence[int]],
    salient: Tensor,
    settings: EndToEndSettings,
) -> tuple[Tensor, Tensor]:
    """Pseudo labels of a batch, as the multi-stage path makes them, and where completion mined.

    Args:
        photographs: (B, 3, H, W), RGB in 0..255.
        refined: (B, K, H, W), see `refine_maps`.
        classes: class indices of each image.
        salient: (B, H, W), bool.

    Returns:
        labels (B, H, W), uint8; the pixels outside the saliency that were given a class, before the opening (authors'
        code): (B, H, W), bool.
    """
    how = settings.completion
    labels = []
    for image, maps, indices, saliency in zip(photographs, refined, classes, salient, strict=True):
        if how.method not in WITHOUT_SALIENCY:
            completed = complete_labels(
                maps[: len(indices)],
                indices,
                saliency,
                alpha=how.alpha,
                gamma=how.gamma,
                conflict=how.conflict,
                epsilon=settings.map_epsilon,
            )
        else:
            photograph = image.permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
            made = make_labels(photograph, maps[: len(indices)].float().cpu().numpy(), indices, how)
            completed = torch.from_numpy(made).to(maps.device)
        labels.append(completed)
    stacked = torch.stack(labels)
    mined = (stacked > 0) & ~salient
    if how.opening and how.method not in WITHOUT_SALIENCY:
        stacked = torch.stack([open_classes(one, how.opening) for one in stacked])
    return stacked, mined
