"""Profile the zoo (zoo.py) and ResNet-50 over batch sizes on this machine, then run every analysis
on the captures.

    python benchmarks/models.py --output examples/captures/models --measure-only     # on the
    machine with the GPU python benchmarks/models.py --output examples/captures/models
    --analyse-only     # anywhere

Measuring goes on where it stopped: a model whose capture lies in the folder is not measured again.
One that fails is recorded in models.json and the next one goes on.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SWEEP = "resnet50_by_batch"
SWEPT = "resnet50"
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ROWS = "models.json"
BUNDLED = {
    "gpt2_small_batch_1": ("h100_transformer.xsp", ("language", "examples", "fp16")),
    "resnet50_training_step": ("h100_train_step.xsp", ("training", "examples", "amp")),
}
"""Captures of the examples, which lie beside the folder: file name, then family, source and
precision.
"""
ANALYSES = (
    "model_information",
    "layer_information",
    "layer_latency",
    "layer_memory",
    "layer_type_distribution",
    "layer_latency_by_type",
    "layer_memory_by_type",
    "kernel_information",
    "kernel_roofline",
    "kernels_by_name",
    "kernels_by_layer",
    "layer_metrics",
    "gpu_vs_nongpu",
    "layer_roofline",
    "kernels_by_model",
    "library_calls",
    "library_by_api",
    "kernels_by_library_call",
)
"""The paper's A1 to A15 in order, then those of the library level."""


def main() -> None:
    options = _options()
    options.output.mkdir(parents=True, exist_ok=True)
    if not options.analyse_only:
        _measure(options)
    if not options.measure_only:
        _analyse(options.output)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("examples/captures/models"))
    parser.add_argument(
        "--only", type=_names, default=None, help=f"names, comma-separated; the sweep's is {SWEEP}"
    )
    parser.add_argument("--skip", type=_names, default=())
    parser.add_argument("--iterations", type=int, default=10, help="rounds of each profile")
    parser.add_argument("--batch", type=int, help="batch size of all models instead of their own")
    parser.add_argument(
        "--batches", type=lambda text: [int(part) for part in text.split(",")], default=BATCHES
    )
    parser.add_argument(
        "--metrics", type=_names, help="hardware counters to collect, such as flops,dram"
    )
    parser.add_argument(
        "--warmup-s", type=float, default=2.0, help="seconds at most for a model to warm up"
    )
    parser.add_argument(
        "--budget-s", type=float, default=480.0, help="no model is begun after so many seconds"
    )
    parser.add_argument("--measure-only", action="store_true")
    parser.add_argument("--analyse-only", action="store_true")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def _measure(options: argparse.Namespace) -> None:
    import torch
    from zoo import ZOO

    begin = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = [name for name in (SWEEP, *ZOO) if name not in options.skip]
    if options.only is not None:
        chosen = [name for name in chosen if name in options.only]
    failures: dict[str, str] = _saved(options.output).get("failures", {})
    for name in chosen:
        if time.perf_counter() - begin > options.budget_s:
            print(
                f"{name} and what follows: not measured, {options.budget_s:g} s are spent",
                flush=True,
            )
            break
        if _is_measured(options.output, name):
            continue
        failures.pop(name, None)
        try:
            (_measure_sweep if name == SWEEP else _measure_one)(name, device, options)
        except Exception as error:  # whatever a model raises, the others are to be measured
            failures[name] = f"{type(error).__name__}: {error}"
            print(f"{name}: {failures[name]}", flush=True)
        gc.collect()
        torch.cuda.empty_cache()
        _save(options.output, failures=failures)


def _is_measured(folder: Path, name: str) -> bool:
    return (folder / f"{name}.xsp").exists() or (folder / name / "sweep.json").exists()


def _measuring(options: argparse.Namespace) -> dict[str, Any]:
    more = {"metrics": options.metrics} if options.metrics else {}
    # A third of the budget is the warm-up's; the rounds are counted, so nothing else is limited by
    # it.
    return {
        "iterations": options.iterations,
        "budget_s": 3 * options.warmup_s,
        "progress": False,
        **more,
    }


