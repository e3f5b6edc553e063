"""Scores DeepLabv2's predictions against ground truth, at original resolution."""

from __future__ import annotations

from getam.scores.evaluation import EvaluationArguments, write_scores

Arguments = EvaluationArguments


def run(arguments: EvaluationArguments) -> None:
    write_scores(arguments, what="evaluate_deeplab")
