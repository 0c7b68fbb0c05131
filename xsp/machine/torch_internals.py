"""The one door to torch's private names. No other module of xsp names one, and a test holds that.

Each name says what it is needed for, and why no public name does. A release of torch that moves one
is dealt with here.
"""

from __future__ import annotations

import ctypes
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _python_dispatch, _pytree


def _remove_own(owner: Any, name: str) -> None:
    """Remove an attribute of the owner itself; an inherited one shows again."""
    if name in vars(owner):
        delattr(owner, name)


@dataclass(frozen=True)
class Place:
    """An attribute that torch looks up at each call: replacing it changes what is called."""

    owner: Any
    name: str

    @property
    def exists(self) -> bool:
        """Whether this release of torch has it."""
        return hasattr(self.owner, self.name)

    @property
    def value(self) -> Any:
        """What is there now."""
        return getattr(self.owner, self.name)

    def replace(self, value: Any) -> Callable[[], None]:
        """Put `value` there; returns what puts the present value back."""
        own = vars(self.owner)
        undo = (
            partial(setattr, self.owner, self.name, own[self.name])
            if self.name in own
            else partial(_remove_own, self.owner, self.name)
        )
        try:
            setattr(self.owner, self.name, value)
            return undo
        except BaseException:
            undo()
            raise


without_torch_functions: Callable[[], AbstractContextManager[None]] = torch._C.DisableTorchFunction
"""A block in which neither the user's torch function modes nor tensor subclasses see what xsp reads
of a tensor. `torch.overrides` has nothing public that keeps modes out as well."""

mode_depth: Callable[[], int] = torch._C._len_torch_function_stack
push_mode: Callable[[Any], None] = torch.overrides._push_mode
pop_mode: Callable[[], Any] = torch.overrides._pop_mode
modes: Callable[[], list[Any]] = torch.overrides._get_current_function_mode_stack
"""The stack of torch function modes. `with mode:` can only be left in the order in which it was
entered; a tracer is switched off inside leaf modules whatever lies above it."""

push_mode_in_c: Callable[[Any], None] = torch._C._push_on_torch_function_stack
pop_mode_in_c: Callable[[], Any] = torch._C._pop_torch_function_stack
"""What the two above call; C code spares the Python around it."""

TorchDispatchMode = _python_dispatch.TorchDispatchMode
"""Base of a mode that sees every operator that is dispatched. torch documents it, and has it in a
private module alone.
"""

Observer = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]
"""What is told of an operator that ran: it, its arguments, its keyword arguments, its result."""


@contextmanager
def operators_called(observe: Observer) -> Iterator[None]:
    """A block in which `observe` is told of every operator that Python calls: a composite one, such
    as `linear`, as one, which `TorchDispatchMode` by itself sees only in its parts. Neither a torch
    function mode nor anything else that libraries take for tracing is on.

    Only torch's own modes may stand before the dispatcher; the one for checking schemas does
    nothing there but what it is told.
    """
    from torch._dispatch.python import enable_python_dispatcher
    from torch._subclasses.schema_check_mode import SchemaCheckMode

    class Called(SchemaCheckMode):
        def __init__(self) -> None:
            TorchDispatchMode.__init__(self, _dispatch_key=torch._C.DispatchKey.PreDispatch)

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            observe(func, args, kwargs or {}, result)
            return result

    with enable_python_dispatcher(), Called():
        yield


flattened: Callable[[Any], tuple[list[Any], Any]] = _pytree.tree_flatten
unflattened: Callable[[list[Any], Any], Any] = _pytree.tree_unflatten
"""What nested containers hold, with what makes the containers again from it; as `leaves_of`."""

leaves_of: Callable[[Any], list[Any]] = _pytree.tree_leaves
"""What nested containers hold, in order; also those that programs have registered, which
`torch.utils.pytree` lists only in newer releases."""

preserving_version: Callable[[torch.Tensor], AbstractContextManager[None]]
preserving_version = torch.autograd.grad_mode._unsafe_preserve_version_counter
"""A block at whose end a tensor has the version that it began with: its value is put back, and a
graph that has saved it must not take it for modified."""

BACKWARD_ENGINE = Place(torch.autograd, "_engine_run_backward")
"""Called by `backward` and `grad` after the torch function modes have had their say; a hook further
out would find the tracer's mode off."""

