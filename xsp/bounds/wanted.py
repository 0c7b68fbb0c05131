"""What the bounds of models need from a database, and in which order it is worth measuring."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from xsp.bounds.algorithms import precisions, tools
from xsp.bounds.granularities import FUSED, LAYOUT, LIBRARY, TENSOR_CORES
from xsp.bounds.variants import layouts, narrower
from xsp.database.entry import Entry, Machine
from xsp.database.store import Store
from xsp.graphs.graph import Graph
from xsp.graphs.layer import Layer
from xsp.graphs.patterns import fused
from xsp.graphs.unique import unique_layers
from xsp.graphs.work import flops

ALL = "(all algorithms)"
"""The name of an entry that says that a layer's algorithms have all been tried."""


@dataclass(frozen=True)
class Wanted:
    """A layer to compute in some precision, in every way that the libraries offer, and the
    granularity that asks for it.
    """

    layer: Layer
    precision: str
    purpose: str = LIBRARY

    @property
    def key(self) -> tuple[str, str]:
        """What there is one of."""
        return self.layer.digest, self.precision


def wanted_of(graphs: Iterable[Graph], device: str, *, with_variants: bool = True) -> list[Wanted]:
    """What the bounds of these models need: every unique layer as it is, and, if `with_variants`,
    then fused, in other layouts and in narrower types.

    In this order, and within each step what moves or computes most first: what is broken off has
    measured what matters most.
    """
    models = list(graphs)
    found: dict[tuple[str, str], Wanted] = {}
    for each in _in_order(models, device, with_variants):
        found.setdefault(each.key, each)
    return list(found.values())


def _in_order(models: Sequence[Graph], device: str, with_variants: bool) -> Iterator[Wanted]:
    plain = _largest_first(models)
    yield from _as_they_are(plain, device, LIBRARY)
    if not with_variants:
        return
    narrow = _largest_first([fused(graph) for graph in models])
    yield from _as_they_are(narrow, device, FUSED)
    for layer in [*plain, *narrow]:
        yield from _as_they_are(layouts(layer)[1:], device, LAYOUT)
    if device == "cuda":
        for number in range(max((len(narrower(layer)) for layer in narrow), default=0)):
            turn = [narrower(layer)[number : number + 1] for layer in narrow]
            yield from _as_they_are([one for each in turn for one in each], device, TENSOR_CORES)


def _as_they_are(layers: Iterable[Layer], device: str, purpose: str) -> Iterator[Wanted]:
    for layer in layers:
        for precision in precisions(layer, device):
            yield Wanted(layer, precision, purpose)


def _largest_first(models: Sequence[Graph]) -> list[Layer]:
    """Unique layers by what all their occurrences move and compute together."""
    unique = unique_layers(models)
    ordered = sorted(unique, key=lambda each: -each.count * _size(each.layer))
    return [each.layer for each in ordered]


def _size(layer: Layer) -> float:
    """Bytes and operations in one: a GPU has some hundred operations for each byte."""
    return layer.traffic_bytes + flops(layer) / 100


def missing(store: Store, machine: Machine, wanted: Sequence[Wanted]) -> list[Wanted]:
    """Those of which the database does not have every algorithm."""
    layers = [each.layer for each in wanted]
    done = {
        (entry.layer.digest, entry.precision)
        for entry in store.entries(machine, layers)
        if entry.algorithm == ALL and not _offers_more(entry)
    }
    return [each for each in wanted if each.key not in done]


def _offers_more(entry: Entry) -> bool:
    """Whether a package with more algorithms has been installed since."""
    then = entry.provenance.get("tools", {})
    return any(now is not None and then.get(name) is None for name, now in tools().items())
