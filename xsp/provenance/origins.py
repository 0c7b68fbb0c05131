"""What a node of a compiled graph says of the program: module, function, line and bytes moved.

Only texts and numbers are kept: a node held is a graph held.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from xsp.provenance.products import product_flops
from xsp.provenance.sizes import size_when_compiled

_VIEWS = frozenset(
    (
        *("getitem", "view", "_unsafe_view", "view_as", "reshape", "permute", "transpose", "t"),
        *("expand", "unsqueeze", "squeeze", "slice", "select", "as_strided", "alias", "detach"),
        *("split", "split_with_sizes", "unbind"),
    )
)
"""Operators that move no bytes: what they give is seen as what they were given."""

_PRODUCTS_ADDED = frozenset({"addmm", "baddbmm"})

ACCUMULATION = "(gradient accumulation)"
"""Function of a node that adds the gradients of several uses of a tensor."""

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


@dataclass(frozen=True)
class Origin:
    """One node of a graph that a kernel computes.

    `modules` are (path, class) of the modules around it, outermost first, as Dynamo writes paths:
    `L['self'].blocks.0`; `function` is what the innermost one called, such as "gelu". `near` says
    that the node itself knows no module, and a neighbour was asked. `bytes` are those of what it
    reads from outside the kernel and of what it gives to others, None where not known; `main`
    marks the product of a template. `flops` are those of `products.product_flops`.
    """

    node: str
    operator: str
    modules: tuple[tuple[str, str], ...]
    function: str
    source: str
    bytes: int | None
    is_backward: bool
    near: bool = False
    main: bool = False
    flops: int | None = None


def origins_of(nodes: Sequence[Any], main: int = 0) -> tuple[Origin, ...]:
    """Of the nodes that a kernel stands for, what they say; views and constants are left out unless
    there is nothing else. The first `main` are a template's own.
    """
    called = [each for each in nodes if each.op == "call_function"]
    # A constant is made once for all that use it, and written into each kernel.
    computed = [each for each in called if not _is_view(each) and each.all_input_nodes]
    kept = computed or called or list(nodes)
    within = set(nodes)
    own = {id(each) for each in nodes[:main]}
    return tuple(_origin(each, within, main=id(each) in own) for each in kept)


def _origin(node: Any, within: Collection[Any], *, main: bool) -> Origin:
    asked = _asked(node)
    meta = asked.meta
    modules, function = _modules(asked), _function(meta)
    is_backward = meta.get("partitioner_tag") == "is_backward" or "fwd_nn_module_stack" in meta
    if is_backward and not modules and not function:
        # Autograd itself adds gradients up where a tensor has several uses.
        modules, function = _shared_modules(node.all_input_nodes), ACCUMULATION
    return Origin(
        node.name,
        _operator(node),
        modules,
        function,
        line_of(meta.get("stack_trace")),
        _bytes_moved(node, within),
        is_backward,
        near=asked is not node or function == ACCUMULATION,
        main=main,
        flops=product_flops(node),
    )


def _asked(node: Any) -> Any:
    """The node that knows where this one comes from: itself, unless it was put in for others."""
    if _name(node) in _PRODUCTS_ADDED and not _modules(node) and node.all_input_nodes:
        # A product and the addition to another gradient of the same parameter, as one.
        other = _base(node.all_input_nodes[0])
        return other if _modules(other) else node
    # What the outermost code itself calls is in no module, and code of `exec` has no line.
    is_known = _modules(node) or node.meta.get("stack_trace") or _function(node.meta)
    return node if is_known else _neighbour(node)


def _shared_modules(nodes: Sequence[Any]) -> tuple[tuple[str, str], ...]:
    """The modules around all of these nodes, as far as they know any."""
    stacks = [stack for stack in map(_modules, nodes) if stack]
    shared = []
    for level in zip(*stacks, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return tuple(shared)


def _modules(node: Any) -> tuple[tuple[str, str], ...]:
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    return tuple((str(path), _class_name(kind)) for path, kind in stack.values())


def _class_name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind)).rpartition(".")[2]


def _function(meta: Any) -> str:
    """The function of torch that the program called, as Dynamo saw it."""
    stack = meta.get("source_fn_stack") or meta.get("fwd_source_fn_stack") or ()
    if not stack:
        return ""
    target = stack[-1][1]
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return str(name).strip("_")


def line_of(trace: str | None) -> str:
    """`path:line` of the innermost frame of a stack trace as torch writes it, "" for none. It is
    the program's: Dynamo leaves out torch's own.
    """
    frames = _FRAME.findall(trace or "")
    return ":".join(frames[-1]) if frames else ""


def _operator(node: Any) -> str:
    original = node.meta.get("original_aten")
    packet = getattr(original if original is not None else node.target, "overloadpacket", None)
    return str(packet if packet is not None else getattr(node.target, "__name__", node.target))


def _is_view(node: Any) -> bool:
    return _name(node) in _VIEWS


def _name(node: Any) -> str:
    """Name of the operator that a node calls: "add" for `aten.add.Tensor`."""
    return str(getattr(getattr(node.target, "overloadpacket", node.target), "__name__", ""))


def _neighbour(node: Any) -> Any:
    """A node beside one that has lost what it knew, as those of replaced patterns have."""
    beside = [*node.all_input_nodes, *node.users]
    # A constant without inputs is made once for all that use it, wherever they are.
    return next((each for each in beside if each.all_input_nodes and _modules(each)), node)


def _bytes_moved(node: Any, within: Collection[Any]) -> int | None:
    inputs = {_base(each) for each in node.all_input_nodes}
    read = [_bytes(each) for each in inputs if each not in within]
    written = [_bytes(node)] if _is_used_outside(node, within) else []
    known = [each for each in (*read, *written) if each is not None]
    return sum(known) if len(known) == len(read) + len(written) else None


def _base(node: Any) -> Any:
    while node.op == "call_function" and _is_view(node) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _is_used_outside(node: Any, within: Collection[Any]) -> bool:
    for user in node.users:
        if user.op == "call_function" and _is_view(user):
            if _is_used_outside(user, within):
                return True
        elif user not in within:
            return True
    return False


def _bytes(node: Any) -> int | None:
    """What the tensors of a node take; dimensions that vary count as they were when compiled."""
    value = node.meta.get("val")
    tensors = value if isinstance(value, tuple | list) else [value]
    try:
        return sum(_size(each) for each in tensors if hasattr(each, "element_size"))
    except Exception:  # a dimension that is known only when the program runs
        return None


def _size(tensor: Any) -> int:
    shape = [size_when_compiled(each) for each in tensor.shape]
    return math.prod(shape) * int(tensor.element_size())
