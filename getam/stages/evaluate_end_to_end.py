"""Scores the end-to-end network's predictions against ground truth, at original resolution."""

from __future__ import annotations

from getam.scores.evaluation import EvaluationArguments, write_scores

Arguments = EvaluationArguments


def run(arguments: EvaluationArguments) -> None:
    write_scores(arguments, what="evaluate_end_to_end")
