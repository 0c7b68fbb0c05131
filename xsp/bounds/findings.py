"""What could be done about a model's time, with what it would bring: Benanza's six questions.

Every finding is predicted by a replay of the corrected timeline (`what_if`), so that it says what
the model gains, not what a layer loses. Needs no torch; what a performance database knows makes it
more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from xsp.bounds.granularities import LIBRARY
from xsp.bounds.lower_bound import LowerBound, on_cpu
from xsp.bounds.recorded import Recording, recording
from xsp.bounds.what_if import KERNEL, Otherwise, predicted
from xsp.errors import XspError
from xsp.graphs.from_profile import graph_of_profile
from xsp.graphs.patterns import Neighbours

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

RUNS = 4
"""Runs that are replayed for each finding."""
MOST = 5
"""Findings in a "try" section."""
LEAST_SHARE = 0.01
"""Of the latency that a finding must promise."""
_MATTERS = 0.9
"""Share of the layers' time from which on narrower types are worth their errors."""
_FASTER = 1.03
"""From how many times on another algorithm or layout is faster and not another measurement."""
LONGEST = 6
"""Layers with the most to gain that are looked at one by one."""

QUESTIONS = {
    1: "potential",
    2: "parallel layers",
    3: "algorithm",
    4: "framework",
    5: "fusion",
    6: "tensor cores and layout",
}


@dataclass(frozen=True)
class Finding:
    """One answer: of which question, where, what it would bring with half of its 95 % interval in
    ms, what tells it, and what to try in code. `changed` are the arguments of `Profile.what_if`
    that predict it again.
    """

    question: int
    layer: str
    gain_ms: float
    half_width_ms: float
    evidence: str
    advice: str
    changed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def check(self) -> str:
        """The call that predicts it again; empty where the bound itself is the prediction."""
        given = ", ".join(f"{name}={value!r}" for name, value in self.changed.items())
        return f"prof.what_if({given})" if given else ""

    @property
    def kind(self) -> str:
        """The question in a word or two."""
        return QUESTIONS[self.question]

    def sentence(self) -> str:
        """`saves 0.42 ± 0.03 ms: …`, for a list."""
        gain = f"{self.gain_ms:.2f} ± {self.half_width_ms:.2f} ms"
        return f"{self.advice} (saves {gain}; {self.evidence})"


_KEPT: WeakKeyDictionary[ProfileData, list[Finding]] = WeakKeyDictionary()


def try_first(profile: ProfileData) -> list[Finding]:
    """At most five findings by predicted gain, of what the profile alone tells; computed once for
    each profile. Empty where it has no corrected timeline.
    """
    if profile not in _KEPT:
        try:
            _KEPT[profile] = findings(profile)[:MOST]
        except XspError:
            _KEPT[profile] = []
    return _KEPT[profile]


def findings(profile: ProfileData, bound: LowerBound | None = None) -> list[Finding]:
    """Answers to the six questions, by predicted gain, the largest first.

    Those that promise less than `LEAST_SHARE` of the latency, or no more than their own interval,
    are left out. With `bound` (`xsp.analysis.lower_bound`) potential, parallel layers, algorithms
    and layouts are answered too.

    Raises XspError for a profile without a corrected timeline.
    """
    asker = _Asker(profile, recording(profile, RUNS))
    found = [*_framework(asker), *_fusion(asker)]
    if bound is not None:
        found += [*_potential(bound), *_parallel(bound), *_algorithms(asker, bound)]
        found += [*_layouts(asker, bound), *_tensor_cores(asker, bound)]
    worth = [each for each in found if _is_worth(each, profile.latency_ms)]
    return sorted(worth, key=lambda each: -each.gain_ms)


def _is_worth(finding: Finding, latency_ms: float) -> bool:
    return finding.gain_ms > max(LEAST_SHARE * latency_ms, finding.half_width_ms)


class _Asker:
    """Asks what-if of one profile, whose calls are corrected once."""

    def __init__(self, profile: ProfileData, recorded: Recording) -> None:
        self.profile, self.recorded = profile, recorded
        self.on_cpu = on_cpu(profile) or not recorded.has_device
        self.kernels = (
            sorted({str(name) for call in recorded.calls for name in call.op_kernel})
            if recorded.has_device
            else []
        )

    def finding(
        self,
        question: int,
        layer: str,
        changed: Mapping[str, Any],
        evidence: str,
        advice: str,
    ) -> Finding:
        answer = predicted(self.profile, self.recorded, Otherwise.of(**changed))
        return Finding(
            question,
            layer,
            answer.gain_ms,
            answer.half_width_ms,
            evidence,
            advice,
            changed,
        )


