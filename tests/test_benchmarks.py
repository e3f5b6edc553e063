"""The benchmarks: their literal versions are right, their measures measure, and the table says what was missed."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference.literal_maps import literal_getam_loop
from reference.literal_pamr import literal_pamr
from reference.stacked_pamr import stacked_pamr
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from getam import AttentionMaps
from getam.maps.pamr import pamr
from getam.settings.end_to_end import EndToEndSettings
from getam.system.files import read_array

# benchmarks/ is not installed with the package and lies beside tests/.
sys.path.append(str(Path(__file__).resolve().parents[1]))
table = importlib.import_module("benchmarks.__main__")
completion, crops, double_backward, dump_maps, gpu, maps, measure = (
    importlib.import_module(f"benchmarks.{name}")
    for name in ("completion", "crops", "double_backward", "dump_maps", "gpu", "maps", "measure")
)


def small_vit() -> VisionTransformer:
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=5)
    for parameter in vit.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return vit.double()


# Literal versions


@pytest.mark.parametrize("coupling", ["released", "paper"])
@pytest.mark.parametrize("start_block", [0, 2])
def test_the_loop_over_classes_gives_the_same_maps(coupling: str, start_block: int) -> None:
    vit, images, classes = small_vit(), torch.randn(2, 3, 32, 32, dtype=torch.float64), [[4, 1], [0]]
    expected = literal_getam_loop(vit, images, classes, coupling=coupling, start_block=start_block)
    with AttentionMaps(vit, coupling=coupling, start_block=start_block) as attention_maps:
        found = attention_maps(images, classes)[1]
    for ours, its in zip(found, expected, strict=True):
        assert its.amax((1, 2)).min() > 0
        torch.testing.assert_close(ours, its, rtol=1e-8, atol=1e-8 * float(its.max()))


def test_the_loop_over_classes_leaves_the_model_as_it_was() -> None:
    vit = small_vit().train()
    gradient = torch.ones_like(vit.head.weight)
    vit.head.weight.grad = gradient
    literal_getam_loop(vit, torch.randn(1, 3, 32, 32).double(), [[0]], coupling="released", start_block=0)
    assert vit.training
    assert all(block.attn.fused_attn and not block.attn.attn_drop._forward_hooks for block in vit.blocks)
    assert vit.head.weight.grad is gradient
    assert gradient.eq(1).all()
    assert [name for name, weight in vit.named_parameters() if weight.grad is not None] == ["head.weight"]


def test_stacked_pamr_is_pamr() -> None:
    rng = np.random.default_rng(0)
    image, masks = rng.uniform(0, 255, (3, 6, 7)), rng.uniform(0, 1, (2, 6, 7))
    how: dict[str, Any] = {"iterations": 2, "dilations": (1, 3)}
    tensors = torch.from_numpy(image)[None], torch.from_numpy(masks)[None]
    stacked = stacked_pamr(*tensors, **how)
    np.testing.assert_allclose(stacked[0].numpy(), literal_pamr(image, masks, **how), rtol=1e-8)
    torch.testing.assert_close(pamr(*tensors, **how), stacked, rtol=1e-8, atol=1e-10)


# Measures


def test_variants_alternate_until_they_took_long() -> None:
    order: list[str] = []

    def variant(name: str, spent: float) -> float:
        order.append(name)
        return spent

    spent = measure.alternating(
        {"quick": partial(variant, "quick", 1.0), "slow": partial(variant, "slow", 6.0)}, rounds=3, patience=10.0
    )
    assert order == ["quick", "slow", "quick", "slow", "quick"]
    assert [len(values) for values in spent.values()] == [3, 2]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel tells no peak memory")
def test_peak_memory_is_what_a_run_takes() -> None:
    few, many = partial(np.ones, 1000), partial(np.ones, 10_000_000)
    memory = measure.extra_memory("80 MB", partial(partial, few), partial(partial, many))
    assert memory == pytest.approx(80e6, rel=0.05)


def test_deviation_is_relative_to_each_maps_maximum() -> None:
    expected = torch.tensor([[[0.0, 4.0]], [[0.0, 100.0]]])
    found = torch.tensor([[[1.0, 4.0]], [[0.0, 101.0]]])
    assert measure.deviation([found], [expected]) == 0.25


def test_plain_backward_leaves_the_weights_as_they_were() -> None:
    vit = small_vit().eval()
    (gradient,) = maps.backward(vit, torch.randn(1, 3, 32, 32).double())()
    assert gradient.shape == (1, 17, 32)
    assert gradient.abs().max() > 0
    assert all(weight.requires_grad and weight.grad is None for weight in vit.parameters())


# Parts


def test_completion_and_crf_run_on_the_same_labels() -> None:
    labels = completion.completion(completion.TINY)()
    assert set(np.unique(labels)) >= {0, *(index + 1 for index in completion.CLASSES)}
    assert completion.crf(completion.TINY)().shape == (3, *completion.TINY)


def test_crops_beside_the_literal_ones(tmp_path: Path) -> None:
    photograph = crops.Photograph(75, 100, 1.1, 90, 2, least_faster=0, with_labels=True)
    row = crops._row(tmp_path, photograph, 1)
    assert row.what == "crops of 448x448 with labels, JPEG of 100x75"
    assert row.deviation.met
    files = crops.write_photograph(tmp_path, photograph)
    ours, its = (make(*files, 3)()["label"] for make in (crops.ours, crops.literal))
    assert torch.equal(ours, its)


def test_dump_maps_runs_on_made_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump_maps, "IMAGES", 2)
    monkeypatch.setattr(dump_maps, "WARM_UP", 1)
    dump_maps.make_data(tmp_path)
    dump_maps.dump(tmp_path, 8, tmp_path / "maps")
    assert len(list((tmp_path / "maps").glob("*.npy"))) == 8
    assert read_array(tmp_path / "maps" / "i00001.npy").shape[0] == 2


def test_training_iteration_beside_the_literal_one(settings: EndToEndSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(double_backward, "paper_recipe", lambda backbone: settings)
    (row,) = double_backward.rows(1)
    assert row.time.high == 0.6
    assert row.deviation is not None
    assert row.deviation.met
    paper = double_backward.paper_recipe
    monkeypatch.undo()
    assert paper("x") is settings
    assert double_backward.paper_recipe("vit_base_patch16_384").decoder.taps == (2, 5, 8)
    assert double_backward.paper_recipe("vit_base_r50_s16_384").decoder.taps == ("stage0", "stage1", 8)


def test_gpu_part_on_the_cpu(settings: EndToEndSettings) -> None:
    names = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224")
    rows = gpu.rows(
        1,
        device="cpu",
        backbones={name: {"depth": 2, "embed_dim": 24} for name in names},
        batches=(3,),
        image_size=32,
        start_block=1,
        recipe=settings,
    )
    *of_maps, of_training = rows
    assert [row.what for row in of_maps] == [f"maps, {name}, batch 3, bfloat16" for name in names]
    assert of_training.what.startswith("training iteration, vit_tiny_patch16_224, batch 4, crop 32")
    assert of_training.ours.endswith(" it/s")
    for row in of_maps:
        assert not row.promised
        assert row.memory_ratio is None
        assert row.deviation is not None
        assert 0 < row.deviation.value < 0.5


# The table


def row(**changes: Any) -> Any:
    values = {"what": "maps", "ours": "1.00 s", "other": "loop", "its": "3.00 s", "time": measure.faster(1, 3, least=2)}
    return measure.Row(**(values | changes))


def test_table_is_aligned_and_says_what_was_missed() -> None:
    text = table.markdown([row(), row(memory=(50, 100), most_memory=0.25), row(time=measure.faster(1, 3))])
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2][4:] == ["3.0x faster (≥ 2)", "-", "-", "-", "-", "yes"]
    assert cells[3][6:] == ["0 MB", "0.500x (≤ 0.25)", "-", "NO"]
    assert cells[4][4:] == ["3.0x faster", "-", "-", "-", "-", "-"]


def test_not_a_number_misses_its_limit() -> None:
    assert not measure.Check(float("nan"), high=1).met


@pytest.mark.parametrize(("time", "code"), [(measure.faster(1, 3, least=2), 0), (measure.faster(1, 3, least=4), 1)])
def test_exit_code_says_whether_a_limit_was_missed(
    time: Any, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setitem(table.PARTS, "pamr", lambda rounds: [row(time=time)])
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "pamr"])
    try:
        assert table.main() == code
    finally:
        torch.set_num_threads(threads)
    assert "| maps" in capsys.readouterr().out
