"""Question 4: launches, waits and copies that the ideal lacks, with the program's lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from xsp.bounds.asker import Asker
from xsp.bounds.finding import Finding
from xsp.bounds.otherwise import KERNEL
from xsp.bounds.recorded import RecordedCall

_COPIES = (
    ("HtoD", "to the GPU", "move constants and inputs to the GPU once, before the model runs"),
    ("DtoH", "to the host", "keep results on the GPU until all are there"),
)


def framework(asker: Asker) -> Iterator[Finding]:
    """What the host and the copies add; nothing for a model on a CPU."""
    if asker.on_cpu:
        return
    yield from _launches(asker)
    yield from _waits(asker)
    yield from _copies(asker)


def _launches(asker: Asker) -> Iterator[Finding]:
    launches = len(asker.recorded.calls[-1].op_kernel)
    if launches:
        yield asker.finding(
            4,
            "",
            {"cuda_graph": "*"},
            f"{launches} launches a call, each from Python",
            'launch the model as one CUDA graph: torch.compile(model, mode="reduce-overhead"), or '
            "torch.cuda.make_graphed_callables(model, inputs)",
        )


def _waits(asker: Asker) -> Iterator[Finding]:
    """All places where the host waits for the device together."""
    call = asker.recorded.calls[-1]
    if not len(call.waits):
        return
    layers = _waiting_layers(call)
    lines = asker.lines(layers)
    places = Counter(layers)
    where = ", ".join(name for name, _ in places.most_common(3)) or "outside layers"
    yield asker.finding(
        4,
        where,
        {"no_sync": "*"},
        f"the host waits for the GPU {len(call.waits)} times in a call, in {where}{_at(lines)}",
        "avoid what needs a value on the host: .item(), .cpu(), bool(tensor), nonzero, copies "
        "from pageable memory",
        lines,
    )


def _waiting_layers(call: RecordedCall) -> list[str]:
    """For each wait the innermost layer around its middle, if there is one."""
    starts, ends = (call.layers[column].to_numpy() for column in ("start_ns", "end_ns"))
    names = call.layers["name"].to_numpy(dtype=object)
    around = [
        np.flatnonzero((starts <= middle) & (middle <= ends)) for middle in call.waits.mean(axis=1)
    ]
    return [str(names[each[-1]]) for each in around if len(each)]


def _copies(asker: Asker) -> Iterator[Finding]:
    for direction, to, advice in _COPIES:
        mine = [name for name in asker.kernels if name.endswith(direction)]
        if not mine:
            continue
        layers = [name for name in asker.layers_of(mine) if name]
        lines = asker.lines(layers)
        yield asker.finding(
            4,
            layers[0] if layers else "",
            {"gone": [f"{KERNEL}{name}" for name in mine]},
            f"{len(asker.layers_of(mine))} copies {to} inside the model{_at(lines)}",
            advice,
            lines,
        )


def _at(lines: tuple[str, ...]) -> str:
    return f", at {', '.join(lines)}" if lines else ""