# ---- question 1 and 2: potential and parallel layers ----


def _potential(bound: LowerBound) -> Iterator[Finding]:
    if bound.missing or not bound.latency_ms > bound.sequential_ms:
        return
    gain = bound.latency_ms - bound.sequential_ms
    yield Finding(
        1,
        "",
        gain,
        bound.bounds[LIBRARY].half_width_ms + np.nan_to_num(bound.latency_ci_ms),
        f"its layers at the library's best add up to {bound.sequential_ms:.3f} of "
        f"{bound.latency_ms:.3f} ms, a Benanza Ratio of {bound.ratio:.2f}",
        "the model as a whole: see what follows, and xsp bound for each layer",
    )


def _parallel(bound: LowerBound) -> Iterator[Finding]:
    if bound.missing or not bound.graph.dependencies_known:
        return
    gain = bound.sequential_ms - bound.parallel_ms
    path = set(bound.bounds[LIBRARY].path)
    beside = [each.name for each in bound.graph.layers if each.name not in path]
    if beside:
        yield Finding(
            2,
            beside[0],
            gain,
            bound.bounds[LIBRARY].half_width_ms,
            f"{len(beside)} layers are not on the critical path, such as {beside[0]}: an upper "
            "limit, since layers that run at the same time share the device",
            "run independent branches on CUDA streams of their own",
        )


# ---- question 3: algorithms ----


def _algorithms(asker: _Asker, bound: LowerBound) -> Iterator[Finding]:
    """Layers of which the database knows a faster algorithm than the one that PyTorch takes."""
    table = bound.layers.dropna(subset=["bound_ms", "default_ms", "measured_ms"])
    alone = table[~table["owner"].duplicated(keep=False)]
    times = alone["default_ms"] / alone["bound_ms"]
    slower = alone.assign(times=times, lost=alone["measured_ms"] * (1 - 1 / times))
    slower = slower[slower["times"] > _FASTER].nlargest(LONGEST, "lost")
    for row in slower.to_dict("records"):
        name = str(row["owner"])
        yield asker.finding(
            3,
            name,
            {"faster": {name: float(row["times"])}},
            f"{row['default_ms'] * 1e3:.1f} µs alone, {row['bound_ms'] * 1e3:.1f} with "
            f"{row['algorithm']}",
            _how_to_choose(str(row["operator"]), str(row["algorithm"]), name),
        )
    if len(slower) > 1:
        yield asker.finding(
            3,
            f"{len(slower)} layers",
            {"faster": dict(zip(slower["owner"], slower["times"].astype(float), strict=True))},
            "each of them with the fastest algorithm known",
            'have algorithms tried out: torch.compile(model, mode="max-autotune")'
            + ("" if asker.on_cpu else ", or torch.backends.cudnn.benchmark = True"),
        )


def _how_to_choose(operator: str, algorithm: str, name: str) -> str:
    if operator == "attention":
        kernel = algorithm.removeprefix("attention ")
        return f"{name}: choose the {kernel} kernel with torch.nn.attention.sdpa_kernel"
    if algorithm == "ATen":
        return f"{name}: switch oneDNN off around it, torch.backends.mkldnn.flags(enabled=False)"
    if algorithm == "oneDNN":
        return f"{name}: see that oneDNN is on (torch.backends.mkldnn.enabled)"
    if operator == "convolution":
        return f"{name}: have cuDNN try its plans, torch.backends.cudnn.benchmark = True"
    return f'{name}: have matrix products tuned, torch.compile(model, mode="max-autotune")'


# ---- question 4: what the framework adds ----

_CONVERSIONS = ("*nchwToNhwc*", "*nhwcToNchw*", "*NCHWToNHWC*", "*NHWCToNCHW*")


def _framework(asker: _Asker) -> Iterator[Finding]:
    """Launches, waits, copies and changes of layout that the ideal lacks."""
    if asker.on_cpu:
        return
    yield from _launches(asker)
    yield from _waits(asker)
    yield from _copies(asker)
    yield from _conversions(asker)


def _launches(asker: _Asker) -> Iterator[Finding]:
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


def _waits(asker: _Asker) -> Iterator[Finding]:
    """Layers in which the host waits for the device, and all of them together."""
    call = asker.recorded.calls[-1]
    if not len(call.waits):
        return
    middle = call.waits.mean(axis=1)
    starts, ends = (call.layers[column].to_numpy() for column in ("start_ns", "end_ns"))
    names = call.layers["name"].to_numpy(dtype=object)
    where = {
        str(names[np.flatnonzero((starts <= at) & (at <= ends))[-1]])
        for at in middle
        if ((starts <= at) & (at <= ends)).any()
    }
    said = ", ".join(sorted(where)[:3]) or "outside layers"
    yield asker.finding(
        4,
        said,
        {"no_sync": "*"},
        f"the host waits for the GPU {len(call.waits)} times in a call, in {said}",
        "avoid what needs a value on the host: .item(), .cpu(), bool(tensor), nonzero, copies "
        "from pageable memory",
    )