def _measure_one(name: str, device: str, options: argparse.Namespace) -> None:
    import torch
    from zoo import ZOO, modes, target

    import xsp

    torch.manual_seed(0)
    begin = time.perf_counter()
    entry = ZOO[name]
    model, inputs = target(entry, options.batch or entry.batch, device)
    built = time.perf_counter()
    args, kwargs = (inputs, {}) if isinstance(inputs, tuple) else ((), inputs)
    with modes(entry, device):
        prof = xsp.measure(model, *args, **kwargs, **_measuring(options))
    path = prof.save(options.output / f"{name}.xsp")
    print(
        f"{name}: {prof.latency_ms:.3f} ms, {prof.kernel_count} kernels, "
        f"{path.stat().st_size / 1e3:.0f} kB, "
        f"built in {built - begin:.1f} s, measured in {time.perf_counter() - built:.1f} s",
        flush=True,
    )


def _measure_sweep(name: str, device: str, options: argparse.Namespace) -> None:
    import torch
    from zoo import ZOO, modes, target

    import xsp

    torch.manual_seed(0)
    entry, begin = ZOO[SWEPT], time.perf_counter()
    with modes(entry, device):
        swept = xsp.sweep(
            lambda batch: target(entry, batch, device), options.batches, **_measuring(options)
        )
    swept.save(options.output / name)
    print(f"{swept}\n{name}: measured in {time.perf_counter() - begin:.1f} s", flush=True)


def captures(folder: Path) -> dict[str, Path]:
    """The captures of a folder by the name of their row: models by name, then the sweep by batch
    size.
    """
    found = {path.stem: path for path in sorted(folder.glob("*.xsp"))}
    beside = {name: folder.parent / file for name, (file, _) in BUNDLED.items()}
    found |= {name: path for name, path in beside.items() if path.exists()}
    swept = {f"{SWEPT} batch {value}": path for value, path in _swept(folder).items()}
    return found | swept


def _swept(folder: Path) -> dict[int, Path]:
    manifest = folder / SWEEP / "sweep.json"
    entries = json.loads(manifest.read_text())["entries"] if manifest.exists() else []
    return {
        entry["value"]: folder / SWEEP / entry["capture"] for entry in entries if "capture" in entry
    }


def _analyse(folder: Path) -> None:
    sizes = {path: value for value, path in _swept(folder).items()}
    rows: dict[str, Any] = {}
    failures = _saved(folder).get("failures", {})
    for name, path in captures(folder).items():
        begin = time.perf_counter()
        swept = {"value": sizes[path]} if path in sizes else {}
        try:
            rows[name] = swept | row_of(name, path, SWEPT if swept else name)
        except Exception as error:  # the other captures are to be analysed
            failures[name] = f"{type(error).__name__}: {error}"
        failed = rows[name]["failures"] if name in rows else failures[name]
        print(f"{name}: analysed in {time.perf_counter() - begin:.1f} s {failed or ''}", flush=True)
    _save(folder, rows=rows, failures=failures)


def row_of(name: str, path: Path, entry: str) -> dict[str, Any]:
    """Everything the tables need of one capture of a model of the zoo, and how every analysis fared
    with it.
    """
    import xsp
    from xsp import analysis

    prof = xsp.load(path)
    lines, failures = {}, {}
    for each in ANALYSES:
        try:
            lines[each] = len(getattr(analysis, each)(prof))
        except Exception as error:  # what fails is what this is to find out
            failures[each] = f"{type(error).__name__}: {error}"
    summary = json.loads(
        analysis.compare_models({name: prof}).to_json(orient="records", double_precision=15)
    )[0]
    facts = prof.environment
    family, source, precision = _described(entry)
    versions = f"torch {facts['torch']}" + (
        f", driver {facts['driver']}" if facts.get("driver") else ""
    )
    return {
        "family": family,
        "source": source,
        "precision": precision if "gpu" in facts else "fp32",
        "device": f"{facts.get('gpu') or facts.get('cpu')}, {versions}",
        "capture_bytes": path.stat().st_size,
        "rounds": int(prof.runs["round"].nunique()),
        "lines": lines,
        "failures": failures,
        "warnings": prof.warnings,
        "summary": summary,
    }


def _described(entry: str) -> tuple[str, str, str]:
    """Family, source and precision of a model."""
    from zoo import ZOO

    if entry in BUNDLED:
        return BUNDLED[entry][1]
    return ZOO[entry].family, ZOO[entry].source, ZOO[entry].precision


def _saved(folder: Path) -> dict[str, Any]:
    path = folder / ROWS
    return json.loads(path.read_text()) if path.exists() else {}


def _save(folder: Path, **parts: Mapping[str, Any]) -> None:
    (folder / ROWS).write_text(json.dumps(_saved(folder) | parts, indent=1) + "\n")


if __name__ == "__main__":
    main()
