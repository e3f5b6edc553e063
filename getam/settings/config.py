"""The whole configuration, from all sections.

Only the workflow and the command line import this module, so that an edit of it reruns no stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from getam.errors import InputError, enumerated
from getam.settings.audit import AuditSettings
from getam.settings.classifier import ClassifierSettings
from getam.settings.completion import PseudoLabelSettings, label_methods
from getam.settings.data import DataSettings
from getam.settings.deeplab import DeepLabSettings, DeepLabTrainingSettings
from getam.settings.demo import DemoSettings
from getam.settings.end_to_end import CheckpointSettings, EndToEndSettings
from getam.settings.maps import MAP_METHODS, MapSourceSettings, RefineMapsSettings
from getam.settings.networks import PATCH_READOUTS, NetworkWeights
from getam.settings.prediction import PredictionSettings
from getam.settings.reading import BASE_CONFIG, describe, merge, read_yaml
from getam.settings.relabel import RelabelSettings
from getam.settings.saliency import SaliencySettings, SaliencySourceSettings
from getam.settings.score_labels import ScoreLabelsSettings
from getam.settings.section import Section
from getam.settings.tables import SweepSettings, TablesSettings

Training = ClassifierSettings | SaliencySettings | DeepLabSettings | EndToEndSettings
"""The section of a network that is trained."""


class Config(Section):
    """The whole configuration: config.yaml, or an overlay merged into it."""

    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)] = Field(
        description="name of the run: results go to results/<run>/"
    )
    code_hash: bool = Field(description="an edit of the package's sources reruns the stages that import them")
    demo: DemoSettings
    data: DataSettings
    classifier: ClassifierSettings
    maps: MapSourceSettings
    refine: RefineMapsSettings
    saliency: SaliencySourceSettings
    completion: PseudoLabelSettings
    score_labels: ScoreLabelsSettings
    deeplab: DeepLabTrainingSettings
    deeplab_prediction: PredictionSettings
    rounds: Annotated[int, Field(ge=1, le=9)] = Field(
        description="trainings of the segmenter: the first on pseudo labels of maps, each further one on what the one "
        "before predicts for the training images"
    )
    relabel: RelabelSettings
    end_to_end: EndToEndSettings
    checkpoint: CheckpointSettings
    end_to_end_prediction: PredictionSettings
    audit: AuditSettings
    tables: TablesSettings
    sweep: SweepSettings

    @model_validator(mode="after")
    def _maps_are_there(self) -> Config:
        if self.maps.source == "folder" and not self.maps.folder:
            raise ValueError("maps.folder: name the folder of your class maps, or set maps.source to classifier")
        return self

    @model_validator(mode="after")
    def _saliency_is_there(self) -> Config:
        if self.saliency.source == "folder" and not self.saliency.folder:
            raise ValueError("saliency.folder: name the folder of your saliency maps, or set saliency.source to train")
        if self.saliency.source != "none":
            return self
        others = enumerated(label_methods(need_saliency=False), "or")
        needing = [
            key
            for key, needs in {
                f"completion.method: {others}": self.completion.needs_saliency,
                f"end_to_end.completion.method: {others}": self.end_to_end.completion.needs_saliency,
                "end_to_end.saliency_weight: 0": self.end_to_end.saliency_weight > 0,
            }.items()
            if needs
        ]
        if needing:
            raise ValueError(f"saliency.source: without saliency there is no completion; set {', '.join(needing)} too")
        return self

    def unread_class_tokens(self) -> list[str]:
        """Warnings of maps that weigh the attention of a class token which the read-out leaves out.

        A class's score then reaches that attention only by way of the patches of later blocks.
        """
        made = []
        if self.maps.source == "classifier":
            made.append(("classifier.readout", self.classifier.readout, "maps.method", self.maps.method))
        if not self.checkpoint.file:
            joint = self.end_to_end
            made.append(("end_to_end.readout", joint.readout, "end_to_end.maps.method", joint.maps.method))
        return [
            f"{key}: {readout} leaves out the class token, whose attention {method_key} {method} weighs; maps are "
            "better with token or project (docs/networks.md)"
            for key, readout, method_key, method in made
            if readout in PATCH_READOUTS and MAP_METHODS[method].weighs_class_token
        ]

    def trainings(self) -> dict[str, Training]:
        """The sections of the networks that this run trains, by their names."""
        trained: dict[str, Training] = {}
        if self.maps.source == "classifier":
            trained["classifier"] = self.classifier
        trained["deeplab"] = self.deeplab
        if self.saliency.source == "train":
            trained["saliency"] = self.saliency
        if not self.checkpoint.file:
            trained["end_to_end"] = self.end_to_end
        return trained

    def pretrained_networks(self) -> dict[str, NetworkWeights]:
        """The weights to fetch, by section: of every network that this run trains from pretrained weights."""
        return {
            section: NetworkWeights(
                network=settings.network if isinstance(settings, DeepLabSettings) else settings.backbone,
                options=(
                    settings.network_options if isinstance(settings, DeepLabSettings) else settings.backbone_options
                ),
                pretrained=settings.pretrained,
                segmentation_pretrained=settings.segmentation_pretrained,
            )
            for section, settings in self.trainings().items()
            if settings.pretrained
        }

    @model_validator(mode="after")
    def _method_suits_backbone(self) -> Config:
        brought = self.maps.source == "folder"
        if not brought and self.classifier.readout == "pool" and MAP_METHODS[self.maps.method].needs_vit:
            others = enumerated([key for key, method in MAP_METHODS.items() if not method.needs_vit], "or")
            raise ValueError(
                f"maps.method: {self.maps.method} needs a ViT, but classifier.readout is pool, a CNN's; write {others}"
            )
        return self


def read_config(overlays: Sequence[Path]) -> Config:
    """Reads config.yaml, merges the overlays into it in their order and validates the result.

    Raises:
        InputError: a file cannot be read, or the merged values are not a valid configuration.
    """
    values = read_yaml(BASE_CONFIG)
    for overlay in overlays:
        values = merge(values, read_yaml(overlay))
    return validate_config(values, source=", ".join(map(str, overlays)) or str(BASE_CONFIG))


def validate_config(values: Mapping[str, Any], *, source: str = "config") -> Config:
    """Validates a merged configuration.

    Args:
        values: sections by name, as YAML gives them.
        source: the file or files that the values come from, for the message.

    Raises:
        InputError: the message names every offending key, what is wrong with it and the cure.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{source}: " + describe(error, Config)) from None


def editor_schema() -> dict[str, Any]:
    """The JSON schema of config.yaml and of overlays, for editors; no key is required, since overlays omit most."""

    def without_required(schema: Any) -> Any:
        if isinstance(schema, dict):
            return {key: without_required(value) for key, value in schema.items() if key != "required"}
        return [without_required(value) for value in schema] if isinstance(schema, list) else schema

    return without_required(Config.model_json_schema())
