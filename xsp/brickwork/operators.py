"""Whether the operators that bricks are made of are those that the model runs when it is called."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import torch

from xsp.brickwork.model import Model, called_whole
from xsp.graphs.aten import VIEWS, canonical_name
from xsp.machine.torch_internals import TorchDispatchMode

_SHOWN = 3
"""Operators of each side that the sentence names."""


def difference(model: Model) -> str:
    """A sentence on operators that the model runs when its user calls it and those that tracing
    gave in their place, empty where they are the same. Views do not count.

    Libraries ask whether they are traced: transformers then makes masks that it leaves out
    otherwise, and torch.nn.TransformerEncoder takes its fast path only when it is not.
    """
    called, traced = _Operators(), _Operators()
    with called:
        called_whole(model)
    with torch.no_grad():
        layers = model.run()
        next(layers)  # copies of the inputs, which are none of the model's operators
        with traced:
            deque(layers, maxlen=0)
    only_called, only_traced = called.counts - traced.counts, traced.counts - called.counts
    if not only_called and not only_traced:
        return ""
    return (
        f"its bricks are of {_listed(only_traced)} where a call of the model runs "
        f"{_listed(only_called)}: tracing changes what the model does, so compare its bricks with "
        "its graph (normalised_graph)"
    )


class _Operators(TorchDispatchMode):
    """Counts what is run inside it, by operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch does not say its types
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func.overloadpacket).removeprefix("aten.")
        if canonical_name(name) not in VIEWS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def _listed(counts: Counter[str]) -> str:
    """The most frequent ones."""
    if not counts:
        return "no operator"
    shown = [f"{count} {name}" for name, count in counts.most_common(_SHOWN)]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
