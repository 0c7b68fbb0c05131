"""How a timed run finds again the graph nodes that the structure run found.

Reading nodes costs microseconds each, and asking which layer owns them more. None of it changes
from run to run: so the structure run walks the graph once and writes down ways, and timed runs
follow them to the nodes that need a stamp.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.autograd.graph import Node

from xsp.levels.layer.tensors import Located, Steps

Plan = tuple["Way", ...]
"""Ways to the nodes of one call, each after the one that it starts from."""

UNSTAMPED = -1


@dataclass(frozen=True)
class Way:
    """To one node: from a call's output along `steps` to a tensor, whose `grad_fn` it is, or as the
    `edge`-th next function of the node that way `base` of the plan found. `event` is what its hook
    stamps, `UNSTAMPED` for a node that only leads to others.
    """

    base: int
    edge: int
    steps: Steps
    event: int

    def packed(self) -> tuple[int, int, Steps, int]:
        """For the C twin."""
        return self.base, self.edge, self.steps, self.event


@dataclass(frozen=True)
class Trail:
    """How a node of a walk was reached: `base` is the index among the walk's nodes of the one
    before, -1 for a root's, at which `steps` end.
    """

    base: int
    edge: int
    steps: Steps


@dataclass(frozen=True)
class Found:
    """A node of a walk. Only its trail is kept for long: a node keeps saved tensors alive."""

    node: Node
    trail: Trail


def walk(roots: Iterable[tuple[Located, Node]], stop: Any) -> list[Found]:
    """Every node reachable from the roots, each once, those of an earlier root first.

    `stop` is asked for each node whether the walk ends before it.
    """
    first: dict[Node, Steps] = {}
    for located, node in roots:
        first.setdefault(node, located.steps)
    found: list[Found] = []
    seen: set[Node] = set()
    pending = [(node, -1, 0) for node in reversed(first)]
    while pending:
        node, base, edge = pending.pop()
        if node in seen or stop(node):
            continue
        seen.add(node)
        is_root = node in first
        trail = Trail(-1 if is_root else base, edge, first.get(node, ()))
        found.append(Found(node, trail))
        here = len(found) - 1
        following = [
            (inner, here, place)
            for place, (inner, _) in enumerate(node.next_functions)
            if inner is not None
        ]
        pending.extend(reversed(following))
    return found


def plan_for(trails: Sequence[Trail], events: Mapping[int, int]) -> Plan:
    """Ways to the nodes whose index has an event, and to those that lead there."""
    needed: set[int] = set()
    for wanted in events:
        place = wanted
        while place >= 0 and place not in needed:
            needed.add(place)
            place = trails[place].base
    order = sorted(needed)
    new_place = {old: new for new, old in enumerate(order)} | {-1: -1}
    ways = []
    for old in order:
        trail = trails[old]
        event = events.get(old, UNSTAMPED)
        ways.append(Way(new_place[trail.base], trail.edge, trail.steps, event))
    return tuple(ways)
