"""The typed settings of every stage: one frozen model a section of config.yaml.

These models are the single definition from which come the validation of config.yaml, the flags of the stage
commands and the editor schema. The values live in config.yaml alone.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypedDict, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    JsonValue,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from getam.errors import InputError, enumerated

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Block = Annotated[int, Field(ge=0)]
Digits = BeforeValidator(lambda value: int(value) if isinstance(value, str) and value.isdigit() else value)
"""Lets a choice among numbers be given as text, as flags are."""
Scale = Annotated[Literal[4, 2, 1], Digits]


def _opening(value: Any) -> Any:
    # Before pydantic, which would give two messages for what is neither of the two.
    if value == "released" or (str(value).isdigit() and int(value) < 100):
        return value
    raise ValueError("write 0, an odd number of pixels below 100, or released")


def _tap(value: Any) -> Any:
    if isinstance(value, int | str) and (str(value).isdigit() or re.fullmatch(r"stage\d", str(value))):
        return value
    raise ValueError("write the number of a block, or stage0, stage1, ... of a hybrid")


Tap = Annotated[Annotated[int, Field(ge=0)] | str, BeforeValidator(_tap), Digits]
Opening = Annotated[Literal["released"] | int, BeforeValidator(_opening)]
Precision = Literal["float32", "bfloat16"]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
ImageSize = Annotated[int, Field(ge=16, le=4096)]


BASE_CONFIG = Path(__file__).resolve().parent.parent / "config.yaml"
"""The home of default values, in the checkout that this package is installed from."""

POSITIONAL: dict[str, JsonValue] = {"positional": True}
"""As the `json_schema_extra` of a stage's argument: it has no flag."""

SomeSection = TypeVar("SomeSection", bound="Section")


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, no NaN, no truth value where a number belongs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_booleans_as_numbers(cls, values: Any) -> Any:
        # pydantic takes True for 1; in a YAML file `epochs: yes` is a slip.
        if isinstance(values, Mapping):
            for name, value in values.items():
                field = cls.model_fields.get(name)
                if field is None:
                    continue
                several = get_origin(field.annotation) is tuple and Any not in get_args(field.annotation)
                numbers = field.annotation in (int, float) or several
                for one in value if isinstance(value, list | tuple) else [value]:
                    if isinstance(one, bool) and numbers:
                        raise ValueError(f"{name}: a number is needed, not {str(one).lower()}")
        return values


@dataclass(frozen=True)
class Choice:
    """In `Annotated[str, Choice(TABLE)]`: the value is a key of the table.

    The message about another value lists the keys, and the JSON schema is an enum of them, as for a Literal.
    """

    table: Mapping[str, object]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"enum": [*self.table], "type": "string"}

    def _check(self, value: Any) -> str:
        if isinstance(value, str) and value in self.table:
            return value
        expected = enumerated([repr(key) for key in self.table], "or")
        raise PydanticKnownError("literal_error", {"expected": expected})


class Explained(Protocol):
    """An entry of a table of methods that --help explains."""

    @property
    def text(self) -> str: ...


class WithOptions(Protocol):
    """An entry of a table of methods that read some of their section's settings alone."""

    @property
    def options(self) -> tuple[str, ...]: ...


def explained(table: Mapping[str, Explained]) -> list[str]:
    """Each key of a table of methods with its explanation: "cam (of the classifier's read-out)"."""
    return [f"{key} ({method.text})" if method.text else key for key, method in table.items()]


def with_baselines(table: Mapping[str, Explained]) -> str:
    """The paper's method, which is the table's first, and the baselines that it is compared with."""
    first, *baselines = explained(table)
    return f"{first}; baselines: {', '.join(baselines)}"


def readers(table: Mapping[str, WithOptions], option: str) -> str:
    """The methods that read a setting: "getam and attention_gradient"."""
    return enumerated([key for key, method in table.items() if option in method.options], "and")


class DemoSettings(Section):
    """make_demo: the embedded demo data set."""

    train_images: PositiveInt = Field(description="images of the train split")
    val_images: PositiveInt = Field(description="images of the val split")
    saliency_images: PositiveInt = Field(description="image/mask pairs to train the saliency network on")
    saliency_val_images: PositiveInt = Field(description="image/mask pairs to score the saliency network on")
    image_size: ImageSize = Field(description="height and width of every image, pixels")
    seed: Seed = Field(description="seed of the generator")


class CountSettings(Section):
    """Numbers of images that the splits of a published data set have."""

    train: Annotated[int, Field(ge=0)] = Field(description="images that train has to have; 0: any number")
    val: Annotated[int, Field(ge=0)] = Field(description="images that val has to have; 0: any number")
    test: Annotated[int, Field(ge=0)] = Field(description="images that test has to have if it is there; 0: any number")


