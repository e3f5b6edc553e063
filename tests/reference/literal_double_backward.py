"""The second phase's step as the authors' program makes it: a backward for each image and class, a second forward."""

from __future__ import annotations

from torch import Tensor

from getam.networks.end_to_end import EndToEndNetwork
from getam.settings.end_to_end import EndToEndSettings
from getam.training.double_backward import TrainingStep, classes_of, losses_of
from reference.literal_maps import literal_getam_loop


def literal_training_step(
    network: EndToEndNetwork, batch: dict[str, Tensor], settings: EndToEndSettings
) -> TrainingStep:
    """What getam.training.double_backward.training_step gives in the second phase, by two forward passes.

    The network must have no stochastic layer, or the two passes differ; its batch norms' statistics move twice.
    """
    images = batch["image"]
    maps = literal_getam_loop(
        network.classifier.backbone,
        images,
        classes_of(batch["classes"]),
        coupling=settings.maps.coupling,
        start_block=settings.maps.start_block,
        model=lambda x: network(x)[0],
    )
    network.zero_grad()
    scores, logits = network(images)
    return losses_of(scores, logits, maps, classes_of(batch["classes"]), batch, settings)
