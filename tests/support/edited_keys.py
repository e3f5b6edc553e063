"""The rules that an edit of each key of config.yaml reruns."""

from __future__ import annotations

from support.downstream import (
    AFTER_COMPLETION,
    AFTER_INDEX,
    AFTER_MAPS,
    AFTER_SALIENCY,
    ALL,
    DEEPLAB,
    END_TO_END,
    SCORES,
)

from getam.settings.saliency import SaliencyMapSettings

Key = tuple[str, ...]


SECTIONS = {
    "demo": ALL,
    "data": {"index_dataset"} | AFTER_INDEX,
    "classifier": {"train_classifier"} | AFTER_MAPS,
    "maps": AFTER_MAPS,
    "refine": AFTER_MAPS - {"dump_maps"},
    "saliency": {"train_saliency"} | AFTER_SALIENCY,
    "completion": AFTER_COMPLETION,
    "score_labels": {"score_labels"} | SCORES,
    "deeplab": DEEPLAB | SCORES,
    "deeplab_prediction": (DEEPLAB - {"train_deeplab"}) | SCORES,
    "end_to_end": END_TO_END | SCORES,
    "end_to_end_prediction": (END_TO_END - {"train_end_to_end"}) | SCORES,
    "audit": {"audit"},
}


KEYS = (
    {
        "code_hash": set[str](),
        "checkpoint.backbone": set[str](),
        "data.shards": AFTER_MAPS | AFTER_SALIENCY,
        "data.saliency_train": SECTIONS["saliency"],
        "data.saliency_val": SECTIONS["saliency"],
    }
    | {f"{section}.gpus": set[str]() for section in ("classifier", "saliency", "deeplab", "end_to_end")}
    | {f"saliency.{name}": AFTER_SALIENCY for name in SaliencyMapSettings.model_fields}
    | {
        f"{section}.pretrained": SECTIONS[section] | {"fetch_weights"}
        for section in ("classifier", "saliency", "deeplab", "end_to_end")
    }
)
"""Keys whose edit reruns other rules than the rest of their section."""


ELSEWHERE = {
    "run": "another run's folder",
    "data.root": "another data set: test_the_demo_is_made_only_where_it_is_used",
    "data.format": "another data set: test_masks_are_an_output_where_they_are_converted",
    "data.augmented": "another data set: tests/workflow/test_scale.py",
    "maps.source": "test_class_maps_may_be_brought_along",
    "maps.folder": "test_class_maps_may_be_brought_along",
    "saliency.source": "test_saliency_maps_may_be_brought_along, test_a_run_without_saliency_has_none",
    "saliency.folder": "test_saliency_maps_may_be_brought_along",
    "rounds": "tests/workflow/test_rounds.py",
    "completion.verdicts": "test_verdicts_rerun_the_labels_when_they_are_named_and_when_they_change",
    "completion.corrected": "test_corrected_labels_rerun_what_learns_from_them",
    "checkpoint.file": "test_a_checkpoint_takes_the_place_of_the_training",
}
"""Keys that change the set of rules or cannot be changed -> the test that covers the key, or why none does."""


def expected(path: Key) -> set[str]:
    name = ".".join(path)
    return KEYS.get(name, SECTIONS.get(path[0], set()))
