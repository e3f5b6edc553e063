"""DeepLab v2, the segmentation network that is trained on the completed pseudo labels."""

from deeplab.model import DeepLabV2

__all__ = ["DeepLabV2"]