@dataclass(frozen=True)
class DataFormat:
    """A format of data sets; its functions are in getam.formats.FORMATS.

    Attributes:
        text: said in --help.
        own_labels: why `labels` has to be annotations and `augmented` empty; empty where they are free.
    """

    text: str
    own_labels: str = ""


DATA_FORMATS = {
    "voc": DataFormat("VOC layout, as VOCdevkit/VOC2012"),
    "coco": DataFormat("annotations/instances_{train,val}2014.json", own_labels="COCO's labels are in its JSON"),
}

DEMO_FORMAT = "voc"
"""The format of the demo data set."""


class IndexSettings(Section):
    """index_dataset: where the labelled images are."""

    format: Annotated[str, Choice(DATA_FORMATS)] = Field(description=enumerated(explained(DATA_FORMATS), "or"))
    root: Path = Field(description="folder of the data set: with JPEGImages, ImageSets/Segmentation, ... or COCO's")
    labels: Literal["annotations", "masks", "file"] = Field(
        description="image labels from Annotations/<id>.xml or COCO's JSON (annotations), from the classes that masks "
        "show (masks) or from image_labels.txt (file)"
    )
    augmented: str = Field(
        description=f"of {enumerated([key for key, known in DATA_FORMATS.items() if not known.own_labels], 'and')}: "
        "SBD's folder `dataset` or a folder such as SegmentationClassAug, whose images join train as far as they are "
        "not in val or test; empty: none"
    )
    images: Annotated[int, Field(ge=0)] = Field(description="most images of a split, evenly spaced; 0: all")
    counts: CountSettings

    @model_validator(mode="after")
    def _of_a_format_with_labels_of_its_own(self) -> IndexSettings:
        why = DATA_FORMATS[self.format].own_labels
        if why and (self.labels != "annotations" or self.augmented):
            raise ValueError(f"labels, augmented: {why}; write annotations, and augmented ''")
        return self


class DataSettings(IndexSettings):
    """The data of a run; `shards` and the saliency folders concern the workflow, not index_dataset."""

    saliency_train: Path = Field(description="folder of image/mask pairs in DUTS layout to train saliency on")
    saliency_val: Path = Field(description="folder of image/mask pairs in DUTS layout to score saliency on")
    shards: Annotated[int, Field(ge=1, le=1000)] = Field(description="jobs that each per-image stage is cut into")


class CropSettings(Section):
    """Random scale, crop and flip of a training image."""

    long_side: tuple[ImageSize, ImageSize] = Field(
        description="range of the image's longer side after random scaling, pixels"
    )
    size: ImageSize = Field(description="height and width of the random crop, pixels")
    color_jitter: Fraction = Field(description="strength of random brightness, contrast and saturation, 0 none")

    @model_validator(mode="after")
    def _ordered(self) -> CropSettings:
        if self.long_side[0] > self.long_side[1]:
            raise ValueError(f"long_side: {list(self.long_side)} is not a range; write [smallest, largest]")
        return self


class ScheduleSettings(Section):
    """What every training has in common."""

    epochs: PositiveInt = Field(description="passes over the training images")
    batch_size: PositiveInt = Field(description="images an optimizer step")
    accumulation: PositiveInt = Field(
        description="parts of equal size that a batch is computed in, one after the other, to save memory; their "
        "gradients are averaged, and means over pixels and batch norm's statistics are each part's own"
    )
    optimizer: Literal["adamw", "sgd"] = Field(description="adamw or sgd")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(description="momentum of sgd; first beta of adamw")
    schedule: Literal["one_cycle", "poly", "step"] = Field(
        description="learning rate: one_cycle (warm-up, then cosine to 0), poly ((1 - t)^0.9) or step (halved after "
        "0.4 and 0.8 of the training)"
    )
    learning_rate: PositiveFloat = Field(description="highest learning rate")
    weight_decay: NonNegativeFloat = Field(description="weight decay (decoupled in adamw)")
    gradient_clipping: NonNegativeFloat = Field(description="largest norm of all gradients together; 0: any")
    precision: Precision = Field(description="of the networks in training; bfloat16 (autocast) is faster on a GPU")
    seed: Seed = Field(description="seed of initial weights, shuffling and augmentation")
    # Of the machine, not of the result: left out of model_dump, and so of a training's key, model.json and params.
    gpus: Annotated[int, Field(ge=0)] = Field(
        default=1,
        exclude=True,
        description="GPUs of one machine that the training runs on, a process each; 0: the CPU; reruns nothing [1]",
    )


