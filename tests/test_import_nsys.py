"""Exports of Nsight Systems as profiles."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from imported import nodes
from typer.testing import CliRunner

import xsp
import xsp.analysis
from xsp.cli.application import app

CAPTURES = Path(__file__).parent.parent / "examples" / "captures"

NSYS_TABLES = """
CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER NOT NULL,
  globalTid INTEGER, correlationId INTEGER, nameId INTEGER NOT NULL, returnValue INTEGER NOT NULL, callchainId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
  contextId INTEGER NOT NULL, greenContextId INTEGER, streamId INTEGER NOT NULL, correlationId INTEGER,
  globalPid INTEGER, demangledName INTEGER NOT NULL, shortName INTEGER NOT NULL, mangledName INTEGER,
  launchType INTEGER, registersPerThread INTEGER NOT NULL, gridX INTEGER NOT NULL, gridY INTEGER NOT NULL,
  gridZ INTEGER NOT NULL, blockX INTEGER NOT NULL, blockY INTEGER NOT NULL, blockZ INTEGER NOT NULL,
  staticSharedMemory INTEGER NOT NULL, dynamicSharedMemory INTEGER NOT NULL, graphNodeId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
  contextId INTEGER NOT NULL, streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER,
  bytes INTEGER NOT NULL, copyKind INTEGER NOT NULL, srcKind INTEGER, dstKind INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMSET (start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL,
  contextId INTEGER NOT NULL, streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER,
  value INTEGER NOT NULL, bytes INTEGER NOT NULL, memKind INTEGER);
CREATE TABLE NVTX_EVENTS (start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL, rangeId INTEGER,
  category INTEGER, color INTEGER, text TEXT, globalTid INTEGER, endGlobalTid INTEGER, textId INTEGER,
  domainId INTEGER);
CREATE TABLE CUBLAS_EVENTS (start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER NOT NULL,
  globalTid INTEGER, nameId INTEGER NOT NULL);
CREATE TABLE TARGET_INFO_GPU (name TEXT, totalMemory INTEGER, smCount INTEGER, computeMajor INTEGER,
  computeMinor INTEGER);
