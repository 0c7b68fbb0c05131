"""What analysing a capture takes, by its spans: `tree()`, repr, report, Perfetto, compare.

The captures are the bundled one of a transformer (four levels, recorded on an H100) with its rounds
repeated, at most a hundred as a profile has, and then the work of each run; or fewer of its rounds.
Every size runs in a process of its own, whose peak memory is its own; `loaded_bytes` is the peak
before the first analysis. `from_disk` is `tree_from_file` of the same capture as a file, which is
not read whole.

`same_trace` has what tools take for one trace file, from opening it to a table: xsp
(`from_kineto(...).tree()`) and Holistic Trace Analysis (`get_gpu_kernel_breakdown`), where it is
installed, of the bundled trace of an H100; and `key_averages`, torch.profiler's own from the events
that it has in memory, beside xsp from the file that it writes of them, of a loop on the CPU.

    python benchmarks/analysis.py [--sizes 10000 100000 1000000] [--files 1000000]
        [--torch 10000 100000] [--json F]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from large_captures import CAPTURE, repeated, save

import xsp
from xsp.analysis.from_disk import tree_from_file

EXAMPLES = Path(__file__).parent.parent / "examples"
TRACE = EXAMPLES / "traces" / "h100_resnet50.torch_profiler.json.gz"
TIME_LIMIT_S = 600


def peak_bytes() -> int:
    """The greatest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Seconds of the wall and of the processor that it takes, those of processes that it starts and
    ends among them, and the peak of memory after it.
    """
    wall, processor = time.perf_counter(), sum(os.times()[:4])
    work()
    return {
        "seconds": time.perf_counter() - wall,
        "processor_s": round(sum(os.times()[:4]) - processor, 2),
        "peak_bytes": peak_bytes(),
    }


def again(work: Callable[[], object]) -> dict[str, float]:
    """The same of a second time, when all that is imported on the way is there."""
    work()
    return timed(work)


def measured(spans: int) -> dict[str, Any]:
    """All figures of one size, in this process."""
    prof, other = repeated(spans), xsp.load(CAPTURE)
    found: dict[str, Any] = {"spans": len(prof.table("raw_spans")), "loaded_bytes": peak_bytes()}
    with tempfile.TemporaryDirectory() as folder:
        page, trace = Path(folder) / "page.html", Path(folder) / "trace.pftrace"
        steps: dict[str, Callable[[], object]] = {
            "corrected": lambda: prof.corrected,
            "tree": prof.tree,
            "repr": lambda: repr(prof),
            "perfetto": lambda: prof.to_perfetto(trace),
            "report": lambda: prof.to_html(page),
            "compare": lambda: xsp.compare(prof, other),
        }
        for name, step in steps.items():
            found[name] = timed(step)
            print(spans, name, found[name], file=sys.stderr, flush=True)
        found["page_bytes"], found["trace_bytes"] = page.stat().st_size, trace.stat().st_size
    found["rows"] = len(prof.tree())
    found["lines"] = len(repr(prof).splitlines())
    return found


def of_torch(events: int) -> dict[str, Any]:
    """`key_averages` of torch.profiler for about so many operators, and xsp's table of its file."""
    import torch

    x = torch.zeros(4)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(events):
            x.add_(1.0)
    averages = timed(profile.key_averages)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        table = timed(lambda: xsp.from_kineto(trace).tree())
    facts = {"events": len(profile.events()), "torch": str(torch.__version__)}
    return {**facts, "key_averages": averages, "xsp": table}


def of_file(spans: int) -> dict[str, Any]:
    """`tree_from_file` of a capture of about so many spans, in a process that holds no other."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.xsp"
        subprocess.run([sys.executable, __file__, "--save", str(spans), str(path)], check=True)
        tree = timed(lambda: tree_from_file(path, max_bytes=1 << 32))
        return {"spans": spans, "file_bytes": path.stat().st_size, "from_disk": tree}


def of_trace(_: int) -> dict[str, Any]:
    """What xsp and, if it is installed, Holistic Trace Analysis take for the bundled trace."""

    def tree() -> None:
        xsp.from_kineto(TRACE).tree()

    found: dict[str, Any] = {"trace": TRACE.name, "xsp": again(tree)}
    try:
        from hta.trace_analysis import TraceAnalysis  # type: ignore[import-not-found] # optional
    except ImportError as error:
        return {**found, "hta": f"not installed: {error}"}

    def breakdown() -> None:
        analysis = TraceAnalysis(trace_files={0: str(TRACE)}, trace_dir=str(TRACE.parent))
        analysis.get_gpu_kernel_breakdown(visualize=False)

    return {**found, "hta": again(breakdown)}


def apart(kind: str, size: int) -> dict[str, Any]:
    """Of a process of its own; without figures where it does not end in time or memory."""
    command = [sys.executable, __file__, f"--{kind}", str(size)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIME_LIMIT_S, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.stderr or b"").decode().strip().splitlines()
        return {"size": size, "failed": f"{type(error).__name__}: {said[-1:]}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


KINDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "one": measured,
    "one-torch": of_torch,
    "one-file": of_file,
    "one-trace": of_trace,
}
"""What a process of its own measures, by option."""


def facts() -> dict[str, Any]:
    """What it ran on."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pandas": pd.__version__,
        "xsp": xsp.__version__,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": list(os.getloadavg()),
    }


def main() -> None:
    """Measure all sizes and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--torch", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--files", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--save", nargs=2, help=argparse.SUPPRESS)
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.save:
        save(int(given.save[0]), Path(given.save[1]))
        return
    for kind, of_size in KINDS.items():
        if (size := getattr(given, kind.replace("-", "_"))) is not None:
            print(json.dumps(of_size(size)))
            return
    result = {
        "environment": facts(),
        "xsp": [apart("one", size) for size in given.sizes],
        "from_disk": [apart("one-file", size) for size in given.files],
        "same_trace": [apart("one-trace", 0), *(apart("one-torch", size) for size in given.torch)],
    }
    text = json.dumps(result, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