def _pretrained(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


class PretrainedSettings(Section):
    """The weights that a network starts with."""

    pretrained: Annotated[bool | Annotated[str, Field(min_length=1)], BeforeValidator(_pretrained)] = Field(
        description="start with pretrained weights: true (ImageNet's, fetched by the network's name), a .safetensors "
        "or .pth file, or false"
    )
    segmentation_pretrained: bool = Field(
        description="allow weights that were trained on pixel labels; scores are then no longer those of image labels"
    )


class NetworkWeights(PretrainedSettings):
    """fetch_weights: what a section says of its network's weights."""

    network: str = Field(description="name of the backbone or encoder", min_length=1)
    options: dict[str, Any] = Field(description="keyword arguments for timm.create_model; {} for none")


class BackboneSettings(PretrainedSettings):
    """A ViT backbone with the read-out that classifies."""

    backbone: str = Field(
        description="timm name of a ViT with a class token; of a CNN with the read-out pool", min_length=1
    )
    backbone_options: dict[str, Any] = Field(description="keyword arguments for timm.create_model; {} for none")
    stem_channels: tuple[PositiveInt, ...] = Field(
        description="widths of a convolutional stem (stride 2 a layer) before the last, embedding layer; [] for "
        "the backbone's own patch embedding"
    )
    readout: Literal["project", "ignore", "add", "token", "pool"] = Field(
        description="project (authors': each patch token with the class token, convolutions, average), ignore or add "
        "(the class token is left out, or added), token (plain head); pool (average) for a CNN"
    )
    embedding: Literal["timm", "released"] = Field(
        description="timm, or the authors': position table of the backbone's own size, resized bilinearly without "
        "antialiasing; in a hybrid, filters standardized by their deviation + 1e-5"
    )
    normalization: Literal["imagenet", "backbone"] = Field(
        description="mean and deviation of the backbone's input: ImageNet's (authors' code) or those that timm names "
        "for its pretrained weights"
    )


class ClassifierSettings(BackboneSettings, ScheduleSettings):
    """train_classifier: a ViT, or for the CAM baseline a CNN, on image labels."""

    crop: CropSettings

    @model_validator(mode="after")
    def _stem(self) -> ClassifierSettings:
        if self.readout == "pool" and self.stem_channels:
            raise ValueError("stem_channels: a CNN (readout pool) has its own stem; write []")
        return self


@dataclass(frozen=True)
class MapMethod:
    """A method of class activation maps; its functions are in getam.baselines.MAP_MAKERS.

    Attributes:
        name: as plots and tables show it.
        text: said in --help.
        options: settings that not every method reads, and this one does.
        needs_vit: whether it takes no CNN.
        in_training_step: whether the end-to-end network can be trained with its maps.
    """

    name: str
    text: str = ""
    options: tuple[str, ...] = ()
    needs_vit: bool = True
    in_training_step: bool = False


MAP_METHODS = {
    "getam": MapMethod("GETAM", "Eq. 1-3", ("coupling", "start_block", "fusion"), in_training_step=True),
    "attention_gradient": MapMethod(
        "attention gradient", "its first factor alone", ("start_block", "fusion"), in_training_step=True
    ),
    "rollout": MapMethod("rollout", options=("start_block",)),
    "grad_cam": MapMethod("Grad-CAM"),
    "cam": MapMethod("CAM", "of the classifier's read-out", needs_vit=False, in_training_step=True),
}
"""The paper's method, then the baselines that it is compared with."""


class ActivationSettings(Section):
    """How class activation maps come from the classifier."""

    method: Annotated[str, Choice(MAP_METHODS)] = Field(description=with_baselines(MAP_METHODS))
    coupling: Literal["released", "paper"] = Field(
        description=f"how {readers(MAP_METHODS, 'coupling')} averages heads: released (authors' code: after the "
        "products) or paper (before)"
    )
    start_block: Block = Field(description=f"first transformer block of {readers(MAP_METHODS, 'start_block')}")
    fusion: Literal["sum", "product", "matmul"] = Field(
        description=f"how {readers(MAP_METHODS, 'fusion')} join blocks: sum (Eq. 3), product of the maps, matmul of "
        "whole matrices"
    )


class MapSettings(ActivationSettings):
    """dump_maps: class activation maps from the classifier."""

    image_size: ImageSize = Field(description="longer side of the network's input, pixels")
    scales: tuple[PositiveFloat, ...] = Field(description="inputs at these multiples of image_size", min_length=1)
    flip: bool = Field(description="average with the maps of the mirrored image")
    precision: Precision = Field(
        description="of the network; bfloat16 (autocast) is faster on a GPU, maps are float32 either way"
    )


class RefineSettings(Section):
    """refine_maps: PAMR (Araslanov & Roth 2020)."""

    iterations: Annotated[int, Field(ge=0)] = Field(
        description="iterations of the affinity; 0: bilinear upsampling only"
    )
    dilations: tuple[PositiveInt, ...] = Field(description="dilations of the 3x3 neighborhoods, pixels", min_length=1)


class SaliencyMapSettings(Section):
    """predict_saliency: the values of its maps."""

    stretch: bool = Field(
        description="scale each map to its own range 0..255, as the authors' program does; an image without a salient "
        "object then has a map of full range too"
    )


class SaliencySettings(PretrainedSettings, ScheduleSettings):
    """train_saliency: a transformer salient-object-detection network (Mao et al. 2021)."""

    backbone: str = Field(description="timm name of a Swin transformer", min_length=1)
    backbone_options: dict[str, Any] = Field(description="keyword arguments for timm.create_model; {} for none")
    image_size: ImageSize = Field(description="height and width that inputs are resized to, pixels")
    neck_width: PositiveInt = Field(description="channels of the neck")
    loss: Literal["weighted", "released"] = Field(
        description="structure loss: weighted (as published, its cross entropy too) or released (authors' code: a "
        "plain mean of the cross entropy)"
    )
    pairs: Annotated[int, Field(ge=0)] = Field(description="most image/mask pairs of each folder; 0: all")
    border_crop: Annotated[int, Field(ge=0)] = Field(
        description="most pixels that a random crop takes off a training image's height and width"
    )
    rotation: Annotated[float, Field(ge=0, le=180)] = Field(
        description="range of a random rotation, which every fifth training image gets, degrees"
    )
    color_jitter: Fraction = Field(description="strength of random brightness, contrast and saturation, 0 none")


class SaliencySourceSettings(SaliencySettings, SaliencyMapSettings):
    """Where saliency maps come from; `source` and `folder` concern the workflow, not train_saliency."""

    source: Literal["train", "folder", "none"] = Field(
        description="train (a network is trained and predicts), folder (maps brought along) or none"
    )
    folder: str = Field(description="of the source folder: saliency maps, .png or .jpg, named by the images' ids")


class CompletionArguments(TypedDict):
    """What getam.completion.complete_labels takes beside maps, classes and saliency."""

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
        """The keyword arguments of getam.completion.complete_labels."""
        return {"alpha": self.alpha, "gamma": self.gamma, "conflict": self.conflict, "opening": self.opening}


class CrfSettings(Section):
    """Dense CRF (Krähenbühl & Koltun 2011) on predicted probabilities."""

    iterations: Annotated[int, Field(ge=0)] = Field(description="mean-field iterations; 0: no CRF")
    gaussian_xy: PositiveFloat = Field(description="standard deviation of the smoothness kernel, pixels")
    gaussian_weight: NonNegativeFloat = Field(description="weight of the smoothness kernel")
    bilateral_xy: PositiveFloat = Field(description="position deviation of the appearance kernel, pixels")
    bilateral_rgb: PositiveFloat = Field(description="color deviation of the appearance kernel, 0..255 levels")
    bilateral_weight: NonNegativeFloat = Field(description="weight of the appearance kernel")


class RrmSettings(Section):
    """RRM's reliable labels (Zhang et al. 2020): what maps and two dense CRFs agree on."""

    foreground_gamma: PositiveFloat = Field(
        description="background exponent of the CRF that finds classes: low, so that only strong activations count"
    )
    background_gamma: PositiveFloat = Field(
        description="background exponent of the CRF that finds background: high, so that weak activations count"
    )
    activation: Fraction = Field(description="activations above this are ranked, in [0, 1]")
    quantile: Fraction = Field(description="quantile of a class's ranked activations above which it is sure")
    confidence: Fraction = Field(description="least background score and least CRF probability of a sure pixel")


@dataclass(frozen=True)
class LabelMethod:
    """A method of pseudo labels; its function is in getam.labels.LABEL_MAKERS.

    Attributes:
        name: as plots and tables show it.
        text: said in --help.
        needs_saliency: whether it reads the image's saliency map, which supervises its labels then.
        reads_photograph: whether it reads the photograph.
        in_processes: whether it takes a processor for seconds an image: its images are labelled in processes, which
            share the cores, and not one after the other in threads.
        on_device: whether it takes maps and saliency as tensors too, and labels them where they lie.
        by_rules: whether Eq. 5 decides each pixel. The rules are a layer of the audit page, and the end-to-end
            training knows which pixels were mined.
    """

    name: str
    text: str
    needs_saliency: bool = False
    reads_photograph: bool = False
    in_processes: bool = False
    on_device: bool = False
    by_rules: bool = False


LABEL_METHODS = {
    "activation": LabelMethod("completion", "Eq. 4-5", needs_saliency=True, on_device=True, by_rules=True),
    "crf": LabelMethod(
        "dense CRF", "dense CRF on the maps, without saliency", reads_photograph=True, in_processes=True
    ),
    "rrm": LabelMethod("RRM", "RRM's reliable labels, without saliency", reads_photograph=True, in_processes=True),
}
"""The paper's method, then the baselines that it is compared with."""


def label_methods(*, need_saliency: bool) -> list[str]:
    """The methods that read a saliency map, or those that do without."""
    return [key for key, method in LABEL_METHODS.items() if method.needs_saliency == need_saliency]


class LabelSettings(CompletionSettings):
    """complete_labels: the paper's completion, or the label makers that it is compared with."""

    method: Annotated[str, Choice(LABEL_METHODS)] = Field(description=with_baselines(LABEL_METHODS))
    crf: CrfSettings
    rrm: RrmSettings

    @property
    def needs_saliency(self) -> bool:
        """Whether the method reads saliency maps."""
        return LABEL_METHODS[self.method].needs_saliency


class PseudoLabelSettings(LabelSettings):
    """complete_labels as a stage: the labels, and what a person who has looked at them rejects."""

    verdicts: str = Field(
        description="file of verdicts that the audit page exports, .json or .csv, of which `bad` rejects an image; "
        "empty: none"
    )
    rejected: Literal["leave_out", "unknown"] = Field(
        description="a rejected image: leave_out (it has no label, and what follows doesn't know it) or unknown (all "
        "of its pixels are 255)"
    )

    @model_validator(mode="after")
    def _verdicts_by_suffix(self) -> PseudoLabelSettings:
        if self.verdicts and Path(self.verdicts).suffix.lower() not in (".json", ".csv"):
            raise ValueError(f"verdicts: {self.verdicts} is neither .json nor .csv; name a file that the page exports")
        return self


class PredictionSettings(Section):
    """predict_deeplab and predict_end_to_end: averaged probabilities over scales and flip, then CRF."""

    scales: tuple[PositiveFloat, ...] = Field(description="inputs at these multiples of the image", min_length=1)
    squares: tuple[ImageSize, ...] = Field(
        description="inputs stretched to squares of these sides, pixels, in the place of scales; [] for none"
    )
    flip: bool = Field(description="average with the mirrored image")
    crf: CrfSettings


@dataclass(frozen=True)
class Segmenter:
    """A network that pseudo labels train.

    Attributes:
        title: as plots, tables and pages show it.
        options: settings that not every architecture reads, and this one does.
        in_smp: whether segmentation-models-pytorch has it, by the same name; else deeplab.model makes it.
        three_rates: whether it takes just three atrous_rates.
        pools_batch: whether it normalizes features over the batch that are pooled to one pixel an image, so that it
            learns from two images or more at a time.
    """

    title: str
    options: tuple[str, ...] = ()
    in_smp: bool = True
    three_rates: bool = False
    pools_batch: bool = False


SEGMENTERS = {
    "deeplabv2": Segmenter(
        "DeepLab",
        ("encoder_stages", "output_stride", "bottleneck_stride", "normalization", "atrous_rates"),
        in_smp=False,
    ),
    "deeplabv3plus": Segmenter("DeepLabV3+", ("output_stride", "atrous_rates"), three_rates=True, pools_batch=True),
    "upernet": Segmenter("UPerNet", pools_batch=True),
    "segformer": Segmenter("SegFormer"),
}
"""The paper's network, then those that may take its place."""


class DeepLabSettings(PretrainedSettings, ScheduleSettings):
    """train_deeplab: DeepLabv2 on pseudo labels."""

    architecture: Annotated[str, Choice(SEGMENTERS)] = Field(
        description="deeplabv2 (the paper's) or another network of segmentation-models-pytorch: "
        + ", ".join(name for name, known in SEGMENTERS.items() if known.in_smp)
    )
    encoder: str = Field(
        description="encoder of segmentation-models-pytorch: for deeplabv2 a ResNet (resnet18, resnet101, ...), for "
        "the others any that they take (mit_b2, tu-convnext_tiny, ...)"
    )
    encoder_stages: Annotated[Literal[2, 3, 4], Digits] = Field(
        description=f"of {readers(SEGMENTERS, 'encoder_stages')}, stages of the encoder: 4, or fewer to leave the "
        "widest out (tiny images on a CPU)"
    )
    output_stride: Annotated[Literal[8, 16], Digits] = Field(
        description=f"of {readers(SEGMENTERS, 'output_stride')}, image pixels a feature: 8 or 16"
    )
    bottleneck_stride: Literal["1x1", "3x3"] = Field(
        description=f"of {readers(SEGMENTERS, 'bottleneck_stride')}, convolution of a bottleneck that has the stride: "
        "1x1 (Caffe's ResNets, the paper's) or 3x3 (torchvision's, and its pretrained weights)"
    )
    normalization: Literal["imagenet", "caffe"] = Field(
        description=f"input of {readers(SEGMENTERS, 'normalization')}: ImageNet's mean and deviation, or caffe (BGR of "
        "0..255 less a mean), as imported weights need it"
    )
    atrous_rates: tuple[PositiveInt, ...] = Field(
        description="dilations of the ASPP's convolutions: any number of deeplabv2's summed ones, three of "
        "deeplabv3plus's",
        min_length=1,
    )
    scales: tuple[PositiveFloat, ...] = Field(
        description="further input scales whose scores are fused by maximum; [] for none"
    )
    frozen_batch_norm: bool = Field(description="keep batch norm at its pretrained statistics; false from scratch")
    full_resolution_loss: bool = Field(
        description="loss at the crop's resolution (true) or at the scores' resolution, as DeepLabv2 does (false)"
    )
    crop: CropSettings

    @model_validator(mode="after")
    def _rates_are_the_architectures(self) -> DeepLabSettings:
        if SEGMENTERS[self.architecture].three_rates and len(self.atrous_rates) != 3:
            raise ValueError(
                f"atrous_rates: {self.architecture} takes three, not {list(self.atrous_rates)}; write [6, 12, 18]"
            )
        return self

    @model_validator(mode="after")
    def _normalization_is_read(self) -> DeepLabSettings:
        if self.normalization == "caffe" and "normalization" not in SEGMENTERS[self.architecture].options:
            raise ValueError(
                f"normalization: caffe is {readers(SEGMENTERS, 'normalization')}'s; write imagenet for "
                f"{self.architecture}"
            )
        return self


class DeepLabTrainingSettings(DeepLabSettings):
    """What a training of DeepLabv2 takes, beside an imported network."""

    @model_validator(mode="after")
    def _frozen_is_pretrained(self) -> DeepLabTrainingSettings:
        if self.frozen_batch_norm and not self.pretrained:
            raise ValueError(
                "frozen_batch_norm: true keeps the statistics of pretrained weights, but pretrained is false; write "
                "false, or name weights"
            )
        return self


class DecoderSettings(Section):
    """The DPT decoder of the end-to-end network."""

    taps: tuple[Tap, Tap, Tap] = Field(
        description="what the decoder reads beside the last block: three transformer blocks, ascending; of a hybrid "
        "the first may be its ResNet's stages: stage0, stage1, 8"
    )
    channels: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        description="channels of the three reassembled feature maps; the last one's are the backbone's width"
    )
    scales: tuple[Scale, Scale, Scale] = Field(
        description="size of the three feature maps in token grids, 4, 2 or 1; the head works at twice the first"
    )
    width: Annotated[int, Field(ge=16)] = Field(description="channels of the fusion blocks")

    @model_validator(mode="after")
    def _ascending(self) -> DecoderSettings:
        # Stages run before blocks.
        order = [int(tap[5:]) - 10 if isinstance(tap, str) else tap for tap in self.taps]
        if not order[0] < order[1] < order[2]:
            raise ValueError(f"taps: {list(self.taps)} is not ascending; name three different ones in order")
        return self


