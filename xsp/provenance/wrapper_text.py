"""What the Python text that Inductor writes for a graph launches, and in which order."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

TRITON, EXTERN, CPP = "triton", "extern", "cpp"

_LIBRARIES = ("extern_kernels.", "torch.ops.", "aten.", "inductor_ops.", "quantized.", "prims.")
"""How calls begin that are made of a library, an ATen operator or a custom one."""

_REDUCED = frozenset({"sum", "amax", "amin", "prod", "any"})
"""Methods by which the wrapper itself finishes a reduction that a kernel has split."""


@dataclass(frozen=True)
class Written:
    """One launch as the text has it: what is called, what kind that is, and in which line."""

    name: str
    kind: str
    line: int


def launches(text: str) -> list[Written]:
    """The launches of a wrapper, those of its partitions where they are called.

    A Triton kernel is launched by `name.run(...)`, a C++ one by `cpp_name(...)`, everything else by
    a call of a library or an operator. Empty for a text that is no wrapper of this kind (a C++
    one).
    """
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return []
    functions = {each.name: each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}
    if "call" not in functions:
        return []
    return list(_Reader(functions).read(functions["call"].body))


class _Reader:
    def __init__(self, functions: dict[str, ast.FunctionDef]) -> None:
        self._functions = functions

    def read(self, body: Iterable[ast.stmt]) -> Iterator[Written]:
        for statement in body:
            if isinstance(statement, ast.With | ast.If | ast.For):
                yield from self.read(statement.body)
            elif isinstance(statement, ast.Assign | ast.Expr | ast.Return):
                yield from self._in_expression(statement.value)

    def _in_expression(self, value: ast.expr | None) -> Iterator[Written]:
        if isinstance(value, ast.Call):
            yield from self._call(value)
        elif isinstance(value, ast.Attribute | ast.Subscript):
            yield from self._in_expression(value.value)
        elif isinstance(value, ast.Tuple | ast.List):
            for each in value.elts:
                yield from self._in_expression(each)

    def _call(self, call: ast.Call) -> Iterator[Written]:
        name = _dotted(call.func)
        partition = self._functions.get(_partition(call.func, name))
        if partition is not None:
            yield from self.read(partition.body)
        elif name.endswith(".run"):
            yield Written(name.removesuffix(".run"), TRITON, call.lineno)
        elif name.startswith("cpp_"):
            yield Written(name, CPP, call.lineno)
        elif name.startswith(_LIBRARIES):
            yield Written(name, EXTERN, call.lineno)
        elif isinstance(call.func, ast.Attribute):
            # `buf0[0:64].view(4, 16).sum(dim=0)` has a call in a call.
            yield from self._in_expression(call.func.value)
            if call.func.attr in _REDUCED:
                yield Written(f".{call.func.attr}", EXTERN, call.lineno)


def _dotted(value: ast.expr) -> str:
    """`extern_kernels.mm` as text, "" for what does not begin with a name."""
    if isinstance(value, ast.Name):
        return value.id
    if isinstance(value, ast.Attribute) and (inner := _dotted(value.value)):
        return f"{inner}.{value.attr}"
    return ""


def _partition(called: ast.expr, name: str) -> str:
    """The function behind `partition_0(...)` and `self.partitions[0](...)`."""
    if name.startswith("partition_"):
        return name
    if isinstance(called, ast.Subscript) and _dotted(called.value).endswith("partitions"):
        place = called.slice
        return f"partition_{place.value!r}" if isinstance(place, ast.Constant) else ""
    return ""
