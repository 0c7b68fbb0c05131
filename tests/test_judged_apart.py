"""Accuracy is judged in a process of its own, which ends with it, at its limit, or by itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from evaluated_models import SOURCE, manifest_text, write_digits

from xsp.database.store import Store
from xsp.errors import EvaluationError
from xsp.evaluation.manifest.reading import manifest_of
from xsp.evaluation.records.reading import evaluations
from xsp.evaluation.running import evaluate
from xsp.evaluation.scenarios.process import MeasuredProcess
from xsp.evaluation.scenarios.starting import Forking

STREAM = "{kind: single_stream, queries: 64, warmup: 0"
TOP_1 = "[{metric: top_k, k: 1, output: scores, target: label}]"
HANGS = "threading.Event().wait()"
HANGS_WITH_THE_LOCK = "ctypes.PyDLL(None).pause()"
DIES = "os.kill(os.getpid(), 9)"
NINE_BATCHES = 9 * 32
"""Samples, in batches of the default size, before the call that does not return."""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeasuredProcess]:
    """One whose forks have torch already, so that limits of seconds are enough for the digits."""
    with Forking() as forking, MeasuredProcess(forking) as started:
        evaluated(write_digits(tmp_path_factory.mktemp("first")), started)
        yield started


def evaluated(manifest: Path, process: MeasuredProcess) -> dict[str, float]:
    folder = manifest.parent
    with pytest.MonkeyPatch.context() as patched:
        # pytest writes the test's name there, and forks are begun anew in another environment.
        patched.delenv("PYTEST_CURRENT_TEST")
        found = evaluate(
            manifest,
            database=folder / "db.sqlite",
            artifacts=folder / "artifacts",
            allow_code=True,
            process=process,
        )
    return found.accuracy


def digits_that(folder: Path, act: str, *, metrics: str, scenario: str = STREAM + "}") -> Path:
    """Digits whose network does this in its tenth call, once it has noted its process."""
    path = write_digits(folder, metrics=metrics, scenario=scenario)
    call = "        self.calls = getattr(self, 'calls', 0) + 1\n        if self.calls == 10:\n"
    call += f"            open({str(folder / 'pid')!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
    call += f"            {act}\n"
    head = "    def forward(self, pixels):\n"
    source = "import ctypes, os, threading\n" + SOURCE.replace(head, head + call)
    (folder / "digits.py").write_text(source)
    return path


def noted(folder: Path) -> list[int]:
    """Processes in which the network was called ten times."""
    return [int(line) for line in (folder / "pid").read_text().split()]


def gone(pid: int) -> bool:
    """Whether a process ends within a while."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        threading.Event().wait(0.1)
    return False


@pytest.mark.parametrize(
    ("act", "metrics", "scenario", "judged"),
    [
        (HANGS, f"{{accuracy: {TOP_1}, time_limit_s: 5}}", STREAM + "}", str(NINE_BATCHES)),
        (HANGS_WITH_THE_LOCK, f"{{accuracy: {TOP_1}}}", STREAM + ", time_limit_s: 5}", r"\d+"),
    ],
    ids=["the limit of the metrics", "the scenario's, and Python's lock is held"],
)
def test_a_model_that_never_answers_is_ended(
    act: str, metrics: str, scenario: str, judged: str, process: MeasuredProcess, tmp_path: Path
) -> None:
    """At the limit the accuracy pass is over with its process, whatever the model holds; one
    sentence says of how many samples it was told, and the database has nothing.
    """
    path = digits_that(tmp_path, act, metrics=metrics, scenario=scenario)
    said = f"the accuracy pass .* time limit of 5 s: {judged} of 597 samples were judged"
    with pytest.raises(EvaluationError, match=said):
        evaluated(path, process)
    assert gone(noted(tmp_path)[0])
    with Store(tmp_path / "db.sqlite") as store:
        assert evaluations(store).empty


def test_a_model_that_ends_its_process_is_told(process: MeasuredProcess, tmp_path: Path) -> None:
    """The program that evaluates stays, and says by what signal the other one ended."""
    path = digits_that(tmp_path, DIES, metrics=f"{{accuracy: {TOP_1}}}")
    with pytest.raises(EvaluationError, match="process of the accuracy pass was ended by SIGKILL"):
        evaluated(path, process)


def test_what_was_judged_leaves_no_process_and_no_logs(
    process: MeasuredProcess, tmp_path: Path
) -> None:
    """A pass that ends well leaves its values: its process and the folder of its logs are gone."""
    path = digits_that(tmp_path, "pass", metrics=f"{{accuracy: {TOP_1}}}")
    assert evaluated(path, process)["top_1"] > 0.85
    judging, measuring = noted(tmp_path)
    assert judging != measuring
    assert gone(judging)
    assert [each.name[:7] for each in (tmp_path / "artifacts" / "logs").iterdir()] == ["xsp-sin"]


def test_a_limit_that_is_not_given_leaves_the_identity() -> None:
    """Records from before there was a limit are still the same manifest; one that is given is
    another manifest.
    """
    plain = manifest_of(manifest_text().encode(), "m.yaml")
    assert "time_limit_s" not in plain.model_dump(mode="json")["metrics"]
    limited = manifest_text(metrics=f"{{accuracy: {TOP_1}, time_limit_s: 5}}")
    found = manifest_of(limited.encode(), "m.yaml")
    assert found.model_dump(mode="json")["metrics"]["time_limit_s"] == 5
    assert found.identity != plain.identity