class EnergySettings(Section):
    """Dense energy loss (RRM): Gaussian kernel in color and position."""

    weight: NonNegativeFloat = Field(description="weight of the loss; 0: none")
    sigma_rgb: PositiveFloat = Field(description="color deviation, 0..255 levels")
    sigma_xy: PositiveFloat = Field(description="position deviation, pixels of the full image")
    scale: Annotated[float, Field(gt=0, le=1)] = Field(description="resolution at which the energy is computed")


class EndToEndSettings(BackboneSettings, ScheduleSettings):
    """train_end_to_end: double-backward training with the DPT decoder (section 4.3)."""

    classifier_epochs: Annotated[int, Field(ge=0)] = Field(
        description="first epochs that train the classifier alone (paper: half of all)"
    )
    crop: CropSettings
    decoder: DecoderSettings
    maps: ActivationSettings
    refine: RefineSettings
    completion: LabelSettings
    energy: EnergySettings
    decoder_learning_rate: PositiveFloat = Field(description="highest learning rate of the decoder")
    map_epsilon: NonNegativeFloat = Field(
        description="added to each map's maximum before completion divides by it (authors' code: 1e-5, which fades "
        "maps of tiny values)"
    )
    segmentation_rate: PositiveFloat = Field(
        description="factor of all learning rates from the epoch on in which segmentation begins"
    )
    saliency_target: Literal["background", "released"] = Field(
        description="target of p_background: background (1 - S), or released (authors' code: 1 but where completion "
        "mined a class outside the saliency)"
    )
    saliency_weight: NonNegativeFloat = Field(description="weight of BCE(p_background, 1 - S) (paper: 0.1)")

    @model_validator(mode="after")
    def _shared_readout(self) -> EndToEndSettings:
        if self.readout != "project":
            raise ValueError("readout: the decoder shares the features of the read-out project; write project")
        return self

    @model_validator(mode="after")
    def _maps_of_a_step(self) -> EndToEndSettings:
        if not MAP_METHODS[self.maps.method].in_training_step:
            known = enumerated([key for key, method in MAP_METHODS.items() if method.in_training_step], "or")
            raise ValueError(f"maps.method: a training step makes no {self.maps.method}; write {known}")
        return self

    @model_validator(mode="after")
    def _phases(self) -> EndToEndSettings:
        if self.classifier_epochs >= self.epochs:
            raise ValueError(
                f"classifier_epochs: {self.classifier_epochs} leaves none of the {self.epochs} epochs for segmentation"
            )
        return self


