"""FLOPs of matrix products: dense, sparse, and of groups of rows or columns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from math import prod

from xsp.analysis.work.products.operands import (
    Operands,
    Shape,
    UnknownWorkError,
    multiplications,
    require,
)


def matrix_product(layer: Operands, left: str, right: str) -> float:
    """2 k for each element of the output, of `left` (…, m, k) and `right` (…, k, n); either can be
    a vector.
    """
    a, b = layer.shape(left), layer.shape(right)
    terms = a[-1]
    require(terms == b[-2:][0], f"{a} by {b}")
    sparse = layer.stored.keys() & {left, right}
    if sparse:
        return _sparse(layer, a, b, left, right)
    return 2.0 * prod(layer.output) * terms


def _sparse(layer: Operands, a: Shape, b: Shape, left: str, right: str) -> float:
    """2 for each stored element and row or column of the dense operand, over all of a batch.

    A product of two sparse matrices depends on where their elements are.
    """
    require(not {left, right} <= layer.stored.keys(), "both operands are sparse")
    if left in layer.stored:
        columns = b[-1] if len(b) > 1 else 1
        return 2.0 * layer.stored[left] * columns
    require(len(b) == 2, "a batch of sparse matrices on the right")
    return 2.0 * layer.stored[right] * prod(a[:-1])


def summed_product(layer: Operands) -> float:
    """`addbmm`: as many products as a batch has, added up: 2 k n for each row of the batch."""
    first, second = layer.shape("batch1"), layer.shape("batch2")
    require(first[-1] == second[-2], f"{first} by {second}")
    return 2.0 * prod(first) * second[-1]


def sampled_product(layer: Operands) -> float:
    """2 k for each element that the sparse result stores."""
    return 2.0 * layer.stored["input"] * layer.shape("mat1")[-1]


def linear(layer: Operands) -> float:
    """2 k for each element of the output; 2 for each stored weight and row where it is sparse."""
    source, output = layer.source, layer.output
    weight = layer.shape("weight") if layer.has("weight") else layer.weight
    if weight is not None:
        _require_between(source, weight, output)
    require("input" not in layer.stored, "a sparse input")
    if "weight" in layer.stored:
        return 2.0 * layer.stored["weight"] * prod(source[:-1])
    return 2.0 * prod(output) * source[-1]


def _require_between(source: Shape, weight: Shape, output: Shape) -> None:
    """A weight is (n, k), or (k, n) in transformers' `Conv1D`, or (k) for a result without a
    dimension of its own.
    """
    expected = [source[-1]] if len(weight) == 1 else [output[-1], source[-1]]
    fits = sorted(weight) == sorted(expected)
    require(fits, f"weight {weight} between {source} and {output}")


def inner_product(layer: Operands) -> float:
    """2 k for each element of the output, over the last dimension of both operands; a number
    multiplies element by element.
    """
    a, b = layer.shape("input"), layer.shape("other")
    require(not layer.stored, "a sparse operand")
    if not a or not b:
        return multiplications(layer, prod(layer.output))
    require(a[-1] == b[-1], f"{a} by {b}")
    return 2.0 * prod(layer.output) * a[-1]


def grouped_product(layer: Operands) -> float:
    """Groups of rows, each multiplied by a matrix of its own; or groups of columns, each summed
    over by a product.
    """
    left, output = layer.shape("input", "mat_a"), layer.output
    are_columns = len(left) == 2 and len(output) == 3
    each = output[1:] if are_columns else output
    return 2.0 * prod(each) * left[-1]


def pair(left: str, right: str) -> partial[float]:
    """The rule for a product of the arguments of these names."""
    return partial(matrix_product, left=left, right=right)


def chain_product(layer: Operands) -> float:
    """The cheapest order of multiplying a chain of matrices, which PyTorch takes
    (Cormen et al., Introduction to Algorithms, section 14.2 in the fourth edition).
    """
    name = "tensors" if layer.has("tensors") else "matrices"
    sizes = _chain_sizes(layer.every(name))
    count = len(sizes) - 1
    cost = [[0] * count for _ in range(count)]
    for length in range(1, count):
        for first in range(count - length):
            last = first + length
            cost[first][last] = min(
                cost[first][middle]
                + cost[middle + 1][last]
                + sizes[first] * sizes[middle + 1] * sizes[last + 1]
                for middle in range(first, last)
            )
    return 2.0 * cost[0][-1]


def _chain_sizes(shapes: Sequence[Shape]) -> list[int]:
    """Rows of the first matrix, then columns of each; the first and the last can be vectors."""
    if len(shapes) < 2:
        raise UnknownWorkError("a chain of fewer than two matrices")
    first, *rest = shapes
    matrices = [[1, *first] if len(first) == 1 else first]
    matrices += [[*shape, 1] if len(shape) == 1 else shape for shape in rest]
    for one, next_ in pairwise(matrices):
        require(one[1] == next_[0], f"{one} by {next_}")
    return [matrices[0][0], *(shape[1] for shape in matrices)]
