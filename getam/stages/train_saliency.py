"""Trains the salient-object-detection network on image/mask pairs by structure loss; scores it on held-out pairs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from torch import Tensor, nn

from getam.datasets.duts import SaliencyPair, check_pairs, find_pairs, read_pair
from getam.datasets.images import ResizeFlip, TrainingImages
from getam.datasets.index import evenly_spaced
from getam.networks.saliency import build_saliency, describe_saliency
from getam.scores.saliency import predicted_pairs, saliency_scores
from getam.settings.saliency import SaliencySettings
from getam.settings.section import section_of
from getam.system.arguments.training import TrainingArguments
from getam.system.files import fingerprint
from getam.training.loop import Scoring, StepResult, train
from getam.training.losses import structure_loss
from getam.training.optimization import fine_tuning_groups

SECTION = "saliency"

logger = logging.getLogger(__name__)


class Arguments(SaliencySettings, TrainingArguments):
    """Train the saliency network and score it on held-out pairs."""

    train: Path = Field(description="folder of image/mask pairs in DUTS layout")
    val: Path = Field(description="folder of held-out pairs in DUTS layout")
    out: Path = Field(description="folder for model.safetensors, model.json and metrics.json")


def run(arguments: Arguments) -> None:
    settings = section_of(SaliencySettings, arguments)
    device = arguments.prepare(seed=settings.seed)
    pairs = evenly_spaced(find_pairs(arguments.train), settings.pairs)
    held_out = evenly_spaced(find_pairs(arguments.val), settings.pairs)
    check_pairs([*pairs, *held_out])
    model = build_saliency(settings).to(device)
    images = TrainingImages(
        pairs,
        load=read_pair,
        transform=ResizeFlip(
            settings.image_size,
            color_jitter=settings.color_jitter,
            border_crop=settings.border_crop,
            rotation=settings.rotation,
        ),
        seed=settings.seed,
    )

    def step(model: nn.Module, batch: dict[str, Tensor], epoch: int) -> StepResult:
        loss = structure_loss(model(batch["image"]), batch["mask"][:, None], weighted=settings.loss == "weighted")
        return StepResult({"structure": loss})

    def score() -> dict[str, object]:
        predicted = predicted_pairs(
            model,
            held_out,
            image_size=settings.image_size,
            stretch=False,
            device=device,
            threads=arguments.threads,
        )
        scores = saliency_scores(predicted)
        logger.info(
            "train_saliency: MAE %.4f, max F %.4f, S %.4f, max E %.4f on %s",
            *(scores[name] for name in ("mae", "max_f", "s_measure", "max_e")),
            arguments.val,
        )
        return {"images": len(held_out), **scores}

    train(
        model,
        step,
        images,
        settings,
        groups=fine_tuning_groups(model, settings, learning_rate=settings.learning_rate),
        data=[_fingerprint(pairs)],
        description=describe_saliency(settings),
        arguments=arguments,
        out=arguments.out,
        name_of=lambda number: pairs[number].id,
        scoring=Scoring(score, data=_fingerprint(held_out)),
    )


def _fingerprint(pairs: Sequence[SaliencyPair]) -> str:
    return fingerprint(file for pair in pairs for file in (pair.image, pair.mask))
