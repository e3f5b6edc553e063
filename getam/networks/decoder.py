"""DPT decoder of the end-to-end network (Ranftl et al. 2021), with channel attention before the head.

Four taps of the backbone become feature maps at 1/4, 1/8, 1/16 and 1/32 of the image (patch 16), are fused
from the coarsest to the finest, and give class scores for each pixel. The deepest of the four maps also feeds
the classifier, so the classifier owns the module that makes it and the decoder receives it ready-made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from getam.system.distributed import ImageDropout

# How a map of c channels on the patch grid reaches each relative size.
RESAMPLE: dict[float, Callable[[int], nn.Module]] = {
    4: lambda c: nn.ConvTranspose2d(c, c, kernel_size=4, stride=4),
    2: lambda c: nn.ConvTranspose2d(c, c, kernel_size=2, stride=2),
    1: lambda c: nn.Identity(),
    0.5: lambda c: nn.Conv2d(c, c, kernel_size=3, stride=2, padding=1),
}


class Reassemble(nn.Module):
    """Tokens of one tap to a feature map: DPT's read-out, 1x1 convolution, resampling.

    What becomes of the class token: `project` concatenates it with every patch token and projects back to `token_dim`,
    `add` adds it to every patch token, `ignore` drops it. Other prefix tokens (distillation, registers) are dropped.

    Args:
        token_dim: width d of the tokens.
        channels: channels of the feature map.
        scale: size of the feature map relative to the patch grid, a key of RESAMPLE; else ValueError.
        readout: `project`, `add` or `ignore`.
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
        """Feature map of one tap.

        Args:
            tokens: (B, P + n_h * n_w, d), floating; token 0 is the class token.
            grid: (n_h, n_w), the patch grid.
            num_prefix_tokens: P, class token and other tokens that are not patches.

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
    """RefineNet fusion: add the refined skip to the path, refine the sum, upsample and project it.

    Args:
        width: channels of the path and of the skip.
        has_skip: False for the deepest block, where the path begins.
    """

    def __init__(self, width: int, *, has_skip: bool) -> None:
        super().__init__()
        # The authors' deepest block has this unit too, but never runs it: such weights get no gradient.
        self.refine_skip = ResidualUnit(width) if has_skip else None
        self.refine = ResidualUnit(width)
        self.project = nn.Conv2d(width, width, kernel_size=1)

    def forward(self, path: Tensor, skip: Tensor | None, *, size: tuple[int, int]) -> Tensor:
        """(B, width, h, w), and a skip of the same shape, to (B, width, *size)."""
        if self.refine_skip is not None and skip is not None:
            path = path + self.refine_skip(skip)
        path = F.interpolate(self.refine(path), size=size, mode="bilinear", align_corners=True)
        projected: Tensor = self.project(path)
        return projected


class ChannelAttention(nn.Module):
    """x + s * body(x): squeeze and excitation (Hu et al. 2018) around two 3x3 convolutions, residual.

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
    """Class scores for each pixel from four taps of a vision transformer.

    Args:
        token_dim: width d of the tokens.
        channels: channels of the four reassembled feature maps, finest first.
        width: channels of the decoder, at least 16 (the channel attention divides it by 16).
        num_classes: output channels, background included.
        scales: of the first three taps relative to the patch grid; None for a tap that is a feature map
            already (a ResNet stage of the hybrid), which then has `channels` channels and passes as it is.
    """

    def __init__(
        self,
        *,
        token_dim: int,
        channels: Sequence[int] = (96, 192, 384, 768),
        width: int = 256,
        num_classes: int,
        scales: Sequence[float | None] = (4, 2, 1),
    ) -> None:
        super().__init__()
        self.reassemble = nn.ModuleList(
            nn.Identity() if scale is None else Reassemble(token_dim=token_dim, channels=c, scale=scale)
            for c, scale in zip(channels[:3], scales, strict=True)
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
        """Logits at the size of the image.

        The head works at twice the finest tap: half the image's resolution with patches of 16 pixels, where
        the final resizing doubles it as in the authors' network; other patch sizes come out at the image's
        size just as well.

        Args:
            taps: the first three taps, finest first: tokens (B, P + n_h * n_w, d), or a feature map
                (B, C, h, w) where the decoder was made with scale None.
            last: (B, channels[3], n_h / 2, n_w / 2), the deepest tap reassembled at scale 0.5 (odd sides
                rounded up).
            grid: (n_h, n_w), the patch grid.
            num_prefix_tokens: P.
            size: (H, W) of the logits.

        Returns:
            (B, num_classes, H, W), floating; channel 0 is the background.
        """
        features = [
            module(tap, grid, num_prefix_tokens) if isinstance(module, Reassemble) else tap
            for module, tap in zip(self.reassemble, taps, strict=True)
        ]
        skips = [reduce(feature) for reduce, feature in zip(self.reduce, [*features, last], strict=True)]
        height, width = skips[0].shape[2:]
        # Each block upsamples to the next skip's size: twice its own, less one where an odd side was rounded.
        sizes = [(2 * height, 2 * width), *(skip.shape[2:] for skip in skips[:3])]
        path = self.fuse[3](skips[3], None, size=sizes[3])
        for level in (2, 1, 0):
            path = self.fuse[level](path, skips[level], size=sizes[level])
        logits = self.head(self.attention(path))
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)
