"""Pretrained weights: fetched by a model's name or read from a local file, never a pickle, and where they came from.

Weights that were trained on pixel labels (segmentation, SAM) are refused unless a setting allows them: a score would no
longer be that of image labels.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError, RemoteEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from getam.errors import InputError
from getam.system.files import sha256_of

SEGMENTATION_NAMES = re.compile(
    r"^(tu-)?sam(2|vit|_vit)|pe_spatial|c_radio|pali_mix"
    r"|(^|[/_.-])(sa1b|ade|ade20k|(ref)?coco(stuff)?|cityscapes|pascal|voc(aug|\d*)|seg|segmentation)(?=$|[/_.-])",
    re.IGNORECASE,
)
"""What the name of weights that know pixel labels holds: their data sets, Segment Anything and what was distilled from
it (PE spatial, C-RADIO), mixtures with referring segmentation (PaLI mix)."""

SEGMENTATION_KEYS = re.compile(
    r"(^|\.)(decode_head|auxiliary_head|aux_classifier|segmentation_head|sem_seg_head|mask_decoder|mask_head|mask_embed"
    r"|pixel_decoder|roi_heads|aspp|scratch)(\.|$)"
)
"""Parts that only networks for segmentation or detection have."""

FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of files with weights, the first that is there."""

FEATURE_KEY = re.compile(r"^([a-z]+)_(\d+)\.")
"""First part of a key in a timm network that gives features alone."""

TIMM = "tu-"
"""Before the name of an encoder of segmentation-models-pytorch that is timm's."""

ENCODERS = "deeplab"
"""The section whose network is an encoder of segmentation-models-pytorch; the others are timm's."""

NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where the weights are in a checkpoint that holds more."""


@dataclass(frozen=True)
class Weights:
    """The weights of a file, and what model.json says of them."""

    state: dict[str, Tensor]
    origin: dict[str, str]


@dataclass(frozen=True)
class Location:
    """Where weights are published on huggingface.co; FILES are what they may be called there."""

    repository: str
    revision: str | None

    def address(self, file: str) -> str:
        return f"https://huggingface.co/{self.repository}/resolve/{self.revision or 'main'}/{file}"


def timm_weights(name: str, pretrained: bool | str, *, segmentation: bool) -> Weights | None:
    """The pretrained weights of a timm model.

    Args:
        name: timm's, with the tag of its weights or without.
        pretrained: True (fetched), a file, or False.
        segmentation: whether weights that were trained on pixel labels are allowed.

    Raises:
        InputError: there are none, they cannot be fetched or read, or they know pixel labels.
    """
    if pretrained is True:
        return _fetched(name, timm_location(name, segmentation=segmentation), segmentation=segmentation)
    return _given(name, pretrained, segmentation=segmentation) if pretrained else None


def encoder_weights(encoder: str, pretrained: bool | str, *, segmentation: bool) -> Weights | None:
    """The pretrained weights of an encoder that segmentation-models-pytorch has of its own; see timm_weights."""
    if pretrained is True:
        return _fetched(encoder, encoder_location(encoder), segmentation=segmentation)
    return _given(encoder, pretrained, segmentation=segmentation) if pretrained else None


def is_library_encoder(section: str, network: str) -> bool:
    """Whether the network of a section is an encoder that segmentation-models-pytorch has of its own; else timm's."""
    return section == ENCODERS and not network.startswith(TIMM)


def timm_location(name: str, *, segmentation: bool) -> Location:
    """Where the weights of a timm model are; InputError where there are none, or where they know pixel labels."""
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise InputError(f"pretrained: {error}; choose another tag of {name}, or name a file") from None
    if config is None or not config.hf_hub_id:
        raise InputError(f"pretrained: timm has no weights of {name}; name a file, or set pretrained to false")
    # With the tag, which a name may leave to timm: it says what they were trained on.
    full = f"{name.partition('.')[0]}.{config.tag}"
    if not segmentation and SEGMENTATION_NAMES.search(full):
        raise InputError(_refusal(full))
    return Location(config.hf_hub_id, None)


