"""DPT decoder of the end-to-end network (Ranftl et al. 2021), with channel attention before the head.

Four taps of the backbone become feature maps at 1/4, 1/8, 1/16 and 1/32 of the image's resolution (for patches of 16
pixels), which are fused from the coarsest to the finest into class scores for each pixel. In the authors' network the
classifier reads the deepest feature map too; there the classifier owns the module that makes it, and passes the map to
the decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from getam.system.distributed import ImageDropout

RESAMPLE: dict[float, Callable[[int], nn.Module]] = {
    4: lambda c: nn.ConvTranspose2d(c, c, kernel_size=4, stride=4),
    2: lambda c: nn.ConvTranspose2d(c, c, kernel_size=2, stride=2),
    1: lambda c: nn.Identity(),
    0.5: lambda c: nn.Conv2d(c, c, kernel_size=3, stride=2, padding=1),
}
"""Scale relative to the patch grid -> module that resamples a feature map of c channels to it."""


class Reassemble(nn.Module):
    """Makes a feature map of the tokens of one tap: DPT's read-out, 1x1 convolution, resampling.

    The read-out treats the class token in one of three ways: `project` concatenates it with each patch token and
    projects back to `token_dim`, `add` adds it to each patch token, `ignore` drops it. Other prefix tokens
    (distillation, registers) are dropped.

    Args:
        token_dim: width d of the tokens.
        channels: channels of the feature map.
        scale: size of the feature map relative to the patch grid, a key of RESAMPLE.
        readout: `project`, `add` or `ignore`.

    Raises:
        ValueError: RESAMPLE has no such scale.
    """

    def __init__(self, *, token_dim: int, channels: int, scale: float, readout: str = "project") -> None:
        super().__init__()
        if scale not in RESAMPLE:
            raise ValueError(f"scale is {scale}, not one of {', '.join(map(str, RESAMPLE))}")
        self.readout = readout
        if readout == "project":
            self.project = nn.Sequential(nn.Linear(2 * token_dim, token_dim), nn.GELU())
        self.embed = nn.Conv2d(token_dim, channels, kernel_size=1)
        self.resample = RESAMPLE[scale](channels)

    def forward(self, tokens: Tensor, grid: tuple[int, int], num_prefix_tokens: int) -> Tensor:
        """Makes the feature map of one tap.

        Args:
            tokens: (B, P + n_h * n_w, d), floating; token 0 is the class token.
            grid: (n_h, n_w), the patch grid.
            num_prefix_tokens: P, the number of tokens that are not patches, the class token included.

        Returns:
            (B, channels, scale * n_h, scale * n_w); at scale 0.5 an odd side is rounded up.
        """
        patches = tokens[:, num_prefix_tokens:]
        if self.readout == "project":
            patches = self.project(torch.cat([patches, tokens[:, :1].expand_as(patches)], dim=2))
        elif self.readout == "add":
            patches = patches + tokens[:, :1]
        feature: Tensor = self.resample(self.embed(patches.transpose(1, 2).unflatten(2, grid)))
        return feature


class ResidualUnit(nn.Module):
    """x + BN(conv(ReLU(BN(conv(ReLU(x)))))): a pre-activation residual unit of two 3x3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in, (B, width, h, w)."""
        hidden = self.bn1(self.conv1(F.relu(x)))
        return x + self.bn2(self.conv2(F.relu(hidden)))


class Fusion(nn.Module):
    """RefineNet's fusion block: adds the refined skip to the path, refines the sum, upsamples and projects it.

    Args:
        width: channels of the path and of the skip.
        has_skip: whether there is a skip; False for the deepest block, where the path begins.
    """

    def __init__(self, width: int, *, has_skip: bool) -> None:
        super().__init__()
        # The deepest block has no such unit: in the authors' network it exists, but never runs and gets no gradient.
        self.refine_skip = ResidualUnit(width) if has_skip else None
        self.refine = ResidualUnit(width)
        self.project = nn.Conv2d(width, width, kernel_size=1)

    def forward(self, path: Tensor, skip: Tensor | None, *, size: tuple[int, int]) -> Tensor:
        """Fuses the path (B, width, h, w) with a skip of the same shape: (B, width, *size)."""
        if self.refine_skip is not None and skip is not None:
            path = path + self.refine_skip(skip)
        path = F.interpolate(self.refine(path), size=size, mode="bilinear", align_corners=True)
        projected: Tensor = self.project(path)
        return projected


class ChannelAttention(nn.Module):
    """x + s * body(x): a residual block of two 3x3 convolutions with squeeze and excitation s (Hu et al. 2018).

    Args:
        width: channels.
        reduction: the excitation's hidden layer has width // reduction units.
    """

    def __init__(self, width: int, *, reduction: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
        )
        self.excite = nn.Sequential(
            nn.Linear(width, width // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(width // reduction, width, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in, (B, width, h, w)."""
        residual = self.body(x)
        return x + residual * self.excite(residual.mean(dim=(2, 3)))[:, :, None, None]


