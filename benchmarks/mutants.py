"""The mutants of a folder: cosmic-ray's, less those that a stated rule leaves out.

What is left out makes no difference to what a user sees, or is another check's to find. The rules
stand in `LEFT_OUT`; single mutants without effect stand in `mutants_without_effect.json`, each with
its reason.
"""

from __future__ import annotations

import ast
import difflib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.modules import find_modules
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

LIST = Path(__file__).with_name("mutants_without_effect.json")

LEFT_OUT = {
    "annotation": "under `from __future__ import annotations` it is not evaluated",
    "wording": "the text of an exception that is raised, or of `__repr__` and `__str__`",
    "type checker": "`frozen`, `slots` and `kw_only` of a dataclass, `@overload` and its like, and "
    "blocks under `TYPE_CHECKING`: mypy's to find",
    "keyword mark": "the `*` before parameters that are given by keyword, which cosmic-ray takes "
    "for a product: which calls are right is mypy's to find",
    "assertion": "`assert` and `zip(strict=True)`, which say what the code around them ensures",
    "speed": "whether and how much a cache keeps",
    "same meaning": "comparing with the outermost or the innermost level, or the first kind: none "
    "lies beyond; and the product for the `and`, the sum for the `or` of two comparisons",
    "GPU": "what a function does after `if not torch.cuda.is_available(): return`, and constants "
    "that nothing else reads: for tests/gpu",
}
"""Kinds of places whose mutants are not sampled, with the reason."""

_CACHES = ("cache", "lru_cache")
_TYPES_ONLY = ("overload", "override", "final")
_DATACLASS_OPTIONS = ("frozen", "slots", "kw_only")

Place = tuple[int, int]


@dataclass(frozen=True)
class Mutant:
    """One change of one module: which operator makes it, and where."""

    module: Path
    operator: str
    number: int
    start: Place

    def sources(self) -> tuple[str, str]:
        """The module before and after. Raises SyntaxError for what is no Python any more."""
        before = self.module.read_text()
        after = mutate_code(before, get_operator(self.operator)(), self.number)
        ast.parse(after)
        return before, after

    def change(self) -> dict[str, str]:
        """The lines that differ, as they stand in the list of mutants without effect."""
        before, after = (source.splitlines() for source in self.sources())
        removed, added = [], []
        for line in difflib.ndiff(before, after):
            if line.startswith("- "):
                removed.append(line[2:].strip())
            elif line.startswith("+ "):
                added.append(line[2:].strip())
        return {
            "module": str(self.module),
            "before": "\n".join(filter(None, removed)),
            "after": "\n".join(filter(None, added)),
        }


def mutants(folder: Path) -> tuple[list[Mutant], Counter[str]]:
    """Every mutant of a folder that is to be noticed, and how many are left out by which rule."""
    kept, left_out = [], Counter[str]()
    for module in sorted(find_modules([folder])):
        source = module.read_text()
        tree = ast.parse(source)
        places, equal = list(_left_out(tree)), dict(_same_meaning(tree, source))
        nodes = list(ast_nodes(get_ast(source)))
        for operator in operator_names():
            for number, start in enumerate(_positions(nodes, operator)):
                kind = _kind_of(start, places)
                if operator.endswith(equal.get(start, ())):
                    kind = "same meaning"
                if kind:
                    left_out[kind] += 1
                else:
                    kept.append(Mutant(module, operator, number, start))
    return kept, left_out


def _positions(nodes: Sequence[Any], operator: str) -> list[Place]:
    """Where an operator can change the nodes of a module; operators with options are left out."""
    kind = get_operator(operator)
    if kind.arguments():
        return []
    changing = kind()
    return [start for node in nodes for start, _ in changing.mutation_positions(node)]


def _kind_of(start: Place, places: Sequence[tuple[str, ast.AST]]) -> str:
    for kind, node in places:
        at: Any = node
        at_sign = kind in ("type checker", "speed")
        if (at.lineno, at.col_offset - at_sign) <= start < (at.end_lineno, at.end_col_offset):
            return kind
    return ""


