"""What the time that a brick's call keeps the host depends on: the same bricks called in several
states, beside the model as its user calls it and beside its graph. Whole sums in us.

    python benchmarks/bricks_host.py --device cuda --models zoo/resnet50,zoo/bert_base@8 \
        --output bricks_host_h200.json

States: `waited` (behind a wait for the GPU and a copy of the input; `waited_total` ends when the
GPU has done), `again` (the same, right behind a call of the same brick, on the weights of its next
occurrence), `copies` (no wait, copies in between), `ready` (no wait, inputs made before), `every`
(no wait, every occurrence in the model's order on real values). `repeated` is `waited` for the
first occurrence of a brick and `again` for the others: where a model repeats a brick, it finds its
code in the caches. `bindings` is the graph with PyTorch's Python functions in place of operators
called through `torch.ops`.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from bricks_pools import built as model_by_name
from torch import Tensor, fx

from xsp.analysis.spans.statistics import trimmed
from xsp.brickwork.bricks import model_from
from xsp.brickwork.cutting import Decomposition
from xsp.brickwork.model import called_whole
from xsp.brickwork.network import built, call_with, fresh
from xsp.brickwork.occurrences import occurrences_in
from xsp.brickwork.plan import Options, Subject, subject_of
from xsp.brickwork.rounds import settled
from xsp.machine.environment import environment

GRANULARITIES = (1, 3, 10)
_NAMESPACES = (torch._C._nn, torch._C._VariableFunctions, torch.Tensor)
_clock = time.perf_counter_ns

Call = Callable[..., Any]
Samples = dict[tuple[str, str], list[int]]
"""By state and brick, ns."""


class Subjects:
    """One model's bricks as calls with inputs."""

    def __init__(self, name: str, device: str, batch: int) -> None:
        self.device = device
        self.model = model_from(model_by_name(name, device, batch), name)
        self.subject: Subject = subject_of(self.model, Options(granularity=GRANULARITIES))
        found = occurrences_in(self.model, self.subject.bricks)
        self.inputs = {digest: each.inputs[0] for digest, each in found.items()}
        self.networks = {
            digest: built(each.facts, each.weights[0], device) for digest, each in found.items()
        }
        # Where a brick occurs once only, this is the same call.
        self.seconds = {
            digest: call_with(self.networks[digest], each.weights[1 % len(each.weights)])
            for digest, each in found.items()
        }
        self.samples: Samples = defaultdict(list)

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def copies(self, digest: str) -> list[Tensor]:
        return [fresh(each) for each in self.inputs[digest]]

    def timed(self, state: str, key: str, call: Call, given: Sequence[Tensor]) -> None:
        begin = _clock()
        result = call(*given)
        del result
        self.samples[state, key].append(_clock() - begin)

    def waited(self, state: str, key: str, call: Call, given: Sequence[Tensor]) -> None:
        self.wait()
        begin = _clock()
        self.timed(state, key, call, given)
        self.wait()
        self.samples[f"{state}_total", key].append(_clock() - begin)


def unique(cut: Decomposition) -> list[str]:
    """The digests of its bricks, each once, in their order."""
    return list(dict.fromkeys(each.layer.digest for each in cut.bricks))