class CheckpointSettings(Section):
    """import_checkpoint: one of the authors' checkpoints in the place of train_end_to_end."""

    file: str = Field(description="the authors' .pth file; empty: train_end_to_end trains")
    backbone: str = Field(
        description="its backbone, timm's name or the authors': vitb, deit, deit_distilled, vitb_hybrid"
    )


class AuditSettings(Section):
    """audit: the page that shows every stage's result beside the image."""

    images: Annotated[int, Field(ge=0)] = Field(
        description="most images of each split on the page, evenly spaced over the sorted ids; 0: all"
    )


Measured = Annotated[Fraction | None, BeforeValidator(lambda value: None if value == "null" else value)]
"""A score that may not be there; `null` as a flag has it."""


class ScoreSettings(Section):
    """What VOC's server answered to the submissions of both paths."""

    multi_stage: Measured = Field(description="mIoU of the multi-stage path on test; null: not submitted")
    end_to_end: Measured = Field(description="mIoU of the end-to-end path on test; null: not submitted")


class TablesSettings(Section):
    """make_table and the stages of the paper's figures: what of the comparisons depends on the data set."""

    alphas: tuple[Fraction, ...] = Field(description="values of completion.alpha, of table 6", min_length=1)
    cnn: dict[str, Any] = Field(
        description="changes of the section classifier that make it the CNN whose CAM is compared, of table 3 and "
        "figure 2"
    )
    backbones: dict[str, dict[str, Any]] = Field(
        description="{name: changes of the section end_to_end}, of table 2; an overlay's replace them whole",
        min_length=1,
    )
    test_miou: ScoreSettings
    images: PositiveInt = Field(description="train images, evenly spaced, of figure 2; that figure 11 takes time of")
    batch_sizes: tuple[PositiveInt, ...] = Field(description="images of a batch, of figure 11", min_length=1)