HAS_TORCH_FUNCTION = Place(torch.overrides, "has_torch_function")
"""What code asks to choose a path: `nn.TransformerEncoderLayer` and `nn.MultiheadAttention` leave
their fast path where a mode is on."""

OVERRIDE_DISPATCHERS = frozenset({"torch", "torch.overrides", "torch._ops"})
"""Modules of torch that ask this in order to call the override, not to choose a path."""

FUNCTION_APPLY = Place(torch.autograd.function._SingleLevelFunction, "apply")
"""What `apply` of every custom `autograd.Function` calls, also where a program has kept that."""

FUNCTION_BACKWARDS = tuple(
    Place(torch.autograd.function.BackwardCFunction, name) for name in ("apply", "apply_boxed")
)
"""What a custom Function's node calls, and that the Function's `backward`."""


REGISTER_HOOK = Place(torch.autograd.Function, "_register_hook")
"""What `register_prehook` of every graph node asks for a place among the node's hooks. What torch
has there makes an object with a weak reference, at 1 us a hook."""


class _Cell(Place):
    """A variable of a function's closure."""

    def replace(self, value: Any) -> Callable[[], None]:
        undo = partial(setattr, self.owner, self.name, self.value)
        setattr(self.owner, self.name, value)
        return undo


def kept_by_decorator(decorated: Callable[..., Any]) -> Place | None:
    """Where the decorator of a function of torch's keeps it: what is there is called under every
    name that a program has imported the decorated one as. None where it is kept otherwise.
    """
    inner = getattr(decorated, "__wrapped__", None)
    for cell in getattr(decorated, "__closure__", None) or ():
        if inner is not None and cell.cell_contents is inner:
            return _Cell(cell, "cell_contents")
    return None


def range_of_step(optimizer: torch.optim.Optimizer) -> str:
    """Name of the `record_function` range around an optimizer's step and its hooks. Post hooks are
    not called where the step raises.
    """
    return f"Optimizer.step#{type(optimizer).__name__}.step"


def apply_function(function: type, args: Any, kwargs: Any) -> Any:
    """What `FUNCTION_APPLY` is where nothing was put there."""
    return torch._C._FunctionBase.__dict__["apply"].__get__(None, function)(*args, **kwargs)


def function_of(node: Any) -> type:
    """The custom Function whose backward node this is."""
    function: type = node._forward_cls
    return function


def after_backward(callback: Callable[[], None]) -> None:
    """Call this when autograd's engine has run the last node; only said while it runs."""
    torch.autograd.Variable._execution_engine.queue_callback(callback)


nodes_made: Callable[[], int] = torch._C._autograd._get_sequence_nr
"""How many graph nodes this thread has made so far: the next one's `sequence_of`."""


def sequence_of(node: Any) -> int:
    """How many graph nodes its thread had made before this one. Accumulators have the largest
    number there is. Nothing public tells when a node was made.
    """
    return int(node._sequence_nr())


NVTX = Place(torch.cuda.nvtx, "_nvtx")
"""The C functions under `torch.cuda.nvtx`, through which its push, pop, mark and range all go."""

_KEEP_MODULE_CALL = ("torch._dynamo.utils", "torch._dynamo.variables.nn_module")


def put_right_in_dynamo(stand_in: Any, real: Any) -> None:
    """Dynamo keeps `nn.Module.__call__` as it finds it when it is imported, which can be while
    something stands in for it: a first collective imports it, say.
    """
    for name in _KEEP_MODULE_CALL:
        module: Any = sys.modules.get(name)
        if getattr(module, "unpatched_nn_module_call", None) is stand_in:
            module.unpatched_nn_module_call = real


class _ModuleCall(Place):
    """Dynamo is put right, too, when the present value is put back."""

    def replace(self, value: Any) -> Callable[[], None]:
        real, undo = self.value, super().replace(value)

        def put_back() -> None:
            undo()
            put_right_in_dynamo(value, real)

        return put_back


MODULE_CALL = _ModuleCall(nn.Module, "__call__")
"""What a call of any module is, but of scripted ones: hooks, the public way, make torch's attention
leave its fast path."""

CALL, COMPILED_CALL = "_call_impl", "_compiled_call_impl"
"""Attributes of a module through which `__call__` goes. Forward hooks, the public way, make it take
its slow path: 15 us for a leaf module instead of 4."""

