"""Operations that an exporter or a hand-written model takes apart, put together again.

`x * sigmoid(x)` is a SiLU and `softmax(Q Kᵀ) V` is attention, however they were written: a bound
must know the operation that a library can compute at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod

from xsp.graphs.graph import Graph
from xsp.graphs.layer import Layer, TensorType


@dataclass(frozen=True)
class Merge:
    """Layers, by place, that are one: the last of them gives the result."""

    places: frozenset[int]
    layer: Layer


@dataclass(frozen=True)
class Replaced:
    """A graph with patterns as one layer each, and by layer the places of what it was made of in
    the graph before.
    """

    graph: Graph
    parts: tuple[tuple[int, ...], ...]


class Neighbours:
    """Who feeds whom, by place."""

    def __init__(self, graph: Graph) -> None:
        self.layers = graph.layers
        self.before: dict[int, list[int]] = {place: [] for place in range(len(graph))}
        self.after: dict[int, list[int]] = {place: [] for place in range(len(graph))}
        for first, second in graph.edges:
            self.before[second].append(first)
            self.after[first].append(second)

    def places(self, operator: str) -> Iterator[int]:
        """Places of layers with this operator."""
        return (place for place, each in enumerate(self.layers) if each.operator == operator)

    def only_user(self, place: int) -> int | None:
        """The one layer that uses a result, None where there are more or none."""
        users = self.after[place]
        return users[0] if len(users) == 1 else None

    def operator(self, place: int | None) -> str:
        """Its operator, "" for None."""
        return "" if place is None else self.layers[place].operator

    def is_scaling(self, place: int | None, *operators: str) -> bool:
        """Whether it is one of these operations with a number."""
        if place is None:
            return False
        layer = self.layers[place]
        alone = len(layer.inputs) == 1 and not layer.weights
        return layer.operator in operators and alone and bool(layer.parameters.get("scalar"))


def merged(graph: Graph) -> Graph:
    """The graph with every known pattern as one layer."""
    for find in (_biases, _gated, _clipped_gates, _gelus, _attentions):
        graph = _replaced(graph, find).graph
    return graph


def folded(graph: Graph) -> Graph:
    """The graph without batch normalisations that follow a convolution or linear layer: in
    inference their factors belong into its weights, which is what exporters do.
    """
    return _replaced(graph, _batch_norms).graph


def fused(graph: Graph) -> Graph:
    """The graph with what a library's product can do on the way as a part of it: batch
    normalisation folded, then the addition of a residual, then an activation
    (Benanza's question 5; cuDNN's and cuBLASLt's epilogues).
    """
    return fused_with_parts(graph).graph


def fused_with_parts(graph: Graph) -> Replaced:
    """`fused`, with what each of its layers was made of."""
    first = _replaced(graph, _batch_norms)
    second = _replaced(first.graph, _epilogues)
    parts = tuple(
        tuple(sorted(place for middle in middles for place in first.parts[middle]))
        for middles in second.parts
    )
    return Replaced(second.graph, parts)


def _replaced(graph: Graph, find: Callable[[Neighbours], Iterator[Merge]]) -> Replaced:
    taken: set[int] = set()
    merges: dict[int, Merge] = {}
    for merge in find(Neighbours(graph)):
        if taken.isdisjoint(merge.places):
            taken |= merge.places
            merges[max(merge.places)] = merge
    into = {place: last for last, merge in merges.items() for place in merge.places}
    kept = [place for place in range(len(graph)) if into.get(place, place) == place]
    position = {place: new for new, place in enumerate(kept)}
    layers = tuple(
        merges[place].layer if place in merges else graph.layers[place] for place in kept
    )
    parts = tuple(
        tuple(sorted(merges[place].places)) if place in merges else (place,) for place in kept
    )
    edges = set()
    for before, after in graph.edges:
        first, second = into.get(before, before), into.get(after, after)
        if first != second:
            edges.add((position[first], position[second]))
    return Replaced(replace(graph, layers=layers, edges=tuple(sorted(edges))), parts)


def _biases(near: Neighbours) -> Iterator[Merge]:
    """A product with weights, then the addition of one number for each column."""
    for place in near.places("linear"):
        product, user = near.layers[place], near.only_user(place)
        if user is None or near.operator(user) != "add" or len(product.weights) != 1:
            continue
        added = near.layers[user]
        columns = product.weights[0].shape[0]
        fits = len(added.inputs) == 1 and len(added.weights) == 1
        if fits and added.weights[0].elements == columns == added.weights[0].shape[-1]:
            bias = TensorType((columns,), added.weights[0].dtype)
            layer = replace(product, weights=(*product.weights, bias), outputs=added.outputs)
            yield Merge(frozenset({place, user}), layer)


def _gated(near: Neighbours) -> Iterator[Merge]:
    """X * sigmoid(x) and x * hardsigmoid(x)."""
    for gate, operator in (("sigmoid", "silu"), ("hardsigmoid", "hardswish")):
        for place in near.places(gate):
            user = near.only_user(place)
            if near.operator(user) != "mul" or user is None:
                continue
            source = near.layers[place].inputs
            same = near.layers[user].inputs == (*source, *source)
            if same and set(near.before[user]) == {place, *near.before[place]}:
                layer = replace(near.layers[user], operator=operator, inputs=source, parameters={})
                yield Merge(frozenset({place, user}), layer)


def _clipped_gates(near: Neighbours) -> Iterator[Merge]:
    """X * clip(x + 3) / 6, a hard swish."""
    for place in near.places("clip"):
        before, times = near.before[place], near.only_user(place)
        if len(before) != 1 or not near.is_scaling(before[0], "add") or times is None:
            continue
        halved = near.only_user(times)
        alone = near.only_user(before[0]) is not None
        if not alone or near.operator(times) != "mul" or not near.is_scaling(halved, "div", "mul"):
            continue
        source = near.layers[before[0]].inputs
        if halved is not None and near.layers[times].inputs == (*source, *source):
            members = frozenset({before[0], place, times, halved})
            last = near.layers[halved]
            yield Merge(members, replace(last, operator="hardswish", inputs=source, parameters={}))


def _gelus(near: Neighbours) -> Iterator[Merge]:
    """X / √2, erf, + 1, times x, times ½; the half can come first or last."""
    for place in near.places("erf"):
        before = near.before[place]
        shifted = near.only_user(place)
        if len(before) != 1 or not near.is_scaling(before[0], "div", "mul"):
            continue
        if shifted is None or not near.is_scaling(shifted, "add"):
            continue
        times = near.only_user(shifted)
        if times is None or near.operator(times) != "mul" or len(near.layers[times].inputs) != 2:
            continue
        members = {before[0], place, shifted, times}
        halved = near.only_user(times)
        other = [each for each in near.before[times] if each != shifted]
        if halved is not None and near.is_scaling(halved, "mul", "div"):
            members.add(halved)
        elif other and near.is_scaling(other[0], "mul", "div"):
            members.add(other[0])
        last = near.layers[max(members)]
        source = near.layers[before[0]].inputs
        layer = replace(last, operator="gelu", inputs=source, weights=(), parameters={})
        yield Merge(frozenset(members), layer)


def _attentions(near: Neighbours) -> Iterator[Merge]:
    """A product, scaled or masked, its softmax over the last dimension, and another product."""
    for place in near.places("softmax"):
        second = near.only_user(place)
        last_dim = (
            near.layers[place].parameters["dim"] == len(near.layers[place].inputs[0].shape) - 1
        )
        if second is None or near.operator(second) != "matmul" or not last_dim:
            continue
        members, masked = {place, second}, False
        at = near.before[place]
        while len(at) >= 1 and near.operator(at[0]) in {"div", "mul", "add"}:
            here = at[0]
            if near.only_user(here) is None:
                break
            masked |= near.operator(here) == "add"
            members.add(here)
            scores = [each for each in near.before[here] if _leads_to_product(near, each)]
            at = scores[:1]
        if len(at) != 1 or near.operator(at[0]) != "matmul" or near.only_user(at[0]) is None:
            continue
        first = at[0]
        members.add(first)
        for scaled in near.before[first]:
            if near.is_scaling(scaled, "mul", "div") and near.only_user(scaled) is not None:
                members.add(scaled)
        yield Merge(frozenset(members), _attention(near.layers[first], near.layers[second], masked))


def _leads_to_product(near: Neighbours, place: int) -> bool:
    return near.operator(place) in {"matmul", "div", "mul", "add"}


def _attention(scores: Layer, result: Layer, masked: bool) -> Layer:
    query, key = scores.inputs
    rows, columns = key.shape[-2:]
    turned = TensorType((prod(key.shape[:-2]), columns, rows), key.dtype)
    return replace(
        result,
        operator="attention",
        inputs=(query, turned, result.inputs[1]),
        parameters={"masked": True} if masked else {},
    )


def _batch_norms(near: Neighbours) -> Iterator[Merge]:
    for place in near.places("batch_norm"):
        before = near.before[place]
        if len(before) != 1 or near.only_user(before[0]) != place:
            continue
        product = near.layers[before[0]]
        if product.operator not in {"convolution", "linear"}:
            continue
        norm = near.layers[place]
        bias = TensorType(norm.inputs[0].shape[1:2], product.weights[0].dtype)
        layer = replace(product, weights=(product.weights[0], bias), outputs=norm.outputs)
        yield Merge(frozenset({before[0], place}), layer)


_ACTIVATIONS = frozenset({"relu", "gelu", "silu", "sigmoid", "tanh", "clip", "hardswish"})


def _epilogues(near: Neighbours) -> Iterator[Merge]:
    # The last product before an addition takes it in: both results are there by then.
    for place in reversed(range(len(near.layers))):
        product = near.layers[place]
        if product.operator not in {"convolution", "linear"}:
            continue
        members, epilogue, inputs = {place}, [], list(product.inputs)
        user = near.only_user(place)
        if user is not None and _adds_residual(near, place, user):
            members.add(user)
            epilogue.append("add")
            inputs.append(product.outputs[0])
            user = near.only_user(user)
        if user is not None and near.operator(user) in _ACTIVATIONS:
            members.add(user)
            epilogue.append(near.operator(user))
        if epilogue:
            parameters = {**product.parameters, "epilogue": epilogue}
            outputs = near.layers[max(members)].outputs
            layer = replace(product, inputs=tuple(inputs), outputs=outputs, parameters=parameters)
            yield Merge(frozenset(members), layer)


def _adds_residual(near: Neighbours, product: int, user: int) -> bool:
    if near.operator(user) != "add":
        return False
    shapes = near.layers[user].inputs
    is_whole = len(shapes) == 2 and shapes[0] == shapes[1]
    others = [each for each in near.before[user] if each != product]
    return is_whole and all(each < product for each in others)
