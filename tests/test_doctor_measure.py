"""Measured peaks: what `xsp doctor --measure` finds, keeps, and new captures then have."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from quick import measured
from typer.testing import CliRunner

import xsp
from xsp.cli.application import app
from xsp.machine import peak_benchmark
from xsp.machine import peak_file as measured_peaks
from xsp.machine.environment import environment
from xsp.machine.peak_benchmark import Peak, measure_peaks, resources_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder is an empty one, and measuring is short."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(peak_benchmark, "CPU_SIZES", (64, 128))
    monkeypatch.setattr(peak_benchmark, "CPU_BYTES", 1 << 20)
    monkeypatch.setattr(peak_benchmark, "SAMPLE_S", 0.001)
    return tmp_path


def _doctor(*arguments: str) -> str:
    outcome = CliRunner().invoke(app, ["doctor", *arguments], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def test_rates_are_what_a_stopwatch_says() -> None:
    """FLOP/s are 2 n^3 over the time of a product: within what other load on the machine explains
    of a timed loop.
    """
    (found,) = measure_peaks("cpu", ["fp32"], sizes=(256,))
    left = torch.randn(256, 256)
    best = float("inf")
    for _ in range(20):
        begin = time.perf_counter()
        torch.mm(left, left)
        best = min(best, time.perf_counter() - begin)
    assert 0.2 < found.per_s / (2 * 256**3 / best) < 5
    assert found.key == "fp32_flops_per_s"


def test_precision_of_products_is_put_back() -> None:
    """Measuring tf32 and fp32 leaves the precision that the program had chosen for float32
    products.
    """
    torch.set_float32_matmul_precision("medium")
    try:
        measure_peaks("cpu", ["fp32", "tf32"], sizes=(16,))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_what_has_no_room_is_left_out() -> None:
    """A matrix or an array that does not fit in memory gives no peak and no exception."""
    found = measure_peaks("cpu", ["fp64", "dram"], sizes=(32, 1 << 24), array_bytes=1 << 50)
    assert [(each.resource, each.how) for each in found] == [
        ("fp64", "product of 32 x 32 matrices")
    ]


def test_resources_are_the_fastest_units_of_the_device() -> None:
    """Tensor cores are measured where the GPU has them for a precision; of an unknown device what
    every one has.
    """
    hopper = [
        "fp64",
        "fp64 tensor",
        "fp32",
        "tf32 tensor",
        "fp16",
        "fp16 tensor",
        "bf16",
        "bf16 tensor",
        "int8 tensor",
    ]
    expected = ["fp64 tensor", "fp32", "tf32 tensor", "fp16 tensor", "bf16 tensor", "dram"]
    assert resources_of(hopper, "cuda") == expected
    assert resources_of(["fp64", "fp32", "fp16", "fp16 tensor"], "cuda") == [
        "fp64",
        "fp32",
        "fp16 tensor",
        "dram",
    ]
    assert resources_of([], "cuda") == resources_of([], "cpu") == ["fp64", "fp32", "dram"]


def test_doctor_measures_keeps_and_shows(cache: Path) -> None:
    """`--measure` writes the device's peaks to the user's cache folder; later `xsp doctor` shows
    them.
    """
    assert "measured" not in _doctor().partition("peaks")[2].replace("measures", "")
    said = _doctor("--measure")
    kept = json.loads((cache / "xsp" / "measured_peaks.json").read_text())
    (device,) = kept
    assert device == measured_peaks.device_key(environment())
    assert {"fp32_flops_per_s", "fp64_flops_per_s", "dram_bytes_per_s"} <= set(kept[device])
    assert "copy of arrays" in said or "triad of arrays" in said
    assert f"{kept[device]['dram_bytes_per_s'] / 1e9:.4g} GB/s measured" in _doctor()


def test_new_captures_have_measured_peaks() -> None:
    """A profile's environment and its table of peaks have what was measured on its device, and
    nothing else's.
    """
    measured_peaks.keep_peaks("another GPU, driver 1", {"fp32_flops_per_s": 1.0})
    measured_peaks.keep_peaks(
        measured_peaks.device_key(environment()),
        {"fp32_flops_per_s": 2e12, "dram_bytes_per_s": 1e10},
    )
    prof = measured(torch.neg, torch.ones(2))
    assert prof.environment["measured_peaks"] == {
        "fp32_flops_per_s": 2e12,
        "dram_bytes_per_s": 1e10,
    }
    from xsp.analysis.peaks import peaks

    table = peaks(prof)
    found = table[table["source"] == "measured"].set_index("resource")["per_s"]
    assert found.to_dict() == {"fp32": 2e12, "dram": 1e10}


def test_peaks_belong_to_a_gpu_with_its_driver() -> None:
    """With another driver or GPU, peaks are not those that were measured."""
    facts = {
        "gpu": "NVIDIA H100 80GB HBM3",
        "driver": "580.159",
        "cpu": "a CPU",
        "torch_threads": 8,
    }
    measured_peaks.keep_peaks(measured_peaks.device_key(facts), {"dram_bytes_per_s": 3e12})
    assert measured_peaks.read_peaks(measured_peaks.device_key(facts)) == {"dram_bytes_per_s": 3e12}
    assert measured_peaks.read_peaks(measured_peaks.device_key(facts | {"driver": "600.1"})) == {}


@pytest.mark.parametrize("content", ["", "[1]", '{"device": 3}', "\x00"])
def test_damaged_file_is_as_none(cache: Path, content: str) -> None:
    """A damaged file neither stops a measurement nor gives peaks, and is replaced by the next
    `--measure`.
    """
    (cache / "xsp").mkdir()
    measured_peaks.path().write_text(content)
    assert measured_peaks.read_peaks("device") == {}
    measured_peaks.keep_peaks("device", {"fp32_flops_per_s": 1.0})
    assert measured_peaks.read_peaks("device") == {"fp32_flops_per_s": 1.0}


def test_folder_that_cannot_be_written_is_said(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file cannot be kept the peaks are still shown, with a sentence."""
    (cache / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    said = _doctor("--measure")
    assert "nowhere" in said
    assert "XDG_CACHE_HOME" in said
    assert "GB/s measured" in said


def test_keys_are_those_of_the_analysis() -> None:
    """A peak's key is read back as its resource by `xsp.analysis.peaks`."""
    from captures import gpu_capture

    from xsp.analysis.peaks import peaks

    every = [Peak("fp16 tensor", 8e14, ""), Peak("dram", 3e12, "")]
    facts = gpu_capture().meta["environment"] | {
        "measured_peaks": {each.key: each.per_s for each in every}
    }
    table = peaks(xsp.Profile(gpu_capture(environment=facts)))
    found = table[table["source"] == "measured"].set_index("resource")["per_s"]
    assert found.to_dict() == {"fp16 tensor": 8e14, "dram": 3e12}
