"""The methods that GETAM is compared with, all called as AttentionMaps is, and the choice among them by one word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from getam.backbones import find_backbone
from getam.errors import InputError
from getam.maps import (
    AttentionMaps,
    AttentionRecorder,
    ClassMaps,
    at_least_float32,
    check_scores,
    class_gradients,
    token_grid,
)
from getam.settings import ActivationSettings


class ClassActivationMaps(ClassMaps):
    """CAM (Zhou et al. 2016): the classifier's last layer applied to each place before the average, ReLU.

    Of a ViT by its read-out (`ignore`, `add`, `project`, `token`), of a CNN by `pool`.

    Args:
        model: a classifier of `getam.classifier`.

    Raises:
        InputError: the model is none.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        if not hasattr(model, "activation_map"):
            raise InputError(f"cam: {type(model).__name__} is no classifier of getam.classifier")

    def _compute(self, images: Tensor, classes: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
        model: Any = self.model
        with torch.no_grad():
            scores, maps = model.activation_map(images)
        check_scores(scores, classes)
        return scores, [maps[b, list(indices)].to(at_least_float32(maps)) for b, indices in enumerate(classes)]


class GradCAM(ClassMaps):
    """Grad-CAM (Selvaraju et al. 2017) at the input of a ViT's last attention.

    With f_j what that takes of patch j, ReLU(<mean_i dy/df_i, f_j>).

    Args:
        model: a timm ViT with a class token, or a model that contains exactly one.

    Raises:
        InputError: no ViT with a class token, or one whose last block has no attention module; in a call, tokens that
            are not the prefix tokens and the patches of every image.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.backbone: Any = find_backbone(model)
        blocks: Any = self.backbone.blocks
        self._last = blocks[-1]
        if not isinstance(getattr(self._last, "attn", None), nn.Module):
            raise InputError(f"grad_cam: {type(self._last).__name__} has no one attention, at whose input it is taken")

    def _compute(self, images: Tensor, classes: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
        seen: list[Tensor] = []
        handle = self._last.attn.register_forward_pre_hook(lambda attention, inputs: seen.append(inputs[0]))
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
        if len(seen) != 1 or seen[0].shape[:2] != (len(images), prefix + grid[0] * grid[1]):
            shapes = [tuple(tokens.shape) for tokens in seen]
            raise InputError(
                f"grad_cam: the last attention took {shapes} for {len(images)} images of {prefix} prefix tokens and "
                f"{grid[0]}x{grid[1]} patches; choose another backbone"
            )
        (features,) = seen
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

    The last block comes first; A_i is the mean over heads. The same map for every class: rollout knows no class.
    Builds whole attention matrices, of one image and one block at a time.

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


def create_maps(model: nn.Module, settings: ActivationSettings) -> ClassMaps:
    """The method of the settings for a classifier of `getam.classifier`.

    Raises:
        InputError: the method doesn't suit the model.
    """
    match settings.method:
        case "cam":
            return ClassActivationMaps(model)
        case "grad_cam":
            return GradCAM(model)
        case "rollout":
            return AttentionRollout(model, settings.start_block)
    return AttentionMaps(model, coupling_of(settings), settings.start_block, settings.fusion)


def coupling_of(settings: ActivationSettings) -> str:
    """The key of COUPLINGS that the settings mean: attention x gradient is GETAM with a factor less."""
    return settings.coupling if settings.method == "getam" else settings.method
