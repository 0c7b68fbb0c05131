"""What the table shows, in words; every number comes from the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from evaluation_rows import BATCHED, ONLINE, POISSON, SCENARIOS, Key
from scipy import stats

from xsp.evaluation.records.evaluation import Evaluation

ByKey = Mapping[Key, Mapping[str, Evaluation]]
EAGER = "torch"
FEWEST = 3
"""Models that a sentence about them needs."""
NEAR = 0.8
"""A share of the most that counts as near to it."""
NAMED = 6
"""Models that a sentence names at most."""


def findings(found: ByKey, rows: pd.DataFrame) -> Iterator[str]:
    """What the rows show, a sentence each."""
    yield from _counts(found, rows)
    yield from _early_stopping(found)
    for _, on_device in rows.groupby("device", sort=False):
        runtimes = on_device.groupby("predictor", sort=False)
        tables = {str(name): some.set_index("model") for name, some in runtimes}
        for predictor, some in tables.items():
            name = f"{predictor} on {some['device'].iloc[0]}"
            yield from _range_of(name, some)
            yield from _batches(name, some)
            yield from _waiting(name, some)
            yield from _beside_the_paper(name, some)
        for predictor, some in tables.items():
            if predictor != EAGER and EAGER in tables:
                yield from _beside_eager(predictor, tables[EAGER], some)
    yield from _onnx_runtime(found)


def _counts(found: ByKey, rows: pd.DataFrame) -> Iterator[str]:
    for (predictor, device), some in rows.groupby(["predictor", "device"], sort=False):
        keys = [(str(model), str(predictor), str(device)) for model in some["model"]]
        whole = sum(set(SCENARIOS) <= set(found[key]) for key in keys)
        tests = [each.outcome.valid for key in keys for each in found[key].values()]
        yield (
            f"{predictor} on {device}: {_models(len(some))}, {whole} of them under all three "
            f"scenarios; {sum(tests)} of {len(tests)} tests are valid."
        )


def _models(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"


def _early_stopping(found: ByKey) -> Iterator[str]:
    online = [each[ONLINE].outcome for each in found.values() if ONLINE in each]
    if online:
        fewest = min(len(each.samples) for each in online)
        yield (
            f"Online: {fewest} queries and more; early stopping (MLPerf) discards what 99 % "
            "confidence lets it, and the p90 that it states so is `p90 at most`."
        )
    poisson = [each[POISSON].outcome for each in found.values() if POISSON in each]
    if poisson:
        fewest = min(len(each.samples) for each in poisson)
        valid = sum(each.valid for each in poisson)
        shares = sorted({float(each.settings["percentile"]) for each in poisson})
        told = " or ".join(f"p{share:g}" for share in shares)
        yield (
            f"Poisson: {fewest} queries and more; in {valid} of {len(poisson)} tests early "
            f"stopping says with 99 % confidence that {told} is within the bound, which is 20 "
            "latencies of one input. Where a percentile is a dash there were too few queries for "
            "it."
        )


def _range_of(name: str, rows: pd.DataFrame) -> Iterator[str]:
    alone = rows["online_tm_ms"].dropna()
    if len(alone) < FEWEST:
        return
    yield (
        f"One input takes {name} from {alone.min():.3g} ms ({alone.idxmin()}) to "
        f"{alone.max():.3g} ms ({alone.idxmax()}), {alone.median():.3g} ms in the median model."
    )
    for other, what in (
        ("weights_mb", "the size of the weights"),
        ("most_inputs_per_s", "the most inputs a second in batches"),
    ):
        both = rows[[other, "online_tm_ms"]].dropna()
        if len(both) >= FEWEST and both[other].nunique() > 1:
            rank = float(stats.spearmanr(both[other], both["online_tm_ms"]).statistic)
            yield (
                f"For {name} that latency and {what} have a rank correlation (Spearman) of "
                f"{rank:.2f} over {len(both)} models."
            )


def _batches(name: str, rows: pd.DataFrame) -> Iterator[str]:
    gain = (rows["most_inputs_per_s"] * rows["online_tm_ms"] / 1e3).dropna()
    if len(gain) < FEWEST:
        return
    sizes = rows["optimal_batch"].dropna().astype(int).value_counts().sort_index()
    told = ", ".join(f"{size} ({_models(count)})" for size, count in sizes.items())
    growing = int((rows["optimal_batch"].isna() & rows["most_inputs_per_s"].notna()).sum())
    if growing:
        told += f", and beyond the largest that was tried ({_models(growing)})"
    yield (
        f"Batches bring {name} {gain.median():.3g} times the inputs a second of one after another "
        f"in the median model, {gain.min():.3g} ({gain.idxmin()}) to {gain.max():.3g} times "
        f"({gain.idxmax()}); the optimal batch, whose doubling brings no more than 5 %, is {told}. "
        f"{_sure_to(rows)}"
    )
    moved = (rows["most_inputs_per_s"] * rows["input_mb"] / 1e3).dropna()
    near = moved[moved >= NEAR * moved.max()]
    yield (
        f"At its best batch {name} takes {moved.min():.3g} to {moved.max():.3g} GB of inputs a "
        f"second out of the host's memory; {_models(len(near))} within {1 - NEAR:.0%} of the most "
        f"({_named(near)}), whose throughput copying may bound."
    )


def _sure_to(rows: pd.DataFrame) -> str:
    """How well the throughput is known, in a sentence."""
    half = (rows["most_inputs_high_per_s"] - rows["most_inputs_low_per_s"]) / 2
    share = (half / rows["most_inputs_per_s"]).dropna()
    return (
        f"Half of the 95 % interval of the most inputs a second is {share.median():.0%} in the "
        f"median model, {share.max():.0%} in the widest."
    )


def _named(some: pd.Series[Any]) -> str:
    names = [str(each) for each in some.index[:NAMED]]
    more = len(some) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _waiting(name: str, rows: pd.DataFrame) -> Iterator[str]:
    kept_up = rows[~rows["not_valid"].str.contains(POISSON)]
    for load, some in kept_up.groupby(kept_up["poisson_load"].round(1)):
        longer = (some["poisson_p50_ms"] / some["online_tm_ms"]).dropna()
        if len(longer) < FEWEST:
            continue
        widths = [
            f"p{share}: {len(half)} models, {half.median():.0%} in the median one"
            for share in (50, 90)
            if len(half := _half_width(some, f"poisson_p{share}")) >= FEWEST
        ]
        yield (
            f"Under Poisson arrivals at {load:.0%} of that rate p50 of {name} is "
            f"{longer.median():.3g} times as long as one input alone in the median model, "
            f"{longer.min():.3g} to {longer.max():.3g} times (the {len(longer)} models whose test "
            f"is valid). Half of the 95 % interval is known of {'; of '.join(widths)}."
        )
    slower = (rows["poisson_call_ms"] / rows["online_tm_ms"]).dropna()
    if len(slower) >= FEWEST:
        yield (
            f"A call of {name} alone, without waiting, takes under these arrivals "
            f"{slower.median():.3g} times as long as online in the median model, "
            f"{slower.min():.3g} ({slower.idxmin()}) to {slower.max():.3g} ({slower.idxmax()}): "
            "what the machine's host does changes by as much between two tests, so of a single "
            "model smaller differences say little."
        )


def _half_width(rows: pd.DataFrame, name: str) -> pd.Series[Any]:
    """Half of an interval over its middle value, where it is known."""
    half = (rows[f"{name}_high_ms"] - rows[f"{name}_low_ms"]) / 2
    return (half / rows[f"{name}_ms"]).dropna()


def _beside_eager(predictor: str, eager: pd.DataFrame, other: pd.DataFrame) -> Iterator[str]:
    for column, what, sign in (
        ("online_tm_ms", "one input after another", 1),
        ("most_inputs_per_s", "in batches", -1),
    ):
        faster = ((eager[column] / other[column]) ** sign).dropna()
        if len(faster) < FEWEST:
            continue
        slower = faster[faster < 1]
        said = (
            f"slower for {_models(len(slower))} ({_named(slower)})" if len(slower) else "no slower"
        )
        yield (
            f"{predictor} is {_mean(faster):.3g} times as fast as {EAGER} {what} (geometric mean "
            f"of {len(faster)} models; {faster.min():.3g} for {faster.idxmin()} to "
            f"{faster.max():.3g} for {faster.idxmax()}; {said})."
        )


def _mean(ratios: pd.Series[Any]) -> float:
    """Geometric."""
    return float(np.exp(np.log(ratios).mean()))


def _beside_the_paper(name: str, rows: pd.DataFrame) -> Iterator[str]:
    if rows["device"].iloc[0] == "cpu":
        return
    theirs = rows[rows["paper"].astype(bool)]
    online = (theirs["paper_tm_ms"] / theirs["online_tm_ms"]).dropna()
    batched = (theirs["most_inputs_per_s"] / theirs["paper_per_s"]).dropna()
    if min(len(online), len(batched)) < FEWEST:
        return
    yield (
        f"Beside the paper's V100 (TensorFlow) {name} answers one input {_mean(online):.3g} times "
        f"as fast (geometric mean of the {len(online)} models that both have; {online.min():.3g} "
        f"for {online.idxmin()} to {online.max():.3g} for {online.idxmax()}) and "
        f"{_mean(batched):.3g} times as many in batches ({batched.min():.3g} for "
        f"{batched.idxmin()} to {batched.max():.3g} for {batched.idxmax()})."
    )


def _onnx_runtime(found: ByKey) -> Iterator[str]:
    there = {
        each.system.get("labels", {}).get("onnxruntime")
        for scenarios in found.values()
        for each in scenarios.values()
    }
    for build in sorted(filter(None, there)):
        on_gpu = "CUDAExecutionProvider" in build
        yield f"ONNX Runtime on the machine: {build}" + (
            "." if on_gpu else "; it runs nothing on a GPU, so it has no row for one."
        )


LEGEND = (
    "`ms` is the mean latency of one input after another, without the longest and shortest fifth; "
    "`p90 at most` is what early stopping states of p90 with 99 % confidence; `inputs/s` the most "
    "over batch sizes, `batch` the optimal one (a dash: beyond the largest that was tried, or not "
    "tried). `Poisson load` is the rate of arrivals over that of one input after another, `call "
    "ms` the median time of a call there without waiting, `held` the percentile that early "
    "stopping shows to be within the bound. In brackets are 95 % intervals. Columns come from the "
    f"scenarios {ONLINE}, {BATCHED} and {POISSON}. A call takes its inputs out of the host's "
    "memory and brings its outputs back there. Weights are random."
)