class SweepSettings(Section):
    """sweep: a setting and its values, a run of each."""

    key: str = Field(description="dotted name of the setting, such as completion.gamma; empty: none")
    values: tuple[Any, ...] = Field(description="its values")


class Config(Section):
    """The whole configuration: config.yaml, or an overlay merged into it."""

    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)] = Field(
        description="name of the run: results go to results/<run>/"
    )
    code_hash: bool = Field(description="an edit of the package's sources reruns the stages that import them")
    demo: DemoSettings
    data: DataSettings
    classifier: ClassifierSettings
    maps: MapSettings
    refine: RefineSettings
    saliency: SaliencySourceSettings
    completion: PseudoLabelSettings
    deeplab: DeepLabTrainingSettings
    deeplab_prediction: PredictionSettings
    end_to_end: EndToEndSettings
    checkpoint: CheckpointSettings
    end_to_end_prediction: PredictionSettings
    audit: AuditSettings
    tables: TablesSettings
    sweep: SweepSettings

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

    def pretrained_networks(self) -> dict[str, NetworkWeights]:
        """{section: weights} of the networks that are trained and start with pretrained weights."""
        trained: dict[str, ClassifierSettings | SaliencySettings | EndToEndSettings | DeepLabSettings] = {
            "classifier": self.classifier,
            "deeplab": self.deeplab,
        }
        if self.saliency.source == "train":
            trained["saliency"] = self.saliency
        if not self.checkpoint.file:
            trained["end_to_end"] = self.end_to_end
        return {
            section: NetworkWeights(
                network=settings.encoder if isinstance(settings, DeepLabSettings) else settings.backbone,
                options={} if isinstance(settings, DeepLabSettings) else settings.backbone_options,
                pretrained=settings.pretrained,
                segmentation_pretrained=settings.segmentation_pretrained,
            )
            for section, settings in trained.items()
            if settings.pretrained
        }

    @model_validator(mode="after")
    def _method_suits_backbone(self) -> Config:
        if self.classifier.readout == "pool" and MAP_METHODS[self.maps.method].needs_vit:
            others = enumerated([key for key, method in MAP_METHODS.items() if not method.needs_vit], "or")
            raise ValueError(
                f"maps.method: {self.maps.method} needs a ViT, but classifier.readout is pool, a CNN's; write {others}"
            )
        return self


