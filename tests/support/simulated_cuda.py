"""A CUDA device that is not there: tensors that say they are on it, computed on the CPU, and a count of waits for it.

Each tensor of the simulated device holds its values in a CPU tensor. So code runs as on a GPU, branches by true values,
and its files can be compared with the CPU's. What a GPU would refuse is refused: where tensors of both devices meet,
torch's own FakeTensorMode judges. Autocast rounds to bfloat16 by CUDA's lists of operations. Kernels are the CPU's, so
neither a kernel that CUDA lacks nor its rounding is seen; `pytest -m gpu` does that on a real device.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

import getam.system.gpu

CPU, CUDA, META = torch.device("cpu"), torch.device("cuda", 0), torch.device("meta")
aten = torch.ops.aten

SHAPED_BY_VALUES = {
    aten.nonzero,
    aten.masked_select,
    aten.bincount,
    aten.unique_consecutive,
    aten._unique,
    aten._unique2,
    aten.unique_dim,
    aten.repeat_interleave,
}
"""Operations that wait for the device, since the size of their result depends on values."""

INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}

BACKWARD = {torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad}

READS_VALUES = {aten._local_scalar_dense, aten.equal}
"""Operations whose result is a number on the CPU."""


class OnDevice(Tensor):
    """A tensor of the simulated device; `host` holds its values.

    Python sees a tensor of the device. torch's C++ asks for the device of tensors too. Autograd would give CUDA a
    thread and a stream, so it's told META; autocast looks for CUDA, so it's told that (see `_Simulation.told`). What of
    C++ moves tensors is written anew here, and what it makes on META is on the device.
    """

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> OnDevice:
        empty = torch.empty_strided(host.shape, host.stride(), dtype=host.dtype, device=META)
        # Autograd and autocast take it for a tensor of the device, but its kernels and streams are nobody's.
        tensor = torch.Tensor._make_subclass(cls, empty, False, dispatch_device=True, device_for_backend_keys=CUDA)
        tensor.host = host
        return tensor

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_cpu(self) -> bool:
        return False

    @property
    def is_meta(self) -> bool:
        return False

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if torch.is_autocast_enabled("cuda") and func not in BACKWARD:
                with _Simulation.autocasting():
                    return func(*args, **kwargs or {})
            return func(*args, **kwargs or {})

    def requires_grad_(self, requires_grad: bool = True) -> OnDevice:
        super().requires_grad_(requires_grad)
        if requires_grad and self.is_leaf:
            with torch.enable_grad():
                # Made at once, autograd's node of a leaf asks for no device later, within an operation of autocast.
                _Simulation.device.leaves.append(self.view_as(self).grad_fn.next_functions[0][0])
        return self

    def to(self, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            device, dtype, non_blocking = args[0].device, args[0].dtype, args[1:2] == (True,)
        else:
            device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        dtype = dtype or self.dtype
        if device is None or device.type == CUDA.type:
            return self if dtype == self.dtype and not copy else aten._to_copy(self, dtype=dtype)
        return aten._to_copy(self, dtype=dtype, device=device, non_blocking=non_blocking)

    def cpu(self, *args: Any) -> Tensor:
        return self.to(CPU)

    def cuda(self, *args: Any, **kwargs: Any) -> Tensor:
        return self

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=CUDA)

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_moved(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_moved(index), value)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"OnDevice({self.host!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        return _Simulation.run(func, args, kwargs or {})


class _Generator(torch.Generator):
    """A CPU's generator, which the device counts as its own by the seed: operations get another object of torch's."""

    simulated: torch.device

    def __new__(cls, device: Any = "cpu") -> _Generator:
        generator = super().__new__(cls, "cpu")
        generator.simulated = torch.device(device)
        return generator

    def manual_seed(self, seed: int) -> _Generator:
        super().manual_seed(seed)
        if self.simulated.type == CUDA.type:
            _Simulation.device.seeds.add(self.initial_seed())
        return self


class Device:
    """What a simulated device has seen.

    Attributes:
        waits: name of an operation -> how often the thread of the test waited for the device in it. `upload` is a copy
            to the device that isn't non_blocking, `download` one from it.
        waits_elsewhere: the same in other threads, such as those that write files.
        pageable: uploads from memory that is not pinned.
    """

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.waits_elsewhere: Counter[str] = Counter()
        self.pageable = 0
        self.pinned: dict[int, Tensor] = {}
        self.seeds: set[int] = set()
        self.leaves: list[Any] = []

    def forget(self) -> None:
        """Counts from zero."""
        self.waits.clear()
        self.waits_elsewhere.clear()
        self.pageable = 0

    def wait(self, name: str) -> None:
        here = threading.current_thread() is threading.main_thread()
        (self.waits if here else self.waits_elsewhere)[name] += 1

    def pin(self, tensor: Tensor) -> Tensor:
        """A copy that counts as pinned; it is kept, so that no other memory can have its address."""
        copy = tensor.clone()
        self.pinned[copy.untyped_storage().data_ptr()] = copy
        return copy


class _Simulation(TorchDispatchMode):
    """Sends operations of the simulated device, and those that make tensors there, to the CPU."""

    device = Device()
    autocast = False
    """Whether an operation is running whose arguments autocast may round."""
    fresh: ClassVar[list[Tensor]] = []
    """Results within that operation of which autograd has not asked yet."""

    @classmethod
    @contextmanager
    def autocasting(cls) -> Iterator[None]:
        """Inside, the first question for the device of a result is autograd's, and all others are autocast's."""
        outermost, cls.autocast = not cls.autocast, True
        try:
            yield
        finally:
            if outermost:
                cls.autocast = False
                cls.fresh.clear()

    @classmethod
    def told(cls, tensor: Tensor) -> torch.device:
        """The device that C++ is told."""
        for number, each in enumerate(cls.fresh):
            if each is tensor:
                del cls.fresh[number]
                return META
        return CUDA if cls.autocast else META

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if any(issubclass(each, OnDevice) for each in types) or _target(kwargs) == CUDA:
            return self.run(func, args, kwargs)
        return func(*args, **kwargs)

    @classmethod
    def run(cls, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Runs an operation on the values; its result is on the simulated device, unless it asks for the CPU."""
        if func is torch.ops.prim.device.default:
            return cls.told(args[0])
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        if 0 < len(here) < len(tensors):
            _judge(func, args, kwargs)
        if (generator := kwargs.get("generator")) is not None and here:
            assert generator.initial_seed() in cls.device.seeds, f"{func}: a generator of the CPU"
        if func.overloadpacket in INDEXING and not isinstance(args[0], OnDevice):
            raise RuntimeError(f"{func}: indices on the device of a tensor on the CPU")
        cls._count(func, args, kwargs, moved_to=_target(kwargs))
        target = _target(kwargs) or (CUDA if here else CPU)
        values = {key: CPU if key == "device" and value is not None else value for key, value in kwargs.items()}
        result = func(*tree_map(_host, args), **tree_map(_host, values))
        if target != CUDA:
            return result
        wrapped = tree_map(lambda leaf: OnDevice(leaf) if isinstance(leaf, Tensor) else leaf, result)
        wrapped = return_and_correct_aliasing(func, args, kwargs, wrapped)
        if cls.autocast and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            cls.fresh += [leaf for leaf in tree_leaves(wrapped) if isinstance(leaf, Tensor)]
        return wrapped

    @classmethod
    def _count(cls, func: Any, args: Any, kwargs: dict[str, Any], *, moved_to: torch.device | None) -> None:
        device, packet = cls.device, func.overloadpacket
        name = packet._qualified_op_name.removeprefix("aten::")
        if packet in (aten._to_copy, aten.copy_):
            to, source = (moved_to or args[0].device, args[0]) if packet is aten._to_copy else (args[0].device, args[1])
            blocking = not (kwargs.get("non_blocking") or (packet is aten.copy_ and len(args) > 2 and args[2]))
            if to == CUDA and not isinstance(source, OnDevice):
                device.pageable += source.untyped_storage().data_ptr() not in device.pinned
                if blocking:
                    device.wait("upload")
            elif to == CPU and isinstance(source, OnDevice):
                device.wait("download")
        elif packet in READS_VALUES or packet in SHAPED_BY_VALUES:
            device.wait(name)
        elif packet in INDEXING:
            indices = [index for index in args[1] if index is not None]
            masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
            # torch fills where a mask says so, if it's told a single number.
            fills = packet is not aten.index and args[2].numel() == 1 and not isinstance(args[2], OnDevice)
            if masks and not fills:
                device.wait(f"{name} by a mask")
            for index in indices:
                if isinstance(args[0], OnDevice) and not isinstance(index, OnDevice):
                    device.wait("upload")


