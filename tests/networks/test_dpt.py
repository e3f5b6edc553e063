"""The DPT decoder against the authors' network, its sizes, and the reach of its gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.references import part
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from getam.networks.dpt import DPTDecoder, Fusion, Reassemble
from getam.networks.released import from_released

PATCH, DIM, CHANNELS, WIDTH = 16, 48, (8, 12, 16, 48), 16


def relative_error(found: Tensor, expected: np.ndarray) -> float:
    reference = torch.from_numpy(expected).to(found.dtype)
    return ((found - reference).abs().max() / reference.abs().max()).item()


def block_outputs(state: dict[str, Tensor], images: Tensor, prefix_tokens: int) -> list[Tensor]:
    """Tokens after each of the four blocks, with the position table resized as the authors do."""
    height, width = images.shape[2] // PATCH, images.shape[3] // PATCH
    backbone = {
        key.removeprefix("pretrained.model."): value
        for key, value in state.items()
        if key.startswith("pretrained.model.") and ".head" not in key
    }
    table = backbone["pos_embed"]
    side = int((table.shape[1] - prefix_tokens) ** 0.5)
    patches = table[:, prefix_tokens:].transpose(1, 2).unflatten(2, (side, side))
    patches = F.interpolate(patches, size=(height, width), mode="bilinear", align_corners=False)
    table = torch.cat([table[:, :prefix_tokens], patches.flatten(2).transpose(1, 2)], dim=1)
    model = VisionTransformer(
        img_size=tuple(images.shape[2:]), patch_size=PATCH, embed_dim=DIM, depth=4, num_heads=3, num_classes=0
    ).eval()
    # A distillation token is one more token behind the class token: to the blocks it makes no difference.
    prefix = torch.cat([backbone[key] for key in ("cls_token", "dist_token") if key in backbone], dim=1)
    for key in ("cls_token", "dist_token", "pos_embed"):
        backbone.pop(key, None)
    missing, unexpected = model.load_state_dict(backbone, strict=False)
    assert set(missing) == {"cls_token", "pos_embed"}
    assert not unexpected
    tokens = model.patch_embed(images)
    tokens = torch.cat([prefix.expand(len(images), -1, -1), tokens], dim=1) + table
    outputs = []
    for block in model.blocks:
        tokens = block(tokens)
        outputs.append(tokens)
    return outputs


@pytest.mark.parametrize("name", ["getam_small", "getam_small_rect", "getam_small_distilled"])
def test_logits_equal_the_authors_network(name: str, reference: Callable[[str], dict[str, np.ndarray]]) -> None:
    arrays = reference(f"{name}.npz")
    state = {key.removeprefix("sd/"): torch.from_numpy(value) for key, value in arrays.items() if key.startswith("sd/")}
    images = torch.from_numpy(arrays["x"])
    grid = (images.shape[2] // PATCH, images.shape[3] // PATCH)
    prefix_tokens = int(arrays["start_index"])
    decoder = DPTDecoder(token_dim=DIM, channels=CHANNELS, width=WIDTH, num_classes=21).eval()
    decoder.load_state_dict(part(from_released(state)[0], "decoder."))
    deepest = Reassemble(token_dim=DIM, channels=CHANNELS[3], scale=0.5).eval()
    deepest.load_state_dict(part(from_released(state)[0], "classifier.readout.reassemble."))

    with torch.no_grad():
        taps = block_outputs(state, images, prefix_tokens)
        last = deepest(taps[3], grid, prefix_tokens)
        logits = decoder(taps[:3], last, grid=grid, num_prefix_tokens=prefix_tokens, size=tuple(images.shape[2:]))
    assert relative_error(taps[3], arrays["ref/tokens_last_block"]) < 1e-4
    projected = deepest.project(
        torch.cat(
            [taps[3][:, prefix_tokens:], taps[3][:, :1].expand(-1, grid[0] * grid[1], -1)],
            dim=2,
        )
    )
    assert relative_error(projected.transpose(1, 2), arrays["ref/readout4"]) < 1e-4
    assert logits.shape == (2, 21, *images.shape[2:])
    assert relative_error(logits[..., ::4, ::4], arrays["ref/seg_stride4"]) < 1e-4
    assert relative_error(logits.mean(dim=(2, 3)), arrays["ref/seg_mean"]) < 1e-4


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    decoder = DPTDecoder(token_dim=8, channels=(4, 6, 8, 10), width=64, num_classes=3)
    deepest = Reassemble(token_dim=8, channels=10, scale=0.5)
    taps = [torch.randn(2, 1 + 16, 8) for _ in range(4)]
    last = deepest(taps[3], (4, 4), 1)
    decoder(taps[:3], last, grid=(4, 4), num_prefix_tokens=1, size=(32, 32)).square().sum().backward()
    parameters = [*decoder.named_parameters(), *deepest.named_parameters()]
    assert [name for name, p in parameters if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(("scale", "size"), [(4, (12, 20)), (2, (6, 10)), (1, (3, 5)), (0.5, (2, 3))])
def test_reassemble_resizes_the_patch_grid(scale: float, size: tuple[int, int]) -> None:
    module = Reassemble(token_dim=8, channels=6, scale=scale)
    assert module(torch.randn(2, 3 + 15, 8), (3, 5), 3).shape == (2, 6, *size)


def test_reassemble_names_the_scales_it_knows() -> None:
    with pytest.raises(ValueError, match=r"3, not one of 4, 2, 1, 0\.5"):
        Reassemble(token_dim=8, channels=6, scale=3)


def test_reassemble_reads_patches_and_class_token_only() -> None:
    module = Reassemble(token_dim=8, channels=6, scale=1)
    tokens = torch.randn(1, 3 + 4, 8)
    feature = module(tokens, (2, 2), 3)
    registers = tokens.clone()
    registers[:, 1:3] += 1
    torch.testing.assert_close(module(registers, (2, 2), 3), feature)
    class_token = tokens.clone()
    class_token[:, 0] += 1
    assert (module(class_token, (2, 2), 3) - feature).abs().amin(dim=(0, 2, 3)).max() > 0
    # The last patch alone decides the lower right corner, and nothing else.
    patch = tokens.clone()
    patch[:, -1] += 1
    changed = (module(patch, (2, 2), 3) - feature).abs().amax(dim=(0, 1)) > 0
    assert changed.tolist() == [[False, False], [False, True]]


def test_fusion_adds_the_skip_and_interpolates_with_aligned_corners() -> None:
    fusion = Fusion(1, has_skip=True).eval()
    # Residual units and a projection that are the identity: what is left is the sum and its resizing.
    for unit in (fusion.refine_skip, fusion.refine):
        assert unit is not None
        torch.nn.init.zeros_(unit.conv2.weight)
    torch.nn.init.ones_(fusion.project.weight)
    torch.nn.init.zeros_(fusion.project.bias)
    path, skip = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.0, 2.0]]]])
    torch.testing.assert_close(fusion(path, skip, size=(1, 4)), torch.tensor([[[[0.0, 1.0, 2.0, 3.0]]]]))


@pytest.mark.parametrize(("grid", "size"), [((5, 7), (80, 112)), ((12, 12), (96, 96)), ((5, 5), (70, 70))])
def test_odd_grids_and_other_patch_sizes(grid: tuple[int, int], size: tuple[int, int]) -> None:
    decoder = DPTDecoder(token_dim=8, channels=(4, 6, 8, 10), width=16, num_classes=3).eval()
    taps = [torch.randn(1, 1 + grid[0] * grid[1], 8) for _ in range(3)]
    last = torch.randn(1, 10, -(-grid[0] // 2), -(-grid[1] // 2))
    assert decoder(taps, last, grid=grid, num_prefix_tokens=1, size=size).shape == (1, 3, *size)


def test_feature_maps_of_a_hybrid_pass_as_they_are() -> None:
    decoder = DPTDecoder(token_dim=8, channels=(4, 6, 8, 10), width=16, num_classes=3, scales=(None, None, 1)).eval()
    stages = [torch.randn(1, 4, 16, 16), torch.randn(1, 6, 8, 8)]
    tokens, last = torch.randn(1, 1 + 16, 8), torch.randn(1, 10, 2, 2)
    logits = decoder([*stages, tokens], last, grid=(4, 4), num_prefix_tokens=1, size=(64, 64))
    assert logits.shape == (1, 3, 64, 64)
    assert sum("reassemble" in name for name, _ in decoder.named_parameters()) == 4
