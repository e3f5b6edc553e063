"""The end-to-end network: its two phases, what reaches the weights, targets; trainings that see no ground truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import BaseModel, ValidationError
from torch import Tensor

import deeplab.stages.train_deeplab
import getam.end_to_end
import getam.stages.train_classifier
import getam.stages.train_end_to_end
import getam.stages.train_saliency
from deeplab.model import load_deeplab
from getam.baselines import create_maps
from getam.checkpoints import save_model
from getam.classifier import load_classifier
from getam.completion import complete_labels
from getam.end_to_end import EndToEndNetwork, describe_end_to_end, load_end_to_end, training_losses
from getam.errors import InputError
from getam.files import UNKNOWN, read_json, write_gray, write_labels
from getam.images import denormalize_rgb, normalize_rgb
from getam.index import Index, IndexRow, write_index
from getam.losses import balanced_cross_entropy, dense_energy_loss, saliency_loss
from getam.refine import normalize, pamr
from getam.saliency import load_saliency
from getam.settings import Config, EndToEndSettings, read_yaml, validate_config
from getam.shards import new_shard

PROJECT = Path(__file__).resolve().parents[1]
CLASSES = ("a", "b", "c")
SIZE = 32
CROP = {"long_side": [28, 36], "size": SIZE, "color_jitter": 0}
BACKBONE = {
    "backbone_options": {"patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2},
    "stem_channels": [],
    "epochs": 1,
    "batch_size": 2,
    "crop": CROP,
}
CHANGES: dict[str, dict[str, Any]] = {
    "classifier": BACKBONE,
    "end_to_end": BACKBONE
    | {
        "epochs": 2,
        "classifier_epochs": 1,
        "decoder": {"scales": [4, 2, 1], "taps": [0, 1, 2], "channels": [8, 8, 8], "width": 16},
        "refine": {"iterations": 2, "dilations": [1, 2]},
    },
    "saliency": {
        "backbone_options": {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 6},
        "neck_width": 16,
        "epochs": 1,
        "batch_size": 2,
    },
    "deeplab": {"epochs": 1, "batch_size": 2, "crop": CROP},
}


@pytest.fixture(scope="module")
def config() -> Config:
    values = read_yaml(PROJECT / "config.yaml")
    for section, changes in CHANGES.items():
        values[section] |= changes
    return validate_config(values)


@pytest.fixture(scope="module")
def settings(config: Config) -> EndToEndSettings:
    return config.end_to_end


def changed(settings: EndToEndSettings, **sections: dict[str, Any] | float) -> EndToEndSettings:
    """Settings with some of a nested section's values replaced."""
    return settings.model_copy(
        update={
            name: getattr(settings, name).model_copy(update=values) if isinstance(values, dict) else values
            for name, values in sections.items()
        }
    )


def build(settings: EndToEndSettings) -> EndToEndNetwork:
    torch.manual_seed(0)
    network = EndToEndNetwork(settings, num_classes=3)
    for parameter in network.classifier.parameters():
        # Fresh weights of 0.02 make maps near 0.
        torch.nn.init.normal_(parameter, std=0.3)
    return network.train()