def _copies(asker: _Asker) -> Iterator[Finding]:
    for direction, why in (
        ("HtoD", "move constants and inputs to the GPU once, before the model runs"),
        ("DtoH", "keep results on the GPU until all are there"),
    ):
        mine = [name for name in asker.kernels if name.endswith(direction)]
        if mine:
            pattern = f"{KERNEL}{mine[0]}"
            yield asker.finding(
                4,
                "",
                {"gone": pattern},
                f"copies between host and GPU inside the model ({mine[0]})",
                why,
            )


def _conversions(asker: _Asker) -> Iterator[Finding]:
    from fnmatch import fnmatchcase

    patterns = tuple(
        f"{KERNEL}{pattern}"
        for pattern in _CONVERSIONS
        if any(fnmatchcase(name, pattern) for name in asker.kernels)
    )
    if patterns:
        yield asker.finding(
            6,
            "",
            {"gone": list(patterns)},
            "cuDNN turns tensors from NCHW to NHWC and back, in kernels of their own",
            "give the model and its input channels last: "
            "model.to(memory_format=torch.channels_last)",
        )


# ---- question 5: fusion ----

_FOLLOWERS = frozenset(
    {"batch_norm", "relu", "clip", "silu", "gelu", "hardswish", "sigmoid", "tanh", "add", "mul"}
)


def _fusion(asker: _Asker) -> Iterator[Finding]:
    """Batch normalisations that could be folded, and operations that could ride on a product."""
    graph = graph_of_profile(asker.profile)
    near = Neighbours(graph)
    norms = [
        graph.layers[place].owner
        for place in near.places("batch_norm")
        if near.before[place] and near.operator(near.before[place][0]) in {"convolution", "linear"}
    ]
    if norms and not _in_training(asker.profile):
        yield asker.finding(
            5,
            norms[0],
            {"gone": _known(asker, norms)},
            f"batch normalisations that follow a convolution: {len(norms)}",
            "fold them into its weights for inference: "
            "torch.nn.utils.fusion.fuse_conv_bn_eval, or torch.compile",
        )
    riders = [layer.owner for layer in graph.layers if layer.operator in _FOLLOWERS]
    if len(riders) > len(norms):
        yield asker.finding(
            5,
            riders[0],
            {"gone": _known(asker, riders)},
            f"{len(riders)} element-wise layers read what another has just written: at most "
            "this, if all of them are fused into it",
            "let a compiler fuse them: torch.compile(model)",
        )


def _known(asker: _Asker, names: Iterable[str]) -> list[str]:
    """Names that the corrected calls have, each once, without pattern signs."""
    there = set(asker.recorded.calls[-1].layers["name"])
    return [name.replace("[", "[[]") for name in dict.fromkeys(names) if name in there]


def _in_training(profile: ProfileData) -> bool:
    return bool((profile.table("layers")["phase"] == "backward").any())


# ---- question 6: layout and tensor cores ----


def _layouts(asker: _Asker, bound: LowerBound) -> Iterator[Finding]:
    """What the better layout of each layer would bring, by the database."""
    table = bound.layers.dropna(subset=["layout_ms", "bound_ms", "measured_ms"])
    times = table["bound_ms"] / table["layout_ms"]
    better = table[(times > _FASTER) & ~table["owner"].duplicated(keep=False)]
    if not len(better):
        return
    yield asker.finding(
        6,
        str(better["owner"].iloc[0]),
        {"faster": dict(zip(better["owner"], times[better.index].astype(float), strict=True))},
        f"{len(better)} layers are faster in the other layout",
        "try the other layout: model.to(memory_format=torch.channels_last) and the input too",
    )


def _tensor_cores(asker: _Asker, bound: LowerBound) -> Iterator[Finding]:
    """What narrower types would bring the products of float32, by the database."""
    narrow, before = bound.bounds["tensor cores"], bound.bounds["fused"]
    share = narrow.sequential_ms / before.sequential_ms if before.sequential_ms else 1.0
    if asker.on_cpu or share > _MATTERS:
        return
    yield asker.finding(
        6,
        "",
        {"faster": {"*": 1 / share}},
        f"with TF32 or 16-bit types the layers take {share:.0%} of the time, at their best",
        "compute on tensor cores: torch.set_float32_matmul_precision('high'), or autocast to "
        "bfloat16",
    )
