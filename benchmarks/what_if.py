"""Findings applied to real models: the predicted gain against the measured one.

Each case profiles a model, predicts what a change would bring (`prof.what_if`), makes the change in
code, and then times both in turn, so that drift of the host and the clocks hits both alike.

    python benchmarks/what_if.py --device cuda --output what_if_h200.json --budget-s 240
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from what_if_cases import Call, Case, Under, cases

import xsp
from xsp.analysis.spans.statistics import trimmed

ROUNDS = 50
TRIES, DRIFT = 3, 0.1
"""How often a case is tried while the latency differs by more than this from the profile's."""


def steady(case: Case, profile_s: float) -> dict[str, Any]:
    """`run`, again where the machine has become faster or slower between profile and timing, or was
    too unsteady for a correction: a host that others share is so for seconds. The last try counts,
    whatever it says.
    """
    for tries in range(1, TRIES + 1):
        try:
            row = run(case, profile_s)
        except xsp.XspError:
            if tries == TRIES:
                raise
            continue
        row["tries"] = tries
        if abs(row["drift"]) < DRIFT:
            break
    return row


def run(case: Case, profile_s: float, rounds: int = ROUNDS) -> dict[str, Any]:
    """Predict, change, and time both in turn.

    What is predicted is a share of the latency. Where the comparison runs on a faster or slower
    host than the profile did (`drift`), the same share of its own latency is expected.
    """
    with torch.no_grad():
        with case.under():
            prof = xsp.measure(
                case.before, *case.args, budget_s=profile_s, progress=False, **case.kwargs
            )
        answer = prof.what_if(**case.changed(prof))
        after = case.after()

        def before() -> Any:
            return case.before(*case.args, **case.kwargs)

        old, new, gain, half = in_turn(before, after, rounds, case.under, case.after_under)
    drift = old / prof.latency_ms
    predicted = answer.gain_ms * drift
    return {
        "kind": case.kind,
        "note": case.note,
        "profile_ms": prof.latency_ms,
        "profile_half_width_ms": prof.latency_ci_ms,
        "gpu_busy_ms": float(prof.tree()["device_ms"].iloc[0]),
        "kernels": int(prof.kernel_count),
        "predicted_of_profile_ms": answer.gain_ms,
        "drift": drift - 1,
        "predicted_gain_ms": predicted,
        "predicted_half_width_ms": answer.half_width_ms * drift,
        "before_ms": old,
        "after_ms": new,
        "measured_gain_ms": gain,
        "measured_half_width_ms": half,
        "same_sign": predicted * gain > 0,
        "within": abs(predicted - gain) <= max(0.2 * abs(gain), 0.1),
    }


def in_turn(
    before: Call, after: Call, rounds: int, under: Under, after_under: Under
) -> tuple[float, float, float, float]:
    """Trimmed means of both in ms, of their difference within rounds, and half of its 95 %
    interval. The order within a round is random.
    """
    random_ = random.Random(0)
    times: dict[str, list[float]] = {"before": [], "after": []}
    calls = {"before": (before, under), "after": (after, after_under)}
    for round_ in range(rounds + 5):
        order = list(calls)
        random_.shuffle(order)
        for name in order:
            call, context = calls[name]
            with context():
                taken = _timed(call)
            if round_ >= 5:
                times[name].append(taken)
    old, new = np.array(times["before"]), np.array(times["after"])
    mean, half = trimmed(old - new)
    return float(trimmed(old)[0]), float(trimmed(new)[0]), float(mean), float(half)


def _timed(call: Call) -> float:
    _wait()
    begin = time.perf_counter_ns()
    call()
    _wait()
    return (time.perf_counter_ns() - begin) / 1e6


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    options = _options()
    from xsp.database.store import Store

    begin = time.monotonic()
    rows: dict[str, Any] = {}
    if options.output.exists():
        rows = json.loads(options.output.read_text(encoding="utf-8"))
    with Store(options.database) as store:
        for name, build in cases(options.device, store).items():
            if name in rows or (options.only and options.only not in name):
                continue
            if time.monotonic() - begin > options.budget_s:
                print(f"the time is spent; {name} and what follows were not run")
                break
            try:
                rows[name] = steady(build(), options.profile_s)
            except Exception as error:  # one case must not take the others with it
                rows[name] = {"error": f"{type(error).__name__}: {str(error).strip()[:300]}"}
            options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {_said(rows[name])}", flush=True)
            gc.collect()
            if options.device == "cuda":
                torch.cuda.empty_cache()
    _summarise(rows)


def _said(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return str(row["error"])
    predicted = f"{row['predicted_gain_ms']:+.3f} ± {row['predicted_half_width_ms']:.3f}"
    measured = f"{row['measured_gain_ms']:+.3f} ± {row['measured_half_width_ms']:.3f}"
    verdict = "within" if row["within"] else "NOT within 20 % or 0.1 ms"
    drift = f"drift {row['drift']:+.0%} at try {row['tries']}"
    said = f"predicted {predicted}, measured {measured} ms of {row['before_ms']:.3f}"
    return f"{said}: {verdict} ({drift})"


def _summarise(rows: Mapping[str, Any]) -> None:
    known = [row for row in rows.values() if "error" not in row]
    signs = sum(row["same_sign"] for row in known)
    within = sum(row["within"] for row in known)
    kinds = len({row["kind"] for row in known})
    print(
        f"{len(known)} findings of {kinds} kinds: {signs} of the same sign, {within} within 20 % "
        f"or 0.1 ms; {len(rows) - len(known)} could not be applied"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/what_if_h200.json"))
    parser.add_argument("--database", default="bounds.sqlite", help="performance database to fill")
    parser.add_argument("--budget-s", type=float, default=240.0, help="no case begins after this")
    parser.add_argument("--profile-s", type=float, default=5.0, help="seconds for a case's rounds")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