REPLICATE = "_replicate_for_data_parallel"
"""Makes DataParallel's copies of a module, which must not call the original."""


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor was written to, as autograd counts it; 0 where it is not counted."""
    return 0 if tensor.is_inference() else int(tensor._version)


def stored_values(tensor: torch.Tensor) -> torch.Tensor:
    """Values that a sparse tensor in coordinate format stores. The public `values()` refuses one
    of which duplicates were not added up.
    """
    return tensor._values()


@lru_cache(maxsize=1024)
def operator_schemas(name: str) -> list[Any]:
    """Schemas of the overloads of an ATen operator, none for another name. Functions written in C++
    have no Python signature.
    """
    found: list[Any] = torch._C._jit_get_schemas_for_operator(f"aten::{name}")
    return found


def is_foreign_operator(function: Any) -> bool:
    """Whether this is an operator of another library than ATen, such as `torch.ops.mylib.mm`."""
    return not getattr(function, "_qualified_op_name", "aten::").startswith("aten::")


def buffers_of(module: nn.Module) -> dict[str, torch.Tensor | None]:
    """A module's own buffers, to read and write; `named_buffers` leaves out those that are None."""
    return module._buffers


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """A module's own parameters, to read and write, also those that are None."""
    return module._parameters


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """What `named_parameters(recurse=False)` gives, which takes ten times as long, unless a class
    has its own.
    """
    is_plain = type(module).named_parameters is nn.Module.named_parameters
    if not is_plain or isinstance(module, torch.jit.ScriptModule):
        return dict(module.named_parameters(recurse=False))
    found: dict[str, nn.Parameter] = {}
    for name, each in module._parameters.items():
        if each is not None and all(each is not other for other in found.values()):
            found[name] = each
    return found


def children_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """A module's own modules by name, to read and write without a check; `named_children` leaves
    out those that are None and those that are there twice.
    """
    return module._modules


def mkldnn_enabled() -> bool:
    """Whether operators may use oneDNN. `torch.backends.mkldnn` has it under the same name."""
    return bool(torch._C._get_mkldnn_enabled())


def set_mkldnn_enabled(enabled: bool) -> None:
    """Let operators use oneDNN or not; the public `flags` cannot be set for a whole benchmark."""
    torch._C._set_mkldnn_enabled(enabled)


def is_profiling() -> bool:
    """Whether a torch.profiler session is active: there can be only one. Nothing public asks."""
    return bool(torch.autograd._profiler_enabled())  # type: ignore[attr-defined] # exported silently


def has_context(device: int) -> bool:
    """Whether this process has a CUDA context on this GPU. Everything public would make one."""
    return bool(torch._C._cuda_hasPrimaryContext(device))  # type: ignore[attr-defined] # no stub


def sleep_on_gpu(cycles: int) -> None:
    """Keep the current stream busy for so many cycles, so that launches queue up behind it."""
    torch.cuda._sleep(cycles)


def profiled_events(profile: Any) -> list[Any]:
    """Root events of a finished `torch.autograd.profiler.profile` with their children. Its public
    `function_events` leave out single allocations.
    """
    roots: list[Any] = profile.kineto_results.experimental_event_tree()
    return roots


def is_allocation(event: Any) -> bool:
    """Whether one of `profiled_events` is an allocation or a release of memory."""
    return bool(event.tag == torch._C._profiler._EventType.Allocation)


def leave_word(key: str) -> None:
    """Write a key into the store through which the job's ranks found each other: no public name
    gives it. Does nothing where it cannot be reached, as when the rank that holds it has ended.
    """
    with suppress(RuntimeError, ValueError, AttributeError):
        _job_store().set(key, "")


def has_word(key: str) -> bool:
    """Whether a rank has left word; False also where the store cannot be reached."""
    with suppress(RuntimeError, ValueError, AttributeError):
        return bool(_job_store().check([key]))
    return False


def _job_store() -> Any:
    return torch.distributed.distributed_c10d._get_default_store()


@dataclass(frozen=True)
class GraphedModule:
    """What a module that went through `torch.cuda.make_graphed_callables` was captured from. Only
    the closures of the functions that it made have it.
    """

    module: nn.Module
    forward: Callable[..., Any]
    """The module's own, without a graph."""
    inputs: tuple[torch.Tensor, ...]
    parameters: tuple[torch.Tensor, ...]
    is_differentiated: bool
    output_gradients: tuple[torch.Tensor, ...]
    graphs: tuple[Any, Any]