"""

PROCESS = 77 << 24

THREAD = PROCESS + 78


def nsys_export(path: Path, *, processes: tuple[int, ...] = (PROCESS,)) -> Path:
    """Two iterations of the layers `conv` and `head.fc`: a copy, a set, two kernels and a cuBLAS
    call each.
    """
    strings = {
        1: "cudaLaunchKernel_v7000",
        2: "cudaMemcpyAsync_ptsz_v7000",
        3: "cudaMemsetAsync_v3020",
        4: "cuLaunchKernel",
    }
    strings |= {10: "void conv<float>(float*)", 11: "gemm", 20: "head.fc", 30: "cublasGemmEx"}
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(NSYS_TABLES)
        db.executemany("INSERT INTO StringIds VALUES (?, ?)", strings.items())
        db.execute(
            "INSERT INTO TARGET_INFO_GPU VALUES ('NVIDIA H100 80GB HBM3', 85017493504, 132, 9, 0)"
        )
        for place, process in enumerate(processes):
            for step in range(2 - place):
                _iteration(db, process, 1_000_000 * (step + 1), 10 * (2 * place + step) + 1)
    return path


def _iteration(db: sqlite3.Connection, process: int, start: int, first: int) -> None:
    thread = process + 78
    ranges = [
        (0, 900, "iteration", None),
        (10, 400, "conv", None),
        (410, 800, None, 20),
        (420, None, "open", None),
    ]
    for begin, end, text, number in ranges:
        row = (
            start + begin * 1000,
            None if end is None else start + end * 1000,
            59,
            text,
            thread,
            number,
            0,
        )
        db.execute(
            "INSERT INTO NVTX_EVENTS (start, end, eventType, text, globalTid, textId, domainId) "
            "VALUES (?,?,?,?,?,?,?)",
            row,
        )
    # Not a push/pop range.
    db.execute(
        "INSERT INTO NVTX_EVENTS (start, end, eventType, text, globalTid) VALUES (0, 9, 60, "
        "'start/end', ?)",
        (thread,),
    )
    for place, (begin, name) in enumerate([(20, 2), (100, 3), (200, 1), (500, 4)]):
        bounds = (start + begin * 1000, start + (begin + 10) * 1000)
        db.execute(
            "INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
            (*bounds, 0, thread, first + place, name, 0),
        )
    at = [start + begin * 1000 for begin in (30, 50, 110, 120, 210, 610, 620, 850)]
    db.execute(
        "INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (?,?,0,1,7,?,?,4096,1,0,2)",
        (at[0], at[1], first, process),
    )
    db.execute(
        "INSERT INTO CUPTI_ACTIVITY_KIND_MEMSET VALUES (?,?,0,1,7,?,?,0,64,2)",
        (at[2], at[3], first + 1, process),
    )
    kernel = (
        "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES "
        "(?,?,0,1,NULL,7,?,?,?,?,?,0,40,8,2,1,128,1,1,1024,2048,NULL)"
    )
    db.execute(kernel, (at[4], at[5], first + 2, process, 10, 10, 10))
    db.execute(kernel, (at[6], at[7], first + 3, process, 11, 11, 11))
    db.execute(
        "INSERT INTO CUBLAS_EVENTS VALUES (?, ?, 0, ?, 30)",
        (start + 490_000, start + 600_000, thread),
    )


def test_an_export_of_nsys_is_a_profile(tmp_path: Path) -> None:
    """Kernels hang below library calls, these below NVTX ranges; sizes, shapes and names are those
    of the export.
    """
    prof = xsp.from_nsys(nsys_export(tmp_path / "report.sqlite"), runs="iteration")
    assert len(prof.runs) == 2
    assert set(prof.levels["status"]) == {"traced"}
    tree = nodes(prof).set_index("path")
    assert tree["calls"].to_dict().keys() == {
        "report",
        "report/::conv",
        "report/::conv/memcpy HtoD",
        "report/::conv/memset",
        "report/::conv/void conv<float>(float*)",
        "report/::head.fc",
        "report/::head.fc/cublasGemmEx",
        "report/::head.fc/cublasGemmEx/gemm",
    }
    assert tree.loc["report", "host_ms"] == pytest.approx(0.9)
    assert tree.loc["report/::conv", "device_ms"] == pytest.approx(0.02 + 0.01 + 0.4)
    kernels = prof.table("kernels").set_index("name")
    assert kernels.loc["memcpy HtoD", "bytes"] == 4096
    launched = ["registers_per_thread", "grid_x", "block_x", "dynamic_shared_bytes"]
    assert list(kernels.loc["gemm", launched]) == [
        40,
        8,
        128,
        2048,
    ]
    assert set(prof.table("api_calls")["name"]) == {
        "cudaLaunchKernel",
        "cudaMemcpyAsync",
        "cudaMemsetAsync",
        "cuLaunchKernel",
    }
    assert prof.environment["compute_capability"] == "9.0"
    assert prof.lost == 0


def test_without_runs_an_export_is_one_run(tmp_path: Path) -> None:
    """The whole trace is one run, and the outer range is a module around its layers."""
    prof = xsp.from_nsys(nsys_export(tmp_path / "report.sqlite"))
    assert len(prof.runs) == 1
    assert prof.name == "iteration"
    assert prof.kernel_count == 8


def test_one_process_of_an_export_is_taken(tmp_path: Path) -> None:
    """Of several processes the one with the most GPU activities is imported, and a warning names
    it.
    """
    path = nsys_export(tmp_path / "report.sqlite", processes=(PROCESS, 99 << 24))
    prof = xsp.from_nsys(path, runs="iteration")
    assert len(prof.runs) == 2
    assert any("2 processes; only 77" in warning for warning in prof.warnings)


def changed_export(path: Path, *statements: str) -> Path:
    """An export in which these statements changed something."""
    nsys_export(path)
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)
    return path


def test_graphs_that_were_recorded_as_a_whole_are_counted(tmp_path: Path) -> None:
    """Without `--cuda-graph-trace=node` the kernels of CUDA graphs are missing, and a warning
    counts the launches.
    """
    graphs = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
    path = changed_export(
        tmp_path / "report.sqlite",
        f"CREATE TABLE {graphs} (start INTEGER, end INTEGER, correlationId INTEGER, globalPid "
        "INTEGER)",
        f"INSERT INTO {graphs} VALUES (1300000, 1400000, 2, {PROCESS}), (2300000, 2400000, 12, "
        f"{PROCESS})",
    )
    warnings = xsp.from_nsys(path).warnings
    assert any(
        warning.startswith("2 launches of CUDA graphs were recorded as a whole")
        for warning in warnings
    )


def test_operators_of_emit_nvtx_are_the_same_layers_in_every_run(tmp_path: Path) -> None:
    """Numbers that PyTorch writes behind operators' names part no layers; operators inside
    operators are none.
    """
    names = (
        "aten::linear, seq = {0}, op_id = {0}, sizes = [[2, 8], [], [4, 8]]",
        "aten::addmm, op_id = {0}",
    )
    backward = (
        "autograd::engine::evaluate_function: AddmmBackward0, seq = {0}, op_id = {0}, input_op_ids "
        "= [(1,0)]"
    )
    places = [
        (10, 400, names[0]),
        (20, 390, names[1]),
        (410, 800, backward),
        (5, 850, "my block, op_id = {0}"),
    ]
    path = nsys_export(tmp_path / "report.sqlite")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM NVTX_EVENTS WHERE text IS NOT 'iteration'")
        for step, start in enumerate((1_000_000, 2_000_000)):
            for begin, end, text in places:
                row = (start + begin * 1000, start + end * 1000, text.format(step + 7), THREAD)
                db.execute(
                    "INSERT INTO NVTX_EVENTS (start, end, eventType, text, globalTid) VALUES "
                    "(?,?,59,?,?)",
                    row,
                )
    prof = xsp.from_nsys(path, runs="iteration")
    assert prof.name == "my block"
    known = prof.table("layers").query("kind != 'none'").set_index("name")
    assert known["type"].to_dict() == {
        "::linear": "aten::linear",
        "::AddmmBackward0": "AddmmBackward0",
    }
    assert known["phase"].to_dict() == {"::linear": "forward", "::AddmmBackward0": "backward"}
    assert json.loads(known["input_shapes"]["::linear"]) == [[2, 8], [4, 8]]
    assert prof.tree().query("level == 'LAYER'")["calls"].tolist() == [1, 1]
    assert prof.kernel_count == 4


def test_values_that_nsys_did_not_know_are_unknown(tmp_path: Path) -> None:
    """NULL for a correlation id joins nothing, NULL for a fact about the GPU leaves the
    fact out.
    """
    path = changed_export(
        tmp_path / "report.sqlite",
        "UPDATE CUPTI_ACTIVITY_KIND_RUNTIME SET correlationId = NULL WHERE nameId = 1",
        "UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET correlationId = NULL",
        "UPDATE TARGET_INFO_GPU SET totalMemory = NULL",
    )
    prof = xsp.from_nsys(path)
    assert (prof.kernel_count, prof.lost) == (4, 4)
    assert "gpu_memory_bytes" not in prof.environment
    assert prof.environment["multiprocessors"] == 132


def test_an_export_without_kernels_says_so(tmp_path: Path) -> None:
    """Tables that nsys did not write are levels that are not there."""
    path = nsys_export(tmp_path / "report.sqlite")
    with closing(sqlite3.connect(path)) as db, db:
        for table in (
            "CUPTI_ACTIVITY_KIND_KERNEL",
            "CUPTI_ACTIVITY_KIND_MEMCPY",
            "CUPTI_ACTIVITY_KIND_MEMSET",
            "CUBLAS_EVENTS",
        ):
            db.execute(f"DROP TABLE {table}")
    prof = xsp.from_nsys(path)
    missing = prof.levels[prof.levels["status"] == "unavailable"].set_index("level")["reason"]
    assert sorted(missing.index) == ["KERNEL", "LIBRARY"]
    assert "--trace=cuda" in missing["KERNEL"]
    assert prof.tree()["host_ms"].notna().all()


def test_a_file_that_is_no_export_is_refused(tmp_path: Path) -> None:
    """Missing files, files that are no database, foreign databases and unknown runs give an error
    with a way out.
    """
    with pytest.raises(xsp.CaptureError, match="there is no file"):
        xsp.from_nsys(tmp_path / "x.sqlite")
    (tmp_path / "text.sqlite").write_text(
        "no database, however long this text is made: it has no header"
    )
    with pytest.raises(xsp.CaptureError, match="is not an SQLite export of Nsight Systems"):
        xsp.from_nsys(tmp_path / "text.sqlite")
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as db, db:
        db.execute("CREATE TABLE other (id INTEGER)")
    with pytest.raises(xsp.CaptureError, match="none of the tables"):
        xsp.from_nsys(tmp_path / "other.sqlite")
    changed = changed_export(
        tmp_path / "changed.sqlite", "ALTER TABLE NVTX_EVENTS DROP COLUMN eventType"
    )
    with pytest.raises(
        xsp.CaptureError, match=r"a table of .* lacks what Nsight Systems writes .*eventType"
    ):
        xsp.from_nsys(changed)
    with pytest.raises(
        xsp.CaptureError, match="no NVTX range in the export has a name that begins with 'step'"
    ):
        xsp.from_nsys(nsys_export(tmp_path / "report.sqlite"), runs="step")


def test_a_report_of_nsys_is_not_its_export(tmp_path: Path) -> None:
    """`xsp import` of a report says how to export it."""
    (tmp_path / "report.nsys-rep").write_bytes(b"\0")
    found = CliRunner().invoke(app, ["import", str(tmp_path / "report.nsys-rep")]).exception
    assert isinstance(found, xsp.XspError)
    assert "nsys export --type sqlite report.nsys-rep" in str(found)


def test_command_line_imports_both(tmp_path: Path) -> None:
    """`xsp import` tells the formats apart by their content and writes a capture beside
    the trace.
    """
    export = nsys_export(tmp_path / "report.sqlite")
    done = CliRunner().invoke(app, ["import", str(export), "--runs", "iteration"])
    assert done.exit_code == 0
    assert xsp.load(tmp_path / "report.xsp").kernel_count == 4
    trace = xsp.load(CAPTURES / "h100_transformer.xsp").to_chrome(tmp_path / "trace.json.gz")
    assert CliRunner().invoke(app, ["import", str(trace)]).exit_code == 0
    assert xsp.load(tmp_path / "trace.xsp").name == "GPT2"
    again = CliRunner().invoke(app, ["import", str(trace)])
    assert isinstance(again.exception, xsp.XspError)
    assert "--force" in str(again.exception)
