"""What a layer is called with: its tensors and the names of the arguments that they were passed as.

A tensor's place says little: `torch.mm(mat2=b, input=a)` passes the right operand first, and `out=`
is no operand at all. Names are those of the function's signature, or of its schema where it is
written in C++; PyTorch calls the first argument `self` in a schema and `input` to users, and
`input` it is here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from xsp.analysis.work.products import is_product
from xsp.levels.layer.functional import CompiledFunction, layer_type
from xsp.levels.layer.layer_rows import Described
from xsp.levels.layer.tensors import describe_tensors, stored_elements
from xsp.machine.torch_internals import is_foreign_operator, operator_schemas, own_parameters

_LONGEST_TEXT, _LONGEST_LIST = 256, 64
_UNKNOWN = ""


@dataclass(frozen=True, eq=False)
class Called(Described):
    """Shapes and types of the tensors that a call was given, and what else tells its work.

    `arguments` is JSON-able: `tensors` has the argument's name of each tensor ("" where it is not
    known), `stored` the elements that sparse ones among them hold, by name, and `options` the
    plain values (numbers, text, lists of these) passed to a function, or held by a module, that
    computes products. Calls that are described once share the object.
    """

    arguments: dict[str, Any] = field(default_factory=dict)


def function_called(
    function: Callable[..., Any] | CompiledFunction,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Called:
    """What a torch function is called with."""
    named = list(zip(_positional(function, args, kwargs), args, strict=True))
    named += [(_user_name(name), value) for name, value in kwargs.items()]
    options = _plain_options(named) if is_product(layer_type(function)) else {}
    return _called(named, options)


def module_called(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Called:
    """What a module is called with; its options are those of its `__constants__`, which PyTorch's
    modules list for TorchScript.
    """
    names = _of_signature(module.forward, len(args))
    named = [*zip(names, args, strict=True), *kwargs.items()]
    called = _called(named, _plain_options(list(constants_of(module).items())))
    for name, parameter in own_parameters(module).items():
        _add_stored(called.arguments["stored"], name, parameter)
    return called


def constants_of(module: nn.Module) -> dict[str, Any]:
    """What `__constants__` of a module that computes products names, with the values."""
    if not is_product(type(module).__name__):
        return {}
    names = [name for name in getattr(module, "__constants__", ()) if isinstance(name, str)]
    return {name: getattr(module, name, None) for name in names}


def _called(named: list[tuple[str, Any]], options: dict[str, Any]) -> Called:
    shapes: list[list[int]] = []
    dtypes: list[str] = []
    names: list[str] = []
    stored: dict[str, int] = {}
    for name, value in named:
        own_shapes, own_dtypes = describe_tensors(value)
        shapes += own_shapes
        dtypes += own_dtypes
        names += [name] * len(own_shapes)
        _add_stored(stored, name, value)
    return Called(shapes, dtypes, {"tensors": names, "stored": stored, "options": options})


def _add_stored(stored: dict[str, int], name: str, value: Any) -> None:
    elements = stored_elements(value)
    if elements is not None:
        stored[name] = elements


# ---- names of positional arguments ----


def _positional(
    function: Callable[..., Any] | CompiledFunction, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[str]:
    if isinstance(function, CompiledFunction):
        return [_UNKNOWN] * len(args)
    if inspect.isfunction(function):
        return _of_signature(function, len(args))
    if is_foreign_operator(function):
        return [_UNKNOWN] * len(args)
    return _of_schemas(getattr(function, "__name__", ""), args, kwargs)


def _of_signature(function: Callable[..., Any], count: int) -> list[str]:
    """Names of the first `count` arguments; those that `*args` collects are called as it is."""
    names: list[str] = []
    for parameter in _parameters_of(function):
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            names += [parameter.name] * (count - len(names))
        elif parameter.kind in _POSITIONAL:
            names.append(_user_name(parameter.name))
    return (names + [_UNKNOWN] * count)[:count]


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

_known: WeakKeyDictionary[Any, list[inspect.Parameter]] = WeakKeyDictionary()
"""Parameters of plain functions: a method's are asked for with every call of a module."""


