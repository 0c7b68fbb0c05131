"""Rows of the table, from the database of evaluations alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from evaluation_paper import published

from xsp.database.store import Store
from xsp.evaluation.metrics.estimate import Estimate
from xsp.evaluation.metrics.measured import measured
from xsp.evaluation.records.evaluation import Evaluation
from xsp.evaluation.records.reading import evaluations, read
from xsp.evaluation.scenarios.settings import Server
from xsp.evaluation.scenarios.validity import stopping_estimate_ns

ONLINE, BATCHED, POISSON = "single_stream", "batched", "server"
SCENARIOS = (ONLINE, BATCHED, POISSON)
NAN = float("nan")
Key = tuple[str, str, str]
"""Model, predictor, device."""


def latest(store: Store) -> dict[tuple[str, str, str, str], str]:
    """The newest evaluation by model, predictor, device and scenario."""
    found = evaluations(store)
    keys = zip(found["model"], found["predictor"], found["device"], found["scenario"], strict=True)
    return dict(zip(keys, found["id"], strict=True))


def newest(store: Store) -> dict[Key, dict[str, Evaluation]]:
    """By model, predictor and device, the newest evaluation of each scenario."""
    found: dict[Key, dict[str, Evaluation]] = {}
    for (*key, scenario), id_ in latest(store).items():
        model, predictor, device = key
        found.setdefault((model, predictor, device), {})[scenario] = read(store, id_)
    return found


def table(by_key: Mapping[Key, Mapping[str, Evaluation]]) -> pd.DataFrame:
    """A row for each model on a runtime and device."""
    return pd.DataFrame([dict(_row(key, found)) for key, found in by_key.items()])


def _row(key: Key, found: Mapping[str, Evaluation]) -> Iterator[tuple[str, Any]]:
    model, predictor, device = key
    yield from {"model": model, "predictor": predictor, "device": device}.items()
    metrics = {name: measured(each.outcome) for name, each in found.items()}

    def value(scenario: str, metric: str, scale: float = 1.0) -> float:
        return _value(metrics.get(scenario, {}).get(metric), scale)

    sizes = [value(name, "weights_bytes", 1e-6) for name in metrics]
    yield "weights_mb", next((size for size in sizes if not math.isnan(size)), NAN)
    yield "input_mb", _input_bytes(found) / 1e6
    yield "online_tm_ms", value(ONLINE, "latency_trimmed_mean", 1e-6)
    yield "online_p90_ms", value(ONLINE, "latency_p90", 1e-6)
    yield "online_p90_at_most_ms", _at_most_ms(found.get(ONLINE))
    yield "most_inputs_per_s", value(BATCHED, "throughput")
    swept = metrics.get(BATCHED, {}).get("throughput")
    yield "most_inputs_low_per_s", NAN if swept is None else swept.low
    yield "most_inputs_high_per_s", NAN if swept is None else swept.high
    yield "optimal_batch", value(BATCHED, "optimal_batch")
    yield "poisson_per_s", value(POISSON, "throughput")
    yield "poisson_load", _load(found.get(POISSON), value(ONLINE, "latency_trimmed_mean", 1e-9))
    yield "poisson_call_ms", _call_ms(found.get(POISSON))
    yield from _with_interval("poisson_p50", metrics.get(POISSON, {}).get("latency_p50"))
    yield from _with_interval("poisson_p90", metrics.get(POISSON, {}).get("latency_p90"))
    yield "poisson_p99_ms", value(POISSON, "latency_p99", 1e-6)
    yield from _held(found.get(POISSON))
    yield "not_valid", ", ".join(name for name, each in found.items() if not each.outcome.valid)
    yield "doubtful", ", ".join(name for name, each in found.items() if each.doubts)
    theirs = published(model)
    yield "paper", "" if theirs is None else theirs.name
    yield "paper_tm_ms", NAN if theirs is None else theirs.tm_ms
    yield "paper_p90_ms", NAN if theirs is None else theirs.p90_ms
    yield "paper_per_s", NAN if theirs is None else theirs.per_s
    yield "paper_batch", NAN if theirs is None else theirs.batch


def _value(found: Estimate | None, scale: float) -> float:
    return NAN if found is None else found.value * scale


def _load(poisson: Evaluation | None, alone_s: float) -> float:
    """The asked rate over that of one input after another."""
    scenario = None if poisson is None else poisson.manifest.scenario
    return scenario.rate_per_s * alone_s if isinstance(scenario, Server) else NAN


def _call_ms(poisson: Evaluation | None) -> float:
    """Median of what a call took, waiting left out: from when its query had come and the one before
    was answered. Of tests that answer one query a call.
    """
    if poisson is None:
        return NAN
    issued, completed = poisson.outcome.issued_ns, poisson.outcome.completed_ns
    begun = np.maximum(issued[1:], completed[:-1])
    return float(np.median(completed[1:] - begun)) / 1e6


def _with_interval(name: str, found: Estimate | None) -> Iterator[tuple[str, float]]:
    """Milliseconds, and the ends of their 95 % interval."""
    yield f"{name}_ms", _value(found, 1e-6)
    yield f"{name}_low_ms", NAN if found is None else found.low * 1e-6
    yield f"{name}_high_ms", NAN if found is None else found.high * 1e-6


def _input_bytes(found: Mapping[str, Evaluation]) -> int:
    """Of one input, all its tensors together."""
    inputs = next(iter(found.values())).manifest.model.inputs
    return sum(
        np.dtype(each.dtype).itemsize
        * math.prod(size for size in each.shape if isinstance(size, int))
        for each in inputs
    )


def _at_most_ms(online: Evaluation | None) -> float:
    """What p90 is no more than with 99 % confidence, by early stopping."""
    if online is None or not online.outcome.valid:
        return NAN
    outcome = online.outcome
    share = float(outcome.settings.get("percentile", 90.0)) / 100
    return stopping_estimate_ns(outcome.latency_ns[outcome.answered], share) / 1e6


def _held(poisson: Evaluation | None) -> Iterator[tuple[str, float]]:
    """The percentile that early stopping shows to be within the bound, and the bound, where the
    test is valid.
    """
    scenario = None if poisson is None else poisson.manifest.scenario
    if poisson is None or not isinstance(scenario, Server) or not poisson.outcome.valid:
        scenario = None
    yield "poisson_held", NAN if scenario is None else scenario.percentile
    yield "poisson_at_most_ms", NAN if scenario is None else scenario.latency_bound_ms


def online_ms(evaluation: Evaluation) -> float:
    """Trimmed mean of the latency of one input."""
    return measured(evaluation.outcome)["latency_trimmed_mean"].value / 1e6
