"""Whether a re-run is the call that the block made: the modules that both called, with the shapes
of their inputs, in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

from torch import nn

from xsp.doubts import Doubt, Slug
from xsp.errors import TargetError
from xsp.levels.layer.discovery import Discovered, LayerCall
from xsp.levels.layer.naming import qualified_names
from xsp.measuring.executor import Executor


def about_difference(executor: Executor, found: Discovered) -> list[Doubt]:
    """The first module call in which the first re-run differs from the block's.

    Raises TargetError for it unless the executor accepts changed calls.
    """
    made, model = executor.target.made, executor.target.model
    if not made or model is None:
        return []
    known = set(model.modules())
    pairs = zip_longest(made, found.sequence)
    first = next((pair for pair in pairs if not _alike(*pair, known)), None)
    if first is None:
        return []
    difference = _difference(*first, qualified_names(found.roots))
    if executor.accept_changed:
        return [Doubt.of(Slug.CHANGED_CALL, difference=difference)]
    raise TargetError(
        f"{executor.target.name} cannot be run again as the block ran it: {difference}. It depends "
        "on something that is neither in its arguments nor in its modules; measure a function "
        "that creates it anew, or pass accept_changed=True to profile what the re-runs do"
    )


def _alike(made: LayerCall | None, again: LayerCall | None, known: set[nn.Module]) -> bool:
    if made is None or again is None or made[1] != again[1]:
        return False
    if made[0] is again[0]:
        return True
    # A module that forward makes is another object each time.
    return not {made[0], again[0]} & known and type(made[0]) is type(again[0])


def _difference(
    made: LayerCall | None, again: LayerCall | None, names: Mapping[nn.Module, str]
) -> str:
    if made is None or again is None:
        module, _ = made or again or (None, ())
        where = _name(module, names)
        return f"{where} was called in {'the block' if made else 'a re-run'} only"
    if made[0] is not again[0]:
        return (
            f"{_name(again[0], names)} was called instead of {_name(made[0], names)}, which the "
            "block called"
        )
    return f"{_name(made[0], names)} was given inputs of {again[1]}, but of {made[1]} in the block"


def _name(module: nn.Module | None, names: Mapping[nn.Module, str]) -> str:
    kind = type(module).__name__
    name = names.get(module, "") if module is not None else ""
    return f"layer {name!r} ({kind})" if name else kind
