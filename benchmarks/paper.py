"""XSP's own results measured again: ResNet-50 v1.5 over batch sizes, as captures, as JSON and as
the tables of docs/paper.md.

    python benchmarks/paper.py --folder F --output FILE.json --page docs/paper.md
    python benchmarks/paper.py --folder F --measure-only       # captures alone, on the GPU
    python benchmarks/paper.py --folder F --analyse-only --output FILE.json --page docs/paper.md
    python benchmarks/paper.py --output FILE.json --page-only --page docs/paper.md

The first way of computing, `float32`, is the paper's: no TF32, channels first, algorithms by
cuDNN's heuristics. The others change one thing each, to find what a difference comes from. A
capture is written as soon as it is measured, and what lies in the folder is not measured again, so
that a run that is killed or short of time goes on where it stopped. Weights are random; nothing is
downloaded.

Every way is measured in a process of its own: PyTorch keeps the plan of a convolution for the life
of the process, and `cudnn.benchmark` would find the plans of the runs before it.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paper_page import write_page

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
METRICS = ("flops", "dram", "occupancy")
FAILURES = "failures.json"
MEASURED = "model.json"


@dataclass(frozen=True)
class Way:
    """How the model is computed."""

    tf32: bool = False
    autotuned: bool = False
    channels_last: bool = False


PLAIN = "float32"
WAYS = {
    PLAIN: Way(),
    "tf32": Way(tf32=True),
    "autotuned": Way(autotuned=True),
    "channels_last": Way(channels_last=True),
}


def main() -> None:
    options = _options()
    if not options.analyse_only and not options.page_only:
        _measure_each(options)
    if options.measure_only:
        return
    output = options.output or options.folder / "paper.json"
    if not options.page_only:
        _write(output, _results(options.folder))
    if options.page is not None:
        write_page(json.loads(output.read_text(encoding="utf-8")), options.page)


def _measure_each(options: argparse.Namespace) -> None:
    """Measure every way of computing, the paper's first, each in its own process."""
    if len(options.ways) == 1:
        _measure(options)
        return
    begin = time.monotonic()
    for way in options.ways:
        left = options.budget_s - (time.monotonic() - begin)
        command = [sys.executable, __file__, *sys.argv[1:], "--measure-only"]
        command += ["--ways", way, "--budget-s", str(max(left, 0.0))]
        subprocess.run(command, check=False)


def _measure(options: argparse.Namespace) -> None:
    """Measure what the folder lacks of the ways, while there is time."""
    begin = time.monotonic()
    options.folder.mkdir(parents=True, exist_ok=True)
    _require_same(options.folder, {"model": options.model, "pixels": options.pixels})
    failures = _read(options.folder / FAILURES)
    for way, batch in wanted(options):
        path = capture_path(options.folder, way, batch)
        if path.exists():
            continue
        name, started = f"{way} {batch}", time.monotonic()
        if started - begin + options.reserve_s > options.budget_s:
            print(f"{name} and what follows: not measured, the time is spent", flush=True)
            break
        try:
            profile = _profile(WAYS[way], batch, options)
        except Exception as error:  # one batch size must not take the others with it
            failures[name] = f"{type(error).__name__}: {str(error).strip()[:300]}"
            print(f"{name}: {failures[name]}", flush=True)
        else:
            profile.save(path)
            failures.pop(name, None)
            print(
                f"{name}: {profile.latency_ms:.3f} ± {profile.latency_ci_ms:.3f} ms, "
                f"{profile.kernel_count} kernels, in {time.monotonic() - started:.1f} s",
                flush=True,
            )
        _write(options.folder / FAILURES, failures)
        _let_go(options.device)


def _require_same(folder: Path, measured: Mapping[str, Any]) -> None:
    """Keep what the captures of a folder are of, or end where they are of something else."""
    before = _read(folder / MEASURED)
    if before and before != measured:
        sys.exit(f"{folder} has captures of {before}, not of {measured}: choose another --folder")
    _write(folder / MEASURED, measured)


