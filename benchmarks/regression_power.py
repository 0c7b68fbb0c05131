"""How often a slow-down is found, how often one is found that is not there, and whether the right layer is named.

    python benchmarks/regression_power.py --device cuda --json benchmarks/results/regression_power_h100.json
    python benchmarks/regression_power.py --device cpu --budget-s 120

Power: pools of runs with delays of 1, 2, 5 and 10 % of the model's latency in one layer, and with none, are measured in
fresh processes (regression_pools.py), one after the other. Trials are drawn from the pools:

- stored baseline: consecutive runs without a delay from one process against consecutive runs of a variant from another,
  so that what differs between processes and minutes is in it;
- sessions: the same against the baseline of several processes, as `pytest --xsp-add` makes it, five or as many as
  there are;
- in turn: rounds drawn without replacement, the run without a delay and the variant's of each; as many as
  `xsp.compare_targets` would take to know the ratio to a quarter of the threshold, at most half of all rounds.

Trials of one pool share runs, so the rates are known less well than independent trials would give: `windows` says how
many windows of each process do not overlap, and `spread` what the processes differ by. To find a slow-down of s the
threshold is s / 2. Beside each stands the plain rule, the same runs' ratio of means over the same threshold.

Localisation: twenty mutations of a small model, and on a GPU some that only change kernels; the first sentence of the
comparison must name the mutated layer.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from regression_pools import BASE, PROGRAMS, SAME, SLOWDOWNS, VARIANTS  # noqa: E402 # after the path is known

from xsp.analysis.comparing.sessions import among_sessions, spread  # noqa: E402 # likewise
from xsp.analysis.comparing.verdict import REGRESSION, UNDECIDED, paired_verdict, verdict  # noqa: E402 # likewise
from xsp.analysis.statistics import trimmed  # noqa: E402 # likewise
from xsp.comparing import LEAST_ROUNDS  # noqa: E402 # likewise
from xsp.machine.environment import environment  # noqa: E402 # likewise

STORED_RUNS = 30
SESSIONS = 5
Pool = dict[str, npt.NDArray[np.float64]]


def main() -> None:
    options = _options()
    report: dict[str, Any] = {"environment": environment(), "options": vars(options) | {"json": None}, "power": {}}
    names = [name for name, (where, _) in PROGRAMS.items() if where == "device" or options.host]
    if options.device == "cpu":
        names = [name for name, (where, _) in PROGRAMS.items() if where == "host"]
    for name in [name for name in names if options.only in name]:
        pools = list(_pools(name, options, options.budget_s / len(names) / options.processes))
        report["power"][name] = power(pools, options.trials)
        print(json.dumps({name: report["power"][name]}), flush=True)
    if not options.no_localisation:
        report["localisation"] = localisation(options.device)
        print(json.dumps({"localisation": report["localisation"]["summary"]}), flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--trials", type=int, default=500, help="comparisons of each kind")
    parser.add_argument("--budget-s", type=float, default=120.0, help="seconds of measured rounds, all together")
    parser.add_argument("--processes", type=int, default=3, help="fresh processes for each program, at least 2")
    parser.add_argument("--host", action="store_true", help="on a GPU also launch-bound programs, delayed on the host")
    parser.add_argument("--only", default="", help="programs whose name contains this")
    parser.add_argument("--no-localisation", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.processes < 2:
        parser.error("--processes must be at least 2: a stored baseline comes from another process")
    return options


def _pools(name: str, options: argparse.Namespace, budget_s: float) -> Iterator[dict[str, Any]]:
    for seed in range(options.processes):
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "pool.json"
            command = [sys.executable, str(HERE / "regression_pools.py"), "--program", name, "--device", options.device]
            command += ["--budget-s", str(budget_s), "--seed", str(seed), "--output", str(output)]
            hidden = {"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}
            subprocess.run(command, check=True, env={**os.environ, **hidden})
            yield json.loads(output.read_text())


def power(measured: list[dict[str, Any]], trials: int) -> dict[str, Any]:
    """Rates of verdicts by variant, threshold and way of comparing."""
    pools: list[Pool] = [
        {variant: np.array(runs, dtype=np.float64) for variant, runs in one["latencies_ns"].items()} for one in measured
    ]
    rounds = [len(one[BASE]) for one in pools]
    runs = min(STORED_RUNS, *rounds)
    random = np.random.default_rng(0)

    def rates(variant: str, share: float) -> dict[str, float]:
        turns = _rounds_needed(pools, share / 2)
        stored = [_stored(pools, variant, runs, random) for _ in range(trials)]
        in_turn = [_in_turn(pools, variant, turns, random) for _ in range(trials)]
        return {"rounds in turn": turns} | _rates(stored, in_turn, share / 2)

    return {
        "layer": measured[0]["layer"],
        "delay": measured[0]["delay"],
        "usual_ms": [round(one["usual_ms"], 4) for one in measured],
        "noise": [round(float(one[BASE].std() / one[BASE].mean()), 4) for one in pools],
        "rounds": rounds,
        "runs stored": runs,
        "sessions": min(SESSIONS, len(pools) - 1),
        "spread": round(spread([[_time(one[BASE]) for one in pools]])[0], 4),
        "windows": [count // runs for count in rounds],
        "achieved": {variant: round(_achieved(pools, variant), 4) for variant in VARIANTS if variant != BASE},
        "detected": {
            variant: {"threshold": share / 2} | rates(variant, share) for variant, share in VARIANTS.items() if share
        },
        "false alarms": {f"{share / 2:g}": rates(SAME, share) for share in SLOWDOWNS},
    }


def _rounds_needed(pools: list[Pool], threshold: float) -> int:
    """Rounds after which the ratio of two runs of the same is known to a quarter of the threshold."""
    before, after = (np.concatenate([each[name] for each in pools]) for name in (BASE, SAME))
    found = paired_verdict(before, after)
    width = (found.high - found.low) / 2 / (threshold / 4)
    return int(min(max(LEAST_ROUNDS, np.ceil(len(before) * width**2)), len(before) // 2))


Sample = npt.NDArray[np.float64]
Stored = tuple[list[Sample], Sample]
InTurn = tuple[Sample, Sample]


def _stored(pools: list[Pool], variant: str, runs: int, random: np.random.Generator) -> Stored:
    """Consecutive runs of each session and of the candidate, all of different processes; without a change the
    candidate is of the same variant.
    """
    *earlier, own = random.choice(len(pools), min(SESSIONS, len(pools) - 1) + 1, replace=False).tolist()
    every = [pools[each][BASE] for each in earlier] + [pools[own][BASE if variant == SAME else variant]]
    begins = [int(random.integers(len(each) - runs + 1)) for each in every]
    *sessions, candidate = (each[begin : begin + runs] for each, begin in zip(every, begins, strict=True))
    return sessions, candidate


def _in_turn(pools: list[Pool], variant: str, rounds: int, random: np.random.Generator) -> InTurn:
    """Rounds in the order in which they were made, some left out."""
    before, after = (np.concatenate([each[name] for each in pools]) for name in (BASE, variant))
    which = np.sort(random.choice(len(before), rounds, replace=False))
    return before[which], after[which]


def _achieved(pools: list[Pool], variant: str) -> float:
    """The slow-down that the delay came to: ratios within rounds."""
    return float(trimmed(np.concatenate([one[variant] / one[BASE] for one in pools]))[0]) - 1


def _rates(stored: list[Stored], in_turn: list[InTurn], threshold: float) -> dict[str, float]:
    single = [(sessions[-1], candidate) for sessions, candidate in stored]
    alone = [verdict(a, b, threshold=threshold) for a, b in single]
    among = [
        among_sessions(found, [[_time(each) for each in sessions]], _time(candidate), threshold=threshold)
        for found, (sessions, candidate) in zip(alone, stored, strict=True)
    ]
    names = {
        "stored": [found.name for found in alone],
        "sessions": [found.name for found in among],
        "in turn": [paired_verdict(a, b, threshold=threshold).name for a, b in in_turn],
    }
    rates = {}
    for way, verdicts in names.items():
        rates[way] = _share([name == REGRESSION for name in verdicts])
        rates[f"{way}, undecided"] = _share([name == UNDECIDED for name in verdicts])
    for way, trials in (("stored", single), ("in turn", in_turn)):
        rates[f"{way}, plain rule"] = _share([b.mean() / a.mean() > 1 + threshold for a, b in trials])
    return rates


def _time(runs: Sample) -> float:
    return float(trimmed(runs)[0])


def _share(hits: list[Any]) -> float:
    return round(float(np.mean(hits)), 4)


def localisation(device: str) -> dict[str, Any]:
    """Whether the first sentence names the mutated layer, by mutation."""
    import torch
    from mutations import MUTATIONS, Mutation, Net, mutated

    import xsp

    def profiled(net: torch.nn.Module) -> xsp.Profile:
        with torch.no_grad():
            return xsp.measure(net.to(device), x, iterations=3, warmup=2, progress=False)

    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(16, 3, 32, 32, device=device)
    before = profiled(net)
    every: list[Mutation] = [*MUTATIONS, *(kernel_mutations() if device == "cuda" else ())]
    rows = []
    for mutation in every:
        sentence = xsp.analysis.compare(before, profiled(mutated(net, mutation))).sentences[0]
        rows.append({"mutation": mutation.what, "named": mutation.named in sentence, "sentence": sentence})
    return {"summary": f"{sum(row['named'] for row in rows)} of {len(rows)} named first", "mutations": rows}


def kernel_mutations() -> list[Any]:
    """Changes that leave every layer as it is and give it other kernels."""
    import torch
    from mutations import Mutation, Net
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def without_cudnn(net: Net) -> None:
        layer, forward = net.stem[0], net.stem[0].forward

        def other(x: torch.Tensor) -> torch.Tensor:
            with torch.backends.cudnn.flags(enabled=False):
                return forward(x)

        layer.forward = other

    def math_attention(net: Net) -> None:
        attention, mixed = net.blocks[1].attention, net.blocks[1].attention.mixed

        def other(*qkv: torch.Tensor) -> torch.Tensor:
            with sdpa_kernel(SDPBackend.MATH):
                return mixed(*qkv)

        attention.mixed = other

    def tf32(net: Net) -> None:
        layer, forward = net.blocks[2].mlp.up, net.blocks[2].mlp.up.forward

        def other(x: torch.Tensor) -> torch.Tensor:
            torch.backends.cuda.matmul.allow_tf32 = True
            try:
                return forward(x)
            finally:
                torch.backends.cuda.matmul.allow_tf32 = False

        layer.forward = other

    return [
        Mutation("convolution without cuDNN", "stem.0", without_cudnn),
        Mutation("attention with the math backend", "blocks.1.attention", math_attention),
        Mutation("one product in TF32", "blocks.2.mlp.up", tf32),
    ]


if __name__ == "__main__":
    main()
