"""Which launch of a compiled graph each kernel of one call of it comes from.

Triton kernels bear the names that the wrapper launches them by, and so divide the others, which
libraries and ATen name as they like: between two of them run the kernels of the launches between.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xsp.analysis.spans.align import match_events
from xsp.types import IntArray

BY_NAME, BY_PLACE, BY_CALL, BY_KIND, NOT_MATCHED = "name", "place", "call", "kind", ""
"""How a kernel, copy or set was matched: its name is the launch's; it has its place among the
others in a way that leaves no choice; a library call made it with kernels that were matched;
libraries' kernels were told from ATen's, or number or order alone decided; not at all."""

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "_int_mm", "_scaled_mm")
"""Last parts of the names of launches that call a library of CUDA."""

_LIBRARY_NAMES = ("gemm", "gemv", "nvjet", "cudnn", "fprop", "dgrad", "wgrad")
"""In the names of kernels of cuBLAS and cuDNN, in small letters."""

_CONTINUED = "splitKreduce"
"""In the names of kernels by which cuBLAS ends the product of the kernel before."""

Texts = npt.NDArray[np.object_]


def match_launches(
    kernels: Sequence[str],
    library_calls: IntArray,
    launches: Sequence[str],
    is_named: Sequence[bool],
) -> tuple[npt.NDArray[np.int64], Texts]:
    """For each kernel of one call of a graph, in the order of their launches, the launch of the
    graph that it comes from, -1 where none is found; and how it was found.

    Args:
        kernels: names of the kernels.
        library_calls: what identifies the library call around each, -1 for none.
        launches: names that the wrapper launches by, in order.
        is_named: which of these are the names of kernels.

    """
    names, wanted = np.array(kernels, dtype=object), np.array(launches, dtype=object)
    named = np.flatnonzero(np.array(is_named, dtype=bool))
    code = {name: number for number, name in enumerate(dict.fromkeys(wanted[named].tolist()))}
    known = np.flatnonzero(np.isin(names, list(code)))
    found = np.full(len(names), -1, dtype=np.int64)
    how = np.full(len(names), NOT_MATCHED, dtype=object)
    place = match_events(_codes(names[known], code), _codes(wanted[named], code))
    anchors, at = known[place >= 0], named[place[place >= 0]]
    # Names that come in another order than the launches are those of another graph.
    if len(at) != len(named) or np.any(np.diff(at) <= 0):
        return found, how
    found[anchors], how[anchors] = at, BY_NAME
    edges = zip(
        [-1, *anchors.tolist()],
        [*anchors.tolist(), len(names)],
        [-1, *at.tolist()],
        [*at.tolist(), len(wanted)],
        strict=True,
    )
    for before, after, first, last in edges:
        inside = np.arange(before + 1, after)
        between = np.arange(first + 1, last)
        _match_between(inside, between, names, library_calls, wanted, found, how)
    return found, how


def _codes(names: Texts, code: dict[str, int]) -> npt.NDArray[np.int64]:
    return np.array([code[name] for name in names.tolist()], dtype=np.int64)


def _match_between(
    kernels: IntArray,
    launches: IntArray,
    names: Texts,
    library_calls: IntArray,
    wanted: Texts,
    found: npt.NDArray[np.int64],
    how: Texts,
) -> None:
    """Fill in what lies between two kernels with names."""
    if not len(kernels) or not len(launches):
        return
    unit, first = _units(names[kernels], library_calls[kernels])
    is_library = library_calls[kernels][first] >= 0
    if not is_library.any():
        # Calls of a captured graph were made when it was captured.
        is_library = np.array([_is_of_library(each) for each in names[kernels][first].tolist()])
    product = np.array([_is_product(name) for name in wanted[launches].tolist()])
    if len(launches) == 1:
        found[kernels], how[kernels] = launches[0], BY_PLACE
    elif len(is_library) == len(launches):
        # As many, and yet one launch may have run two and another none, if their kinds differ.
        agrees = np.array_equal(is_library, product)
        found[kernels], how[kernels] = launches[unit], BY_PLACE if agrees else BY_KIND
    else:
        owner = _by_kind(is_library, product)
        if owner is not None:
            found[kernels], how[kernels] = launches[owner[unit]], BY_KIND


def _units(
    names: Texts, library_calls: IntArray
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Kernels of one library call, and a product with what ends it, are one: each kernel's number,
    and the first kernel of each number.
    """
    same_call = (library_calls[1:] == library_calls[:-1]) & (library_calls[1:] >= 0)
    ends = np.array([_CONTINUED in name for name in names[1:].tolist()], dtype=bool)
    unit = np.r_[0, np.cumsum(~(same_call | ends))].astype(np.int64)
    return unit, np.unique(unit, return_index=True)[1]


def _is_of_library(kernel: str) -> bool:
    name = kernel.lower()
    return any(part in name for part in _LIBRARY_NAMES)


def _is_product(launch: str) -> bool:
    parts = launch.split(".")
    return any(each in _PRODUCTS or each.startswith("convolution") for each in parts)


def _by_kind(
    is_library: npt.NDArray[np.bool_], is_product: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64] | None:
    """The launch of each unit, where each product takes one unit of a library, and each other
    launch the units between; None where they are not that many.
    """
    if is_library.sum() != is_product.sum() or not is_product.any():
        return None
    products = np.flatnonzero(is_product)
    owner = np.full(len(is_library), -1, dtype=np.int64)
    owner[is_library] = products
    # What lies between two products is that of the launch between them.
    passed = np.cumsum(is_library)[~is_library]
    others = np.flatnonzero(~is_product)
    gap = np.searchsorted(products, others)
    if len(np.unique(gap)) != len(gap) or not np.isin(passed, gap).all():
        return None
    owner[~is_library] = others[np.searchsorted(gap, passed)]
    return owner