ANSWERS: dict[Any, dict[str, Callable[..., Any]]] = {
    torch.cuda: {
        "is_available": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: True,
        "device_count": lambda: 1,
        "get_rng_state": lambda device="cuda": torch.get_rng_state(),
        "set_rng_state": lambda state, device="cuda": None,
        "_lazy_init": lambda: None,
    },
    torch.accelerator: {
        "is_available": lambda: True,
        "current_accelerator": lambda check_available=False: CUDA,
        "current_device_index": lambda: 0,
        "set_device_index": lambda index: None,
    },
    # A GPU of this machine is neither looked for nor taken.
    getam.system.gpu: {"take": lambda count: []},
    torch.Tensor: {"pin_memory": lambda tensor, device=None: _Simulation.device.pin(tensor)},
    torch: {"Generator": _Generator},
}
"""What modules say while the device is simulated."""


def _target(kwargs: dict[str, Any]) -> torch.device | None:
    """The device that an operation names for its result; None if it names none."""
    device = kwargs.get("device")
    if device is None:
        return None
    return CPU if torch.device(device).type == CPU.type else CUDA


def _moved(index: Any) -> Any:
    """An index whose lists are tensors of the device: C++ would make them on META, without values."""
    if isinstance(index, tuple):
        return tuple(map(_moved, index))
    return torch.tensor(index, device=CUDA) if isinstance(index, list) else index


