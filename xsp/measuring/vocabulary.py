"""What the indices in the runs stand for, from what was found out before the ladder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from xsp.analysis.spans.assembly import Vocabulary
from xsp.levels.layer.tensors import described
from xsp.measuring.preparation import Prepared
from xsp.measuring.target import Target
from xsp.types import Level


def vocabulary(target: Target, prepared: Prepared) -> Vocabulary:
    """Names, shapes and arguments for the assembly of runs made so far."""
    structure = prepared.structure
    symbols = _names(prepared, Level.LIBRARY)
    known = {name: index for index, name in enumerate(symbols)}
    calls = [
        {"symbol": known[row["name"]], "arguments": row["arguments"]}
        for row in prepared.recorded.get(Level.LIBRARY, [])
        if row["name"] in known
    ]
    return Vocabulary(
        calls=[_call_row(target, index) for index in range(len(target.calls))],
        modules=[asdict(module) for module in structure.modules],
        layers=structure.layer_records(),
        calls_of_modules=[asdict(call) for call in structure.calls_of_modules],
        library_calls=calls,
        symbols=symbols,
        library_of=_library_of(),
        kernels=_names(prepared, Level.KERNEL),
        api_name=_api_name(traced=Level.KERNEL in prepared.tracers),
    )


def _library_of() -> Callable[[str], str]:
    from xsp.levels.library.symbols import library_of

    return library_of


def _names(prepared: Prepared, level: Level) -> list[str]:
    tracer = prepared.tracers.get(level)
    return list(tracer.names) if tracer is not None else []


def _api_name(*, traced: bool) -> Callable[[int, int], str]:
    if not traced:
        return lambda domain, cbid: f"{domain}:{cbid}"
    from xsp.levels.kernel.cupti import api_name

    return api_name


def _call_row(target: Target, index: int) -> dict[str, Any]:
    call = target.calls[index]
    shapes, dtypes = described((call.args, dict(call.kwargs)))
    return {
        "name": target.name,
        "call": index,
        "input_shapes": json.dumps(shapes),
        "input_dtypes": json.dumps(dtypes),
        "batch_size": shapes[0][0] if shapes and shapes[0] else -1,
    }