def read_config(overlays: Sequence[Path]) -> Config:
    """config.yaml with overlays, in their order.

    Raises:
        InputError: a file cannot be read, or the whole is no configuration.
    """
    values = read_yaml(BASE_CONFIG)
    for overlay in overlays:
        values = merge(values, read_yaml(overlay))
    return validate_config(values, source=", ".join(map(str, overlays)) or str(BASE_CONFIG))


def validate_config(values: Mapping[str, Any], *, source: str = "config") -> Config:
    """Checks a merged configuration.

    Raises:
        InputError: one message with every offending key, what is wrong with it and the cure.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{source}: " + describe(error, Config)) from None


def editor_schema() -> dict[str, Any]:
    """The JSON schema of config.yaml and of overlays, for editors; an overlay need not state every key."""

    def without_required(schema: Any) -> Any:
        if isinstance(schema, dict):
            return {key: without_required(value) for key, value in schema.items() if key != "required"}
        return [without_required(value) for value in schema] if isinstance(schema, list) else schema

    return without_required(Config.model_json_schema())


def only(model: type[SomeSection], arguments: BaseModel) -> SomeSection:
    """The part of a stage's arguments that are its settings."""
    return model.model_validate({name: getattr(arguments, name) for name in model.model_fields})


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a configuration or an overlay; checks its form, not its keys."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name an existing configuration") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name an existing configuration") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold sections (`completion:` and so on), like config.yaml")
    return values


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """One line an offending key: its dotted name, what is wrong, and for an unknown key the nearest known one."""
    lines = []
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        key = ".".join(location)
        if problem["type"] == "extra_forbidden":
            known = _keys(model, location[:-1])
            near = difflib.get_close_matches(location[-1], known, n=1)
            cure = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
            lines.append(f"{key}: unknown key; {cure}")
        elif problem["type"] == "missing":
            lines.append(f"{key}: missing; give it a value")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            given = problem["input"]
            shown = "" if isinstance(given, Mapping) else f" (given: {given!r})"
            lines.append(f"{key}: {message}{shown}" if key else f"{message}{shown}")
    return "\n".join(lines) if len(lines) == 1 else "\n  " + "\n  ".join(lines)


