"""Sets of rules that an edit reruns: each stage with the rules after it."""

from __future__ import annotations

SCORES = {"summary", "plot_scores", "audit"}


DEEPLAB = {"train_deeplab", "predict_deeplab", "evaluate_deeplab"}


END_TO_END = {"train_end_to_end", "predict_end_to_end", "evaluate_end_to_end"}


AFTER_COMPLETION = {"complete_labels", "score_labels"} | DEEPLAB | SCORES


AFTER_MAPS = {"dump_maps", "refine_maps"} | AFTER_COMPLETION


AFTER_SALIENCY = {"predict_saliency"} | AFTER_COMPLETION | END_TO_END


AFTER_INDEX = {"train_classifier"} | AFTER_MAPS | AFTER_SALIENCY


ALL = {"make_demo", "index_dataset", "train_saliency"} | AFTER_INDEX
