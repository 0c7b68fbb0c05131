"""Figures in docs/ are those of the committed results of the benchmarks that gave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import coverage_page
import program_coverage
import pytest
from table_rows import table_rows

ROOT = Path(__file__).parent.parent
WAYS = ("in turn", "in turn, plain rule", "sessions", "stored", "stored, plain rule")


def result(name: str) -> dict[str, Any]:
    """A committed file of benchmarks/results/."""
    found: dict[str, Any] = json.loads(
        (ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8")
    )
    return found


def page(name: str) -> str:
    """A page of docs/."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def power_rows(results: dict[str, Any]) -> str:
    """Rows of docs/compare.md: without a change, then by slow-down."""
    rows = []
    for name, program in results["power"].items():
        found = [("none", rates) for rates in program["false alarms"].values()]
        found += [
            (f"{program['achieved'][asked]:.1%} ({asked})".replace("%", " %"), rates)
            for asked, rates in program["detected"].items()
        ]
        for what, rates in found:
            threshold = f"{100 * rates['threshold']:g} %"
            rows.append(
                [f"{name}: {what}, {threshold}", *(f"{100 * rates[way]:.0f} %" for way in WAYS)]
            )
    return table_rows(rows)


def test_rates_of_verdicts_on_a_gpu() -> None:
    """docs/compare.md has the rates that were measured on an H100, and every bound on them
    was met.
    """
    results = result("regression_power_h100.json")
    assert power_rows(results) in page("compare.md"), (
        f"put these rows into docs/compare.md:\n{power_rows(results)}"
    )
    assert results["environment"]["gpu"] in page("compare.md")
    assert [row["bound"] for row in results["bounds"] if not row["met"]] == []


def test_totals_of_torch_profiler() -> None:
    """docs/exports.md has the ratio of kernel totals that was measured, which was within
    the limit.
    """
    [program] = result("kineto_h100.json")["programs"].values()
    ratio = f"{program['ratio']:.4f} ± {program['half_width_95']:.4f}"
    assert ratio in page("exports.md"), f"docs/exports.md should say {ratio}"
    assert program["within_limit"]
    assert program["same_kernels"]


def interval(error: list[float]) -> str:
    """`+0.3 % (+0.2 to +0.4)` from an error and its interval."""
    return f"{error[0]:+.1f} % ({error[1]:+.1f} to {error[2]:+.1f})"


def closure_rows(results: dict[str, Any]) -> str:
    """Rows of docs/fidelity.md: as recorded, subtracted, replayed at every rung."""
    rows = []
    for name, program in results["programs"].items():
        plain = [
            f"{mean:+.1f} ±{half:.1f} %"
            for mean, half in (program["as_recorded_percent"], program["subtraction_percent"])
        ]
        cells = [
            name,
            program["kind"],
            str(program["rounds"]),
            f"{program['unprofiled_ms']:.2f} ±{program['unprofiled_half_width_percent']:.1f} %",
            *plain,
            *map(interval, program["replay_percent"].values()),
        ]
        rows.append(cells)
    return table_rows(rows)


@pytest.mark.parametrize("name", ["fidelity_h100.json", "fidelity_h100_busy_host.json"])
def test_closure_on_a_gpu(name: str) -> None:
    """docs/fidelity.md has the closure errors of every measured program."""
    results = result(name)
    assert closure_rows(results) in page("fidelity.md"), (
        f"put these rows into fidelity.md:\n{closure_rows(results)}"
    )


def test_bounds_of_closure_that_are_met() -> None:
    """GPU-bound programs close to 1 % at every rung, the others to 3 %; every kernel was under its
    true layer.
    """
    results = result("fidelity_h100.json")
    for program in results["programs"].values():
        bound = 1.0 if program["kind"] == "GPU-bound" else 3.0
        assert all(abs(error) <= bound for error, _, _ in program["replay_percent"].values())
    assert {case["right_percent"] for case in results["attribution"].values()} == {100.0}


def layer_rows(results: dict[str, Any]) -> str:
    """Rows of docs/fidelity.md: layers against events around them alone."""
    rows = []
    for name, program in results["programs"].items():
        for kind, errors in list(program["layers"].items())[:2]:
            if errors["layers"]:
                worst, (error, *_) = next(iter(errors["worst"].items()))
                cells = [
                    f"{name}, {'all' if kind == 'above_50_us' else 'queued'}",
                    str(errors["layers"]),
                    f"{errors['total_percent']:+.1f} %",
                    f"{errors['median_percent']:.1f} %",
                    f"{errors['p95_percent']:.1f} %",
                    f"{worst} {error:+.1f} %",
                ]
                rows.append(cells)
    return table_rows(rows)


