"""Settings of a run's data set, and the table of data set formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from getam.errors import enumerated
from getam.settings.choices import Choice, explained
from getam.settings.section import Section


class CountSettings(Section):
    """Expected numbers of images in the splits of a published data set."""

    train: Annotated[int, Field(ge=0)] = Field(description="images that train has to have; 0: any number")
    val: Annotated[int, Field(ge=0)] = Field(description="images that val has to have; 0: any number")
    test: Annotated[int, Field(ge=0)] = Field(description="images that test has to have if it is there; 0: any number")


class CocoSettings(Section):
    """Where the files of a data set of COCO's form are, as paths below the data set's folder."""

    train: Annotated[str, Field(min_length=1)] = Field(description="of format coco: the file of train's annotations")
    train_images: str = Field(description="of format coco: the folder of train's photographs")
    val: str = Field(description="of format coco: the file of val's annotations; empty: no val")
    val_images: str = Field(description="of format coco: the folder of val's photographs")

    def splits(self) -> dict[str, tuple[str, str]]:
        """The file of annotations and the folder of photographs of each split that there is."""
        splits = {"train": (self.train, self.train_images), "val": (self.val, self.val_images)}
        return {split: (file, folder) for split, (file, folder) in splits.items() if file}


@dataclass(frozen=True)
class DataFormat:
    """A format of data sets; its functions are in getam.datasets.formats.FORMATS.

    Attributes:
        text: explanation in --help.
        own_labels: for a format that defines the image labels itself, the reason why `labels` must be annotations and
            `augmented` must be empty; empty if both can be chosen.
        is_list: whether `root` is a list, a file, instead of a folder.
    """

    text: str
    own_labels: str = ""
    is_list: bool = False


DATA_FORMATS = {
    "voc": DataFormat("VOC layout, as VOCdevkit/VOC2012"),
    "coco": DataFormat("COCO's JSON and folders, see coco", own_labels="COCO's labels are in its JSON"),
    "folder": DataFormat("a list .csv of photographs anywhere", own_labels="the labels are in the list", is_list=True),
}

DEMO_FORMAT = "voc"
"""The format of the demo data set."""


class IndexSettings(Section):
    """index_dataset: the data set's format and folder, and where its image labels come from."""

    format: Annotated[str, Choice(DATA_FORMATS)] = Field(description=enumerated(explained(DATA_FORMATS), "or"))
    root: Path = Field(
        description="folder of the data set: with JPEGImages, ImageSets/Segmentation, ... or COCO's; of format folder "
        "the list: a CSV with the columns id, split, image, mask, labels"
    )
    labels: Literal["annotations", "masks", "file"] = Field(
        description="image labels from Annotations/<id>.xml, COCO's JSON or the list of format folder (annotations), "
        "from the classes that masks show (masks) or from image_labels.txt (file)"
    )
    augmented: str = Field(
        description=f"of {enumerated([key for key, known in DATA_FORMATS.items() if not known.own_labels], 'and')}: "
        "SBD's folder `dataset` or a folder such as SegmentationClassAug, whose images join train as far as they are "
        "not in val or test; empty: none"
    )
    negatives: Literal["refuse", "background"] = Field(
        description="images of train that show none of the classes: refuse (of COCO: left out, as in published "
        "scores) or background (learned from as such; of COCO: of val too); a list says so by an empty cell"
    )
    images: Annotated[int, Field(ge=0)] = Field(description="most images of a split, evenly spaced; 0: all")
    counts: CountSettings
    coco: CocoSettings

    @model_validator(mode="after")
    def _of_a_format_with_labels_of_its_own(self) -> IndexSettings:
        why = DATA_FORMATS[self.format].own_labels
        if why and (self.labels != "annotations" or self.augmented):
            raise ValueError(f"labels, augmented: {why}; write annotations, and augmented ''")
        return self


class DataSettings(IndexSettings):
    """The data of a run; only the workflow reads `shards` and the saliency folders, not index_dataset."""

    saliency_train: Path = Field(description="folder of image/mask pairs in DUTS layout to train saliency on")
    saliency_val: Path = Field(description="folder of image/mask pairs in DUTS layout to score saliency on")
    shards: Annotated[int, Field(ge=1, le=1000)] = Field(description="jobs that each per-image stage is cut into")
