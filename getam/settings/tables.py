"""Settings of the paper's tables and figures and of sweeps."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from getam.settings.section import Fraction, PositiveInt, Section

Measured = Annotated[Fraction | None, BeforeValidator(lambda value: None if value == "null" else value)]
"""A score in [0, 1], or None (`null`, also as a flag's text) if it was not measured."""


class ScoreSettings(Section):
    """Test scores that the VOC evaluation server returned for the submissions of both paths."""

    multi_stage: Measured = Field(description="mIoU of the multi-stage path on test; null: not submitted")
    end_to_end: Measured = Field(description="mIoU of the end-to-end path on test; null: not submitted")


class TablesSettings(Section):
    """make_table and the stages of the paper's figures: the parts of the comparisons that depend on the data set."""

    alphas: tuple[Fraction, ...] = Field(description="values of completion.alpha in table 6", min_length=1)
    cnn: dict[str, Any] = Field(
        description="changes of the section classifier that make it the CNN whose CAM table 3 and figure 2 compare"
    )
    backbones: dict[str, dict[str, Any]] = Field(
        description="{name: changes of the section end_to_end} in table 2; an overlay replaces the whole mapping",
        min_length=1,
    )
    propagated: dict[str, Any] = Field(
        description="changes of the run for table 8's rows of propagated maps: maps.propagation, and what suits such "
        "maps in refine, completion, score_labels and end_to_end"
    )
    test_miou: ScoreSettings
    seeds: Annotated[int, Field(ge=2)] = Field(
        description="number of seeds in the table seeds: the run's own, and the next ones; one has no spread"
    )
    row_seeds: PositiveInt = Field(
        description="number of seeds of each row of tables 2, 3, 6 and 7 and of a sweep; with more than one, their "
        "scores are means with deviations"
    )
    images: PositiveInt = Field(
        description="number of train images, evenly spaced, that figure 2 shows and figure 11 times"
    )
    batch_sizes: tuple[PositiveInt, ...] = Field(description="batch sizes that figure 11 compares", min_length=1)


class SweepSettings(Section):
    """sweep: one setting and its values, with one run for each value."""

    key: str = Field(description="dotted name of the setting, such as completion.gamma; empty: none")
    values: tuple[Any, ...] = Field(description="its values")