def _parameters_of(function: Callable[..., Any]) -> Sequence[inspect.Parameter]:
    """None where they are not known."""
    if inspect.ismethod(function) and inspect.isfunction(function.__func__):
        every = _parameters_of(function.__func__)
        return every[1:] if every and every[0].kind in _POSITIONAL else every
    if not inspect.isfunction(function):
        return _signature_of(function)
    if function not in _known:
        _known[function] = _signature_of(function)
    return _known[function]


def _signature_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []


def _of_schemas(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """By the overloads that the call fits; a tensor that these call differently has no name."""
    return list(_named_by_schemas(name, tuple(map(_Given.of, args)), frozenset(kwargs)))


@lru_cache(maxsize=4096)
def _named_by_schemas(
    name: str, args: tuple[_Given, ...], keywords: frozenset[str]
) -> Sequence[str]:
    fitting = [
        [argument.name for argument in schema.arguments][: len(args)]
        for schema in _schemas(name)
        if _fits(schema.arguments, args, keywords)
    ]
    if not fitting:
        return [_UNKNOWN] * len(args)
    return [
        _user_name(candidates[0]) if len(set(candidates)) == 1 else _UNKNOWN
        for candidates in zip(*fitting, strict=True)
    ]


def _schemas(name: str) -> list[Any]:
    """Schemas of an ATen operator's overloads; `Tensor.__matmul__` is the operator `matmul`."""
    return operator_schemas(name) or operator_schemas(name.strip("_"))


def _fits(parameters: Sequence[Any], args: Sequence[_Given], keywords: frozenset[str]) -> bool:
    positional = [parameter for parameter in parameters if not parameter.kwarg_only]
    if len(args) > len(positional):
        return False
    given = {parameter.name for parameter in positional[: len(args)]}
    given |= {_schema_name(name, parameters) for name in keywords}
    required = {parameter.name for parameter in parameters if not parameter.has_default_value()}
    if not required <= given <= {parameter.name for parameter in parameters}:
        return False
    return all(
        _accepts(str(parameter.type), value)
        for parameter, value in zip(positional, args, strict=False)
    )


class _Given(Enum):
    """What an overload is chosen by, of a value that was passed."""

    TENSOR = auto()
    LIST = auto()
    OTHER = auto()

    @classmethod
    def of(cls, value: Any) -> _Given:
        if isinstance(value, torch.Tensor):
            return cls.TENSOR
        return cls.LIST if isinstance(value, (list, tuple)) else cls.OTHER


def _accepts(kind: str, given: _Given) -> bool:
    """Whether a parameter of this type takes the value, as far as tensors are concerned."""
    if given is _Given.TENSOR:
        # A number can be a tensor without dimensions.
        return kind in {"Tensor", "Optional[Tensor]"} or "Tensor" not in kind
    if given is _Given.LIST:
        return "List" in kind
    return kind != "Tensor" and not kind.startswith("List[Tensor")


def _schema_name(name: str, parameters: Sequence[Any]) -> str:
    names = {parameter.name for parameter in parameters}
    return "self" if name == "input" and name not in names else name


def _user_name(name: str) -> str:
    return "input" if name == "self" else name


# ---- plain values ----


def _plain_options(named: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Plain values by name; those of one name, as `*args` has them, in a list."""
    options: dict[str, Any] = {}
    names = [name for name, _ in named]
    for name, value in named:
        if not name or not _is_plain(value):
            continue
        if names.count(name) > 1:
            options.setdefault(name, []).append(value)
        else:
            options[name] = value
    return options


def _is_plain(value: Any) -> bool:
    if type(value) is str:
        return len(value) <= _LONGEST_TEXT
    if isinstance(value, (list, tuple)):
        return len(value) <= _LONGEST_LIST and all(map(_is_plain, value))
    return type(value) in (bool, int, float)