def make_batch() -> dict[str, Tensor]:
    """Two images; the second is padded below and has a salient square."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, 4, 4), generator=generator).float()
    saliency = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    saliency[:, 8:20, 8:24] = 1
    saliency[1, 24:] = UNKNOWN
    return {
        "image": normalize_rgb(F.interpolate(images, size=SIZE, mode="bicubic").clamp(0, 255).to(torch.uint8)),
        "classes": torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]),
        "saliency": saliency,
    }


def captured_targets(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    targets: list[Tensor] = []

    def watch(logits: Tensor, labels: Tensor) -> Tensor:
        targets.append(labels.clone())
        return balanced_cross_entropy(logits, labels)

    monkeypatch.setattr(getam.end_to_end, "balanced_cross_entropy", watch)
    return targets


def targets_by_hand(network: EndToEndNetwork, batch: dict[str, Tensor], settings: EndToEndSettings) -> Tensor:
    """The multi-stage path, image by image: maps of the classifier alone, PAMR, completion."""
    targets = []
    for image, classes, saliency in zip(batch["image"], batch["classes"], batch["saliency"], strict=True):
        present = classes.nonzero().flatten().tolist()
        with create_maps(network.classifier, settings.maps) as maps_of:
            maps = maps_of(image[None], [present])[1][0]
        refine = settings.refine
        refined = normalize(
            pamr(denormalize_rgb(image[None]), maps[None], iterations=refine.iterations, dilations=refine.dilations)
        )[0]
        labels = complete_labels(
            refined,
            present,
            (saliency == 1).to(torch.uint8),
            alpha=settings.completion.alpha,
            gamma=settings.completion.gamma,
            conflict=settings.completion.conflict,
        )
        targets.append(labels.masked_fill(saliency == UNKNOWN, UNKNOWN))
    return torch.stack(targets)


def gradients(network: EndToEndNetwork) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_first_phase_is_classification_alone(settings: EndToEndSettings) -> None:
    settings = settings.model_copy(update={"epochs": 3, "classifier_epochs": 2})
    network, batch = build(settings), make_batch()
    for epoch in (0, 1):
        losses = training_losses(network, batch, epoch, settings)
        assert set(losses) == {"classification"}
    expected = F.multilabel_soft_margin_loss(network.classifier(batch["image"]), batch["classes"])
    torch.testing.assert_close(losses["classification"], expected)
    losses["classification"].backward()
    reached = gradients(network)
    assert any(name.startswith("classifier.backbone.blocks.0") for name in reached)
    assert not any(name.startswith("decoder") for name in reached)
    assert set(training_losses(network, batch, 2, settings)) == {
        "classification",
        "segmentation",
        "saliency",
        "energy",
    }
    without = changed(settings, energy={"weight": 0.0})
    assert set(training_losses(network, batch, 2, without)) == {"classification", "segmentation", "saliency"}


@pytest.mark.parametrize(
    "maps",
    [
        {"method": "getam", "coupling": "released", "start_block": 0, "fusion": "sum"},
        {"method": "getam", "coupling": "paper", "start_block": 2, "fusion": "sum"},
        {"method": "attention_gradient", "start_block": 1},
        {"method": "cam"},
    ],
)
def test_second_phase_has_the_gradients_of_fixed_targets(
    settings: EndToEndSettings, monkeypatch: pytest.MonkeyPatch, maps: dict[str, Any]
) -> None:
    settings = changed(settings, maps=maps, energy={"weight": 1e-3})
    batch, network = make_batch(), build(settings)
    expected_targets = targets_by_hand(network, batch, settings)
    assert gradients(network) == {}
    targets = captured_targets(monkeypatch)
    losses = training_losses(network, batch, 1, settings)
    assert gradients(network) == {}, "the maps' pass reached the weights"
    assert not any(parameter.grad_fn for parameter in network.parameters())
    assert torch.equal(targets[0], expected_targets.long())
    assert {0, 1, 3, UNKNOWN} <= set(targets[0].unique().tolist())
    torch.stack(list(losses.values())).sum().backward()
    stepped = gradients(network)

    reference = build(settings)
    scores, logits = reference(batch["image"])
    outside = batch["saliency"] == UNKNOWN
    fixed = {
        "classification": F.multilabel_soft_margin_loss(scores, batch["classes"]),
        "segmentation": balanced_cross_entropy(logits, expected_targets.long()),
        "saliency": saliency_loss(
            logits, (batch["saliency"] == 1).to(torch.uint8), ~outside, weight=settings.saliency_weight
        ),
        "energy": dense_energy_loss(
            denormalize_rgb(batch["image"]),
            logits.softmax(1),
            expected_targets,
            (~outside).float(),
            sigma_rgb=settings.energy.sigma_rgb,
            sigma_xy=settings.energy.sigma_xy,
            scale=settings.energy.scale,
            weight=settings.energy.weight,
        ),
    }
    for name, value in fixed.items():
        torch.testing.assert_close(losses[name], value, msg=name)
    torch.stack(list(fixed.values())).sum().backward()
    expected = gradients(reference)
    assert stepped.keys() == expected.keys()
    assert any(name.startswith("decoder") for name in stepped)
    for name, value in expected.items():
        torch.testing.assert_close(stepped[name], value, rtol=1e-5, atol=1e-6 * float(value.abs().max()), msg=name)


def test_targets_are_unknown_in_padding_and_background_where_nothing_is_mined(
    settings: EndToEndSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = changed(settings, completion={"alpha": 1.0})  # mines nothing
    targets = captured_targets(monkeypatch)
    batch = make_batch()
    training_losses(build(settings), batch, 1, settings)
    saliency = batch["saliency"]
    assert (targets[0][saliency == UNKNOWN] == UNKNOWN).all()
    assert (targets[0][saliency == 0] == 0).all()
    inside = targets[0][saliency == 1]
    assert (inside != 0).all()
    assert (inside != UNKNOWN).any()
    # With mining, some of the background is a class of the image, and only such.
    settings = changed(settings, completion={"alpha": 0.5})
    training_losses(build(settings), batch, 1, settings)
    for labels, outside, present in zip(targets[1], saliency == 0, ({1, 3}, {2}), strict=True):
        mined = set(labels[outside].unique().tolist()) - {0, UNKNOWN}
        assert mined
        assert mined <= present


def test_nothing_salient_is_background(settings: EndToEndSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = changed(settings, completion={"alpha": 1.0})
    targets = captured_targets(monkeypatch)
    batch = make_batch()
    batch["saliency"] = torch.zeros_like(batch["saliency"])
    losses = training_losses(build(settings), batch, 1, settings)
    assert (targets[0] == 0).all()
    assert all(torch.isfinite(value) for value in losses.values())


def test_padding_has_no_saliency_loss(settings: EndToEndSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[Tensor] = []
    forward = EndToEndNetwork.forward

    def watch(self: EndToEndNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
        scores, logits = forward(self, images)
        logits.retain_grad()
        received.append(logits)
        return scores, logits

    monkeypatch.setattr(EndToEndNetwork, "forward", watch)
    batch = make_batch()
    training_losses(build(settings), batch, 1, settings)["saliency"].backward()
    gradient = received[0].grad
    assert gradient is not None
    padding = batch["saliency"] == UNKNOWN
    assert gradient.abs().sum(1)[~padding].min() > 0
    assert (gradient.abs().sum(1)[padding] == 0).all()


def test_settings_with_the_readout_token_are_refused(settings: EndToEndSettings) -> None:
    with pytest.raises(ValidationError, match="write project"):
        EndToEndSettings.model_validate(settings.model_dump() | {"readout": "token"})


def test_taps_beyond_the_blocks_are_refused(settings: EndToEndSettings) -> None:
    with pytest.raises(InputError, match=r"decoder\.taps: \[0, 1, 4\].*blocks are 0 to 3"):
        EndToEndNetwork(changed(settings, decoder={"taps": (0, 1, 4)}), num_classes=3)


def test_save_and_load_round_trip(settings: EndToEndSettings, tmp_path: Path) -> None:
    network = build(settings)
    save_model(tmp_path, network, describe_end_to_end(settings, CLASSES))
    loaded, classes = load_end_to_end(tmp_path)
    assert classes == CLASSES
    assert not loaded.training
    network.eval()
    images = torch.randn(2, 3, 40, 24)
    with torch.no_grad():
        for one, other in zip(network(images), loaded(images), strict=True):
            assert torch.equal(one, other)
        assert torch.equal(loaded.segment(images), network(images)[1])
    assert loaded.segment(images).shape == (2, 4, 40, 24)
    with pytest.raises(InputError, match="does not describe a classifier"):
        load_classifier(tmp_path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images, saliency maps and pseudo labels in one shard; the masks of index.csv do not exist."""
    rng = np.random.default_rng(0)
    ids = [f"i{number}" for number in range(4)]
    sizes = dict(zip(ids, [(30, 36), (36, 30), (24, 40), (32, 32)], strict=True))
    rows = []
    for number, (id, (height, width)) in enumerate(sizes.items()):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{id}.png")
        labels = (CLASSES[number % 3],) if number % 2 else (CLASSES[0], CLASSES[2])
        for split in ("train", "val"):
            name = id if split == "train" else f"v{id}"
            mask = tmp_path / f"no_mask_of_{name}.png"
            rows.append(IndexRow(name, split, tmp_path / f"{id}.png", mask, height, width, labels))
    write_index(tmp_path / "index.csv", Index(tuple(rows), CLASSES))
    for kind in ("saliency", "pseudo_labels"):
        folder = tmp_path / kind / "000"
        with new_shard(folder, ids=ids, suffix=".png", classes=CLASSES, settings=None) as shard:
            for id, size in sizes.items():
                if kind == "saliency":
                    shard.submit(id, write_gray, rng.integers(0, 256, size, dtype=np.uint8))
                else:
                    shard.submit(id, write_labels, rng.choice(np.array([0, 1, 3, 255], np.uint8), size))
    for name in ("DUTS-TR", "DUTS-TE"):
        for kind in ("Image", "Mask"):
            (tmp_path / name / f"{name}-{kind}").mkdir(parents=True)
        for id in ids[:2]:
            color = rng.integers(0, 256, (*sizes[id], 3), dtype=np.uint8)
            Image.fromarray(color).save(tmp_path / name / f"{name}-Image" / f"{id}.jpg")
            write_gray(tmp_path / name / f"{name}-Mask" / f"{id}.png", 255 * (color[..., 0] > 99).astype(np.uint8))
    return tmp_path


