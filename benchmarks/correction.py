"""How well the tracers' costs are fitted over many seeds, on a quiet host and a busy one.

    python benchmarks/correction.py [--device cuda] [--seeds 20] [--programs loop scan ...]
        [--loads quiet shared busy] [--json out.json]

Each program is profiled once a seed, and the fit compared with what the rungs show: what each rung
adds to the host's time, over the events that it traces. A fit is wrong if it is more than 30 % off
where the rungs show anything, and flagged if the profile says so: a warning about the correction,
or a cost that is not identified. `simulated` is a loop of small operations in the simulator of the
tests, whose true costs are known. `shared` adds no work: it names a host that has others' to do.
Results are added to those that `out.json` holds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

import xsp
from xsp.analysis.correction import fitted
from xsp.analysis.correction.charges import COST_LEVELS, Costs, EventKind
from xsp.analysis.correction.closure import closure_by_rung
from xsp.analysis.correction.corrected import mostly_tracing
from xsp.analysis.correction.costs import fit_costs
from xsp.analysis.correction.evidence import Round
from xsp.analysis.correction.recordings import kinds_of_layers
from xsp.analysis.spans.rungs import spec_of
from xsp.analysis.spans.statistics import trimmed
from xsp.types import Level, RunSpec

WRONG = 0.3
NOTHING = 0.05
"""A layer is corrected to nothing if less than this part of it is left."""

ABOUT_CORRECTION = ("closure", "uncorrected", "unknown-costs", "unshown-costs")


def cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0))


def loop(device: str) -> Callable[[], Any]:
    """Two hundred small operations."""
    x = torch.ones(8, device=device)

    def run() -> torch.Tensor:
        z = x
        for _ in range(100):
            z = z * 0.5
            z = z + 1
        return z

    return run


def gpt2(device: str) -> Callable[[], Any]:
    """GPT-2 of six blocks with random weights, by transformers; one sequence of 32 tokens."""
    import plain_torchvision  # noqa: F401  (transformers imports torchvision where there is one)
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 6, "n_embd": 128, "n_head": 4, "n_positions": 64, "vocab_size": 1_000}
    special = {"bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **special, use_cache=False)).to(device).eval()
    tokens = torch.randint(0, 1_000, (1, 32), device=device)
    return lambda: model(tokens)


def scan(device: str) -> Callable[[], Any]:
    """A recurrence along a sequence, as a selective scan computes it step by step."""
    a, b = (torch.rand(64, 4, 16, device=device) for _ in range(2))

    def run() -> torch.Tensor:
        state, outputs = torch.zeros_like(a[0]), []
        for step in range(64):
            state = state * a[step] + b[step]
            outputs.append(state.sum(-1))
        return torch.stack(outputs)

    return run


def mask_rcnn(device: str) -> Callable[[], Any]:
    """Mask R-CNN on a MobileNet, with random weights; one image of 64 pixels."""
    import plain_torchvision  # noqa: F401  (before torchvision)
    from torchvision.models import mobilenet_v2
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.rpn import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    backbone = mobilenet_v2(weights=None).features[:8]
    backbone.out_channels = 64
    proposals = {"rpn_pre_nms_top_n_test": 20, "rpn_post_nms_top_n_test": 8}
    model = MaskRCNN(
        backbone,
        num_classes=5,
        rpn_anchor_generator=AnchorGenerator(((16, 32, 64),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2),
        mask_roi_pool=MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2),
        min_size=64,
        max_size=64,
        box_score_thresh=0.0,
        box_detections_per_img=5,
        **proposals,
    )
    model = model.to(device).eval()
    image = torch.rand(3, 64, 64, device=device)
    return lambda: model([image])


PROGRAMS: dict[str, Callable[[str], Callable[[], Any]]] = {
    "loop": loop,
    "gpt2": gpt2,
    "scan": scan,
    "mask_rcnn": mask_rcnn,
}


@dataclass
class Seen:
    """What one profile's correction was like."""

    off: dict[str, float]
    flagged: bool
    nothing: int
    layers: int
    closes: bool | None
    used: bool
    rounds: int
    rounds_s: float
    wall_s: float | None
    fit_s: float
    analysis_s: float

    @property
    def wrong(self) -> bool:
        return any(abs(off) > WRONG for off in self.off.values())


