"""A small convolutional head, which makes a segmentation of the last block's patch tokens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class LinearHead(nn.Module):
    """1x1, 3x3 and 1x1 convolution on the grid of patch tokens; the logits are resized to the image.

    Args:
        token_dim: width d of the tokens.
        width: channels between the convolutions, where batch norm and ReLU follow each.
        num_classes: output channels, background included.
    """

    taps: tuple[int | str, ...] = ()
    given_deepest = False

    def __init__(self, token_dim: int, *, width: int, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(token_dim, width, kernel_size=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, num_classes, kernel_size=1),
        )

    def forward(
        self,
        taps: Sequence[Tensor],
        last: Tensor,
        *,
        grid: tuple[int, int],
        num_prefix_tokens: int,
        size: tuple[int, int],
    ) -> Tensor:
        """Computes segmentation logits at the size of the image; the arguments are those of DPTDecoder.

        Args:
            taps: not read; no taps are asked for.
            last: the last block's tokens, (B, P + n_h * n_w, d).
            grid: (n_h, n_w), the patch grid.
            num_prefix_tokens: P, the number of tokens that are not patches.
            size: (H, W) of the logits.

        Returns:
            (B, num_classes, H, W), floating; channel 0 is the background.
        """
        patches = last[:, num_prefix_tokens:].transpose(1, 2).unflatten(2, grid)
        return F.interpolate(self.layers(patches), size=size, mode="bilinear", align_corners=False)
