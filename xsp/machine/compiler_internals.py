"""The door to the private names of torch's compiler, beside `torch_internals.py`: Dynamo's graphs,
Inductor's code generation, and what of both is alive after compiling.

Written for torch 2.11 to 2.13. Nothing here imports the compiler before the program has; whatever
a release does not have raises `MovedError`, and whoever asks says so in a sentence.
"""

from __future__ import annotations

import copy
import gc
import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from xsp.errors import XspError
from xsp.machine.torch_internals import Place


class MovedError(XspError):
    """What was asked for is not where this release of torch had it; the message says what."""


def is_loaded() -> bool:
    """Whether the program has asked for Inductor so far."""
    return "torch._inductor.compiler_bisector" in sys.modules or has_compiled()


def has_compiled() -> bool:
    """Whether the part of Inductor that compiles has been imported."""
    return "torch._inductor.compile_fx" in sys.modules


def _part(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MovedError(f"torch has no {name}") from error


def _of(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError as error:
        raise MovedError(f"{getattr(owner, '__name__', owner)} has no {name}") from error


def _graph_class() -> type:
    found: type = _of(_part("torch._inductor.output_code"), "CompiledFxGraph")
    return found


# ---- code generation ----


def announcements() -> list[Place]:
    """The methods that Inductor calls just before it writes a launch, with what is launched.

    `set_kernel_post_grad_provenance_tracing`, which exists for this, is not told of mix-order
    reductions.
    """
    for name in ("triton", "cpp"):
        _part(f"torch._inductor.codegen.{name}")
    scheduling = _of(_part("torch._inductor.scheduler"), "BaseScheduling")
    extern = _of(_part("torch._inductor.ir"), "ExternKernel")
    classes: list[type] = [each for base in (scheduling, extern) for each in _below(base)]
    return [Place(each, "codegen_comment") for each in classes if "codegen_comment" in vars(each)]


def _below(base: Any) -> Iterator[type]:
    yield base
    for each in base.__subclasses__():
        yield from _below(each)


@dataclass(frozen=True)
class Announced:
    """What is about to be launched. `name` is None where Inductor does not say it."""

    name: str | None
    kind: str
    nodes: tuple[Any, ...]


def announced(owner: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Announced:
    """What a call of one of `announcements` says. `owner` is its `self`."""
    ir = _part("torch._inductor.ir")
    name = keywords.get("kernel_name", arguments[1] if len(arguments) > 1 else None)
    if isinstance(owner, ir.ExternKernel):
        return Announced(name or owner.try_get_kernel_name(), "extern", _computed(owner))
    schedule = keywords.get("node_schedule", arguments[0] if arguments else ())
    main = [each for each in schedule if _is_template(each)]
    nodes = _origins(schedule)
    if main:
        product = main[0].node.origin_node
        first = [product] if product is not None else _origins(main)[:1]
        return Announced(name, "template", (*first, *(each for each in nodes if each not in first)))
    return Announced(name, "fused", tuple(nodes))


def _computed(extern: Any) -> tuple[Any, ...]:
    """The node that a call of a library or an operator computes. An operator of several results
    names none; of the nodes that it stands for, it is the one that calls it.
    """
    if extern.origin_node is not None:
        return (extern.origin_node,)
    calls = getattr(extern, "op_overload", None)
    calling = [each for each in extern.origins if calls is not None and each.target == calls]
    return tuple(calling or extern.origins)


def _is_template(scheduled: Any) -> bool:
    return hasattr(scheduled, "is_template") and bool(scheduled.is_template())


def _origins(schedule: Sequence[Any]) -> list[Any]:
    found: dict[Any, None] = {}
    for each in schedule:
        inner = getattr(each, "node", None)
        if inner is not None:
            found |= dict.fromkeys(inner.origins)
        elif hasattr(each, "snodes"):
            found |= dict.fromkeys(_origins(each.snodes))
    return list(found)


def main_origins(announcement: Announced) -> int:
    """How many of its nodes, the first ones, are a template's own."""
    return 1 if announcement.kind == "template" else 0


def graph_in_work() -> Any:
    """The graph whose code is being generated on this thread."""
    return _of(_part("torch._inductor.virtualized"), "V").graph


GRAPH_OF_NEW = "graph"


def graph_made() -> Place:
    """Called with what has been compiled (`self`) and the graph whose code was generated."""
    return Place(_graph_class(), "__init__")


def graph_called() -> Place:
    """Called with what has been compiled whenever it runs."""
    return Place(_graph_class(), "__call__")


# ---- CUDA graphs of compiled code ----

_TREES = "torch._inductor.cudagraph_trees"


def has_graph_trees() -> bool:
    """Whether any compiled code of this process was to be captured into CUDA graphs."""
    return _TREES in sys.modules


def inputs_copied() -> Place | None:
    """Called to copy inputs to where a captured graph reads them; None where nothing was captured,
    or this release of torch has no such place.
    """
    node = getattr(sys.modules.get(_TREES), "CUDAGraphNode", None)
    place = Place(node, "_copy_inputs_and_remove_from_src")
    return place if place.exists else None


@contextmanager
def launched_singly() -> Iterator[None]:
    """Compiled code that was captured into CUDA graphs launches its kernels one by one in this
    block, and the graphs stay as they are.
    """
    manager = _of(_part(_TREES), "CUDAGraphTreeManager")
    place = Place(manager, "_run")
    if not place.exists:
        raise MovedError("CUDAGraphTreeManager has no _run")

    def run(trees: Any, inputs: list[Any], number: Any) -> Any:
        return _of(trees, "ids_to_funcs")[number].model(inputs)

    with ExitStack() as undo:
        undo.callback(place.replace(run))
        yield


# ---- compilations ----


@contextmanager
def told_of_compilations(begins: Callable[[], None]) -> Iterator[None]:
    """Call `begins` whenever Dynamo begins to compile, also a backward graph at its first run."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    handler = _of(_part("torch._dynamo.callback"), "callback_handler")

    def callback(_arguments: Any = None) -> None:
        begins()

    with ExitStack() as undo:
        undo.callback(_removed, handler.start_callbacks, callback)
        handler.register_start_callback(callback)
        yield


def _removed(callbacks: list[Any], callback: Any) -> None:
    if callback in callbacks:
        callbacks.remove(callback)


# ---- what is alive ----


@dataclass(frozen=True)
class LiveGraph:
    """A compiled graph that can be called. `lines` are line numbers of its text, in order, each
    with the stack trace of the last node that the launch from there on stands for.
    """

    handle: Any
    text: str
    is_backward: bool
    lines: tuple[tuple[int, str], ...]


def live_graph(handle: Any) -> LiveGraph:
    """What a compiled graph says of itself."""
    facts = getattr(handle, "fx_kwargs", None) or {}
    lines = getattr(handle, "cache_linemap", None) or ()
    return LiveGraph(
        handle,
        str(getattr(handle, "source_code", "") or ""),
        bool(facts.get("is_backward")),
        tuple((int(line), str(trace)) for line, trace in lines if trace),
    )


@dataclass(frozen=True)
class DynamoGraph:
    """What Dynamo traced, and where the program's code looks up what that was compiled to."""

    module: torch.fx.GraphModule
    entry: Place


def dynamo_graphs() -> list[DynamoGraph]:
    """What Dynamo traced, for every compiled graph of which it keeps that, the latest first."""
    found: dict[int, DynamoGraph] = {}
    for module in list(sys.modules.values()):
        names = dict(getattr(module, "__dict__", None) or {})
        for name, function in names.items():
            if isinstance(name, str) and name.startswith("__compiled_fn"):
                owner = getattr(getattr(function, "zero_grad", None), "__self__", None)
                if isinstance(owner, torch.fx.GraphModule):
                    found[id(owner)] = DynamoGraph(owner, Place(module, name))
    return list(found.values())[::-1]


def not_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which Dynamo does not look into."""
    disabled: Callable[..., Any] = _of(_part("torch._dynamo"), "disable")(function)
    return disabled


# ---- generating the same code once more ----

_NOT_CODE = ("# ", "compiled_module_main(")
"""Begins of lines that do nothing; `#include` of a C++ kernel is none."""


def same_code(text: str) -> str:
    """A wrapper's text without comments, which number the graph and name files of a cache and
    variables of the program, and without the program's option `--only`: what a cache keeps has
    those of the program that filled it. Two that are otherwise alike launch the same.
    """
    lines = text.splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(_NOT_CODE))


def settings_in_use() -> list[dict[str, Any]]:
    """The settings of Inductor that `torch.compile` was given by mode or options, each once."""
    kind = getattr(torch, "_TorchCompileInductorWrapper", None)
    found: list[dict[str, Any]] = []
    for each in gc.get_objects() if kind is not None else ():
        if type(each) is kind and each.config not in found:
            found.append(dict(each.config))
    return found or [{}]


def code_of(
    module: torch.fx.GraphModule, settings: Mapping[str, Any], generated: Callable[[Any, str], None]
) -> None:
    """Generate the code of what Dynamo traced, forward and backward, again: nothing is compiled,
    loaded, cached or run, and the program's own graphs stay what they are.

    `generated` is called with each graph (as `graph_in_work`) and its text. It is the same text
    only under the modes (`Ambient`) that it was compiled under: what is compiled without gradients
    saves nothing for a backward pass, and autocast puts in conversions.
    """
    inductor, autograd = _part("torch._inductor.config"), _part("torch._functorch.config")
    lowering = _of(_part("torch._inductor.graph"), "GraphLowering")
    compile_fx = _of(_part("torch._inductor.compile_fx"), "compile_fx")
    guards, counters = _part("torch._guards"), _of(_part("torch._dynamo.utils"), "counters")
    examples = [node.meta.get("example_value") for node in _inputs(module)]
    mode = _of(_part("torch._dynamo.utils"), "detect_fake_mode")(examples)
    before = copy.deepcopy(dict(counters))
    # A backward graph is generated when it is first needed, unless it is asked for.
    lazy = {"force_non_lazy_backward_lowering": True, "enable_autograd_cache": False}
    known = {name: value for name, value in lazy.items() if hasattr(autograd, name)}
    here, made = threading.get_ident(), Place(lowering, "compile_to_module")
    compiled = made.value

    def text_only(graph: Any) -> Any:
        if threading.get_ident() != here:
            # The program compiles meanwhile, on another thread.
            return compiled(graph)
        generated(graph, _text(graph, inductor))
        graph.cache_key, graph.cache_linemap, graph.cache_path = "", [], None
        return SimpleNamespace(call=_nothing, runner=None, __file__="")

    try:
        with ExitStack() as undo:
            undo.callback(made.replace(text_only))
            for place in _graph_recorders():
                undo.callback(place.replace(_not_here(place.value)))
            # Not `force_disable_caches`: Triton kernels say in their text whether that was on.
            caches = dict.fromkeys(("fx_graph_cache", "fx_graph_remote_cache"), False)
            undo.enter_context(inductor.patch(caches))
            undo.enter_context(autograd.patch(known))
            undo.enter_context(guards.tracing(guards.TracingContext(mode)))
            compile_fx(_copied(module), examples, config_patches=dict(settings) or None)
    finally:
        counters.clear()
        counters.update(before)


def _nothing(*_arguments: Any, **_keywords: Any) -> None:
    return


def _not_here(function: Callable[..., Any]) -> Callable[..., Any]:
    """Does nothing on this thread, and is the function on all others."""
    here = threading.get_ident()

    def called(*arguments: Any, **keywords: Any) -> Any:
        if threading.get_ident() != here:
            return function(*arguments, **keywords)
        return None

    return called


def _graph_recorders() -> list[Place]:
    """What would make CUDA graphs of a graph that has been compiled."""
    owner = _part("torch._inductor.output_code")
    names = ("cudagraph_post_compile", "cudagraph_partition_post_compile")
    return [Place(owner, name) for name in names if hasattr(owner, name)]


def _text(graph: Any, config: Any) -> str:
    """The wrapper of a graph, as `_compile_to_module_lines` makes it."""
    code, _ = graph.codegen_with_cpp_wrapper() if graph.cpp_wrapper else graph.codegen()
    text = str(getattr(code, "value", code))
    if not config.triton.autotune_at_compile_time:
        return text
    definitions = graph.wrapper_code.kernel_autotune_defs.getvalue()
    calls = graph.wrapper_code.kernel_autotune_calls.getvalue()
    quoted = definitions.replace('"""', '\\"\\"\\"')
    return f'r"""\nCompile-time auto-tuning block: \n{quoted}{calls}"""\n{text}'


def _inputs(module: torch.fx.GraphModule) -> list[Any]:
    return [node for node in module.graph.nodes if node.op == "placeholder"]


def _copied(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A copy that compiling may change; tensors are shared. What tells which inputs are parameters
    goes with it: a backward graph keeps those anyway, and is cut elsewhere otherwise.
    """
    graph = torch.fx.Graph()
    made: dict[torch.fx.Node, torch.fx.Node] = {}
    graph.output(graph.graph_copy(module.graph, made))
    ends = [[node for node in each.nodes if node.op == "output"] for each in (graph, module.graph)]
    ends[0][0].meta = dict(ends[1][0].meta)
    for old, new in made.items():
        if hasattr(old, "_dynamo_source"):
            new._dynamo_source = old._dynamo_source
    copied = torch.fx.GraphModule(module, graph)
    copied.meta = dict(module.meta)
    if hasattr(module, "_param_name_to_source"):
        copied._param_name_to_source = module._param_name_to_source
    return copied


# ---- facts of compiling ----


def compilation_metrics() -> list[Any]:
    """What Dynamo keeps of the last compilations of this process (64 in torch 2.11 to 2.13), the
    oldest first.
    """
    utils = sys.modules.get("torch._dynamo.utils")
    asked = getattr(utils, "get_compilation_metrics", None)
    return list(asked()) if asked is not None else []


def graph_break_reasons() -> dict[str, int]:
    """Why Dynamo has broken graphs in this process so far, and how often."""
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", {})
    return {str(reason): int(times) for reason, times in counters.get("graph_break", {}).items()}