@contextmanager
def every_core_busy() -> Iterator[None]:
    """One process that only counts for each core."""
    spin = [sys.executable, "-c", "while True: pass"]
    workers = [subprocess.Popen(spin) for _ in range(cores())]
    try:
        yield
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def profiled(program: str, device: str, seed: int) -> Seen:
    torch.manual_seed(seed)
    run = PROGRAMS[program](device)
    begun = time.perf_counter()
    with torch.no_grad():
        prof = xsp.measure(run, seed=seed, progress=False)
    wall_s = time.perf_counter() - begun
    tables = prof._capture.tables
    begun = time.perf_counter()
    fitted(tables)
    fit_s = time.perf_counter() - begun
    again = xsp.Profile(prof._capture)
    begun = time.perf_counter()
    tree = again.tree()
    analysis_s = time.perf_counter() - begun
    layers = tree[(tree["level"] == "LAYER") & (tree["host_ms"] > 0)]
    left = layers["corrected_ms"] / layers["recorded_ms"]
    closes = [row["low"] <= 0 <= row["high"] for _, row in prof.closure_error.iterrows()]
    return Seen(
        off=off_by_rung(prof),
        flagged=flagged(prof),
        nothing=int((left < NOTHING).sum()),
        layers=len(layers),
        closes=bool(closes[-1]) if closes else None,
        used=prof.corrected is not None,
        rounds=int(prof.runs["round"].nunique()),
        rounds_s=float(prof.runs["latency_ns"].sum()) / 1e9,
        wall_s=wall_s,
        fit_s=fit_s,
        analysis_s=analysis_s,
    )


def off_by_rung(prof: xsp.Profile) -> dict[str, float]:
    """By rung that shows it adds to the host's time, how far the fitted costs are off that,
    relatively.
    """
    if not len(prof.costs):
        return {}
    host = prof.runs.pivot_table(index="round", columns="rung", values="host_latency_ns")
    rungs = sorted(host.columns, key=lambda rung: len(spec_of(rung).levels))
    cost, events = prof.costs.set_index("kind")["cost_ns"], events_of(prof)
    off = {}
    for before, rung in pairwise(rungs):
        shown, half = (float(value) for value in trimmed(host[rung] - host[before]))
        added = set(spec_of(rung).levels) - set(spec_of(before).levels)
        kinds = [
            name.removesuffix("_ns")
            for name, level in COST_LEVELS.items()
            if level in added and name != "kernel_ns"
        ]
        fit = sum(cost.get(kind, 0.0) * events.get(kind, 0.0) for kind in kinds)
        if shown > half:
            off[rung] = fit / shown - 1
    return off


def events_of(prof: xsp.Profile) -> dict[str, float]:
    """Host events by kind in one run of the deepest rung."""
    tables = prof._capture.tables
    runs = tables["runs"]
    deepest = max(runs["rung"].unique(), key=lambda rung: len(spec_of(rung).levels))
    mine = runs.loc[runs["rung"] == deepest, "run"]
    spans = tables["spans"][tables["spans"]["run"].isin(mine)]
    layers = spans[spans["level"] == Level.LAYER]
    kind = kinds_of_layers(tables)[layers["detail"]]
    counts = {one.name.lower(): float((kind == one).sum()) for one in EventKind}
    api = tables["api_calls"][tables["api_calls"]["run"].isin(mine)]
    kernels = spans[spans["level"] == Level.KERNEL]
    counts["library"] = float((spans["level"] == Level.LIBRARY).sum())
    counts["launch"] = float(len(kernels.drop_duplicates(["run", "correlation_id"])))
    counts["api"] = len(api) - counts["launch"]
    return {name: count / len(mine) for name, count in counts.items()}


def flagged(prof: xsp.Profile) -> bool:
    if not len(prof.costs):
        return True
    slugs = [warning.rsplit("[", 1)[-1].rstrip("]") for warning in prof.warnings]
    events = events_of(prof)
    occurring = prof.costs[[events.get(kind, 0.0) > 0 for kind in prof.costs["kind"]]]
    doubtful = not bool(occurring["identified"].all())
    return doubtful or any(slug in ABOUT_CORRECTION for slug in slugs)