def _host(leaf: Any) -> Any:
    return leaf.host if isinstance(leaf, OnDevice) else leaf


def _judge(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Raises what torch raises where tensors of two devices meet that may not."""
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:

        def faked(leaf: Any) -> Any:
            if isinstance(leaf, OnDevice):
                host = leaf.host
                return torch.empty_strided(host.shape, host.stride(), dtype=host.dtype, device=CUDA)
            return mode.from_tensor(leaf) if isinstance(leaf, Tensor) else leaf

        func(*tree_map(faked, args), **tree_map(faked, kwargs))


@contextmanager
def simulated_cuda() -> Iterator[Device]:
    """Inside the context, `cuda` is the simulated device, and torch says that it is available."""
    device = _Simulation.device = Device()
    if torch.cuda.is_available():
        # Later tests use this machine's device, which torch would take for prepared after this context.
        torch.cuda.init()
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for module, answers in ANSWERS.items():
            for name, answer in answers.items():
                patch.setattr(module, name, answer)
        # Stages set these; they are put back.
        for name in ("deterministic", "benchmark", "allow_tf32"):
            patch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
        torch._C._ensureCUDADeviceGuardSet()
        # torch.tensor(numbers, device="cuda") is a tensor of the CPU and then a copy, which is seen.
        stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)
        # A parameter of the CPU can't become one of another class in place.
        replaced = torch.__future__.get_overwrite_module_params_on_conversion()
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, replaced)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        # Their own kernels are CUDA's alone.
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        stack.enter_context(_Simulation())
        stack.callback(setattr, _Simulation, "device", Device())
        yield device