TRAININGS: dict[str, tuple[Any, Callable[[Path], dict[str, Path | int]], Callable[[Path], Any]]] = {
    "classifier": (getam.stages.train_classifier, lambda data: {"index": data / "index.csv"}, load_classifier),
    "end_to_end": (
        getam.stages.train_end_to_end,
        lambda data: {"index": data / "index.csv", "saliency": data / "saliency", "shards": 1},
        load_end_to_end,
    ),
    "deeplab": (
        deeplab.stages.train_deeplab,
        lambda data: {"index": data / "index.csv", "pseudo_labels": data / "pseudo_labels", "shards": 1},
        load_deeplab,
    ),
    "saliency": (
        getam.stages.train_saliency,
        lambda data: {"train": data / "DUTS-TR", "val": data / "DUTS-TE"},
        load_saliency,
    ),
}


def train(section: str, config: Config, data: Path, out: Path) -> None:
    module, paths, _ = TRAININGS[section]
    values: BaseModel = getattr(config, section)
    module.run(module.Arguments(**values.model_dump(), **paths(data), out=out, threads=1, device="cpu"))


@pytest.mark.parametrize("section", TRAININGS)
def test_training_reads_no_ground_truth_and_leaves_a_model(section: str, config: Config, data: Path) -> None:
    # A stage that opened a mask of index.csv would fail: there is none. Saliency has masks of its own, and no index.
    if section == "saliency":
        (data / "index.csv").unlink()
    out = data / "out"
    train(section, config, data, out)
    metrics = ["metrics.json"] if section in ("classifier", "saliency") else []
    assert sorted(path.name for path in out.iterdir()) == sorted(["model.json", "model.safetensors", *metrics])
    description = read_json(out / "model.json")
    assert description["kind"] == section
    assert description["settings"] == getattr(config, section).model_dump(mode="json")
    assert len(description["history"]) == getattr(config, section).epochs
    TRAININGS[section][2](out)
    if section == "classifier":
        assert read_json(out / "metrics.json")["images"] == 4
        assert set(read_json(out / "metrics.json")["average_precision"]) == set(CLASSES)
    if section == "end_to_end":
        assert [set(entry) for entry in description["history"]] == [
            {"classification"},
            {"classification", "segmentation", "saliency", "energy"},
        ]