def graphed_module(module: nn.Module) -> GraphedModule | None:
    """What the module was captured from; None where it was not, where its graph is for the other of
    train and eval mode, or where this release of torch keeps it otherwise.
    """
    made = vars(module).get("forward")
    if getattr(made, "__module__", "") != "torch.cuda.graphs":
        return None
    try:
        outer = _variables_of(made)
        function = _variables_of(outer["graphed"])["Graphed"]
        forward = _variables_of(function.forward)
        backward = _variables_of(inspect.unwrap(function.backward))
        if module.training != outer["graph_training_state"]:
            return None
        surface, count = forward["static_input_surface"], forward["len_user_args"]
        return GraphedModule(
            module,
            outer["orig_fwd"],
            tuple(surface[:count]),
            tuple(surface[count:]),
            any(each.requires_grad for each in forward["static_outputs"]),
            tuple(each for each in backward["static_grad_outputs"] if each is not None),
            (forward["fwd_graph"], backward["bwd_graph"]),
        )
    except (KeyError, AttributeError):
        return None


def _variables_of(function: Any) -> dict[str, Any]:
    """What a function's closure holds, by name."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells}


_RECORD_FUNCTION = (
    "_ZN2at17addGlobalCallbackENS_22RecordFunctionCallbackE",
    "_ZN2at14removeCallbackEm",
    "_ZNK2at14RecordFunction4nameEv",
)


@lru_cache(maxsize=1)
def record_function_symbols() -> tuple[int, ...] | None:
    """Addresses of at::addGlobalCallback, at::removeCallback and at::RecordFunction::name, through
    which torch announces operators; None where it has not got them. They are public in C++, but
    need its headers there, and Python has none of them.
    """
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        loaded = ctypes.CDLL(str(library))
        found = [ctypes.cast(loaded[name], ctypes.c_void_p).value for name in _RECORD_FUNCTION]
    except (OSError, AttributeError):
        return None
    return tuple(address for address in found if address is not None)


def at_autograd_key(library: str, operator: str, see: Callable[..., None]) -> Callable[[], None]:
    """Call `see` with the arguments of an operator that has no autograd of its own, each time
    before it runs; returns what ends this. A dispatch mode would see every operator, and have
    programs that ask for modes do other work. Does nothing where there is no such operator.
    """
    packet = getattr(getattr(torch.ops, library), operator, None)
    if packet is None:
        return lambda: None
    call = packet.default
    own = torch.library.Library(library, "IMPL")
    # torch may keep what was registered after it was taken back: that must hold nobody's model.
    observers = [see]

    def seen(*args: Any) -> Any:
        for observer in observers:
            observer(*args)
        with without_torch_functions(), torch._C._AutoDispatchBelowAutograd():
            return call(*args)

    for key in ("AutogradCPU", "AutogradCUDA"):
        own.impl(operator, seen, key)

    def end() -> None:
        observers.clear()
        own._destroy()

    return end


def process_group_in(args: Any) -> Any:
    """The process group among an operator's arguments, None without one."""
    for each in args:
        if isinstance(each, torch.ScriptObject):
            with suppress(RuntimeError, TypeError):
                return torch.distributed.ProcessGroup.unbox(each)
    return None


def functional_group(group: Any, tag: str) -> Any:
    """The process group that a functional collective means, which may be given as a mesh, ranks or
    a name; None where this release of torch resolves it otherwise.
    """
    collectives = torch.distributed._functional_collectives
    with suppress(AttributeError, RuntimeError, TypeError, ValueError):
        named = collectives._resolve_group_name(group, tag)
        resolved: Any = torch.distributed.distributed_c10d
        return resolved._resolve_process_group(named)
    return None


FUNCTIONAL_COLLECTIVES = "torch.distributed._functional_collectives"
"""Module of the collectives that DTensor makes, which it looks up there at each call."""

PIPELINE_SCHEDULES = "torch.distributed.pipelining.schedules"
"""Module in which a pipeline's stages make their sends and receives, through `_batch_p2p`."""


def elements_of(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor inside one that waits for its collective when it is used."""
    inner = getattr(tensor, "elem", None)
    return inner if isinstance(inner, torch.Tensor) else tensor