def _keys(model: type[BaseModel], location: list[str]) -> list[str]:
    for name in location:
        field = model.model_fields.get(name)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return list(model.model_fields)


def flags(settings: BaseModel) -> list[str]:
    """The command-line words that give a stage these settings, in the order of the model's fields; no excluded ones.

    Nested sections give dotted flags; collections are written as JSON. `parse_flags` gives `settings` back.
    """
    words = []
    for path, field in leaves(type(settings)):
        if field.exclude:
            continue
        value: Any = settings
        for name in path:
            value = getattr(value, name)
        text = value if isinstance(value, str) else _as_text(value)
        # One word: Snakemake's quoting drops empty ones.
        words += [flag_name(path), text] if text else [f"{flag_name(path)}="]
    return words


def leaves(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Every setting of a model with its path of names; nested models are entered."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, (*prefix, name))
        else:
            yield (*prefix, name), field


def flag_name(path: tuple[str, ...]) -> str:
    """("maps", "start_block") -> --maps.start-block"""
    return "--" + ".".join(path).replace("_", "-")


def _as_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, Path) else json.dumps(value, sort_keys=True)


def nest(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """{("maps", "flip"): x} -> {"maps": {"flip": x}}"""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        branch = tree
        for name in path[:-1]:
            branch = branch.setdefault(name, {})
        branch[path[-1]] = value
    return tree


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `overlay`, mapping by mapping; free-form options are replaced whole."""
    merged = dict(base)
    for name, value in overlay.items():
        below = merged.get(name)
        nested = isinstance(value, Mapping) and isinstance(below, Mapping) and name not in FREE_FORM
        merged[name] = merge(below, value) if nested else value  # type: ignore[arg-type]
    return merged


FREE_FORM = frozenset({"backbone_options", "backbones"})
"""Settings that are mappings with keys of their own."""