def test_layers_alone_on_a_gpu() -> None:
    """docs/fidelity.md has the errors of layers."""
    rows = layer_rows(result("fidelity_h100_layers.json"))
    assert rows in page("fidelity.md"), f"put these rows into docs/fidelity.md:\n{rows}"


def test_what_each_ladder_adds() -> None:
    """docs/decisions.md has what the rungs of both ladders add beside torch.profiler on an H200;
    no rung of one level adds more than torch.profiler does.
    """
    results = result("overhead_h200.json")
    shown = ("M/L/Lib/K", "M/L", "M/Lib", "M/K", "separate ladder")
    columns = ("torch.profiler", *(f"xsp {name}" for name in shown))
    rows = []
    for name, figures in results["programs"].items():
        ratios = [figures[column] for column in columns]
        rows.append([name, *(f"{one['ratio']:.2f} ± {one['half_width_95']:.2f}" for one in ratios)])
        assert figures["xsp separate ladder"]["ratio"] < figures["torch.profiler"]["ratio"]
    means = results["added over torch.profiler, geometric mean"]
    told = [f"{means[column]:.2f}" for column in columns[1:]]
    rows.append(["added over torch.profiler's, geometric mean", "1", *told])
    assert table_rows(rows) in page("decisions.md")
    assert results["environment"]["gpu"] == "NVIDIA H200"


def test_what_commands_take_is_what_was_measured() -> None:
    """The CPU seconds of commands in docs/install.md are those of the benchmark."""
    measured = result("commands_cpu.json")["cpu_s"]
    for name, seconds in measured.items():
        row = f"| `{name}` | {seconds['before']:.2f} | {seconds['now']:.2f} |"
        assert row in page("install.md")


def test_programs_that_are_covered_on_a_gpu() -> None:
    """docs/coverage.md has what was measured on an H200, of every program, and says in bold what is
    not reached.
    """
    results = result("program_coverage_h200.json")
    assert set(results["programs"]) == set(program_coverage.programs("cuda"))
    table = coverage_page.table_of(results)
    assert table in page("coverage.md"), f"put these rows into docs/coverage.md:\n{table}"
    assert results["environment"]["gpu"] == "NVIDIA H200"
    assert bool(coverage_page.not_met(results)) == ("**" in table)


RUNTIMES = (
    'onnxruntime {"optimization": "none"}',
    "torch",
    "torchscript",
    "torch-export",
    'torch-compile {"backend": "aot_eager"}',
    "torch-compile",
)
"""The columns of docs/evaluation.md after the accuracy."""
OWN_SCRIPT = "its own TorchScript"


def accuracy_rows(results: dict[str, Any]) -> str:
    """Rows of docs/evaluation.md: a model, its accuracy, and by runtime the largest difference of
    an output from ONNX Runtime's.
    """
    rows = results["accuracy"]
    lines = []
    for name, own in dict.fromkeys((row["model"], row["form"] == OWN_SCRIPT) for row in rows):
        alike = [row for row in rows if (row["model"], row["form"] == OWN_SCRIPT) == (name, own)]
        measured = [row for row in alike if "accuracy" in row]
        values = [
            f"{metric.replace('_', '-')} {found['value']:.4f}"
            for metric, found in measured[0]["accuracy"].items()
        ]
        told = f"{name}, {OWN_SCRIPT}" if own else f"{name} {measured[0]['version']}"
        cells = [told, str(measured[0]["samples"]), ", ".join(values)]
        lines.append(cells + [difference(alike, name) for name in RUNTIMES])
    return table_rows(lines)


def difference(rows: list[dict[str, Any]], runtime: str) -> str:
    """The largest difference by this runtime, at any batch size; a dash where it was not run."""
    for row in rows:
        if row["runtime"].partition(' {"batch"')[0] == runtime:
            return f"{row['max_difference']:.0e}" if "max_difference" in row else "refused"
    return "–"


def test_accuracy_is_the_same_by_every_runtime() -> None:
    """docs/evaluation.md has what was measured, and no runtime changed any accuracy by more than
    a hundred-thousandth.
    """
    results = result("accuracy.json")
    assert accuracy_rows(results) in page("evaluation.md"), (
        f"put these rows into docs/evaluation.md:\n{accuracy_rows(results)}"
    )
    for row in results["accuracy"]:
        first = next(each for each in results["accuracy"] if each["model"] == row["model"])
        for metric, found in row.get("accuracy", {}).items():
            assert found["value"] == pytest.approx(first["accuracy"][metric]["value"], abs=1e-5)
