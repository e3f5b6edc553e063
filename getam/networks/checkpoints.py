"""Saves and loads models and training states, as safetensors with JSON beside or inside them, never as pickles."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

import getam.system.version
from getam.errors import InputError, reason_of
from getam.networks.supervision import SUPERVISION, of_network
from getam.networks.weight_files import check_tensors, read_safetensors
from getam.settings.foreign import refusing
from getam.settings.networks import PretrainedSettings
from getam.settings.section import SomeSection
from getam.system.files import atomic_file, read_json, write_json

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
MAX_NAMED = 3
"""Number of misfitting tensors that a message names; it only counts the remaining ones."""

LONGEST_NAME = 200
"""Letters of a tensor's name in a message; the log cuts a line that is very long."""

IMPLIED: dict[str, dict[str, Any]] = {
    "deeplab": {"labels": "pseudo"},
    "end_to_end": {"completion": {"crf": {"backend": "pydensecrf"}}},
}
"""Kind of a model -> settings that came later, with the values that models trained before them have."""

STEP = "step"

ENTRIES = {AdamW: {STEP, "exp_avg", "exp_avg_sq"}, SGD: {"momentum_buffer"}}
"""Optimizer -> what it holds of a parameter: numbers of the parameter's shape, and the number of its steps."""

LEAST = {STEP: 1, "exp_avg_sq": 0}
"""Lowest values of these entries; with lower ones the next step would divide by 0, or take the root of less."""

UNUSED = "unused.safetensors"
"""File beside an imported model with those tensors of the imported file that no forward pass reads."""

logger = logging.getLogger(__name__)

Progress = TypeVar("Progress")


def describe_model(
    kind: str, settings: PretrainedSettings, *, learned_from: str, classes: Sequence[str] | None = None
) -> dict[str, Any]:
    """The description that model.json holds for every network: its kind, settings, classes and supervision.

    Args:
        kind: kind of the network, which `read_description` checks.
        settings: settings that the network is built from.
        learned_from: supervision of its training data, see getam.networks.supervision; the supervision of its
            pretrained weights is added.
        classes: class names, without background; None for a network without classes.
    """
    return {
        "kind": kind,
        "settings": settings.model_dump(mode="json"),
        **({} if classes is None else {"classes": list(classes)}),
        SUPERVISION: of_network(learned_from, settings),
    }


def save_model(folder: Path, model: nn.Module, description: Mapping[str, Any]) -> None:
    """Writes model.safetensors and model.json; the description must suffice to build the model again."""
    write_tensors(folder / WEIGHTS, model.state_dict())
    write_json(folder / DESCRIPTION, {**description, "version": getam.system.version.VERSION})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    with atomic_file(path) as temporary:
        try:
            content = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
            save_file(content, temporary, metadata=metadata)
        except SafetensorError as error:
            # safetensors reports failures of the disk by its own exception; atomic_file handles OSError.
            raise OSError(str(error)) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a safetensors file.

    Raises:
        InputError: the file is missing or damaged, or holds others than plain weights.
    """
    try:
        with refusing(path, "not a readable safetensors file", cure="train again"):
            tensors, _ = read_safetensors(path)
            check_tensors(tensors, path)
            return tensors
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the training that writes it") from None


def model_files(folder: Path) -> list[Path]:
    """The files that a model consists of."""
    return [folder / WEIGHTS, folder / DESCRIPTION]


def read_description(folder: Path, *, kind: str, settings: type[SomeSection]) -> tuple[SomeSection, tuple[str, ...]]:
    """Reads model.json.

    Returns:
        The settings to build the model from, with `pretrained` False, so that building it fetches no weights; the
        class names.

    Raises:
        InputError: the file describes another kind of model, or has settings of another version.
    """
    path = folder / DESCRIPTION
    description = read_json(path)
    if not isinstance(description, dict) or description.get("kind") != kind:
        raise InputError(f"{path}: does not describe a {kind}; name the folder of one")
    try:
        built = settings.model_validate(with_implied(IMPLIED.get(kind, {}), description["settings"]))
    except (ValidationError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: its settings are not this version's ({error}); train the model again") from None
    names = description.get("classes", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: its classes are no list of names; train the model again")
    classes = tuple(names)
    return built.model_copy(update={"pretrained": False}), classes


def with_implied(implied: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded settings, with implied ones in the place of those that are missing, at every depth."""
    filled = dict(implied) | dict(recorded)
    for name, values in implied.items():
        own = recorded.get(name, {})
        if isinstance(values, Mapping) and isinstance(own, Mapping):
            filled[name] = with_implied(values, own)
    return filled


def load_weights(folder: Path, model: nn.Module) -> None:
    """Loads model.safetensors strictly into a model that was built from the model.json beside it.

    Raises:
        InputError: the file is missing or damaged, or a key or shape is not the model's.
    """
    path = folder / WEIGHTS
    state = read_tensors(path)
    own = model.state_dict()
    wrong = [name for name in own if name not in state or state[name].shape != own[name].shape]
    wrong += [name for name in state if name not in own]
    if wrong:
        raise InputError(f"{path}: does not fit {DESCRIPTION} beside it, first at {wrong[0]!r}; train again")
    model.load_state_dict(state)


