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
    structure, library_calls = prepared.structure, prepared.library_calls
    library: Any = prepared.tracers.get(Level.LIBRARY)
    kernel: Any = prepared.tracers.get(Level.KERNEL)
    symbols: list[str] = list(library.symbols) if library else []
    known = {name: index for index, name in enumerate(symbols)}
    calls = [
        {"symbol": known[row["name"]], "arguments": row["arguments"]}
        for row in library_calls
        if row["name"] in known
    ]
    return Vocabulary(
        calls=[_call_row(target, index) for index in range(len(target.calls))],
        modules=[asdict(module) for module in structure.modules],
        layers=structure.layer_records(),
        library_calls=calls,
        symbols=symbols,
        library_of=_library_of(),
        kernels=kernel.names if kernel else (),
        api_name=_api_name(kernel),
    )


def _library_of() -> Callable[[str], str]:
    from xsp.levels.library.symbols import library_of

    return library_of


def _api_name(kernel: Any) -> Callable[[int, int], str]:
    if kernel is None:
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
