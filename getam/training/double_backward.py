"""The training step of the end-to-end network (section 4.3): maps by a first backward pass, weights by a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from getam.datasets.images import denormalize_rgb
from getam.labels.completion import are_sound, complete_labels, open_classes
from getam.labels.methods import make_labels
from getam.maps.baselines import pass_with_maps
from getam.maps.pamr import pamr
from getam.networks.end_to_end import EndToEndNetwork
from getam.settings.completion import LABEL_METHODS, LabelSettings
from getam.settings.end_to_end import EndToEndSettings
from getam.system.image_files import UNKNOWN
from getam.training.losses import balanced_cross_entropy, dense_energy_loss, saliency_loss


@dataclass(frozen=True)
class StepPictures:
    """Tensors from which a step of the second phase can be drawn; all are detached."""

    photographs: Tensor
    """(B, 3, H, W), RGB in 0..255"""
    maps: Tensor
    """(B, K, H, W), >= 0, not normalized: the refined maps of each image, padded with zeros to K classes"""
    targets: Tensor
    """(B, H, W), uint8: 0 background, label values, 255 unknown"""
    logits: Tensor
    """(B, 1 + C, H, W)"""


@dataclass(frozen=True)
class TrainingStep:
    """Losses of a step, whose sum is minimized, and the tensors to draw it from (None in the first phase)."""

    losses: dict[str, Tensor]
    pictures: StepPictures | None = None


def training_step(model: nn.Module, batch: dict[str, Tensor], epoch: int, settings: EndToEndSettings) -> TrainingStep:
    """Computes the losses of a step: L_cls in the first phase, L_cls + L_seg + L_sal in the second (section 4.3).

    In the second phase one forward pass serves both backward passes. The first backward pass stops at the attention
    outputs and gives the maps, from which PAMR and completion make targets. The second one, which the caller runs on
    the losses, is the only one that reaches the weights. Maps, targets and losses stay on the batch's device (label
    methods other than the paper's run on the CPU).

    Args:
        model: the EndToEndNetwork, or DistributedDataParallel around it.
        batch: image (B, 3, H, W) normalized; classes (B, C) multi-hot; saliency (B, H, W) uint8 in {0, 1}, 255
            outside the image; present, the classes once more, on the CPU: `classes` are read where it lacks, and the
            GPU is waited for.
        epoch: counted from 0; the first phase lasts `settings.classifier_epochs`.
    """
    images, labels = batch["image"], batch["classes"]
    if epoch < settings.classifier_epochs:
        scores, _ = model(images, decode=False)
        return TrainingStep({"classification": F.multilabel_soft_margin_loss(scores, labels)})
    assert isinstance(getattr(model, "module", model), EndToEndNetwork)
    present = classes_of(batch.get("present", labels))
    scores, logits, maps = pass_with_maps(model, images, present, settings.maps)
    return losses_of(scores, logits, maps, present, batch, settings)


def losses_of(
    scores: Tensor,
    logits: Tensor,
    maps: Sequence[Tensor],
    present: Sequence[Sequence[int]],
    batch: dict[str, Tensor],
    settings: EndToEndSettings,
) -> TrainingStep:
    """Makes targets from the maps by PAMR and completion, and computes the second phase's losses L_cls + L_seg + L_sal.

    Args:
        scores: (B, C).
        logits: (B, 1 + C, H, W).
        maps: for each image (K_b, n_h, n_w), one map for each class in its label, without a graph.
        present: class indices of each image.
        batch: see `training_step`.
    """
    images, labels = batch["image"], batch["classes"]
    saliency = batch["saliency"]
    outside = saliency == UNKNOWN
    # What is salient in an image without a class is background as well.
    salient = (saliency > 0) & ~outside & (labels > 0).any(1)[:, None, None]
    photographs = denormalize_rgb(images)
    refined = refine_maps(photographs, maps, settings)
    targets, mined = make_targets(photographs, refined, present, salient, settings)
    targets = targets.masked_fill(outside, UNKNOWN)
    segmentation = balanced_cross_entropy(logits, targets.long(), synchronize=True)
    losses = {
        "classification": F.multilabel_soft_margin_loss(scores, labels),
        # Broken maps end the training by a loss that is not finite, since their own check would wait for the GPU.
        "segmentation": segmentation.where(are_sound(refined), torch.nan),
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
    """Gives the class indices of each image, ascending, from multi-hot labels (B, C)."""
    return [[index for index, value in enumerate(row) if value] for row in labels.tolist()]


@torch.no_grad()
def refine_maps(photographs: Tensor, maps: Sequence[Tensor], settings: EndToEndSettings) -> Tensor:
    """Refines the maps of a batch by PAMR.

    Args:
        photographs: (B, 3, H, W), RGB in 0..255.
        maps: for each image (K_b, n_h, n_w).

    Returns:
        (B, K, H, W), where K is the largest number of classes in an image; images with fewer are padded with zeros.
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
    """Makes the pseudo labels of a batch, as the multi-stage path does, and marks where completion mined a class.

    Args:
        photographs: (B, 3, H, W), RGB in 0..255.
        refined: (B, K, H, W), see `refine_maps`.
        classes: class indices of each image.
        salient: (B, H, W), bool.

    Returns:
        Labels (B, H, W), uint8. Mined pixels (B, H, W), bool: those outside the saliency that were given a class,
        before the opening (as in the authors' code).
    """
    completion = settings.completion
    method = LABEL_METHODS[completion.method]
    present = [padded[: len(indices)] for padded, indices in zip(refined, classes, strict=True)]
    if method.by_rules:
        # The opening comes last, since the mined pixels are those of the rules of Eq. 5 before it.
        before_opening = completion.model_copy(update={"opening": 0}).completion_arguments()
        stacked = torch.stack(
            [
                complete_labels(*each, **before_opening, epsilon=settings.map_epsilon, check=False)
                for each in zip(present, classes, salient, strict=True)
            ]
        )
    elif method.on_device:
        stacked = torch.stack(
            [make_labels(maps, indices, settings=completion) for maps, indices in zip(present, classes, strict=True)]
        )
    else:
        stacked = _targets_on_cpu(photographs, refined, classes, salient, completion)
        stacked = stacked.to(refined.device, non_blocking=True)
    mined = (stacked > 0) & ~salient
    if completion.opening and method.by_rules:
        stacked = torch.stack(
            [
                open_classes(image, completion.opening, [index + 1 for index in indices])
                for image, indices in zip(stacked, classes, strict=True)
            ]
        )
    return stacked, mined


def _targets_on_cpu(
    photographs: Tensor,
    refined: Tensor,
    classes: Sequence[Sequence[int]],
    salient: Tensor,
    completion: LabelSettings,
) -> Tensor:
    """The labels of `make_targets` by a method that computes on the CPU; a GPU is waited for once for each argument."""
    images = photographs.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    maps = refined.float().cpu().numpy()
    # The saliency is binary already; 255 exceeds every threshold.
    saliency = 255 * salient.to(torch.uint8).cpu().numpy()
    labels = [
        make_labels(padded[: len(indices)], indices, image=image, saliency=inside, settings=completion)
        for image, padded, indices, inside in zip(images, maps, classes, saliency, strict=True)
    ]
    return torch.from_numpy(np.stack(labels))