def load_exactly(model: nn.Module, state: Mapping[str, Tensor], *, source: Path) -> None:
    """Loads renamed weights from another program's file strictly into a model.

    Args:
        source: the file, for the message.

    Raises:
        InputError: a name or a shape is not the model's.
    """
    if misfit := misfits(model.state_dict(), state):
        raise InputError(f"{source}: does not fit: {misfit}; give the file of that network, unchanged")
    model.load_state_dict(dict(state))


def misfits(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Lists the tensors of `state` whose names or shapes differ from those of `wanted`, in words.

    Only the first are named, the others are counted. The text is empty if all tensors fit.
    """
    wrong = [f"{name} is missing" for name in wanted if name not in state]
    wrong += [f"{name[:LONGEST_NAME]} is unknown" for name in state if name not in wanted]
    wrong += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    more = f" and {len(wrong) - MAX_NAMED} more" if len(wrong) > MAX_NAMED else ""
    return "; ".join(wrong[:MAX_NAMED]) + more


def save_state(
    path: Path, model: nn.Module, optimizer: Optimizer, *, key: str, code: str = "", progress: Mapping[str, Any]
) -> None:
    """Writes the state from which a training resumes exactly: weights, optimizer, random state, `progress` as JSON."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in values.items() if isinstance(value, Tensor)}
    tensors["random"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random_cuda"] = torch.cuda.get_rng_state()
    tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    text = json.dumps(progress)
    metadata = {"key": key, "progress": text, "checksum": _checksum(tensors, text), "code": code}
    write_tensors(path, tensors, metadata)


def load_state(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    form: type[Progress],
    *,
    key: str,
    code: str = "",
    any_code: bool = False,
    fits: Callable[[Progress], bool] = lambda progress: True,
) -> Progress | None:
    """Restores the state that `save_state` wrote.

    Everything is checked before anything is restored, since who can write to the folder can write a state too.

    Args:
        form: type of the `progress` of the state.
        key: identifies settings, initial weights and data.
        code: hash of the training's sources.
        any_code: whether a state that other sources saved is restored, with a warning.
        fits: whether a `progress` can be one of this training.

    Returns:
        The `progress` of the state; None if there is no intact state with this key and code.
    """
    if not path.is_file():
        return None
    try:
        tensors, metadata = read_safetensors(path)
    # Every exception is meant, as in getam.settings.foreign.refusing, here and below.
    except Exception as error:
        logger.warning("%s cannot be read (%s): training starts anew", path, reason_of(error))
        return None
    if metadata.get("key") != key:
        logger.info("%s belongs to other settings: training starts anew", path)
        return None
    if metadata.get("checksum") != _checksum(tensors, metadata.get("progress", "")):
        logger.warning("%s is damaged (its checksum is another): training starts anew", path)
        return None
    if metadata.get("code") != code:
        if not any_code:
            logger.warning("%s was saved by other sources: training starts anew (code_hash: false goes on)", path)
            return None
        logger.warning("%s was saved by other sources; goes on by these", path)
    try:
        progress = TypeAdapter(form).validate_python(json.loads(metadata["progress"]))
        if not fits(progress):
            raise ValueError("its position is none of this training")
        check_tensors(tensors, path)
        weights = {n.removeprefix("model."): tensor for n, tensor in tensors.items() if n.startswith("model.")}
        if misfit := misfits(model.state_dict(), weights):
            raise ValueError(misfit)
        state = _optimizer_state(tensors, optimizer)
        for name, device in _random_states():
            if name in tensors:
                torch.Generator(device).set_state(tensors[name])
        tensors["random"]  # Its absence is a KeyError.
    except Exception as error:
        logger.warning("%s is damaged (%s): training starts anew", path, reason_of(error))
        return None
    model.load_state_dict(weights)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random"])
    if "random_cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random_cuda"])
    return progress


def _random_states() -> list[tuple[str, str]]:
    """The names of the random states that this machine restores, and their devices."""
    return [("random", "cpu"), *([("random_cuda", "cuda")] if torch.cuda.is_available() else [])]


def _optimizer_state(tensors: Mapping[str, Tensor], optimizer: Optimizer) -> dict[int, dict[str, Tensor]]:
    """The part of a state that is the optimizer's: {number of a parameter: {entry: tensor}}.

    Raises:
        ValueError: an entry is not of this optimizer or of none of its parameters, or has another shape.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, entry = name.split(".", 2)
            wanted = () if entry == STEP else parameters[int(number)].shape
            if int(number) < 0 or tensor.shape != wanted or not tensor.is_floating_point():
                raise ValueError(f"{name} is {tensor.dtype} of {tuple(tensor.shape)}, not of {tuple(wanted)}")
            if entry in LEAST and (tensor < LEAST[entry]).any():
                raise ValueError(f"{name} is below {LEAST[entry]}")
            state.setdefault(int(number), {})[entry] = tensor
    entries = ENTRIES[type(optimizer)]
    if wrong := [number for number, found in state.items() if found.keys() != entries]:
        raise ValueError(f"optimizer.{wrong[0]} does not hold {', '.join(sorted(entries))}")
    return state


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """Checksum of names, shapes, dtypes and bytes, to detect disk errors; safetensors has no checksum."""
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode(), value)
        value = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
