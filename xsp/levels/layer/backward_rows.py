"""What the structure run writes down of backward work: a row for each node of autograd's graph."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd.graph import Node

from xsp.levels.layer.autograd import (
    AFTER_CODE,
    BUCKETS_CODE,
    ENGINE_CODE,
    NO_OWNER_CODE,
    backward_code,
    without_owner,
)
from xsp.levels.layer.backward import BackwardOrder
from xsp.levels.layer.distributed import AFTER, BUCKETS
from xsp.levels.layer.layer_rows import Described, LayerRow
from xsp.levels.layer.made_during import EndedCall, MadeDuring
from xsp.levels.layer.structure import Structure
from xsp.levels.layer.tensors import locate_tensors
from xsp.levels.layer.ways import Plan, plan_for

NO_OWNER = "(no owner)"
"""Name of the row of backward work that no layer of the run made."""


class BackwardRows:
    """The backward part of a structure: which nodes calls made, and which of them ran when."""

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        self._engines = 0
        self._begin_run()

    def new_run(self) -> None:
        """Count calls from zero, as the timed tracer does."""
        self.stop()
        self._begin_run()

    def stop(self) -> None:
        """Take the hooks off the nodes."""
        self._order.stop()

    @property
    def is_running(self) -> bool:
        """Whether autograd's engine runs."""
        return self._engines > 0

    def call_ended(
        self, row: int, first_node: int, inputs: Any, outputs: Any, *, leads_to_nodes: bool
    ) -> None:
        """The call of this row has ended, before which `first_node` nodes had been made. A row for
        each new node that its outputs lead to, if they do.
        """
        call = len(self._ended)
        self._ended.append(self._structure.layers.code(row))
        if not torch.is_grad_enabled():
            return
        self._made.ended(call, row, first_node)
        if not leads_to_nodes:
            return
        for number, node in enumerate(self._order.watch(call, inputs, outputs, self._token)):
            self._add_node(row, backward_code(call, number), node)

    @contextmanager
    def engine(self, roots: Sequence[torch.Tensor]) -> Iterator[None]:
        """Around a run of autograd's engine from these tensors."""
        self._watch_those_that_no_output_leads_to(roots)
        if self._structure.codes.bucketed:
            self._add_once(BUCKETS_CODE, BUCKETS)
            self._add_once(AFTER_CODE, AFTER)
        self._engines += 1
        try:
            with self._order.engine():
                yield
        finally:
            self._engines -= 1

    def finish(self) -> None:
        """Write down which nodes timed runs stamp, and the ways to them."""
        roots = self._order.sufficient()
        codes = self._structure.codes
        codes.roots.update(roots)
        for call, numbers in roots.items():
            for number in numbers:
                node_type = self._order.type_of(call, number)
                self._structure.node_types[backward_code(call, number)] = node_type
        codes.plans.update(self._plans(self._order.plans(roots)))
        codes.plans[ENGINE_CODE] = self._engine_plans

    def _plans(self, plans: Mapping[int, Plan]) -> dict[int, list[Plan | None]]:
        """The ways of each call, by its code."""
        if not plans:
            return {code: [None] * calls for code, calls in Counter(self._ended).items()}
        found: dict[int, list[Plan | None]] = {}
        for call, code in enumerate(self._ended):
            found.setdefault(code, []).append(plans.get(call))
        return found

    def _begin_run(self) -> None:
        self._ended = array("q")
        """The codes of the calls that have ended: a call's number is its place here."""
        self._token = object()
        self._engine_plans: list[Plan | None] = []
        self._shared_rows: set[int] = set()
        self._order = BackwardOrder()
        self._made = MadeDuring()

    def _watch_those_that_no_output_leads_to(self, roots: Sequence[torch.Tensor]) -> None:
        found, places = without_owner(locate_tensors(roots), self._token)
        self._made.graph_made_on(self._order.makes_graph)
        nodes = [each.node for each in found]
        makers = self._made.makers(nodes, places)
        codes = {place: self._late_row(call, nodes[place]) for place, call in makers.items()}
        known = {place: 2 * code for place, code in codes.items() if code is not None}
        others = dict.fromkeys((place for place in places if place not in known), 2 * NO_OWNER_CODE)
        self._order.watch_others(found, others)
        plan = plan_for([each.trail for each in found], known | others)
        self._engine_plans.append(plan or None)
        if others:
            self._add_once(NO_OWNER_CODE, NO_OWNER)

    def _late_row(self, maker: EndedCall, node: Node) -> int | None:
        """A row for a node of a call to which its outputs do not lead; returns the node's code,
        None where the call has too many.
        """
        number = self._order.watch_late(maker.call, node)
        if number is None:
            return None
        code = backward_code(maker.call, number)
        self._add_node(maker.row, code, node.name())
        return code

    def _add_node(self, row: int, code: int, node: str) -> None:
        """A row for a node of the call of this row."""
        layers = self._structure.layers
        key = "node", layers.alike(row), node
        forward, went_out = layers.described(row), layers.given(row)

        def describe() -> LayerRow:
            return _node_row(forward, went_out, node)

        layers.add(code, key, describe, layers.number(row), row, forward.inputs)

    def _add_once(self, code: int, name: str) -> None:
        """A row for all backward work of a kind that no layer owns."""
        if code not in self._shared_rows:
            self._shared_rows.add(code)
            row = LayerRow(name, "", "autograd", "", "backward")
            self._structure.layers.add(code, ("all", name), lambda: row)


def _node_row(forward: LayerRow, went_out: Described, node: str) -> LayerRow:
    """A node of the call whose row is `forward`: what went out comes in."""
    return LayerRow(
        forward.name,
        node,
        "autograd",
        forward.module,
        "backward",
        inputs=went_out,
        source=forward.source,
    )
