"""Fetches pretrained weights by a model's name or reads them from a file, and records their origin.

Weights that were trained on pixel labels (segmentation, SAM) are refused unless a setting allows them, since scores
would no longer be those of image-level supervision. No code in a file of weights is run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError, RemoteEntryNotFoundError
from torch import Tensor, nn

from getam.errors import InputError
from getam.networks.weight_files import check_tensors, read_pth, read_safetensors
from getam.settings.foreign import refusing
from getam.settings.networks import TIMM
from getam.system.files import sha256_of

SEGMENTATION_NAMES = re.compile(
    r"^(tu-)?sam(2|vit|_vit)|pe_spatial|c_radio|pali_mix"
    r"|(^|[/_.-])(sa1b|ade|ade20k|(ref)?coco(stuff)?|cityscapes|pascal|voc(aug|\d*)|seg|segmentation)(?=$|[/_.-])",
    re.IGNORECASE,
)
"""Matches names of weights that were trained on pixel labels: names of segmentation data sets, Segment Anything and
models distilled from it (PE spatial, C-RADIO), mixtures with referring segmentation (PaLI mix)."""

SEGMENTATION_KEYS = re.compile(
    r"(^|\.)(decode_head|auxiliary_head|aux_classifier|segmentation_head|sem_seg_head|mask_decoder|mask_head|mask_embed"
    r"|pixel_decoder|roi_heads|aspp|scratch)(\.|$)"
)
"""Matches state dict keys of modules that only segmentation or detection networks have."""

FILES = ("model.safetensors", "pytorch_model.bin")
"""File names of weights in a repository of huggingface.co; the first that exists is read."""

FEATURE_KEY = re.compile(r"^([a-z]+)_(\d+)\.")
"""Matches the first part of a key in a timm network made with features_only, such as stages_0."""

ENCODERS = "deeplab"
"""The section whose network is an encoder of segmentation-models-pytorch; the networks of other sections are timm's."""

NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which a checkpoint with other contents holds the weights."""


@dataclass(frozen=True)
class Weights:
    """The weights of a file and their origin."""

    state: dict[str, Tensor]
    origin: dict[str, str]
    """Entries for model.json: name of the model, source (address or file name), sha256 of the file."""


@dataclass(frozen=True)
class Location:
    """The repository on huggingface.co that publishes weights, under one of the names in FILES."""

    repository: str
    revision: str | None

    def address(self, file: str) -> str:
        return f"https://huggingface.co/{self.repository}/resolve/{self.revision or 'main'}/{file}"


def timm_weights(name: str, pretrained: bool | str, *, allow_pixel_labels: bool) -> Weights | None:
    """Gets the pretrained weights of a timm model.

    Args:
        name: timm's name, with or without the tag of the weights.
        pretrained: True to fetch the weights, a path to read them from, or False.
        allow_pixel_labels: whether weights that were trained on pixel labels are allowed.

    Returns:
        The weights; None if `pretrained` is False.

    Raises:
        InputError: there are no weights, they cannot be fetched or read, or they were trained on pixel labels, which
            is not allowed.
    """
    if pretrained is True:
        return _fetched(
            name, timm_location(name, allow_pixel_labels=allow_pixel_labels), allow_pixel_labels=allow_pixel_labels
        )
    return _from_file(name, pretrained, allow_pixel_labels=allow_pixel_labels) if pretrained else None


def encoder_weights(encoder: str, pretrained: bool | str, *, allow_pixel_labels: bool) -> Weights | None:
    """Gets the pretrained weights of one of segmentation-models-pytorch's own encoders; see timm_weights."""
    if pretrained is True:
        return _fetched(encoder, encoder_location(encoder), allow_pixel_labels=allow_pixel_labels)
    return _from_file(encoder, pretrained, allow_pixel_labels=allow_pixel_labels) if pretrained else None


def is_library_encoder(section: str, network: str) -> bool:
    """Whether the network of a section is one of segmentation-models-pytorch's own encoders, and not timm's."""
    return section == ENCODERS and not network.startswith(TIMM)


def timm_location(name: str, *, allow_pixel_labels: bool) -> Location:
    """Finds the weights of a timm model.

    Raises:
        InputError: there are none, or their name says that they were trained on pixel labels, which is not allowed.
    """
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise InputError(f"pretrained: {error}; choose another tag of {name}, or name a file") from None
    if config is None or not config.hf_hub_id:
        raise InputError(f"pretrained: timm has no weights of {name}; name a file, or set pretrained to false")
    # The tag, which says what the weights were trained on, may be missing in `name`; the config has timm's default.
    full = f"{name.partition('.')[0]}.{config.tag}"
    if not allow_pixel_labels and SEGMENTATION_NAMES.search(full):
        raise InputError(_refusal(full))
    return Location(config.hf_hub_id, None)