class DPTDecoder(nn.Module):
    """DPT decoder: class logits for each pixel from four taps of a vision transformer.

    Args:
        token_dim: width d of the tokens.
        channels: channels of the four reassembled feature maps, finest first.
        width: channels of the decoder, at least 16 (the channel attention divides it by 16).
        num_classes: output channels, background included.
        scales: scales of the first three feature maps relative to the patch grid; None for a tap that is already a
            feature map of the given channels (a ResNet stage of the hybrid) and is used unchanged.
        taps: the blocks, or stages of a hybrid, whose tokens or feature maps the first three are; they are kept here
            for who runs the backbone.
        given_deepest: whether the deepest feature map is given to the decoder, or made by it from tokens.
        readout: treatment of the class token, see Reassemble.
    """

    def __init__(
        self,
        *,
        token_dim: int,
        channels: Sequence[int] = (96, 192, 384, 768),
        width: int = 256,
        num_classes: int,
        scales: Sequence[float | None] = (4, 2, 1),
        taps: Sequence[int | str] = (2, 5, 8),
        given_deepest: bool = True,
        readout: str = "project",
    ) -> None:
        super().__init__()
        self.taps = tuple(taps)
        self.given_deepest = given_deepest
        self.reassemble = nn.ModuleList(
            nn.Identity()
            if scale is None
            else Reassemble(token_dim=token_dim, channels=c, scale=scale, readout=readout)
            for c, scale in zip(channels[:3], scales, strict=True)
        )
        self.deepest = (
            None if given_deepest else Reassemble(token_dim=token_dim, channels=channels[3], scale=0.5, readout=readout)
        )
        self.reduce = nn.ModuleList(nn.Conv2d(c, width, kernel_size=3, padding=1, bias=False) for c in channels)
        self.fuse = nn.ModuleList(Fusion(width, has_skip=level < 3) for level in range(4))
        self.attention = ChannelAttention(width)
        self.head = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            ImageDropout(0.1),
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
        """Computes segmentation logits at the size of the image.

        The head works at twice the resolution of the finest feature map. With patches of 16 pixels this is half the
        image's resolution, and the final resizing doubles it, as in the authors' network; with other patch sizes,
        the final resizing reaches the image's size by another factor.

        Args:
            taps: the first three taps, finest first: tokens (B, P + n_h * n_w, d), or a feature map
                (B, C, h, w) if the decoder was made with scale None.
            last: the feature map of the deepest tap at scale 0.5, (B, channels[3], n_h / 2, n_w / 2) (odd sides rounded
                up); or, if the decoder was made without `given_deepest`, that tap's tokens (B, P + n_h * n_w, d).
            grid: (n_h, n_w), the patch grid.
            num_prefix_tokens: P, the number of tokens that are not patches.
            size: (H, W) of the logits.

        Returns:
            (B, num_classes, H, W), floating; channel 0 is the background.
        """
        features = [
            module(tap, grid, num_prefix_tokens) if isinstance(module, Reassemble) else tap
            for module, tap in zip(self.reassemble, taps, strict=True)
        ]
        if self.deepest is not None:
            last = self.deepest(last, grid, num_prefix_tokens)
        skips = [reduce(feature) for reduce, feature in zip(self.reduce, [*features, last], strict=True)]
        height, width = skips[0].shape[2:]
        # Each block upsamples to the size of the next skip: twice its own, minus one where an odd side was rounded up.
        sizes = [(2 * height, 2 * width), *(skip.shape[2:] for skip in skips[:3])]
        path = self.fuse[3](skips[3], None, size=sizes[3])
        for level in (2, 1, 0):
            path = self.fuse[level](path, skips[level], size=sizes[level])
        logits = self.head(self.attention(path))
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)