def _left_out(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """The places of a module that the rules leave out, by kind."""
    for node in ast.walk(tree):
        for kind, rule in _RULES.items():
            for found in rule(node):
                yield kind, found


def _annotations(node: ast.AST) -> Iterator[ast.AST]:
    for name in ("annotation", "returns"):
        if (found := getattr(node, name, None)) is not None:
            yield found
    if isinstance(node, ast.Call) and _name(node) == "cast":
        yield node.args[0]


def _wording(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        yield node.exc
    if isinstance(node, ast.FunctionDef) and node.name in ("__repr__", "__str__"):
        yield node


def _types_only(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING":
        yield node
    for decorator in getattr(node, "decorator_list", ()):
        if _name(decorator) in _TYPES_ONLY:
            yield decorator
        if isinstance(decorator, ast.Call) and _name(decorator) == "dataclass":
            yield from _options(decorator, _DATACLASS_OPTIONS)


def _keyword_marks(node: ast.AST) -> Iterator[ast.AST]:
    """The place between the parameters that can be given by their place and the others."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    given = node.args
    if not given.kwonlyargs or given.vararg is not None:
        return
    before: list[Any] = [*given.posonlyargs, *given.args, *given.defaults]
    begins = [(each.end_lineno, each.end_col_offset) for each in before]
    line, column = max(begins, default=(node.lineno, node.col_offset))
    first = given.kwonlyargs[0]
    yield ast.Constant(
        "*",
        lineno=line,
        col_offset=column,
        end_lineno=first.lineno,
        end_col_offset=first.col_offset,
    )


def _assertions(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Assert):
        yield node
    if isinstance(node, ast.Call) and _name(node) == "zip":
        yield from _options(node, ("strict",))


def _caches(node: ast.AST) -> Iterator[ast.AST]:
    for decorator in getattr(node, "decorator_list", ()):
        if _name(decorator) in _CACHES:
            yield decorator


def _on_gpu_only(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Module):
        yield from _constants_of_gpu(node)
    if not isinstance(node, ast.FunctionDef):
        return
    for place, statement in enumerate(node.body):
        if ast.unparse(statement).startswith("if not torch.cuda.is_available():\n    return"):
            yield from node.body[place + 1 :]


_AT_THE_END = {
    "DeviceKind.KERNEL": ("_Eq_LtE", "_LtE_Eq", "_NotEq_Gt", "_Gt_NotEq"),
    "Level.MODEL": ("_Eq_LtE", "_LtE_Eq", "_NotEq_Gt", "_Gt_NotEq"),
    "Level.KERNEL": ("_Eq_GtE", "_GtE_Eq", "_NotEq_Lt", "_Lt_NotEq"),
}
"""How the operators end that change no comparison with this level, or kind."""


_OF_FLAGS: dict[type[ast.operator], tuple[str, str]] = {
    ast.BitAnd: ("&", "_BitAnd_Mul"),
    ast.BitOr: ("|", "_BitOr_Add"),
}
"""How the operators end that give the same flags, which are 0 and 1."""


def _same_meaning(tree: ast.Module, source: str) -> Iterator[tuple[Place, tuple[str, ...]]]:
    """Where a comparison, or what joins two of them, stays the same under operators that end so."""
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and type(node.op) in _OF_FLAGS:
            sign, ending = _OF_FLAGS[type(node.op)]
            if _is_flag(node.left) and _is_flag(node.right):
                yield _sign_between(node.left, node.right, sign, lines), (ending,)
        if not isinstance(node, ast.Compare) or len(node.ops) > 1:
            continue
        left, right = node.left, node.comparators[0]
        endings = _AT_THE_END.get(ast.unparse(right), ())
        if left.end_lineno == right.lineno and left.end_col_offset is not None:
            # The operator stands between them, after a space.
            yield (left.end_lineno, left.end_col_offset + 1), endings


def _is_flag(node: ast.AST) -> bool:
    """Whether this is a comparison, or several that are joined."""
    if isinstance(node, ast.BinOp):
        return type(node.op) in _OF_FLAGS and _is_flag(node.left) and _is_flag(node.right)
    return isinstance(node, ast.Compare)


def _sign_between(left: Any, right: Any, sign: str, lines: Sequence[str]) -> Place:
    """Where an operator stands between its operands."""
    line, column = left.end_lineno, left.end_col_offset
    while (found := lines[line - 1].find(sign, column)) < 0 and line < right.lineno:
        line, column = line + 1, 0
    return line, found


def _constants_of_gpu(module: ast.Module) -> Iterator[ast.AST]:
    """Assignments of a module to names that only GPU code of it reads."""
    functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]
    on_gpu = Counter(
        name for each in functions for part in _on_gpu_only(each) for name in _read(part)
    )
    anywhere = Counter(_read(module))
    for statement in module.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if 0 < on_gpu[name] == anywhere[name]:
                yield statement


def _read(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load):
            yield each.id


_RULES: dict[str, Callable[[ast.AST], Iterator[ast.AST]]] = {
    "annotation": _annotations,
    "wording": _wording,
    "type checker": _types_only,
    "keyword mark": _keyword_marks,
    "assertion": _assertions,
    "speed": _caches,
    "GPU": _on_gpu_only,
}


def _options(call: ast.Call, names: Sequence[str]) -> Iterator[ast.AST]:
    yield from (option.value for option in call.keywords if option.arg in names)


def _name(node: ast.AST) -> str:
    """The last name of a call, an attribute or a name."""
    if isinstance(node, ast.Call):
        return _name(node.func)
    return str(getattr(node, "attr", getattr(node, "id", "")))


@dataclass(frozen=True)
class WithoutEffect:
    """The list of single mutants that make no difference, with the reason of each."""

    entries: list[dict[str, str]]

    @staticmethod
    def read() -> WithoutEffect:
        """Raises KeyError for an entry without a reason."""
        entries = json.loads(LIST.read_text())
        for entry in entries:
            entry["reason"]
        return WithoutEffect(entries)

    def reason(self, change: dict[str, str]) -> str:
        """Why a mutant makes no difference, "" where it is not listed."""
        for entry in self.entries:
            afters = entry["after"] if isinstance(entry["after"], list) else [entry["after"]]
            same_place = all(entry[key] == change[key] for key in ("module", "before"))
            if same_place and ("*" in afters or change["after"] in afters):
                return entry["reason"]
        return ""