@pytest.mark.parametrize("section", ["classifier", "end_to_end", "deeplab"])
def test_training_is_reproducible(section: str, config: Config, data: Path) -> None:
    for out in ("one", "two"):
        train(section, config, data, data / out)
    assert (data / "one" / "model.safetensors").read_bytes() == (data / "two" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("section", ["end_to_end", "deeplab"])
def test_maps_of_another_size_than_the_image_are_refused(section: str, config: Config, data: Path) -> None:
    folder = data / {"end_to_end": "saliency", "deeplab": "pseudo_labels"}[section] / "000"
    write_labels(folder / "i2.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(InputError, match=r"i2\.png: size \(8, 8\) is not the image's \(24, 40\)"):
        train(section, config, data, data / "out")
    assert not (data / "out" / "model.json").exists()


def arguments_of_fit(
    section: str, config: Config, data: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model that a stage trains and the keyword arguments of its training, which is left out."""
    seen: list[tuple[torch.nn.Module, dict[str, Any]]] = []

    def watch(model: torch.nn.Module, *others: Any, **options: Any) -> list[dict[str, float]]:
        seen.append((model, options))
        return []

    monkeypatch.setattr(TRAININGS[section][0], "fit", watch)
    train(section, config, data, data / "out")
    return seen[0]


@pytest.mark.parametrize("section", TRAININGS)
def test_learning_rates_cover_each_weight_once(
    section: str, config: Config, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, options = arguments_of_fit(section, config, data, monkeypatch)
    covered = [id(parameter) for group in options["groups"] for parameter in group["params"]]
    assert sorted(covered) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    if section == "end_to_end":
        rates = {id(p): group["lr"] for group in options["groups"] for p in group["params"]}
        assert isinstance(model, EndToEndNetwork)
        assert {rates[id(p)] for p in model.classifier.parameters()} == {config.end_to_end.learning_rate}
        assert {rates[id(p)] for p in model.decoder.parameters()} == {config.end_to_end.decoder_learning_rate}


@pytest.mark.filterwarnings("ignore:No positive samples")
@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("classifier", "labels"),
        ("classifier", "image"),
        ("end_to_end", "labels"),
        ("end_to_end", "image"),
        ("end_to_end", "saliency"),
        ("deeplab", "image"),
        ("deeplab", "pseudo_labels"),
    ],
)
def test_changed_data_makes_another_key(
    section: str, change: str, config: Config, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key() -> str:
        return str(arguments_of_fit(section, config, data, monkeypatch)[1]["key"])

    before = key()
    assert key() == before
    if change == "labels":
        index = (data / "index.csv").read_text()
        assert "a;c" in index
        (data / "index.csv").write_text(index.replace("a;c", "a;b"))
    elif change == "image":
        Image.fromarray(np.zeros((30, 36, 3), np.uint8)).save(data / "i0.png")
    else:
        write_gray(data / change / "000" / "i0.png", np.zeros((30, 36), np.uint8))
    assert key() != before
