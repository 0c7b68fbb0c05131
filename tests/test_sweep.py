"""Profiles over batch sizes or another parameter."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from captures import gpu_capture, gpu_profile
from quick import LAYERS
from torch import nn
from typer.testing import CliRunner

import xsp
from xsp.cli.application import app
from xsp.sweeping.batch_size import optimal_batch_size
from xsp.sweeping.result import Sweep

OPTIONS: dict[str, Any] = LAYERS
# Table VI of the XSP paper: ResNet50 v1.5 on a V100, latency in ms by batch size.
PAPER = {
    1: 6.21,
    2: 6.83,
    4: 8.51,
    8: 12.80,
    16: 21.90,
    32: 40.03,
    64: 74.03,
    128: 142.89,
    256: 275.05,
}

TARGETS = """
import torch
from torch import nn

def target(batch, width=4):
    if batch == 8:
        raise RuntimeError("CUDA out of memory. Tried to allocate\\nmore")
    return nn.Sequential(nn.Linear(width, width), nn.ReLU()).eval(), torch.ones(batch, width)

def step(batch):
    model = nn.Linear(4, 4)
    return lambda: model(torch.ones(batch, 4)).sum().backward()
"""


def net(batch: int = 2, width: int = 4) -> tuple[nn.Module, torch.Tensor]:
    """A small model in evaluation mode and a batch of inputs."""
    return nn.Linear(width, 3).eval(), torch.ones(batch, width)


def _sweep_of(latencies_ms: dict[int, float]) -> Sweep:
    """A sweep whose profiles have exactly these latencies, in three rounds each."""
    profiles: dict[int | float | str, xsp.Profile] = {}
    for size, latency in latencies_ms.items():
        capture = gpu_capture()
        capture.tables["runs"]["latency_ns"] = int(latency * 1e6)
        profiles[size] = xsp.Profile(capture)
    return Sweep("batch_size", profiles)


def test_interrupt_keeps_the_values_before_it() -> None:
    """Ctrl-C while a later value is prepared ends the sweep with what was measured; before that
    there is nothing.
    """

    def make(batch: int) -> tuple[nn.Module, torch.Tensor]:
        if batch == 2:
            raise KeyboardInterrupt
        return net(batch)

    swept = xsp.sweep(make, [1, 2, 4], **OPTIONS)
    assert list(swept.profiles) == [1]
    assert list(swept.failures) == [2, 4]
    assert all("interrupted" in reason for reason in swept.failures.values())
    with pytest.raises(KeyboardInterrupt):
        xsp.sweep(make, [2, 4], **OPTIONS)


def test_every_batch_size_is_profiled_in_order() -> None:
    """There is a profile for each batch size, of inputs that large, without gradients for a model
    in eval mode.
    """
    seen = []
    swept = xsp.sweep(
        net, (4, 1, 2), after=lambda value, found: seen.append((value, found)), **OPTIONS
    )
    assert list(swept.profiles) == [4, 1, 2]
    assert [prof.table("calls")["batch_size"].iloc[0] for prof in swept.profiles.values()] == [
        4,
        1,
        2,
    ]
    assert seen == list(swept.profiles.items())
    assert swept.failures == {}
    assert all(
        "backward" not in set(prof.table("layers")["phase"]) for prof in swept.profiles.values()
    )


def test_model_information_counts_inputs_by_the_batch_size() -> None:
    """Throughput is the batch size over the latency, also of a training step whose inputs xsp
    cannot see.
    """

    def make(batch: int) -> Any:
        model = nn.Linear(4, 4)
        return lambda: model(torch.ones(batch, 4)).sum().backward()

    swept = xsp.sweep(make, (2, 8), **OPTIONS)
    table = swept.model_information()
    assert table["batch_size"].tolist() == [2, 8]
    profiles = [swept.profiles[size] for size in (2, 8)]
    for row, size, prof in zip(table.to_dict("records"), (2, 8), profiles, strict=True):
        assert row["latency_ms"] == prof.latency_ms
        assert row["throughput_per_s"] == pytest.approx(size / prof.latency_ms * 1e3)
        assert row["latency_per_input_ms"] == pytest.approx(prof.latency_ms / size)


def test_kernels_by_model_has_a_row_for_each_value() -> None:
    """A15 over a sweep carries its parameter: the batch size in its own column, another one in
    front.
    """
    assert _sweep_of({1: 1.0, 2: 1.5}).kernels_by_model()["batch_size"].tolist() == [1, 2]
    over_tokens = Sweep("tokens", {"short": gpu_profile(), "long": gpu_profile()})
    assert (
        over_tokens.kernels_by_model().columns[0]
        == over_tokens.model_information().columns[0]
        == "tokens"
    )
    assert over_tokens.model_information()["tokens"].tolist() == ["short", "long"]


def test_other_parameters_are_passed_by_name() -> None:
    """`over` sweeps a parameter by keyword; such a sweep has no optimal batch size."""
    swept = xsp.sweep(net, over={"width": [3, 5]}, **OPTIONS)
    assert [
        json.loads(p.table("calls")["input_shapes"].iloc[0]) for p in swept.profiles.values()
    ] == [
        [[2, 3]],
        [[2, 5]],
    ]
    with pytest.raises(xsp.TargetError, match="over 'width'"):
        swept.optimal_batch_size()


def test_failed_value_is_kept_with_its_reason_and_the_next_goes_on() -> None:
    """A value whose model raises, for example for want of memory, is a failure of one line; later
    values are there.
    """

    class Hungry(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) == 2:
                raise torch.OutOfMemoryError(
                    "CUDA out of memory. Tried to allocate 2 GiB\nand more"
                )
            return x

    swept = xsp.sweep(lambda batch: (Hungry().eval(), torch.ones(batch, 4)), (1, 2, 4), **OPTIONS)
    assert list(swept.profiles) == [1, 4]
    assert swept.failures == {2: "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"}
    assert "2 failed: OutOfMemoryError" in repr(swept)


def test_targets_are_let_go_between_values() -> None:
    """When the target for a value is made, nothing refers to the one before it, be it measured or
    failed.
    """
    former: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    class Cyclic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.itself = [self]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) == 2:
                raise RuntimeError("no")
            return x * 2

    def make(batch: int) -> Any:
        alive.extend(each() is not None for each in former)
        model, x = Cyclic().eval(), torch.ones(batch, 4)
        former.extend([weakref.ref(model), weakref.ref(x)])
        return model, x

    gc.disable()
    try:
        xsp.sweep(make, (1, 2, 4, 8), **OPTIONS)
    finally:
        gc.enable()
    assert alive == [False] * 12


def test_sweep_of_nothing_but_failures_raises() -> None:
    """Where every value fails, the error names the first reason."""
    with pytest.raises(
        xsp.TargetError, match=r"every value of 'batch_size' failed; the first, 1, with TargetError"
    ):
        xsp.sweep(lambda batch: batch, (1, 2), **OPTIONS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_sizes": ()}, "at least one"),
        ({"batch_sizes": (1, 1)}, "without duplicates"),
        ({"batch_sizes": (0,)}, ">= 1"),
        ({"batch_sizes": (True,)}, ">= 1"),
        ({"over": {"a": [1], "b": [2]}}, "one parameter"),
        ({"over": {"a": [None]}}, "numbers or strings"),
        ({"batch_sizes": (1,), "itertions": 3}, "no option 'itertions'"),
    ],
)
def test_values_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    """Wrong values and misspelt options are refused before anything is made."""

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError

    with pytest.raises(xsp.TargetError, match=message):
        xsp.sweep(never, **arguments)


def test_optimal_batch_size_is_the_papers_rule_as_stated() -> None:
    """On the paper's own latencies its rule gives 64, the first size whose doubling brings at most
    5 %.
    """
    found = _sweep_of(PAPER).optimal_batch_size()
    assert found.batch_size == 64
    assert "doubling 64 to 128 changes throughput by +3.6% (± 0.0%)" in found.reason


def test_optimal_batch_size_is_none_until_the_rule_is_met() -> None:
    """Where every doubling brings more than 5 %, or none was measured, there is none, and the
    reason names failures.
    """
    growing = Sweep(
        "batch_size", _sweep_of({1: 1.0, 2: 1.1, 4: 1.2}).profiles, {8: "OutOfMemoryError: no"}
    )
    found = growing.optimal_batch_size()
    assert found.batch_size is None
    assert found.reason == (
        "even doubling 2 to 4 changes throughput by +83.3% (± 0.0%), more than 5%; 8 failed: "
        "OutOfMemoryError: no"
    )
    assert _sweep_of({1: 1.0, 3: 2.0}).optimal_batch_size().batch_size is None


def test_gain_has_an_interval() -> None:
    """The reason gives the 95 % interval of the gain: relative errors of both latencies added in
    quadrature.
    """
    found = optimal_batch_size({1: (10.0, 0.3), 2: (20.0, 0.8)})
    assert found == (1, "doubling 1 to 2 changes throughput by +0.0% (± 5.0%), no more than 5%")


def test_saved_sweep_opens_anywhere(tmp_path: Path) -> None:
    """A saved sweep has the same profiles, values and failures when it is opened, without torch
    being imported.
    """
    swept = xsp.sweep(net, (2, 1), **OPTIONS)
    swept = Sweep(swept.parameter, swept.profiles, {16: "no memory"})
    swept.save(tmp_path / "swept")
    opened = xsp.load_sweep(tmp_path / "swept")
    assert list(opened.profiles) == [2, 1]
    assert opened.failures == {16: "no memory"}
    assert opened.model_information().equals(swept.model_information())
    assert opened.profiles[2].spans.equals(swept.profiles[2].spans)
    code = (
        "import sys, xsp; xsp.load_sweep(sys.argv[1]).model_information(); assert 'torch' not in "
        "sys.modules"
    )
    environment = {"PYTHONPATH": str(Path(xsp.__file__).parents[1])}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "swept")],
        check=True,
        env=environment,
        timeout=240,
    )


def test_values_keep_their_type_and_names_are_safe(tmp_path: Path) -> None:
    """Text and fractions are values too; whatever they hold, captures stay in the folder."""
    Sweep("mode", {"../up": gpu_profile(), 0.5: gpu_profile()}).save(tmp_path / "swept")
    opened = xsp.load_sweep(tmp_path / "swept")
    assert list(opened.profiles) == ["../up", 0.5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["swept"]


@pytest.mark.parametrize(
    "manifest", [None, "{", "[]", '{"format": "xsp sweep", "version": 99, "entries": []}', "{}"]
)
def test_damaged_sweep_is_refused_with_a_sentence(tmp_path: Path, manifest: str | None) -> None:
    """A folder without a manifest, or with one that is damaged or newer, raises CaptureError."""
    if manifest is not None:
        (tmp_path / "sweep.json").write_text(manifest)
    with pytest.raises(xsp.CaptureError, match=r"sweep\.json"):
        xsp.load_sweep(tmp_path)


def test_missing_capture_is_refused(tmp_path: Path) -> None:
    """A manifest that names a capture which is gone, or lies outside the folder, does not open."""
    _sweep_of({1: 1.0}).save(tmp_path)
    gpu_profile().save(tmp_path.parent / "outside.xsp")
    text = (tmp_path / "sweep.json").read_text()
    (tmp_path / "sweep.json").write_text(text.replace("00-batch_size_1.xsp", "../outside.xsp"))
    with pytest.raises(xsp.CaptureError, match="no file"):
        xsp.load_sweep(tmp_path)


def test_notebooks_show_a_sweep_with_its_text_escaped() -> None:
    """The HTML of a sweep has a row for each value, and names and reasons as text."""
    swept = Sweep("batch_size", {1: gpu_profile(name="<script>")}, {2: "<b>no</b>"})
    html = swept._repr_html_()
    assert "<script>" not in html
    assert "&lt;b&gt;no&lt;/b&gt;" in html
    assert "56%" in html


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of targets; what targets change in `sys` is put back."""
    (tmp_path / "swept_net.py").write_text(TARGETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def _command(*arguments: str) -> Any:
    return CliRunner().invoke(
        app, ["sweep", *arguments, "--iterations", "2", "--warmup", "0", "--levels", "M/L"]
    )


def test_command_prints_the_table_and_saves(folder: Path) -> None:
    """`xsp sweep file.py --batch-sizes` prints each value, failures and the optimal batch size, and
    saves all.
    """
    outcome = _command("swept_net.py", "--batch-sizes", "1,2,8", "--output", "swept")
    assert outcome.exit_code == 0, outcome.output
    assert "8 failed: RuntimeError: CUDA out of memory. Tried to allocate" in outcome.output
    assert "optimal batch size" in outcome.output
    assert "inputs/s" in outcome.output
    assert list(xsp.load_sweep(folder / "swept").profiles) == [1, 2]


def test_command_sweeps_another_parameter(folder: Path) -> None:
    """`--over` names another parameter; one that the target requires must be given."""
    text = (folder / "swept_net.py").read_text().replace("batch, width=4", "batch=1, width=4")
    (folder / "swept_net.py").write_text(text)
    outcome = _command("swept_net.py", "--over", "width", "--batch-sizes", "3,5", "--quiet")
    assert outcome.exit_code == 0, outcome.output
    assert xsp.load_sweep(folder / "swept_net-sweep").parameter == "width"


def test_command_does_not_overwrite_a_sweep(folder: Path) -> None:
    """A folder that has a sweep is kept unless --force is given, and this is said before anything
    is measured.
    """
    _sweep_of({1: 1.0}).save(folder / "swept")
    refused = _command("swept_net.py:step", "--batch-sizes", "1", "--output", "swept")
    assert isinstance(refused.exception, xsp.XspError)
    assert "--force" in str(refused.exception)
    assert (
        _command(
            "swept_net.py:step", "--batch-sizes", "1", "--output", "swept", "--force"
        ).exit_code
        == 0
    )