def wanted(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Ways and batch sizes in the order in which they are measured."""
    for way in options.ways:
        for batch in options.batches if way == PLAIN else options.other_batches:
            yield way, batch


def capture_path(folder: Path, way: str, batch: int) -> Path:
    """Where a capture lies in the folder."""
    return folder / f"{way}_{batch:03}.xsp"


def _profile(way: Way, batch: int, options: argparse.Namespace) -> Any:
    import plain_torchvision  # noqa: F401  (before torchvision)
    import torch
    from torchvision import models

    import xsp
    from xsp.measuring.stopping import until_precise

    torch.manual_seed(0)
    with torch.device(options.device):
        model = models.get_model(options.model, weights=None).eval().requires_grad_(False)
        images = torch.rand(batch, 3, options.pixels, options.pixels)
    if way.channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    metrics = METRICS if options.device == "cuda" else ()
    # As a rule, and not as `budget_s`, the seconds limit the rounds alone: what comes after them is
    # left out of no capture.
    rule = until_precise(budget_s=options.batch_s)
    with _as(way), torch.no_grad():
        return xsp.measure(model, images, stop=rule, metrics=metrics, progress=False)


@contextmanager
def _as(way: Way) -> Iterator[None]:
    """PyTorch's switches as this way of computing has them, inside the block."""
    import torch

    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = way.tf32
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=way.autotuned, deterministic=False, allow_tf32=way.tf32
        ):
            yield
    finally:
        matmul.allow_tf32 = before


def _results(folder: Path) -> dict[str, Any]:
    """What the captures of a folder say, by way of computing and batch size."""
    from paper_rows import capture_row, described, optimal_batch, with_short_names

    import xsp

    rows: dict[str, dict[str, Any]] = {}
    machine: dict[str, Any] = {}
    optimal: dict[str, Any] = {}
    for way in WAYS:
        profiles = {
            int(path.stem.rpartition("_")[2]): xsp.load(path)
            for path in sorted(folder.glob(f"{way}_*.xsp"))
        }
        if profiles:
            ends = {min(profiles), max(profiles)}
            rows[way] = {
                str(batch): capture_row(each, tables=batch in ends)
                for batch, each in profiles.items()
            }
            optimal[way] = optimal_batch(profiles)
            machine = machine or described(next(iter(profiles.values())))
    with_short_names([row for by_batch in rows.values() for row in by_batch.values()])
    return {
        "measured": _read(folder / MEASURED),
        "machine": machine,
        "ways": rows,
        "optimal": optimal,
        "failures": _read(folder / FAILURES),
    }


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """Write the file whole: what stops this leaves the file as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _let_go(device: str) -> None:
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("paper"), help="for the captures")
    parser.add_argument("--output", type=Path, help="the results; by default in the folder")
    parser.add_argument("--page", type=Path, help="write the tables into this page")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--model", default="resnet50", help="a model of torchvision")
    parser.add_argument("--pixels", type=int, default=224, help="height and width of an image")
    parser.add_argument("--ways", type=_ways, default=tuple(WAYS), help=", ".join(WAYS))
    parser.add_argument("--batches", type=_sizes, default=BATCHES, help=f"for {PLAIN}")
    parser.add_argument("--other-batches", type=_sizes, default=(256, 1), help="for the other ways")
    parser.add_argument(
        "--batch-s", type=float, default=5.0, help="seconds for the rounds of each capture"
    )
    parser.add_argument("--budget-s", type=float, default=600.0, help="seconds for this run")
    parser.add_argument(
        "--reserve-s", type=float, default=18.0, help="no capture is begun with less time left"
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--measure-only", action="store_true")
    only.add_argument("--analyse-only", action="store_true", help="from the captures in the folder")
    only.add_argument("--page-only", action="store_true", help="from the results")
    return parser.parse_args(arguments)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def _ways(text: str) -> tuple[str, ...]:
    chosen = tuple(part for part in text.split(",") if part)
    if unknown := [way for way in chosen if way not in WAYS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(WAYS)}")
    return chosen


if __name__ == "__main__":
    main()
