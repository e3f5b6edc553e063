"""The end-to-end network on disk; trainings that see no ground truth."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from support.crf import without_pydensecrf
from support.trainings import CLASSES, TRAININGS, settings_of, write_inputs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import getam.stages.train_classifier
import getam.stages.train_end_to_end
import getam.stages.train_saliency
import getam.training.double_backward
import getam.training.loop
from deeplab.model import load_deeplab
from getam.datasets.images import normalize_rgb
from getam.datasets.index import Index, read_index, write_index
from getam.errors import InputError
from getam.networks.checkpoints import read_description, save_model
from getam.networks.classifier import load_classifier
from getam.networks.end_to_end import EndToEndNetwork, describe_end_to_end, load_end_to_end
from getam.settings.config import Config
from getam.settings.end_to_end import EndToEndSettings
from getam.settings.flags import flags
from getam.system.arguments.training import TrainingArguments
from getam.system.files import read_json, write_json
from getam.system.image_files import write_gray, write_labels
from getam.training.folder import STATE
from getam.training.loop import STATE_FILE


def test_settings_with_a_cnns_readout_are_refused(settings: EndToEndSettings) -> None:
    with pytest.raises(ValidationError, match=r"readout: pool is a CNN's.*write project or token"):
        EndToEndSettings.model_validate(settings.model_dump() | {"readout": "pool"})


def test_taps_beyond_the_blocks_are_refused(settings: EndToEndSettings) -> None:
    decoder = settings.decoder.model_copy(update={"taps": (0, 1, 4)})
    with pytest.raises(InputError, match=r"decoder\.taps: \[0, 1, 4\].*blocks are 0 to 3"):
        EndToEndNetwork(settings.model_copy(update={"decoder": decoder}), num_classes=3)


@pytest.mark.parametrize("architecture", ["dpt", "linear"])
def test_save_and_load_round_trip(architecture: str, settings: EndToEndSettings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"architecture": architecture})
    network = EndToEndNetwork(settings, num_classes=3)
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


def test_a_network_from_before_there_were_backends_is_loaded(settings: EndToEndSettings, tmp_path: Path) -> None:
    save_model(tmp_path, EndToEndNetwork(settings, num_classes=3), describe_end_to_end(settings, CLASSES))
    description = read_json(tmp_path / "model.json")
    before = description["settings"]["completion"]["crf"]
    assert before.pop("backend") == "auto"
    write_json(tmp_path / "model.json", description)
    read, classes = read_description(tmp_path, kind="end_to_end", settings=EndToEndSettings)
    assert classes == CLASSES
    assert read.completion.crf.model_dump() == before | {"backend": "pydensecrf"}


HYBRID = {"embed_dim": 48, "depth": 2, "num_heads": 3}


def hybrid(settings: EndToEndSettings, **decoder: Any) -> EndToEndSettings:
    values = settings.model_dump() | {"backbone": "vit_base_r50_s16_384", "backbone_options": HYBRID}
    values["decoder"] |= {"taps": ["stage0", "stage1", 0], "channels": [256, 512, 8], "scales": [4, 2, 1]} | decoder
    values["maps"] |= {"start_block": 0}
    return EndToEndSettings.model_validate(values)


def test_hybrid_gives_its_stages_to_the_decoder(settings: EndToEndSettings) -> None:
    torch.manual_seed(0)
    network = EndToEndNetwork(hybrid(settings), num_classes=3).eval()
    vit = network.classifier.backbone
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        tokens = network.classifier.tokens(images, taps=network.decoder.taps)
        # The ResNet by hand: stem, then a stage after the other.
        features = vit.patch_embed.backbone.stem(images)
        stages = []
        for stage in vit.patch_embed.backbone.stages:
            features = stage(features)
            stages.append(features)
        for found, expected in zip(tokens.taps[:2], stages, strict=False):
            torch.testing.assert_close(found, expected)
        assert [tuple(tap.shape) for tap in tokens.taps] == [(2, 256, 16, 24), (2, 512, 8, 12), (2, 25, 48)]
        scores, logits = network(images)
    assert scores.shape == (2, 3)
    assert logits.shape == (2, 4, 64, 96)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        ({"taps": ["stage0", "stage7", 0]}, r"has no stage7; its blocks are 0 to 1, its stages stage0, stage1, stage2"),
        (
            {"channels": [96, 512, 8]},
            r"decoder\.channels, .*: stage0 .* 256 channels at 4 times .*not 96 at 4",
        ),
        ({"scales": [4, 4, 1]}, r"stage1 .* has 512 channels at 2 times the token grid, not 512 at 4"),
    ],
)
def test_taps_that_are_not_the_hybrids_are_refused(
    decoder: dict[str, Any], message: str, settings: EndToEndSettings
) -> None:
    with pytest.raises(InputError, match=message):
        EndToEndNetwork(hybrid(settings, **decoder), num_classes=3)


def test_stages_of_a_backbone_without_are_refused(settings: EndToEndSettings) -> None:
    decoder = settings.decoder.model_copy(update={"taps": ("stage0", 1, 2)})
    with pytest.raises(InputError, match=r"decoder\.taps: .* has no stage0; its blocks are 0 to 3$"):
        EndToEndNetwork(settings.model_copy(update={"decoder": decoder}), num_classes=3)


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("deit_base_distilled_patch16_384", {"embed_dim": 24, "depth": 6, "num_heads": 2}),
        ("vit_small_patch14_reg4_dinov2", {"embed_dim": 24, "depth": 6, "num_heads": 2, "patch_size": 16}),
    ],
)
def test_any_vit_by_its_taps(backbone: str, options: dict[str, Any], settings: EndToEndSettings) -> None:
    values = settings.model_dump() | {"backbone": backbone, "backbone_options": options}
    values["decoder"] |= {"taps": [1, 2, 4]}
    values["crop"] |= {"size": 64}
    network = EndToEndNetwork(EndToEndSettings.model_validate(values), num_classes=3).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = network(images)
        assert before[1].shape == (1, 4, 64, 64)
        # Of the prefix tokens the read-outs see the class token alone.
        taps = network.classifier.tokens(images, taps=network.decoder.taps).taps
        assert {tap.shape[1] - 16 for tap in taps} == {network.classifier.backbone.num_prefix_tokens}


def test_backbones_own_normalization(settings: EndToEndSettings) -> None:
    values = settings.model_dump()
    plain = EndToEndNetwork(EndToEndSettings.model_validate(values), num_classes=3).eval()
    own = EndToEndNetwork(EndToEndSettings.model_validate(values | {"normalization": "backbone"}), num_classes=3).eval()
    own.load_state_dict(plain.state_dict())
    photograph = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    # vit_tiny_patch16_224 was pretrained with mean and deviation 0.5.
    with torch.no_grad():
        found = own(normalize_rgb(photograph))
        expected = plain((photograph.float() / 255 - 0.5) / 0.5)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_inputs(tmp_path)


def train(section: str, config: Config, data: Path, out: Path, **watched: int) -> None:
    module, paths, _ = TRAININGS[section]
    module.run(
        module.Arguments(
            **settings_of(section, config).model_dump(), **paths(data), out=out, threads=1, device="cpu", **watched
        )
    )


@pytest.mark.parametrize("section", TRAININGS)
def test_training_reads_no_ground_truth_and_leaves_a_model(section: str, config: Config, data: Path) -> None:
    # A stage that opened a mask of index.csv would fail: there is none. Saliency has masks of its own, and no index.
    if section == "saliency":
        (data / "index.csv").unlink()
    out = data / "out"
    train(section, config, data, out)
    metrics = ["metrics.json"] if section in ("classifier", "saliency") else []
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["model.json", "model.safetensors", "tensorboard", *metrics]
    )
    description = read_json(out / "model.json")
    assert description["kind"] == section
    assert description["settings"] == settings_of(section, config).model_dump(mode="json")
    assert len(description["history"]) == settings_of(section, config).epochs
    TRAININGS[section][2](out)
    if section == "classifier":
        assert read_json(out / "metrics.json")["images"] == 4
        assert set(read_json(out / "metrics.json")["average_precision"]) == set(CLASSES)
    if section == "end_to_end":
        assert [set(entry) for entry in description["history"]] == [
            {"classification"},
            {"classification", "segmentation", "saliency", "energy"},
        ]


def test_a_segmenter_of_full_supervision_learns_from_those_masks_that_are_there(config: Config, data: Path) -> None:
    full = config.model_copy(update={"deeplab": config.deeplab.model_copy(update={"labels": "truth"})})
    with pytest.raises(InputError, match="no_mask_of_i0"):
        train("deeplab", full, data, data / "none")
    index = read_index(data / "index.csv")
    # One mask is no file of the data set, as where images have image labels alone.
    rows = [replace(row, mask=None) if row.id == "i3" else row for row in index.rows]
    write_index(data / "index.csv", Index(tuple(rows), CLASSES))
    for row in rows:
        if row.mask is not None:
            write_labels(row.mask, np.full((row.height, row.width), 2, np.uint8))
    train("deeplab", full, data, data / "truth")
    train("deeplab", config, data, data / "pseudo")
    assert read_json(data / "truth" / "model.json")["supervision"] == "F"
    assert read_json(data / "pseudo" / "model.json")["supervision"] == "I+S"
    model, _ = load_deeplab(data / "truth")
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 32, 32))
    assert logits.mean((0, 2, 3)).argmax() == 2, "all it has seen are masks of 2"
    for row in rows:
        if row.mask is not None:
            row.mask.unlink()
    unlabelled = Index(tuple(replace(row, mask=None) for row in rows), CLASSES)
    write_index(data / "index.csv", unlabelled)
    with pytest.raises(InputError, match=r"labels: no image of .*index\.csv has a mask; write pseudo"):
        train("deeplab", full, data, data / "none")


@pytest.mark.parametrize("section", ["classifier", "end_to_end", "deeplab"])
def test_training_is_reproducible(section: str, config: Config, data: Path) -> None:
    for out in ("one", "two"):
        train(section, config, data, data / out)
    assert (data / "one" / "model.safetensors").read_bytes() == (data / "two" / "model.safetensors").read_bytes()


def command_of(section: str, config: Config, data: Path, out: Path) -> list[str]:
    """The words that run a training in a process of its own."""
    module, paths, _ = TRAININGS[section]
    package, _, stage = module.__name__.partition(".stages.")
    words = flags(settings_of(section, config))
    for name, value in paths(data).items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--out", str(out), "--threads", "1", "--device", "cpu"]
    return ["-m", package, stage.replace("_", "-"), *words]


def twenty_steps(config: Config, section: str) -> Config:
    # A rate so small that rounding doesn't grow from step to step.
    changes = {"epochs": 10, "learning_rate": 1e-4} | ({"classifier_epochs": 4} if section == "end_to_end" else {})
    return config.model_copy(update={section: getattr(config, section).model_copy(update=changes)})


def test_training_shows_itself(config: Config, data: Path) -> None:
    for row in read_index(data / "index.csv").split("val"):
        assert row.mask is not None
        write_labels(
            row.mask, np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint8), (row.height, row.width))
        )
    config = config.model_copy(
        update={"end_to_end": config.end_to_end.model_copy(update={"epochs": 4, "gradient_clipping": 1.0})}
    )
    out = data / "out"
    watched = {"scalars_every": 1, "pictures_every": 3, "validate_every": 2}
    train("end_to_end", config, data, out, **watched)
    history = read_json(out / "model.json")["history"]
    assert ["val_miou" in entry for entry in history] == [False, True, False, True]
    assert sorted(path.name for path in (out / "pictures").iterdir()) == ["000003.png", "000006.png"]
    best = read_json(out / "best" / "model.json")
    assert best["val_miou"] == max(entry.get("val_miou", 0) for entry in history)
    load_end_to_end(out / "best")
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert {"loss/classification", "loss/energy", "gradient_norm", "learning_rate/0", "images_per_second"} <= set(
        events.Tags()["scalars"]
    )
    assert [event.step for event in events.Scalars("loss/classification")] == list(range(1, 9))
    assert [event.step for event in events.Images("step")] == [3, 6]
    # Watching changes no weight.
    train("end_to_end", config, data, data / "unwatched")
    assert (out / "model.safetensors").read_bytes() == (data / "unwatched" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("value", ["soon", "-1"])
def test_bad_variable_of_the_environment_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GETAM_CHECKPOINT_MINUTES", value)
    with pytest.raises(ValidationError, match=r"checkpoint.minutes"):
        TrainingArguments()
    monkeypatch.setenv("GETAM_CHECKPOINT_MINUTES", "2.5")
    assert TrainingArguments().checkpoint_minutes == 2.5


@pytest.mark.slow
@pytest.mark.parametrize("section", ["end_to_end", "deeplab", "classifier"])
def test_two_processes_train_as_one(section: str, config: Config, data: Path) -> None:
    config = twenty_steps(config, section)
    train(section, config, data, data / "one")
    words = command_of(section, config, data, data / "two")
    # Of two GPUs that the machine has by name alone; the processes compute on the CPU.
    words[words.index("--device") + 1] = "auto"
    environment = os.environ | {"GETAM_GPUS": "one,two", "CUDA_VISIBLE_DEVICES": ""}
    log = data / "two.log"
    subprocess.run([sys.executable, *words, "--gpus", "2", "--log", str(log)], env=environment, check=True, timeout=900)
    assert "takes GPU one, two" in log.read_text()
    one, two = (read_json(data / name / "model.json")["history"] for name in ("one", "two"))
    assert len(one) == len(two) == 10
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=1e-5, abs=1e-6)


PAUSING = """
import os, signal, sys
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_pre_hook
from getam.cli import main
steps = []
def pause(*_):
    steps.append(1)
    if len(steps) == int(os.environ["PAUSE_BEFORE_STEP"]):
        Path(os.environ["PAUSED"]).touch()
        signal.pause()