def encoder_location(encoder: str) -> Location:
    """Finds the ImageNet weights of one of segmentation-models-pytorch's own encoders; InputError if there are none."""
    source = smp.encoders.encoders.get(encoder, {}).get("pretrained_settings", {}).get("imagenet")
    if source is None:
        raise InputError(f"pretrained: there are no ImageNet weights of {encoder}; name a file, or set it to false")
    return Location(source["repo_id"], source.get("revision"))


def initialization_of(network: nn.Module) -> dict[str, str] | None:
    """The origin of the pretrained weights that a network started with, see Weights; None for random weights."""
    for module in network.modules():
        if isinstance(origin := getattr(module, "initialization", None), dict):
            return origin
    return None


def _fetched(name: str, location: Location, *, allow_pixel_labels: bool) -> Weights:
    for file in FILES:
        address = location.address(file)
        try:
            path = Path(hf_hub_download(location.repository, file, revision=location.revision))
        except RemoteEntryNotFoundError:
            continue
        # The hub's own errors are OSErrors (no connection, offline mode, HTTP status); that of a dead proxy is an
        # HTTPError.
        except (OSError, HTTPError) as error:
            raise InputError(_unreachable(name, address, error)) from None
        return _checked(name, path, source=address, allow_pixel_labels=allow_pixel_labels)
    raise InputError(f"pretrained: {location.repository} on huggingface.co holds no weights of {name}; name a file")


def _unreachable(name: str, address: str, error: Exception) -> str:
    return (
        f"pretrained: the weights of {name} cannot be fetched ({type(error).__name__}): download {address} on a "
        "machine with a connection and set pretrained to the path of that file, or set pretrained to false"
    )


def _from_file(name: str, pretrained: bool | str, *, allow_pixel_labels: bool) -> Weights:
    path = Path(str(pretrained))
    if not path.is_file():
        raise InputError(f"pretrained: {path}: no such file; name a .safetensors or .pth file of {name}'s weights")
    # The network's name is checked too, with all tags that timm knows: the file may just be called model.safetensors.
    names = [name] if "." in name else timm.list_pretrained(f"{name}.*") or [name]
    if not allow_pixel_labels and (SEGMENTATION_NAMES.search(path.stem) or all(map(SEGMENTATION_NAMES.search, names))):
        raise InputError(_refusal(f"{path}, of {name},"))
    return _checked(name, path, source=path.name, allow_pixel_labels=allow_pixel_labels)


def _checked(name: str, path: Path, *, source: str, allow_pixel_labels: bool) -> Weights:
    state = read_state(path)
    if not allow_pixel_labels and (found := [key for key in state if SEGMENTATION_KEYS.search(key)]):
        raise InputError(_refusal(f"{path} (it holds {found[0]})"))
    return Weights(state, {"name": name, "source": source, "sha256": sha256_of(path)})


def _refusal(weights: str) -> str:
    return (
        f"pretrained: {weights} was trained on pixel labels, which image-level supervision must not know; take weights "
        "of image labels, or set segmentation_pretrained to true"
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a .safetensors or .pth file; see getam.networks.weight_files.

    Returns:
        The state dict, taken out of a checkpoint with other contents, without the prefix `module.`.

    Raises:
        InputError: the file cannot be read, or holds no state dict of plain weights.
    """
    cure = "name a .safetensors or .pth file of weights"
    try:
        with refusing(path, "is no file of weights", cure=cure):
            content: Any = read_safetensors(path)[0] if path.suffix == ".safetensors" else read_pth(path)
            for key in NESTED:
                if isinstance(content, dict) and isinstance(content.get(key), dict):
                    content = content[key]
                    break
            if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
                raise ValueError("no dict of tensors")
            check_tensors(content, path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {cure}") from None
    return {key.removeprefix("module."): value for key, value in content.items()}


def load_encoder(encoder: nn.Module, weights: Weights) -> None:
    """Loads weights into an encoder, strictly, except that the file may also hold weights of a head.

    Raises:
        InputError: a weight of the encoder is missing or has another shape.
    """
    own = encoder.state_dict()
    # A timm network made with features_only names the parts of a sequence differently: stages.0 becomes stages_0.
    theirs = {key: key if key in weights.state else FEATURE_KEY.sub(r"\1.\2.", key) for key in own}
    wrong = [
        f"{theirs[key]} is {'missing' if theirs[key] not in weights.state else tuple(weights.state[theirs[key]].shape)}"
        for key, value in own.items()
        # Old files lack the batch counters of batch norms.
        if not key.endswith("num_batches_tracked")
        and (theirs[key] not in weights.state or weights.state[theirs[key]].shape != value.shape)
    ]
    if wrong:
        raise InputError(
            f"pretrained: {weights.origin['source']} does not fit {weights.origin['name']}: {'; '.join(wrong[:3])}; "
            "name a file of that network"
        )
    encoder.load_state_dict({key: weights.state.get(theirs[key], value) for key, value in own.items()})
    encoder.initialization = weights.origin  # type: ignore[assignment]
