"""What the bounds of models need from a database, and in which order it is worth measuring."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch

from xsp.bounds.algorithms import TF32, has_eight_bits, precisions, tools
from xsp.bounds.granularities import EIGHT_BIT, FUSED, LAYOUT, LIBRARY, TENSOR_CORES
from xsp.bounds.roofs import Flags
from xsp.bounds.variants import in_eight_bits, layouts, narrower
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
    granularity that asks for it. Of the plans of cuDNN and cuBLASLt the first `most`, None for all.
    """

    layer: Layer
    precision: str
    purpose: str = LIBRARY
    most: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What there is one of."""
        return self.layer.digest, self.precision


def wanted_of(
    graphs: Iterable[Graph],
    device: str,
    *,
    with_variants: bool = True,
    most: int | None = None,
) -> list[Wanted]:
    """What the bounds of these models need: every unique layer as it is, and, if `with_variants`,
    then fused, in other layouts and in narrower types; products with TF32 if PyTorch's flags are
    set so now, as the model would run.

    In this order, and within each step what moves or computes most first: what is broken off has
    measured what matters most.

    Args:
        graphs: the models.
        device: "cuda" or "cpu".
        with_variants: also what the wider ideals need.
        most: plans of cuDNN and cuBLASLt to try for a variant, None for all; of a layer as it is
            all are tried.

    """
    models = list(graphs)
    plain = _largest_first(models)
    asked = list(_as_they_are(plain, device))
    if with_variants:
        variants = _Variants(device, flags_now(), most)
        narrow = _largest_first([fused(graph) for graph in models])
        asked += variants.of(narrow, FUSED)
        turned = [each for layer in (*plain, *narrow) for each in layouts(layer)[1:]]
        asked += variants.of(turned, LAYOUT)
        asked += variants.on_tensor_cores(narrow) if device == "cuda" else ()
        short = [in_eight_bits(layer) for layer in narrow] if has_eight_bits(device) else []
        asked += variants.of([each for each in short if each is not None], EIGHT_BIT)
    found: dict[tuple[str, str], Wanted] = {}
    for each in asked:
        found.setdefault(each.key, each)
    return list(found.values())


def flags_now() -> Flags:
    """Whether PyTorch may use TF32 for products, as its flags are now."""
    return Flags(torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)


def _as_they_are(layers: Iterable[Layer], device: str) -> Iterator[Wanted]:
    for layer in layers:
        for precision in precisions(layer, device):
            yield Wanted(layer, precision)


@dataclass(frozen=True)
class _Variants:
    """Makes wishes for variants, which are computed as the model would be."""

    device: str
    flags: Flags
    most: int | None

    def of(self, layers: Iterable[Layer], purpose: str) -> Iterator[Wanted]:
        for layer in layers:
            offered, running = precisions(layer, self.device), self.flags.precision(layer)
            precision = running if running in offered else offered[0]
            yield Wanted(layer, precision, purpose, self.most)

    def on_tensor_cores(self, layers: Sequence[Layer]) -> Iterator[Wanted]:
        tf32 = Flags(products=True, convolutions=True)
        for layer in layers:
            if TF32 in precisions(layer, self.device):
                yield Wanted(layer, tf32.precision(layer), TENSOR_CORES, self.most)
        for turn in zip_longest(*map(narrower, layers)):
            yield from self.of([each for each in turn if each is not None], TENSOR_CORES)


def _largest_first(models: Sequence[Graph]) -> list[Layer]:
    """Unique layers by what all their occurrences move and compute together."""
    unique = unique_layers(models)
    ordered = sorted(unique, key=lambda each: -each.count * _size(each.layer))
    return [each.layer for each in ordered]


def _size(layer: Layer) -> float:
    """Bytes and operations in one: a GPU has some hundred operations for each byte."""
    return layer.traffic_bytes + flops(layer) / 100


def missing(store: Store, machine: Machine, wanted: Sequence[Wanted]) -> list[Wanted]:
    """Those of which the database does not have every algorithm that is asked for."""
    layers = [each.layer for each in wanted]
    tried = {
        (entry.layer.digest, entry.precision): entry
        for entry in store.entries(machine, layers)
        if entry.algorithm == ALL
    }
    return [each for each in wanted if not _is_enough(tried.get(each.key), each)]


def _is_enough(entry: Entry | None, wanted: Wanted) -> bool:
    """Whether as many plans were tried as are wanted, and no package with more of them has been
    installed since.
    """
    if entry is None:
        return False
    then = entry.provenance.get("tools", {})
    if any(now is not None and then.get(name) is None for name, now in tools().items()):
        return False
    tried = entry.provenance.get("most")
    return tried is None or (wanted.most is not None and wanted.most <= tried)
