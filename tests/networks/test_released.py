"""The authors' checkpoints: import, export, and networks that compute what theirs computed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from support.references import Procedural, Shapes
from torch import Tensor

from getam.cli import STAGES, TOOLS, command
from getam.datasets.index import Index, IndexRow, write_index
from getam.datasets.voc import VOC_CLASSES
from getam.errors import InputError
from getam.maps.attention import AttentionMaps
from getam.networks.end_to_end import EndToEndNetwork, load_end_to_end
from getam.networks.released import compute_as_released, from_released, to_released
from getam.system.files import read_json

Arrays = Callable[[str], dict[str, np.ndarray]]

SMALL = {"embed_dim": 48, "depth": 4, "num_heads": 3, "img_size": 64}
SMALL_NETWORKS = {
    "getam_small": "vitb",
    "getam_small_rect": "vitb",
    "getam_small_distilled": "deit_distilled",
}


def run(*words: str | Path) -> int:
    return command("getam", STAGES | TOOLS, [str(word) for word in words])


def small_state(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {key[3:]: torch.from_numpy(value) for key, value in arrays.items() if key.startswith("sd/")}


def import_small(state: dict[str, Tensor], out: Path, backbone: str = "vitb", **changes: str) -> int:
    file = out.parent / f"{out.name}.pth"
    torch.save(state, file)
    options = changes.get("options", json.dumps(SMALL))
    return run(
        "import-checkpoint", file, "--backbone", backbone, "--backbone-options", options, "--taps", "[0, 1, 2]",
        "--out", out, "--device", "cpu",
    )  # fmt: skip


def relative_error(found: Tensor, expected: np.ndarray) -> float:
    reference = torch.from_numpy(expected).to(found.dtype)
    return float((found - reference).abs().max() / reference.abs().max())


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_imported_network_computes_what_theirs_did(name: str, reference: Arrays, tmp_path: Path) -> None:
    arrays = reference(f"{name}.npz")
    assert import_small(small_state(arrays), tmp_path / "model", SMALL_NETWORKS[name]) == 0
    network, classes = load_end_to_end(tmp_path / "model")
    assert len(classes) == 20
    assert (classes[0], classes[-1]) == ("aeroplane", "tvmonitor")
    with torch.no_grad():
        scores, logits = network(torch.from_numpy(arrays["x"]))
    assert relative_error(scores, arrays["ref/scores"]) < 1e-4
    assert relative_error(logits[..., ::4, ::4], arrays["ref/seg_stride4"]) < 1e-4
    assert relative_error(logits.mean((2, 3)), arrays["ref/seg_mean"]) < 1e-4


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_round_trip_is_lossless(name: str, reference: Arrays, tmp_path: Path) -> None:
    state = small_state(reference(f"{name}.npz"))
    assert import_small(state, tmp_path / "model", SMALL_NETWORKS[name]) == 0
    assert run("export-checkpoint", "--model", tmp_path / "model", "--out", tmp_path / "back.pth") == 0
    assert_same(torch.load(tmp_path / "back.pth", weights_only=True), state)


@pytest.mark.slow
def test_full_size_network_computes_what_theirs_did(
    full_shapes: Shapes, procedural: Procedural, reference: Arrays, tmp_path: Path
) -> None:
    torch.save(procedural(full_shapes("vitb")), tmp_path / "vitb.pth")
    out = tmp_path / "model"
    assert run("import-checkpoint", tmp_path / "vitb.pth", "--backbone", "vitb", "--out", out) == 0
    arrays = reference("getam_base_vitb.npz")
    images = torch.from_numpy(arrays["x"])
    network, _ = load_end_to_end(out)
    with torch.no_grad():
        scores, logits = network(images)
        tokens = network.classifier.tokens(images).last
    assert relative_error(scores, arrays["ref/scores"]) < 1e-4
    assert relative_error(logits[..., ::8, ::8], arrays["ref/seg_stride8"]) < 1e-4
    assert relative_error(tokens[:, ::4], arrays["ref/tokens_last_block"]) < 1e-4
    description = read_json(out / "model.json")
    assert description["settings"]["decoder"]["channels"] == [96, 192, 384]
    assert description["settings"]["decoder"]["taps"] == [2, 5, 8]
    assert description["settings"]["backbone"] == "vit_base_patch16_384"
    assert len(description["source"]["sha256"]) == 64


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vitb", "deit_distilled", "vitb_hybrid"])
def test_full_size_round_trip_is_lossless(
    name: str, full_shapes: Shapes, procedural: Procedural, tmp_path: Path
) -> None:
    state = procedural(full_shapes(name))
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "one.pth")
    assert run("import-checkpoint", tmp_path / "one.pth", "--backbone", name, "--out", tmp_path / "model") == 0
    assert run("export-checkpoint", "--model", tmp_path / "model", "--out", tmp_path / "back.pth") == 0
    assert_same(torch.load(tmp_path / "back.pth", weights_only=True), state)


def test_own_network_round_trip(settings: Any, tmp_path: Path) -> None:
    network = EndToEndNetwork(settings, num_classes=3)
    theirs = to_released(network.state_dict())
    assert all(name.startswith(("pretrained.", "scratch.", "cam_module.", "cls_head.")) for name in theirs)
    back, unused = from_released(theirs)
    assert unused == {}
    assert_same(back, network.state_dict())


def small_hybrid() -> Any:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_base_r50_s16_384", num_classes=0, dynamic_img_size=True, img_size=64, embed_dim=48, depth=2, num_heads=3
    )
    return model.eval()


def test_filters_of_a_hybrid_are_standardized_as_theirs() -> None:
    model = small_hybrid()
    conv = model.patch_embed.backbone.stem.conv
    with torch.no_grad():
        # Filters so small that the two constants differ: 1e-5 beside the deviation, 1e-8 beside the variance.
        conv.weight.mul_(1e-3)
    image = torch.randn(1, 3, 32, 32)
    by_timm = conv(image)
    compute_as_released(model)
    weight = conv.weight.detach().double().numpy()
    flat = weight.reshape(len(weight), -1)
    expected = (flat - flat.mean(1, keepdims=True)) / (flat.std(1, keepdims=True) + 1e-5)
    padded = F.pad(image.double(), (2, 3, 2, 3))
    literal = F.conv2d(padded, torch.from_numpy(expected.reshape(weight.shape)), stride=2)
    torch.testing.assert_close(conv(image).double(), literal, rtol=1e-4, atol=1e-4)
    assert (conv(image) - by_timm).abs().max() > 1e-2 * by_timm.abs().max()


def test_positions_are_resized_as_theirs() -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True, img_size=64, depth=1).eval()
    compute_as_released(model)
    with torch.no_grad():
        model.pos_embed.normal_()
        patches = torch.randn(2, 2, 6, 192)
        tokens = model._pos_embed(patches)
    table = model.pos_embed[:, 1:].detach().reshape(1, 4, 4, 192).permute(0, 3, 1, 2)
    table = F.interpolate(table, size=(2, 6), mode="bilinear", align_corners=False, antialias=False)
    torch.testing.assert_close(tokens[:, 1:], patches.reshape(2, 12, 192) + table.flatten(2).transpose(1, 2))
    torch.testing.assert_close(tokens[:, 0], (model.cls_token + model.pos_embed[:, :1])[:, 0].expand(2, -1))


def test_attention_maps_of_a_released_network(reference: Arrays, tmp_path: Path) -> None:
    arrays = reference("getam_small_rect.npz")
    assert import_small(small_state(arrays), tmp_path / "model") == 0
    network, _ = load_end_to_end(tmp_path / "model")
    classes = [list(map(int, arrays["classes"])) if arrays["classes"].ndim == 1 else []] * len(arrays["x"])
    with AttentionMaps(network.classifier, coupling="released", start_block=2) as maps:
        _, found = maps(torch.from_numpy(arrays["x"]), classes)
    expected = arrays["ref/off_s2"]
    for b, values in enumerate(found):
        assert relative_error(values.flatten(1), expected[b].reshape(len(values), -1)) < 1e-4


def test_released_embedding_needs_a_place_for_the_class_token() -> None:
    model = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0, img_size=56, depth=1)
    with pytest.raises(InputError, match="write timm"):
        compute_as_released(model)


def test_a_checkpoint_that_holds_more_is_unwrapped(reference: Arrays, tmp_path: Path) -> None:
    state = small_state(reference("getam_small.npz"))
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "more.pth")
    words = ("--backbone", "vitb", "--backbone-options", json.dumps(SMALL), "--taps", "[0, 1, 2]")
    assert run("import-checkpoint", tmp_path / "more.pth", *words, "--out", tmp_path / "model") == 0
    assert run("export-checkpoint", "--model", tmp_path / "model", "--out", tmp_path / "back.pth") == 0
    assert_same(torch.load(tmp_path / "back.pth", weights_only=True), state)


def write_bad(path: Path, kind: str) -> None:
    if kind == "garbage":
        path.write_bytes(b"not a checkpoint" * 99)
    elif kind == "code":
        torch.save({"model": np.zeros(3), "path": Path("x")}, path)
    elif kind == "other":
        torch.save({"conv.weight": torch.zeros(3)}, path)


@pytest.mark.parametrize("kind", ["garbage", "code", "other", "absent"])
def test_what_is_no_checkpoint_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.pth"
    write_bad(path, kind)
    assert run("import-checkpoint", path, "--backbone", "vitb", "--out", tmp_path / "model") == 1
    message = capsys.readouterr().err
    assert "bad.pth" in message
    assert any(text in message for text in ("no such file", "is no file of weights", "no checkpoint of the authors'"))
    assert "Traceback" not in message
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("change", "backbone", "message"),
    [
        (lambda s: s.pop("cam_module.fc.2.weight"), "vitb", r"cam_module\.fc\.2\.weight is missing"),
        (lambda s: s.update({"more.weight": torch.zeros(2)}), "vitb", r"more\.weight is unknown"),
        (
            lambda s: s.update({"scratch.output_conv.4.bias": torch.zeros(20)}),
            "vitb",
            r"scratch\.output_conv\.4\.bias is \(20,\), not \(21,\)",
        ),
        (lambda s: None, "deit_distilled", r"pretrained\.model\.dist_token is missing"),
        (
            lambda s: s.update({"cls_head.weight": torch.zeros(7, 48), "cls_head.bias": torch.zeros(7)}),
            "vitb",
            r"--classes: the checkpoint has 7 classes",
        ),
    ],
    ids=["missing", "unknown", "misshapen", "another backbone", "classes"],
)
def test_what_does_not_fit_is_named(
    change: Callable[[dict[str, Tensor]], Any],
    backbone: str,
    message: str,
    reference: Arrays,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = small_state(reference("getam_small.npz"))
    change(state)
    assert import_small(state, tmp_path / "model", backbone) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "model").exists()


def test_named_classes_and_prediction_at_once(reference: Arrays, tmp_path: Path) -> None:
    state = small_state(reference("getam_small.npz"))
    assert import_small(state, tmp_path / "model") == 0
    _, classes = load_end_to_end(tmp_path / "model")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (70, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    row = IndexRow("a", "val", tmp_path / "a.png", None, 70, 50, ())
    write_index(tmp_path / "index.csv", Index((row,), classes))
    words = ("predict-end-to-end", "--index", tmp_path / "index.csv", "--model", tmp_path / "model", "--split", "val")
    assert run(*words, "--out", tmp_path / "predictions", "--squares", "[32, 64]", "--device", "cpu") == 0
    with Image.open(tmp_path / "predictions" / "a.png") as image:
        assert image.size == (50, 70)


def test_classes_of_voc_in_another_order_are_refused(
    reference: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = list(VOC_CLASSES)
    names[0], names[1] = names[1], names[0]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    torch.save(small_state(reference("getam_small.npz")), tmp_path / "small.pth")
    words = ("--backbone", "vitb", "--backbone-options", json.dumps(SMALL), "--taps", "[0, 1, 2]")
    out = ("--classes", tmp_path / "classes.txt", "--out", tmp_path / "model")
    assert run("import-checkpoint", tmp_path / "small.pth", *words, *out) == 1
    assert "another order" in capsys.readouterr().err
    names[0], names[1] = "bird house", "x"
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert run("import-checkpoint", tmp_path / "small.pth", *words, *out) == 0
    assert load_end_to_end(tmp_path / "model")[1][0] == "bird house"


def test_two_taps_are_refused(reference: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(small_state(reference("getam_small.npz")), tmp_path / "small.pth")
    words = ("--backbone", "vitb", "--backbone-options", json.dumps(SMALL), "--taps", "[0, 1]")
    assert run("import-checkpoint", tmp_path / "small.pth", *words, "--out", tmp_path / "model") == 1
    assert re.search(r"--taps: \[0, 1\] names 2, the decoder reads 3", capsys.readouterr().err)


BIAS, REDUCE = "cls_head.bias", "scratch.layer1_rn.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({BIAS: torch.tensor(1.0)}), r"classifier\.readout\.head\.bias here has 0 axes"),
        (lambda s: s.update({REDUCE: torch.zeros(3)}), r"decoder\.reduce\.0\.weight here has 1 axes"),
        (lambda s: s.update({f"pretrained.model.blocks.{'9' * 5000}.x": torch.zeros(1)}), "is unknown"),
        # A network of that width would take terabytes.
        (lambda s: s.update({REDUCE: torch.zeros(200_000, 1, 1, 1)}), "does not fit the backbone vitb: .* more; name"),
    ],
    ids=["a number", "a row", "a block beyond counting", "a giant width"],
)
def test_shapes_of_a_hostile_checkpoint_are_refused(
    change: Callable[[dict[str, Tensor]], Any],
    message: str,
    reference: Arrays,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = small_state(reference("getam_small.npz"))
    change(state)
    assert import_small(state, tmp_path / "model") == 1
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert "Traceback" not in error
    assert not (tmp_path / "model").exists()
