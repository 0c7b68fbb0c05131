"""The benchmark of counters against Nsight Compute, as far as it needs no GPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import counters as benchmark
import nsight_compute as ncu
import numpy as np
import pandas as pd
import pytest

from xsp.levels.counters.metrics import (
    FLUSHED,
    IN_PLACE,
)

NCU_LOG = """==PROF== Connected to process 18542 (/usr/bin/python3.12)
==PROF== Profiling "fill_kernel" - 0 (1/3): 0%....50%....100% - 1 pass
==PROF== Profiling "gemm" - 1: 0%....50%....100% - {passes}
==PROF== Disconnected from process 18542
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC",\
"dram__bytes_read.sum","dram__bytes_write.sum"
"","","","","","","","","","","","byte","byte"
"0","18542","python3.12","127.0.0.1","void at::native::<unnamed>::fill_kernel<float>(float *, int)","1","7",\
"(128, 1, 1)","(1024, 1, 1)","0","9.0","8,389,120","0"
==WARNING== The next kernel is long
"1","18542","python3.12","127.0.0.1","void cutlass::gemm<(int)128, a::b>(T1::Params)","1","7","(128, 1, 1)",\
"(64, 1, 1)","0","9.0","12345.5","n/a"
"""

READ, WRITE = "dram__bytes_read.sum", "dram__bytes_write.sum"


def test_log_of_nsight_compute_is_read() -> None:
    """Rows stand between lines of the tool's own; thousands have commas, and what is no number is
    unknown.
    """
    table = ncu.parsed(NCU_LOG, (READ, WRITE))
    assert table[READ].tolist() == [8389120.0, 12345.5]
    assert table[WRITE][0] == 0
    assert np.isnan(table[WRITE][1])
    assert [ncu.base_name(name) for name in table[ncu.NAME]] == ["fill_kernel", "gemm"]


def test_log_without_values_says_why() -> None:
    """The tool's own errors are the reason; a metric without a column is named."""
    with pytest.raises(ncu.WitnessError, match="ERR_NVGPUCTRPERM"):
        ncu.parsed("==ERROR== ERR_NVGPUCTRPERM: no permission\n", (READ,))
    with pytest.raises(ncu.WitnessError, match="no column lts__t_bytes"):
        ncu.parsed(NCU_LOG, (READ, "lts__t_bytes.sum"))


def tool(folder: Path, script: str) -> str:
    """A command that stands for ncu: it writes to the file after `--log-file`, which is its
    argument `$log`.
    """
    found = folder / "ncu"
    find_log = 'while [ "$1" != --log-file ]; do shift; done; log="$2"\n'
    found.write_text(f"#!/bin/sh\n{find_log}{script}\n")
    found.chmod(0o755)
    return str(found)


def test_passes_are_those_that_the_tool_reports(tmp_path: Path) -> None:
    """One pass for all kernels, several for some, or the program run again for each."""
    for said, passes in (("1 pass", 1), ("14 passes", 14)):
        (tmp_path / "log").write_text(NCU_LOG.format(passes=said))
        found = ncu.asked(tool(tmp_path, f'cp {tmp_path}/log "$log"'), (READ, WRITE), ["program"])
        assert (found.passes, len(found.table)) == (passes, 2)
        assert found.seconds > 0
    assert ncu.passes('==PROF== Profiling "k": Application replay pass 2\n') == 2
    assert ncu.passes("==PROF== Connected to process 1\n") == 0


def test_tool_that_fails_or_hangs_is_told(tmp_path: Path) -> None:
    """Its exit status with its errors; what does not end is stopped."""
    with pytest.raises(ncu.WitnessError, match=r"failed \(9\): ==ERROR== no such driver"):
        ncu.asked(tool(tmp_path, 'echo "==ERROR== no such driver"; exit 9'), (READ,), ["program"])
    with pytest.raises(ncu.WitnessError, match="did not end within 0 s"):
        ncu.asked(tool(tmp_path, "sleep 60"), (READ,), ["program"], timeout_s=0.2)