register_optimizer_step_pre_hook(pause)
main()
"""
"""`getam`, whose training waits for ever before one step."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_killed_at_a_random_step_it_ends_with_the_same_weights(seed: int, config: Config, data: Path) -> None:
    section = "end_to_end"
    config = twenty_steps(config, section)
    train(section, config, data, data / "whole")
    words = [sys.executable, *command_of(section, config, data, data / "parts"), "--checkpoint-minutes", "0"]
    state = data / "parts" / STATE / STATE_FILE
    # A step of either phase: 8 steps classify, 12 segment.
    saves = random.Random(seed).randint(*((1, 7), (9, 18))[seed % 2])
    # It doesn't get far beyond that, however late it is killed.
    paused = data / "paused"
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSING, *words[words.index("getam") + 1 :]],
        env=os.environ | {"PAUSE_BEFORE_STEP": str(saves + 2), "PAUSED": str(paused)},
    )
    seen: set[int] = set()
    while process.poll() is None and len(seen) < saves and not paused.exists():
        with contextlib.suppress(FileNotFoundError):
            seen.add(state.stat().st_mtime_ns)
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.is_file()
    assert not (data / "parts" / "model.json").exists()
    subprocess.run(words, check=True, timeout=900)
    whole, parts = (data / name / "model.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    assert read_json(data / "whole" / "model.json") == read_json(data / "parts" / "model.json")
    assert not state.parent.exists()


@pytest.mark.parametrize("section", ["end_to_end", "deeplab"])
def test_maps_of_another_size_than_the_image_are_refused(section: str, config: Config, data: Path) -> None:
    folder = data / {"end_to_end": "saliency", "deeplab": "pseudo_labels"}[section] / "000"
    write_labels(folder / "i2.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(InputError, match=r"i2\.png: size \(8, 8\) is not the image's \(24, 40\)"):
        train(section, config, data, data / "out")
    assert not (data / "out" / "model.json").exists()


def arguments_of_training(
    section: str, config: Config, data: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model that a stage trains and the keyword arguments of its training, which is left out."""
    seen: list[tuple[torch.nn.Module, dict[str, Any]]] = []

    class Untrained:
        def __init__(self, model: torch.nn.Module, *others: Any, **options: Any) -> None:
            seen.append((model, options))

        def run(self) -> list[dict[str, float]]:
            return []

    monkeypatch.setattr(getam.training.loop, "Training", Untrained)
    train(section, config, data, data / "out")
    return seen[0]


def test_the_model_says_which_backend_of_the_crf_made_its_targets(
    config: Config, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pydensecrf(monkeypatch)
    by_crf = config.end_to_end.completion.model_copy(update={"method": "crf"})
    settings = config.end_to_end.model_copy(update={"completion": by_crf})
    arguments_of_training("end_to_end", config.model_copy(update={"end_to_end": settings}), data, monkeypatch)
    assert read_json(data / "out" / "model.json")["settings"]["completion"]["crf"]["backend"] == "torch"


@pytest.mark.parametrize("section", TRAININGS)
def test_learning_rates_cover_each_weight_once(
    section: str, config: Config, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, options = arguments_of_training(section, config, data, monkeypatch)
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
        return str(arguments_of_training(section, config, data, monkeypatch)[1]["key"])

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