def encoder_location(encoder: str) -> Location:
    """Where the ImageNet weights of an encoder of segmentation-models-pytorch are; InputError where there are none."""
    source = smp.encoders.encoders.get(encoder, {}).get("pretrained_settings", {}).get("imagenet")
    if source is None:
        raise InputError(f"pretrained: there are no ImageNet weights of {encoder}; name a file, or set it to false")
    return Location(source["repo_id"], source.get("revision"))


def initialization_of(network: nn.Module) -> dict[str, str] | None:
    """Where the pretrained weights came from that a network started with; None for fresh ones."""
    for module in network.modules():
        if isinstance(origin := getattr(module, "initialization", None), dict):
            return origin
    return None


def _fetched(name: str, location: Location, *, segmentation: bool) -> Weights:
    for file in FILES:
        address = location.address(file)
        try:
            path = Path(hf_hub_download(location.repository, file, revision=location.revision))
        except RemoteEntryNotFoundError:
            continue
        # The hub's own errors are OSErrors (no connection, offline mode, HTTP status); a dead proxy's is not.
        except (OSError, HTTPError) as error:
            raise InputError(_unreachable(name, address, error)) from None
        return _checked(name, path, source=address, segmentation=segmentation)
    raise InputError(f"pretrained: {location.repository} on huggingface.co holds no weights of {name}; name a file")


def _unreachable(name: str, address: str, error: Exception) -> str:
    return (
        f"pretrained: the weights of {name} cannot be fetched ({type(error).__name__}): download {address} on a "
        "machine with a connection and set pretrained to the path of that file, or set pretrained to false"
    )


def _given(name: str, pretrained: bool | str, *, segmentation: bool) -> Weights:
    path = Path(str(pretrained))
    if not path.is_file():
        raise InputError(f"pretrained: {path}: no such file; name a .safetensors or .pth file of {name}'s weights")
    # The network's name too, with whichever tag: a file of its weights may be called model.safetensors.
    names = [name] if "." in name else timm.list_pretrained(f"{name}.*") or [name]
    if not segmentation and (SEGMENTATION_NAMES.search(path.stem) or all(map(SEGMENTATION_NAMES.search, names))):
        raise InputError(_refusal(f"{path}, of {name},"))
    return _checked(name, path, source=path.name, segmentation=segmentation)


def _checked(name: str, path: Path, *, source: str, segmentation: bool) -> Weights:
    state = read_state(path)
    if not segmentation and (found := [key for key in state if SEGMENTATION_KEYS.search(key)]):
        raise InputError(_refusal(f"{path} (it holds {found[0]})"))
    return Weights(state, {"name": name, "source": source, "sha256": sha256_of(path)})


def _refusal(what: str) -> str:
    return (
        f"pretrained: {what} was trained on pixel labels, which image-level supervision must not know; take weights of "
        "image labels, or set segmentation_pretrained to true"
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file; torch's restricted reader runs no code of it.

    Raises:
        InputError: the file cannot be read, or holds no weights.
    """
    cure = "name a .safetensors or .pth file of weights"
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _torch_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {cure}") from None
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
        raise InputError(f"{path}: is no file of weights ({reason}); {cure}") from None
    for key in NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(f"{path}: is no file of weights (no dict of tensors); {cure}")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _torch_file(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def load_encoder(encoder: nn.Module, weights: Weights) -> None:
    """Loads the weights of an encoder without its head, strictly but for a head that the file holds too.

    Raises:
        InputError: a weight is missing or of another shape.
    """
    own = encoder.state_dict()
    # timm joins the names of a sequence's parts where it gives features alone: stages.0 is stages_0 there.
    theirs = {key: key if key in weights.state else FEATURE_KEY.sub(r"\1.\2.", key) for key in own}
    wrong = [
        f"{theirs[key]} is {'missing' if theirs[key] not in weights.state else tuple(weights.state[theirs[key]].shape)}"
        for key, value in own.items()
        # Counts of batches, which old files don't have.
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