def test_agreement_is_over_long_kernels_that_both_have() -> None:
    """Kernels are paired by order and name; short ones and one side's own are left out. An unknown
    count is apart.
    """
    names = ["void a<int>(int)", "b", "(anonymous namespace)::c", "d", "e"]
    ours = pd.DataFrame(
        {ncu.NAME: names, READ: [100.0, 50.0, 0.0, 200.0, 10.0], WRITE: [0.0, 50.0, 0.0, 0.0, 0.0]}
    )
    theirs = pd.DataFrame(
        {
            ncu.NAME: ["a<long>", "x", "b", "<unnamed>::c", "d", "e"],
            READ: [102.0, 7.0, 50.0, 0.0, 300.0, np.nan],
        }
    ).assign(**{WRITE: [0.0, 0.0, 54.0, 0.0, 0.0, 0.0]})
    durations = pd.Series([20_000.0, 20_000.0, 20_000.0, 9_000.0, 20_000.0])
    found = ncu.compared(ours, theirs, (READ, WRITE), durations)
    assert (found["launched"], found["in the same order"]) == ([5, 6], 5)
    # a is 2 % apart, b 3.9 %, c counts nothing, d is short, e is not known.
    assert found["kernels"] == 3
    assert found["within 1%"] == 0
    assert found["within 3%"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["within 10%"] == pytest.approx(2 / 3, abs=1e-4)
    assert not found["95 % within 3 %"]


def test_benchmark_goes_on_without_the_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why a figure is missing stands in its place in the file, which is written after each
    of them.
    """
    written: list[Any] = []

    def counting(name: str) -> str:
        written.append(json.loads((tmp_path / "out.json").read_text())["nsight compute"])
        return f"flops of {name}"

    facts = {"seconds": 2.0, "process_s": 20.0, "measured": 3, "runs": 2}
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(ncu, "glob", lambda _: [])
    monkeypatch.setattr(benchmark, "by_xsp", lambda _: (pd.DataFrame(), facts))
    monkeypatch.setitem(benchmark.STEPS, "flops", {"gpt2": lambda: counting("gpt2")})
    benchmark.run(["time", "flops"], benchmark.Report(tmp_path / "out.json"))
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["nsight compute"]["time"].startswith("failed: ncu is neither in PATH")
    assert figures["nsight compute"]["time of xsp"]["xsp_s"] == 2.0
    assert figures["flops"] == {"gpt2": "flops of gpt2"}
    assert written == [figures["nsight compute"]]


@pytest.mark.parametrize("passes", [1, 4])
def test_benchmark_compares_values_and_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    """Each kind of metric is asked for by itself, and again by application replay where a kernel
    needs passes.
    """
    asked: list[tuple[tuple[str, ...], str]] = []
    metrics = [metric for group in benchmark.COMPARED.values() for metric in group]
    table = pd.DataFrame(
        {ncu.NAME: ["a", "b", "c"], **{metric: [1e6, 2e6, 3e6] for metric in metrics}}
    )
    facts = {
        "seconds": 2.0,
        "process_s": 20.0,
        "measured": 3,
        "runs": 2,
        "spread": {metrics[0]: 0.01},
    }

    def other(
        _: str,
        metrics: tuple[str, ...],
        command: list[str],
        replay: str = "kernel",
        caches: str = IN_PLACE,
    ) -> Any:
        asked.append((metrics, f"{replay}, {caches}"))
        if len(command) > 1:
            Path(command[-1]).write_text("14")
        return ncu.Testimony(table[[ncu.NAME]].assign(**dict.fromkeys(metrics, 2e6)), passes, 70.0)

    monkeypatch.setattr(ncu, "path", lambda: "ncu")
    monkeypatch.setattr(benchmark, "asked", other)
    monkeypatch.setattr(
        benchmark, "by_xsp", lambda *_: (table.assign(**{ncu.DURATION: [5e3, 2e4, 3e4]}), facts)
    )
    monkeypatch.setattr(benchmark, "CHILD", ["true"])
    benchmark.ours.cache_clear()
    report = benchmark.Report(tmp_path / "out.json")
    benchmark.run(["flushed", "values", "time"], report)
    found = json.loads((tmp_path / "out.json").read_text())["nsight compute"]
    assert found["time"]["ncu collection / xsp"] == [7, 0]
    assert found["time"]["ncu process / xsp process"] == [3.5, 0]
    replay = "kernel" if passes == 1 else "application"
    assert asked[0] == (benchmark.TIMED, f"kernel, {IN_PLACE}")
    assert asked[-1] == (benchmark.COMPARED["ffma"], f"{replay}, {IN_PLACE}")
    assert (benchmark.COMPARED["dram bytes"], f"{replay}, {FLUSHED}") in asked
    for label in (*benchmark.COMPARED, "dram bytes, flushed"):
        told = found[label]["xsp and ncu"]
        assert (told["kernels"], told["within 10%"]) == (2, 0.5)
        assert found[label]["replay"] == replay
    for label in benchmark.COMPARED:
        assert found["xsp in another process"][label]["95 % within 3 %"]
    assert found["dram bytes"]["ncu in another process"]["within 1%"] == 1
