"""Trains the salient-object-detection network on image/mask pairs: structure loss, MAE and max F on held-out pairs."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field
from torch import Tensor, nn

from getam.checkpoints import save_model
from getam.distributed import is_main
from getam.duts import check_pairs, find_pairs, read_pair
from getam.files import fingerprint, write_json
from getam.images import ResizeFlip, TrainingImages
from getam.index import evenly_spaced
from getam.pretrained import initialization_of
from getam.saliency import build_saliency, describe_saliency, structure_loss
from getam.saliency_scores import predicted_pairs, saliency_scores
from getam.settings import SaliencySettings, only
from getam.training import decay_groups, fit, training_folder, training_key
from getam.training_arguments import TrainingArguments

SECTION = "saliency"

logger = logging.getLogger(__name__)


class Arguments(SaliencySettings, TrainingArguments):
    """Train the saliency network and score it on held-out pairs."""

    train: Path = Field(description="folder of image/mask pairs in DUTS layout")
    val: Path = Field(description="folder of held-out pairs in DUTS layout")
    out: Path = Field(description="folder for model.safetensors, model.json and metrics.json")


def run(arguments: Arguments) -> None:
    settings = only(SaliencySettings, arguments)
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

    def step(model: nn.Module, batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        loss = structure_loss(model(batch["image"]), batch["mask"][:, None], weighted=settings.loss == "weighted")
        return {"structure": loss}

    key = training_key(
        settings.model_dump(mode="json"),
        initialization_of(model),
        fingerprint(file for pair in pairs for file in (pair.image, pair.mask)),
    )
    val = fingerprint(file for pair in held_out for file in (pair.image, pair.mask))
    with training_folder(arguments.out, key, machine=arguments, scored=val) as finished:
        if finished:
            return
        history = fit(
            model,
            step,
            images,
            settings,
            groups=decay_groups(model, learning_rate=settings.learning_rate),
            device=device,
            machine=arguments,
            out=arguments.out,
            key=key,
            what="train_saliency",
            name_of=lambda number: pairs[number].id,
        )
        if not is_main():
            return
        scored = predicted_pairs(
            model.eval(),
            held_out,
            image_size=settings.image_size,
            stretch=False,
            device=device,
            threads=arguments.threads,
        )
        metrics = {"images": len(held_out), **saliency_scores(scored)}
        save_model(
            arguments.out,
            model,
            describe_saliency(settings) | {"initialization": initialization_of(model), "history": history},
        )
        write_json(arguments.out / "metrics.json", metrics)
        logger.info(
            "train_saliency: MAE %.4f, max F %.4f, S %.4f, max E %.4f on %s",
            *(metrics[name] for name in ("mae", "max_f", "s_measure", "max_e")),
            arguments.val,
        )
