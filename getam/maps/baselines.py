"""Baseline map methods, with the interface of AttentionMaps, and the table of all map methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from getam.errors import InputError, chosen
from getam.maps.attention import (
    AttentionMaps,
    ClassMaps,
    check_scores,
    class_gradients,
    gradient_weighted_maps,
    token_grid,
)
from getam.maps.propagation import PropagatedMaps, Propagation, reads_features
from getam.maps.recorder import AttentionRecorder, at_least_float32
from getam.networks.backbones import find_backbone
from getam.settings.maps import ActivationSettings


class ClassActivationMaps(ClassMaps):
    """CAM (Zhou et al. 2016): the ReLU of the classifier's last layer applied at each position before the average.

    It works for every read-out of a ViT (`ignore`, `add`, `project`, `token`, `max`) and for a CNN's (`pool`).

    Args:
        model: a classifier of `getam.networks.classifier`.

    Raises:
        InputError: the model is no such classifier.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        if not hasattr(model, "activation_map"):
            raise InputError(f"cam: {type(model).__name__} is no classifier of getam.networks.classifier")

    def _compute(self, images: Tensor, classes: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
        model: Any = self.model
        with torch.no_grad():
            scores, maps = model.activation_map(images)
        check_scores(scores, classes)
        return scores, [_of_classes(maps[b], indices).to(at_least_float32(maps)) for b, indices in enumerate(classes)]


class GradCAM(ClassMaps):
    """Grad-CAM (Selvaraju et al. 2017): ReLU(<mean_i dy/df_i, f_j>) at patch j, f the input of a ViT's last attention.

    Args:
        model: a timm ViT with a class token, or a model that contains exactly one.

    Raises:
        InputError: the model contains no ViT with a class token, or one whose last block has no attention module; in a
            call, the tokens are not the prefix tokens and all patches of each image.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.backbone: Any = find_backbone(model)
        blocks: Any = self.backbone.blocks
        self._last = blocks[-1]
        if not isinstance(getattr(self._last, "attn", None), nn.Module):
            raise InputError(f"grad_cam: {type(self._last).__name__} has no one attention, at whose input it is taken")

    def _compute(self, images: Tensor, classes: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
        recorded: list[Tensor] = []
        handle = self._last.attn.register_forward_pre_hook(lambda attention, inputs: recorded.append(inputs[0]))
        try:
            with (
                torch.enable_grad(),
                AttentionRecorder(self.backbone, start_block=len(self.backbone.blocks) - 1, detach_below=True),
            ):
                scores = self.model(images)
        finally:
            handle.remove()
        check_scores(scores, classes)
        prefix = self.backbone.num_prefix_tokens
        grid = self.backbone.patch_embed.dynamic_feat_size(tuple(images.shape[2:]))
        if len(recorded) != 1 or recorded[0].shape[:2] != (len(images), prefix + grid[0] * grid[1]):
            shapes = [tuple(tokens.shape) for tokens in recorded]
            raise InputError(
                f"grad_cam: the last attention took {shapes} for {len(images)} images of {prefix} prefix tokens and "
                f"{grid[0]}x{grid[1]} patches; choose another backbone"
            )
        (features,) = recorded
        patches = features.detach()[:, prefix:].to(at_least_float32(features))
        maps = [patches.new_zeros((len(indices), *grid)) for indices in classes]
        for k, having, (gradient,) in class_gradients(scores, classes, [features], retain_graph=False):
            weights = gradient[:, prefix:].to(patches.dtype).mean(1)
            with torch.autocast(images.device.type, enabled=False):
                activation = (patches @ weights[..., None])[..., 0].relu()
            for b in having:
                maps[b][k] = activation[b].view(grid)
        return scores.detach(), maps


class AttentionRollout(ClassMaps):
    """Attention rollout (Abnar & Zuidema 2020): the class token's row of the product of (A_i + I) / 2 over blocks.

    A_i is block i's attention averaged over heads; the last block is the first factor. The map is the same for all
    classes. Whole attention matrices are built, for one image and one block at a time.

    Args:
        model: a timm ViT with a class token, or a model that contains exactly one.
        start_block: first block of the product.
    """

    def __init__(self, model: nn.Module, start_block: int = 0) -> None:
        super().__init__(model)
        self.backbone: Any = find_backbone(model)
        self._recorder = AttentionRecorder(self.backbone, start_block=start_block, detach_below=False)

    def _compute(self, images: Tensor, classes: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad(), self._recorder:
            scores = self.model(images)
        calls, self._recorder.calls = self._recorder.calls, []
        check_scores(scores, classes)
        grid = token_grid(self.backbone, images, calls)
        maps = []
        for b, indices in enumerate(classes):
            row: Tensor | None = None
            for call in reversed(calls) if indices else ():
                matrix = call.matrix(b).mean(0)
                if row is None:
                    row = matrix.new_zeros(len(matrix))
                    row[0] = 1
                row = (row @ matrix + row) / 2
            values = scores.new_zeros(grid) if row is None else row[self.backbone.num_prefix_tokens :].view(grid)
            maps.append(values.to(at_least_float32(values)).expand(len(indices), *grid).clone())
        return scores, maps


class StepPass(NamedTuple):
    """The results of a training step's forward pass."""

    scores: Tensor
    """Class scores (B, C)."""
    logits: Tensor
    """Segmentation logits (B, 1 + C, H, W)."""
    maps: list[Tensor]
    """For each image the maps (K_b, n_h, n_w) of its classes, detached."""


class MapMaker(NamedTuple):
    """The functions of a map method."""

    create: Callable[[nn.Module, ActivationSettings], ClassMaps]
    """(classifier, settings) -> the method's context manager."""
    of_step: Callable[[nn.Module, Tensor, Sequence[Sequence[int]], ActivationSettings], StepPass] | None = None
    """Implements pass_with_maps; None if the method's maps cannot be made in a training step."""


def create_maps(model: nn.Module, settings: ActivationSettings) -> ClassMaps:
    """Creates the map method of the settings, with their propagation, for a classifier of getam.networks.classifier.

    Raises:
        InputError: there is no such method, or it does not support the model.
    """
    maps = chosen(MAP_MAKERS, settings.method, name="maps.method").create(model, settings)
    return maps if settings.propagation == "none" else PropagatedMaps(maps, settings)


def pass_with_maps(
    model: nn.Module, images: Tensor, classes: Sequence[Sequence[int]], settings: ActivationSettings
) -> StepPass:
    """Runs one forward pass of the end-to-end network and makes its maps, keeping the graph for the loss.

    Args:
        model: the network, or DistributedDataParallel around it.
        images: (B, 3, H, W), normalized.
        classes: class indices of each image, counted from 0.

    Raises:
        InputError: there is no such method, or its maps cannot be made in a training step.
    """
    of_step = chosen(MAP_MAKERS, settings.method, name="maps.method").of_step
    if of_step is None:
        raise InputError(f"maps.method: a training step makes no {settings.method}; choose another")
    if settings.propagation == "none":
        return of_step(model, images, classes, settings)
    network: Any = getattr(model, "module", model)
    with Propagation(network.classifier.backbone, settings) as propagation:
        made = of_step(model, images, classes, settings)
    return made._replace(maps=propagation.propagated(made.maps))


@contextmanager
def _outputs_of(module: nn.Module) -> Iterator[list[Any]]:
    """Yields a list that collects the outputs of a module's forward passes inside the context."""
    outputs: list[Any] = []
    with module.register_forward_hook(lambda module, inputs, output: outputs.append(output)):
        yield outputs


def _grid(network: Any, images: Tensor) -> tuple[int, int]:
    """The patch grid (n_h, n_w) of the end-to-end network's backbone for these images."""
    grid: tuple[int, int] = network.classifier.backbone.patch_embed.dynamic_feat_size(tuple(images.shape[2:]))
    return grid


def _cam_of_step(
    model: nn.Module, images: Tensor, classes: Sequence[Sequence[int]], settings: ActivationSettings
) -> StepPass:
    network: Any = getattr(model, "module", model)
    with _outputs_of(network.readout_features) as features:
        scores, logits = model(images)
    with torch.no_grad():
        activation = network.classifier.readout.activation(features[0], _grid(network, images))
    return StepPass(scores, logits, [_of_classes(activation[b], indices) for b, indices in enumerate(classes)])


def _of_classes(maps: Tensor, indices: Sequence[int]) -> Tensor:
    """The maps (K, n_h, n_w) of some of all classes (C, n_h, n_w); a list as an index would wait for the GPU."""
    return torch.stack([maps[index] for index in indices]) if indices else maps[:0]


def _by_attention(coupling_of: Callable[[ActivationSettings], str]) -> MapMaker:
    """The functions of GETAM with the coupling that `coupling_of` chooses, a key of COUPLINGS."""

    def create(model: nn.Module, settings: ActivationSettings) -> ClassMaps:
        return AttentionMaps(
            model,
            coupling_of(settings),
            settings.start_block,
            settings.fusion,
            patch_tokens=reads_features(settings),
        )

    def of_step(
        model: nn.Module, images: Tensor, classes: Sequence[Sequence[int]], settings: ActivationSettings
    ) -> StepPass:
        network: Any = getattr(model, "module", model)
        backbone = network.classifier.backbone
        recorder = AttentionRecorder(backbone, start_block=settings.start_block, detach_below=False)
        with recorder, _outputs_of(network.scores_for_maps) as scores_for_maps:
            scores, logits = model(images)
        maps = gradient_weighted_maps(
            # The graph of the scores that DistributedDataParallel returns would lead through the decoder too.
            scores_for_maps[0],
            recorder.calls,
            classes,
            coupling=coupling_of(settings),
            num_prefix_tokens=backbone.num_prefix_tokens,
            grid=_grid(network, images),
            retain_graph=True,
            fusion=settings.fusion,
        )
        return StepPass(scores, logits, maps)

    return MapMaker(create, of_step)


MAP_MAKERS = {
    "getam": _by_attention(lambda settings: settings.coupling),
    "attention_gradient": _by_attention(lambda settings: "attention_gradient"),
    "rollout": MapMaker(lambda model, settings: AttentionRollout(model, settings.start_block)),
    "grad_cam": MapMaker(lambda model, settings: GradCAM(model)),
    "cam": MapMaker(lambda model, settings: ClassActivationMaps(model), _cam_of_step),
}
"""The functions of the methods in getam.settings.maps.MAP_METHODS, by the same keys."""
