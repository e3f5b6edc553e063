"""Settings of the stage that makes pseudo labels from class maps, and the table of label methods."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pydantic import BeforeValidator, Field, model_validator

from getam.settings.choices import Choice, with_baselines
from getam.settings.crf import CrfSettings
from getam.settings.section import Fraction, LongSide, PositiveFloat, Section


def _opening(value: Any) -> Any:
    # This runs before pydantic's own check, which would report one error for each member of the union.
    if value == "released" or (str(value).isdigit() and int(value) < 100):
        return value
    raise ValueError("write 0, an odd number of pixels below 100, or released")


Opening = Annotated[Literal["released"] | int, BeforeValidator(_opening)]


class CompletionArguments(TypedDict):
    """Keyword arguments of getam.labels.completion.complete_labels."""

    alpha: float
    gamma: float
    conflict: Literal["unknown", "lowest"]
    opening: int | Literal["released"]


class CompletionSettings(Section):
    """complete_labels: activation-aware label completion, Eq. 4-5."""

    alpha: Fraction = Field(
        description="quantile of a class's positive activations above which it is mined where saliency is 0"
    )
    gamma: PositiveFloat = Field(description="exponent of the background score (1 - max M)^gamma, Eq. 4")
    conflict: Literal["unknown", "lowest"] = Field(
        description="pixels mined by two classes: unknown (255, Eq. 5) or lowest (class index, authors' code)"
    )
    opening: Opening = Field(
        description="size of a final morphological opening of the classes, pixels: 0 (none, as in the paper), odd, or "
        "released (authors' code: 10x10, which shifts labels by a pixel)"
    )
    saliency_threshold: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="a pixel is salient where its saliency in [0, 1] is strictly above this"
    )

    @model_validator(mode="after")
    def _odd(self) -> CompletionSettings:
        if self.opening != "released" and self.opening and self.opening % 2 == 0:
            raise ValueError(f"opening: {self.opening} is even and would shift labels; write 0 or an odd size")
        return self

    def completion_arguments(self) -> CompletionArguments:
        """The keyword arguments of getam.labels.completion.complete_labels."""
        return {"alpha": self.alpha, "gamma": self.gamma, "conflict": self.conflict, "opening": self.opening}


class RrmSettings(Section):
    """RRM's reliable labels (Zhang et al. 2020): pixels on which the maps and two dense CRFs agree."""

    foreground_gamma: PositiveFloat = Field(
        description="background exponent of the CRF that finds classes: low, so that only strong activations count"
    )
    background_gamma: PositiveFloat = Field(
        description="background exponent of the CRF that finds background: high, so that weak activations count"
    )
    activation: Fraction = Field(description="activations above this are ranked, in [0, 1]")
    quantile: Fraction = Field(description="quantile of a class's ranked activations above which it is sure")
    confidence: Fraction = Field(description="least background score and least CRF probability of a sure pixel")


class BandSettings(Section):
    """Labels by two background scores (Ru et al. 2023), without saliency."""

    high: Fraction = Field(description="a class is sure where its map over the map's maximum is above this")
    low: Fraction = Field(description="background is where no map is above this; between the two a pixel is unknown")

    @model_validator(mode="after")
    def _in_order(self) -> BandSettings:
        if self.low > self.high:
            raise ValueError(f"low: {self.low} is above high {self.high}; write a lower one")
        return self


@dataclass(frozen=True)
class LabelMethod:
    """A method that makes pseudo labels; its function is in getam.labels.methods.LABEL_MAKERS.

    Attributes:
        name: title in plots and tables.
        text: explanation in --help.
        needs_saliency: whether the method reads the image's saliency map; its labels then have the supervision I+S.
        reads_photograph: whether the method reads the image itself.
        runs_crf: whether the method runs the dense CRF, which keeps a core busy for seconds an image. pydensecrf
            holds the interpreter, so that its images are labelled in a pool of processes, all others in threads.
        on_device: whether the method also accepts maps and saliency as tensors, and computes on their device.
        by_rules: whether Eq. 5 decides each pixel. The audit page then has a layer of the deciding rules, and the
            end-to-end training knows which pixels were mined.
    """

    name: str
    text: str
    needs_saliency: bool = False
    reads_photograph: bool = False
    runs_crf: bool = False
    on_device: bool = False
    by_rules: bool = False


LABEL_METHODS = {
    "activation": LabelMethod("completion", "Eq. 4-5", needs_saliency=True, on_device=True, by_rules=True),
    "crf": LabelMethod("dense CRF", "dense CRF on the maps, without saliency", reads_photograph=True, runs_crf=True),
    "rrm": LabelMethod("RRM", "RRM's reliable labels, without saliency", reads_photograph=True, runs_crf=True),
    "bands": LabelMethod("bands", "two background scores, without saliency", on_device=True),
}
"""The label methods by the value of `completion.method`: the paper's first, then the baselines."""


def label_methods(*, need_saliency: bool) -> list[str]:
    """The keys of the methods that read a saliency map (`need_saliency`), or of those that do not."""
    return [key for key, method in LABEL_METHODS.items() if method.needs_saliency == need_saliency]


class LabelSettings(CompletionSettings):
    """complete_labels: the paper's completion, or one of the baseline label methods."""

    method: Annotated[str, Choice(LABEL_METHODS)] = Field(description=with_baselines(LABEL_METHODS))
    crf: CrfSettings
    crf_confidence: Fraction = Field(
        description="of crf: a pixel is unknown where its label's probability is below this; 0: never (CLIP-ES: 0.95)"
    )
    rrm: RrmSettings
    bands: BandSettings

    @property
    def needs_saliency(self) -> bool:
        """Whether the method reads saliency maps."""
        return LABEL_METHODS[self.method].needs_saliency


class PseudoLabelSettings(LabelSettings):
    """The stage complete_labels: label settings, and what a person rejected or corrected after looking at it."""

    verdicts: str = Field(
        description="file of verdicts that the audit page exports, .json or .csv, of which `bad` rejects an image; "
        "empty: none"
    )
    rejected: Literal["leave_out", "unknown"] = Field(
        description="a rejected image: leave_out (it has no label, and what follows doesn't know it) or unknown (all "
        "of its pixels are 255)"
    )
    long_side: LongSide = Field(
        description="of methods that run the dense CRF: a photograph whose longer side has more pixels is labelled "
        "scaled down to it, and its labels are enlarged again, which bounds memory and time; 0: never"
    )
    corrected: str = Field(
        description="folder of labels <id>.png that a person has corrected, which are taken as they are; empty: none"
    )

    @model_validator(mode="after")
    def _verdicts_by_suffix(self) -> PseudoLabelSettings:
        if self.verdicts and Path(self.verdicts).suffix.lower() not in (".json", ".csv"):
            raise ValueError(f"verdicts: {self.verdicts} is neither .json nor .csv; name a file that the page exports")
        return self
