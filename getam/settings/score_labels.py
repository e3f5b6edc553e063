"""Settings of the scores of pseudo labels and maps."""

from __future__ import annotations

from pydantic import Field

from getam.settings.section import Fraction, Section


class ScoreLabelsSettings(Section):
    """score_labels: the scores of the pseudo labels, and of the maps alone."""

    threshold: Fraction = Field(
        description="maps above this are the class, others background, for the score of the maps alone at a threshold "
        "that no ground truth chose"
    )