def simulated(seed: int, load: str) -> Seen:
    """A loop of a hundred operations that cost 2.8 us each, in the simulator."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from simulator import Call, Simulation, Work, lognormal

    operation = Call(Level.LAYER, (Work(1_200),), EventKind.FUNCTIONAL)
    program, true = (operation, Work(300)) * 100, Costs(functional_ns=2_800)
    ladder = [RunSpec((Level.MODEL,)), RunSpec((Level.MODEL, Level.LAYER))]
    away, rounds = random.Random(seed), []
    for number in range(20):
        runs = [
            Simulation(
                program,
                true,
                frozenset(rung.levels),
                price_noise=lognormal(1_000 * seed + 10 * number + place, 0.2),
                noise=lognormal(1_000 * seed + 10 * number + place + 5, 0.05),
            )
            for place, rung in enumerate(ladder)
        ]
        # On a busy host the processor is away for 4 ms in every 8.
        waits = [
            sum(4e6 for _ in range(4) if away.random() < run.latency_ns / 16e6) for run in runs
        ]
        latency = {
            rung: run.latency_ns + (wait if load == "busy" else 0.0)
            for rung, run, wait in zip(ladder, runs, waits, strict=True)
        }
        rounds.append(Round((runs[1].timeline(),), latency))
    begun = time.perf_counter()
    fit = fit_costs(rounds)
    (closure,) = closure_by_rung(fit).values()
    shares = mostly_tracing(fit.problem.evidence.timelines, fit.costs)
    return Seen(
        off={"M/L": fit.costs.functional_ns / true.functional_ns - 1},
        flagged=not closure.by_chance or closure.fails or not fit.costs.identified["functional_ns"],
        nothing=int(shares["functional_ns"] > 0.5),
        layers=1,
        closes=closure.by_chance,
        used=not closure.fails,
        rounds=len(rounds),
        rounds_s=sum(sum(one.latency_ns.values()) for one in rounds) / 1e9,
        wall_s=None,
        fit_s=time.perf_counter() - begun,
        analysis_s=0.0,
    )


def summary(seen: list[Seen]) -> dict[str, Any]:
    off = [abs(value) for one in seen for value in one.off.values()]
    return {
        "profiles": len(seen),
        "wrong": sum(one.wrong for one in seen),
        "wrong_unflagged": sum(one.wrong and not one.flagged for one in seen),
        "wrong_used": sum(one.wrong and one.used for one in seen),
        "flagged": sum(one.flagged for one in seen),
        "not_used": sum(not one.used for one in seen),
        "not_fitted": sum(one.closes is None for one in seen),
        "closes_within_interval": sum(bool(one.closes) for one in seen),
        "layers": sum(one.layers for one in seen),
        "layers_corrected_to_nothing": sum(one.nothing for one in seen),
        "median_off": round(float(np.median(off)), 4) if off else None,
        "largest_off": round(max(off), 4) if off else None,
        "rounds_s": round(float(np.median([one.rounds_s for one in seen])), 3),
        "wall_over_runs": _wall_over_runs(seen),
        "fit_s": round(float(np.median([one.fit_s for one in seen])), 3),
        "analysis_s": round(float(np.median([one.analysis_s for one in seen])), 3),
    }


def _wall_over_runs(seen: list[Seen]) -> float | None:
    """Of the whole measuring, over its rounds' runs, of which every second one settles."""
    ratios = [one.wall_s / (2 * one.rounds_s) for one in seen if one.wall_s is not None]
    return round(float(np.median(ratios)), 2) if ratios else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="for each program under each load"
    )
    parser.add_argument("--programs", nargs="+", default=["simulated", *PROGRAMS])
    parser.add_argument("--loads", nargs="+", default=["quiet", "busy"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "device": options.device,
        "cores": cores(),
        "torch": torch.__version__,
        "results": {},
    }
    if options.json and options.json.exists():
        report["results"] = json.loads(options.json.read_text())["results"]
    for load in options.loads:
        for program in options.programs:
            with every_core_busy() if load == "busy" else quiet():
                seen = list(seeded(program, load, options))
            found = {"load_average": round(os.getloadavg()[0], 1), **summary(seen)}
            report["results"][f"{program}, {load}"] = found
            print(program, load, json.dumps(found), flush=True)
            if options.json:
                options.json.write_text(json.dumps(report, indent=1) + "\n")


def seeded(program: str, load: str, options: argparse.Namespace) -> Iterator[Seen]:
    """One profile a seed, as many as are begun within `--seconds`."""
    begun = time.monotonic()
    for seed in range(options.seeds):
        if time.monotonic() - begun > options.seconds:
            return
        if program == "simulated":
            yield simulated(seed, load)
        else:
            yield profiled(program, options.device, seed)


@contextmanager
def quiet() -> Iterator[None]:
    yield


if __name__ == "__main__":
    main()