def bindings(network: fx.GraphModule) -> fx.GraphModule:
    """The network with PyTorch's Python functions instead of operators, where there are any."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(network.graph, {}))
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten":
            name = str(node.target.overloadpacket).removeprefix("aten.")
            owner = next((each for each in _NAMESPACES if hasattr(each, name)), None)
            # fx cannot write down the names of operators such as `__and__`.
            if owner is not None and not name.startswith("_"):
                node.target = getattr(owner, name)
    return fx.GraphModule(network, graph)


def jobs(one: Subjects) -> list[Callable[[], None]]:
    """What every round does, in random order."""
    assert one.subject.whole is not None
    whole = one.subject.whole.layer.digest
    graph, bound = one.networks[whole].forward, bindings(one.networks[whole]).forward
    found: list[Callable[[], None]] = [
        lambda: one.waited("called", "", lambda: called_whole(one.model), []),
        lambda: one.waited("graph", "", graph, one.copies(whole)),
    ]
    try:
        bound(*one.copies(whole))
        found.append(lambda: one.waited("bindings", "", bound, one.copies(whole)))
    except (TypeError, RuntimeError) as error:  # a function that takes other arguments
        print(f"{one.model.name}: no bindings: {error}"[:200], flush=True)
    for cut in one.subject.decompositions.values():
        found += _states(one, unique(cut))
        found.append(_every(one, cut))
    return found


def _states(one: Subjects, digests: Sequence[str]) -> list[Callable[[], None]]:
    def waited() -> None:
        for digest in digests:
            one.waited("waited", digest, one.networks[digest].forward, one.copies(digest))

    def again() -> None:
        for digest in digests:
            given = one.copies(digest)
            one.networks[digest].forward(*one.copies(digest))
            one.waited("again", digest, one.seconds[digest], given)

    def copies() -> None:
        one.wait()
        for digest in digests:
            one.timed("copies", digest, one.networks[digest].forward, one.copies(digest))
        one.wait()

    def ready() -> None:
        made = [one.copies(digest) for digest in digests]
        one.wait()
        for digest, given in zip(digests, made, strict=True):
            one.timed("ready", digest, one.networks[digest].forward, given)
        one.wait()

    return [waited, again, copies, ready]


def _every(one: Subjects, cut: Decomposition) -> Callable[[], None]:
    values = one.model.values
    calls = [
        built(json.loads(each.layer.key), [values[node.name] for node in each.weights], one.device)
        for each in cut.bricks
    ]
    key = f"G{cut.granularity}"

    def every() -> None:
        held = {node: fresh(values[node.name]) for node in _given(one, cut)}
        spent = 0
        one.wait()
        for brick, call in zip(cut.bricks, calls, strict=True):
            given = [held[node] for node in brick.inputs]
            begin = _clock()
            results = call.forward(*given)
            spent += _clock() - begin
            held |= dict(zip(brick.outputs, results, strict=True))
        one.wait()
        one.samples["every", key].append(spent)

    return every


def _given(one: Subjects, cut: Decomposition) -> set[fx.Node]:
    """Inputs of bricks that are inputs of the model."""
    read = {node for each in cut.bricks for node in each.inputs}
    return {node for node in read if node.name in one.model.values}


def row_of(one: Subjects) -> dict[str, Any]:
    """Sums over each granularity's bricks by state, and the model's own times, in us."""
    mean = {key: float(trimmed(each)[0]) / 1e3 for key, each in one.samples.items()}
    states = {state for state, key in mean if len(key) > len("G10")}
    row: dict[str, Any] = {state: each for (state, key), each in mean.items() if not key}
    for granularity, cut in one.subject.decompositions.items():
        digests = [each.layer.digest for each in cut.bricks]
        sums = {state: sum(mean[state, each] for each in digests) for state in sorted(states)}
        counts = Counter(digests)
        sums["repeated"] = sum(
            mean["waited", each] + (count - 1) * mean["again", each]
            for each, count in counts.items()
        )
        every = mean["every", f"G{granularity}"]
        facts = {"bricks": len(digests), "unique": len(counts)}
        row[f"G{granularity}"] = {**facts, **sums, "every": every}
    return row


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One model's row."""
    one = Subjects(name, options.device, options.batch)
    todo = jobs(one)
    order = random.Random(0)
    with torch.no_grad():
        for number in range(options.rounds + 2):
            order.shuffle(todo)
            for job in todo:
                job()
            if number == 1:  # until here, everything warms up
                one.samples.clear()
    return {"layers": len(one.model.parts), "rounds": options.rounds, **row_of(one)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="example/resnet50")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--output", type=Path, default=Path("bricks_host.json"))
    options = parser.parse_args()
    models: dict[str, Any] = {}
    with settled(options.threads):
        for name in options.models.split(","):
            models[name] = measured(name, options)
            print(name, json.dumps(models[name]), flush=True)
            kept = {"environment": environment(), "models": models}
            options.output.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
