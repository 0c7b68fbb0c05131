"""FLOPs of tensor contractions that name their indices: einsum and tensordot."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from xsp.analysis.work.products.operands import (
    Operands,
    Shape,
    UnknownWorkError,
    additions,
    multiplications,
    require,
)


def einsum(layer: Operands) -> float:
    """2 for each combination of the indices of two operands, 1 where none of them is summed over.

    An index that only one operand has and that the result has not is summed over first, as PyTorch
    does. Of three operands and more the order of contraction is not recorded.
    """
    equation, operands = _equation(layer)
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    require(len(terms) == len(operands) <= 2, "an order of contraction that is not recorded")
    labelled = [_labels(term, shape) for term, shape in zip(terms, operands, strict=True)]
    written = right if arrow else _implied(left)
    hidden = {name for sizes in labelled for name in sizes if name.startswith("...")}
    output = set(written.replace("...", "")) | (hidden if "..." in written else set())
    return _contracted(layer, labelled, output)


def _implied(terms: str) -> str:
    """The result of an equation without an arrow: an ellipsis, and indices that occur once."""
    indices = terms.replace("...", "").replace(",", "")
    return "..." + "".join(name for name in indices if indices.count(name) == 1)


def _equation(layer: Operands) -> tuple[str, Sequence[Shape]]:
    given = layer.options.get("args", layer.options.get("equation"))
    equation = given[0] if isinstance(given, list) and given else given
    if not isinstance(equation, str):
        raise UnknownWorkError("einsum without an equation")
    operands = layer.every("args") or layer.every("tensors") or layer.every("operands")
    return equation, operands


def _labels(term: str, shape: Shape) -> dict[str, int]:
    """The size of each index. Dimensions of an ellipsis are counted from the last one: broadcasting
    aligns them there.
    """
    before, dots, after = term.partition("...")
    hidden = len(shape) - len(before) - len(after)
    require(hidden >= 0 and (bool(dots) or hidden == 0), f"{term} for {list(shape)}")
    names = [*before, *(f"...{place}" for place in range(hidden, 0, -1)), *after]
    sizes: dict[str, int] = {}
    for name, size in zip(names, shape, strict=True):
        sizes[name] = max(size, sizes.get(name, 0))
    return sizes


def _contracted(layer: Operands, labelled: Sequence[dict[str, int]], output: set[str]) -> float:
    if len(labelled) == 1:
        [sizes] = labelled
        return additions(layer, prod(sizes.values())) if sizes.keys() - output else 0.0
    left, right = labelled
    alone = (left.keys() ^ right.keys()) - output
    shared = left.keys() & right.keys()
    # An index of size 1 is broadcast: where it is summed over, the other operand is summed first.
    first = {name for name in shared - output if left[name] != right[name]}
    kept = (left.keys() | right.keys()) - alone - first
    count = prod(max(left.get(name, 0), right.get(name, 0)) for name in kept)
    return 2.0 * count if kept - output else multiplications(layer, count)


def tensordot(layer: Operands) -> float:
    """2 for each element of the output and combination of the indices summed over; 1 where there
    are none.
    """
    a, b = layer.shape("a"), layer.shape("b")
    of_a, of_b = _contracted_dims(layer.options.get("dims"), len(a))
    pairs = [(a[one], b[other]) for one, other in zip(of_a, of_b, strict=True)]
    # A dimension of size 1 is broadcast: the other operand is summed over it first.
    terms = [one for one, other in pairs if one == other]
    count = prod(layer.output) * prod(terms)
    return 2.0 * count if terms else multiplications(layer, count)


def _contracted_dims(dims: object, of_a: int) -> tuple[list[int], list[int]]:
    if isinstance(dims, int):
        return list(range(of_a - dims, of_a)), list(range(dims))
    if isinstance(dims, list) and len(dims) == 2:
        first, second = ([each] if isinstance(each, int) else list(each) for each in dims)
        require(len(first) == len(second), "other numbers of dimensions")
        return first, second
    raise UnknownWorkError("tensordot without its dimensions")
