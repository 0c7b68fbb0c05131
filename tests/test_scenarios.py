"""Systems under load: real tests by loadgen, each in a process of its own, by counts and states."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import loadable_systems as systems
import numpy as np
import pytest
from scipy import stats

from xsp.errors import EvaluationError
from xsp.evaluation.scenarios.batches import run_batches
from xsp.evaluation.scenarios.judging import own_ns
from xsp.evaluation.scenarios.loadgen_logs import verdict
from xsp.evaluation.scenarios.process import MeasuredProcess, alone
from xsp.evaluation.scenarios.readying import make_ready
from xsp.evaluation.scenarios.recording import COMPLETED, FAILED, Recording, recorded
from xsp.evaluation.scenarios.running import run_scenario
from xsp.evaluation.scenarios.scenario import MakeSystem, Outcome
from xsp.evaluation.scenarios.settings import (
    Batched,
    MultiStream,
    Offline,
    Replay,
    Server,
    SingleStream,
)
from xsp.evaluation.scenarios.starting import Forking, fresh

AN_HOUR_MS = 3_600_000
"""A latency bound that no stall of the machine breaks."""


def server(queries: int, rate_per_s: float = 1000.0, batch: int = 1) -> Server:
    return Server(
        kind="server",
        rate_per_s=rate_per_s,
        latency_bound_ms=AN_HOUR_MS,
        queries=queries,
        batch=batch,
        seed=7,
    )


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The smallest valid server test for p99."""
    folder = tmp_path_factory.mktemp("server") / "not there" / "yet"
    return run_scenario(server(459), systems.ready, 10, logs=folder)


def libstdcxx_gaps_ns(seed: int, rate_per_s: float, count: int) -> np.ndarray:
    """Distances that std::exponential_distribution draws from std::mt19937 in libstdc++: two words
    of 32 bits give a number below one, its logarithm the distance.
    """
    words = np.random.RandomState(seed).randint(0, 2**32, 2 * count, dtype=np.uint32)
    uniform = (words[::2] + words[1::2] * 2.0**32) / 2.0**64
    return np.asarray(np.trunc(-np.log1p(-uniform) / rate_per_s * 1e9), dtype=np.int64)


def test_459_queries_are_a_valid_server_test(smallest: Outcome) -> None:
    """MLPerf's smallest valid test for p99 is valid, by loadgen's verdict and by ours."""
    assert smallest.valid
    assert smallest.reasons == ()
    assert smallest.errors == 0
    assert len(smallest.samples) == 459
    assert smallest.answered.all()
    assert set(smallest.samples.tolist()) == {1}
    assert (smallest.completed_ns >= smallest.issued_ns).all()
    assert smallest.logs is not None
    assert verdict(smallest.logs).valid


def test_the_schedule_is_the_one_that_loadgen_drew(smallest: Outcome) -> None:
    """Scheduled arrivals are loadgen's own to a microsecond: those of its seed, computed apart."""
    gaps = np.diff(smallest.scheduled_ns)
    drawn = libstdcxx_gaps_ns(smallest.details["schedule_seed"], 1000.0, len(gaps))
    # A clock that the kernel slews stretches distances by at most 500 ppm.
    assert np.abs(gaps - drawn).max() <= 1000 + 0.001 * drawn.max()


def test_scheduled_arrivals_are_poissons(smallest: Outcome) -> None:
    """Their distances pass a Kolmogorov-Smirnov test against the exponential distribution."""
    gaps_s = np.diff(smallest.scheduled_ns) / 1e9
    assert stats.kstest(gaps_s, "expon", args=(0, 1 / 1000.0)).pvalue > 0.05


def test_the_lag_of_issued_queries_is_told(smallest: Outcome) -> None:
    """The outcome says how much later than scheduled queries were issued."""
    assert smallest.details["lag_ns"]["median"] == np.median(smallest.lag_ns)
    assert smallest.details["lag_ns"]["most"] == smallest.lag_ns.max()
    assert (smallest.latency_ns == smallest.to_frame()["latency_ns"]).all()


def test_the_harness_tells_its_own_time(smallest: Outcome) -> None:
    """Each call is one that waited, or came to a free system, or arrived while it became free; what
    passes before it is told beside the system's own time.
    """
    own = smallest.details["own_ns"]
    assert own["system"]["calls"] == 459
    assert own["between"]["calls"] + own["at_idle"]["calls"] <= 459
    assert own["at_idle"]["p99"] >= own["at_idle"]["median"] > 0
    assert own["at_idle"]["median"] <= np.quantile(smallest.latency_ns, 0.9)


def test_time_between_queries_is_that_of_calls() -> None:
    """By hand: the first call comes to a free system after 2, the second has two queries that wait
    for it and begins 3 after its end, the last comes after 10; one that was scheduled before the
    end and issued after it tells neither.
    """
    rows = [
        # scheduled, issued, begun, completed
        (0, 1, 2, 50),
        (10, 11, 53, 100),
        (20, 21, 53, 100),
        (99, 101, 109, 120),
        (200, 205, 210, 240),
    ]
    own = own_ns(*np.array(rows, np.int64).T)
    assert own["between"] == {"median": 3, "p99": 3, "calls": 1}
    assert (own["at_idle"]["median"], own["at_idle"]["calls"]) == (6, 2)
    assert (own["system"]["median"], own["system"]["calls"]) == (38.5, 4)
    unknown = np.zeros(3, np.int64)
    assert own_ns(unknown, unknown, unknown, unknown) == {}


def test_a_service_that_is_short_beside_the_harness_is_doubted(tmp_path: Path) -> None:
    """Where queries wait for a system that takes no longer than xsp itself, the outcome says how
    long both take; for one that takes 10 ms it does not.
    """
    at_once = Replay(kind="replay", arrivals_s=(0.0,) * 50)
    short = run_scenario(at_once, systems.ready, 10, logs=tmp_path)
    assert [doubt for doubt in short.doubts if doubt.startswith("between two queries")]
    long = run_scenario(at_once, partial(systems.sleeping, 0.01), 10, logs=tmp_path)
    assert not [doubt for doubt in long.doubts if doubt.startswith("between two queries")]


def test_the_columns_lie_beside_loadgens_logs(smallest: Outcome) -> None:
    """Loadgen's files and the columns are kept in a folder of the test's own."""
    assert smallest.logs is not None
    names = {path.name for path in smallest.logs.iterdir()}
    assert {"mlperf_log_summary.txt", "mlperf_log_trace.json.gz", "queries.npy"} <= names
    assert recorded(smallest.logs)[:, COMPLETED].tolist() == smallest.completed_ns.tolist()


def test_one_query_less_is_not_valid(tmp_path: Path) -> None:
    """With 458 queries early stopping refuses, loadgen's and ours, and the reason says how many."""
    outcome = run_scenario(server(458), systems.ready, 10, logs=tmp_path)
    assert not outcome.valid
    assert "459" in outcome.reasons[0]
    assert outcome.logs is not None
    assert not verdict(outcome.logs).valid


def test_sigint_does_not_end_a_single_stream(tmp_path: Path) -> None:
    """A SIGINT to the measured process neither ends the test nor takes a query from it; 64 queries
    are the smallest valid single stream.
    """
    scenario = SingleStream(kind="single_stream", queries=64)
    outcome = run_scenario(scenario, partial(systems.signalled_once, 30), 10, logs=tmp_path)
    assert (outcome.valid, len(outcome.samples), outcome.errors) == (True, 64, 0)


def test_multi_stream_asks_for_several_samples(tmp_path: Path) -> None:
    """Each query of the smallest valid multi stream has its samples, also more than there are."""
    scenario = MultiStream(kind="multi_stream", queries=662, samples_per_query=4)
    outcome = run_scenario(scenario, systems.ready, 3, logs=tmp_path)
    assert outcome.valid
    assert outcome.samples.tolist() == [4] * 662


def test_offline_answers_all_samples_in_batches(tmp_path: Path) -> None:
    """All samples are scheduled at one time and answered in batches of the size asked for, as are
    the three calls of the warm-up, which are not recorded.
    """
    calls = tmp_path / "calls"
    scenario = Offline(kind="offline", samples=100, batch=8)
    outcome = run_scenario(scenario, partial(systems.writing, str(calls)), 10, logs=tmp_path)
    assert outcome.valid
    assert outcome.samples.tolist() == [8] * 12 + [4]
    assert [int(line) for line in calls.read_text().split()] == [8, 8, 8, *outcome.samples]
    assert len(set(outcome.scheduled_ns.tolist())) == 1


def test_a_system_that_raises_completes_every_query(tmp_path: Path) -> None:
    """Errors, even SystemExit, are counted, the first is told, and the test ends by itself."""
    broken = partial(systems.raising, 3 + 300, SystemExit)
    outcome = run_scenario(server(459), broken, 10, logs=tmp_path)
    assert not outcome.valid
    assert outcome.errors == 159
    assert outcome.answered.sum() == 300
    assert "159 of 459 queries ended in an error; the first: SystemExit: broken" in " ".join(
        outcome.reasons
    )


def test_a_system_that_hangs_is_ended(tmp_path: Path) -> None:
    """The time limit ends a test that would never end; the message says where the rest is."""
    scenario = SingleStream(kind="single_stream", queries=64, time_limit_s=5)
    with pytest.raises(EvaluationError, match=r"time limit of 5 s.*are kept in"):
        run_scenario(scenario, partial(systems.hanging, 10), 10, logs=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert recorded(folder).shape[1] == 7


def test_a_system_that_dies_loses_nothing(tmp_path: Path) -> None:
    """A killed process is told by its signal and last line; what it had answered is on disk."""
    scenario = SingleStream(kind="single_stream", queries=64)
    with pytest.raises(EvaluationError, match=r"SIGKILL.*10 of 11 .*the last line") as caught:
        run_scenario(scenario, partial(systems.dying, 3 + 10), 10, logs=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert str(folder) in str(caught.value)
    rows = recorded(folder)
    assert np.count_nonzero(rows[:, COMPLETED]) == 10
    assert not rows[:, FAILED].any()


def test_a_system_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """What the function raises is in the message."""
    with pytest.raises(EvaluationError, match=r"could not be made: FileNotFoundError: weights.pt"):
        run_scenario(server(459), systems.impossible, 10, logs=tmp_path)


@pytest.fixture(scope="module")
def forking() -> Iterator[Forking]:
    """One that has imported torch, for all tests of this file."""
    with Forking() as started:
        yield started


def test_tests_of_a_system_share_a_process(tmp_path: Path) -> None:
    """The system is made once for them; each has its own columns and logs, and says how many were
    before it; another system has another process.
    """
    made = tmp_path / "made"
    system = partial(systems.noting, str(made))
    stream = SingleStream(kind="single_stream", queries=64)
    with MeasuredProcess() as process:
        first, second, third = (
            run_scenario(each, system, 10, logs=tmp_path / "logs", process=process)
            for each in (stream, server(459), stream)
        )
        other = partial(systems.noting, str(made), 10**6)
        fourth = run_scenario(stream, other, 10, logs=tmp_path / "logs", process=process)
        assert process.started == 2
    outcomes = (first, second, third, fourth)
    assert [each.valid for each in outcomes] == [True] * 4
    assert [len(each.samples) for each in outcomes] == [64, 459, 64, 64]
    assert [each.details["tests_before"] for each in outcomes] == [0, 1, 2, 0]
    assert len({each.logs for each in outcomes}) == 4
    assert first.completed_ns[-1] < second.scheduled_ns[0] < third.scheduled_ns[0]
    assert second.usage.peak_host_bytes is not None
    assert len(set(made.read_text().split())) == 2
    assert comes_true(lambda: not any(alive(int(pid)) for pid in made.read_text().split()))


def test_systems_are_made_beside_one_another_before_any_is_measured(tmp_path: Path) -> None:
    """Each is made at once in its own process, called with the sizes that were asked for, and found
    there by its tests; one that cannot be made says so and does not keep the others.
    """
    sizes, pids = tmp_path / "sizes", tmp_path / "pids"
    called = partial(systems.writing, str(sizes))
    noted = partial(systems.noting, str(pids))
    stream = SingleStream(kind="single_stream", queries=64, warmup=0)
    processes = [MeasuredProcess() for _ in range(3)]
    try:
        with alone(), pytest.raises(EvaluationError, match="another test"):
            make_ready([(processes[0], called)], [1])
        made: list[MakeSystem] = [called, systems.impossible, noted]
        todo = list(zip(processes, made, strict=True))
        first, second, third = make_ready(todo, [1, 4, 2], logs=tmp_path / "logs")
        assert (first, third) == (None, None)
        assert "FileNotFoundError: weights.pt" in str(second)
        assert sizes.read_text().split() == ["1", "4", "2"]
        (pid,) = pids.read_text().split()
        assert alive(int(pid))
        found = run_scenario(stream, called, 10, logs=tmp_path / "logs", process=processes[0])
        other = run_scenario(stream, noted, 10, logs=tmp_path / "logs", process=processes[2])
    finally:
        for process in processes:
            process.close()
    assert [process.started for process in processes] == [1, 1, 1]
    assert sizes.read_text().split() == ["1", "4", "2"] + ["1"] * 64
    assert pids.read_text().split() == [pid]
    for outcome in (found, other):
        assert outcome.valid
        assert outcome.details["made_ready"] == [1, 4, 2]
        assert outcome.details["tests_before"] == 0


def test_a_system_that_is_not_ready_in_time_is_ended(tmp_path: Path, forking: Forking) -> None:
    """The time limit holds for making systems too. It ends the one that exceeds it, whose process
    is gone then, and not those that were ready while it was waited for.
    """
    with MeasuredProcess(forking) as slow, MeasuredProcess(forking) as quick:
        made: list[MakeSystem] = [partial(systems.hanging, 0), systems.ready]
        todo = list(zip((slow, quick), made, strict=True))
        late, well = make_ready(todo, [1], logs=tmp_path, time_limit_s=30)
        assert "after its time limit of 30 s" in str(late)
        assert well is None
        for process, started in ((slow, 2), (quick, 1)):
            assert run_scenario(server(459), systems.ready, 1, logs=tmp_path, process=process).valid
            assert process.started == started


def test_the_warm_up_is_in_the_thread_that_answers(tmp_path: Path) -> None:
    """Libraries have state for each thread, which the first query would wait for: all calls of all
    tests in a process are in one thread.
    """
    noted = tmp_path / "threads"
    system = partial(systems.noting_threads, str(noted))
    scenarios = (
        SingleStream(kind="single_stream", queries=64, warmup=3),
        server(459),
        Batched(kind="batched", batch_sizes=(1, 2), iterations=2),
        Replay(kind="replay", arrivals_s=(0.0, 0.001)),
    )
    with MeasuredProcess() as process:
        for scenario in scenarios:
            run_scenario(scenario, system, 10, logs=tmp_path / "logs", process=process)
    calls = noted.read_text().split()
    assert len(calls) >= 3 + 64 + 3 + 459 + 2 * 2 + 3 + 2
    assert len(set(calls)) == 1


@pytest.mark.parametrize("begins", ["fresh", "forked"])
def test_a_test_after_one_that_failed_has_a_new_process(
    tmp_path: Path, begins: str, forking: Forking
) -> None:
    """A query without an answer and a death each leave a process that the next test does not get,
    whether processes begin anew or as forks; the tests after them are whole.
    """
    stream = SingleStream(kind="single_stream", queries=64)
    failing = partial(systems.noting, str(tmp_path / "made"), 3 + 10)
    with MeasuredProcess(forking if begins == "forked" else fresh) as process:
        broken = run_scenario(stream, failing, 10, logs=tmp_path / "logs", process=process)
        again = run_scenario(stream, failing, 10, logs=tmp_path / "logs", process=process)
        assert (broken.errors, again.errors, again.details["tests_before"]) == (1, 1, 0)
        assert process.started == 2
        with pytest.raises(EvaluationError, match="SIGKILL"):
            run_scenario(stream, partial(systems.dying, 5), 10, process=process)
        well = run_scenario(stream, systems.ready, 10, process=process)
        assert (well.valid, process.started) == (True, 4)
    assert well.details["forked"] == (begins == "forked")


def test_forks_have_torch_and_nothing_of_each_other(tmp_path: Path, forking: Forking) -> None:
    """Each fork is a process of its own with torch imported, an untouched GPU and another state of
    numpy's global generator.
    """
    told = tmp_path / "told"
    scenario = SingleStream(kind="single_stream", queries=64)
    for _ in range(2):
        with MeasuredProcess(forking) as process:
            run_scenario(scenario, partial(systems.telling, str(told)), 10, process=process)
    first, second = (json.loads(line) for line in told.read_text().splitlines())
    assert first["torch"] == second["torch"] == "imported, without CUDA"
    assert first["pid"] != second["pid"]
    assert first["drawn"] != second["drawn"]


def test_a_fork_is_begun_anew_where_the_forking_process_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another environment gets another forking process, and so does the test after one was killed,
    which ends its forks.
    """
    scenario = SingleStream(kind="single_stream", queries=64)
    with Forking(["numpy"]) as forking, MeasuredProcess(forking) as process:
        first = run_scenario(scenario, systems.ready, 10, process=process)
        monkeypatch.setenv("XSP_TEST_VALUE", "seen")
        process.close()
        told = tmp_path / "told"
        second = run_scenario(scenario, partial(systems.telling, str(told)), 10, process=process)
        assert json.loads(told.read_text())["value"] == "seen"
        os.kill(json.loads(told.read_text())["parent"], signal.SIGKILL)
        assert comes_true(lambda: not alive(json.loads(told.read_text())["pid"]))
        third = run_scenario(scenario, systems.ready, 10, process=process)
    assert [each.valid for each in (first, second, third)] == [True] * 3


def test_a_fork_that_went_with_its_forking_process_is_known_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another environment had forks begun anew, a process from before that has a new one for
    its next test, instead of waiting for the one that is gone.
    """
    scenario = SingleStream(kind="single_stream", queries=64, time_limit_s=60)
    with Forking(["numpy"]) as forking, MeasuredProcess(forking) as process:
        run_scenario(scenario, systems.ready, 10, logs=tmp_path, process=process)
        monkeypatch.setenv("XSP_TEST_VALUE", "other")
        with process.another() as other:
            run_scenario(scenario, systems.ready, 10, logs=tmp_path, process=other)
        again = run_scenario(scenario, systems.ready, 10, logs=tmp_path, process=process)
    assert (again.valid, process.started) == (True, 2)


@pytest.mark.parametrize(
    ("hangs", "start"),
    [
        ("noting_and_hanging", "starting.fresh"),
        ("holding_the_lock", "starting.fresh"),
        ("holding_the_lock", "starting.Forking(['numpy'])"),
    ],
)
def test_the_test_ends_with_the_process_that_waits(tmp_path: Path, hangs: str, start: str) -> None:
    """When the waiting process is killed, the measured one ends, forked or not, even one that hangs
    with Python's lock held.
    """
    noted = tmp_path / "pid"
    program = (
        "from functools import partial\n"
        "import loadable_systems as systems\n"
        "from xsp.evaluation.scenarios import starting\n"
        "from xsp.evaluation.scenarios.process import MeasuredProcess\n"
        "from xsp.evaluation.scenarios.running import run_scenario\n"
        "from xsp.evaluation.scenarios.settings import SingleStream\n"
        "scenario = SingleStream(kind='single_stream', warmup=0)\n"
        f"run_scenario(scenario, partial(systems.{hangs}, {str(noted)!r}), 1,"
        f" logs={str(tmp_path)!r}, process=MeasuredProcess({start}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    waiting = subprocess.Popen([sys.executable, "-c", program], env=environment)
    try:
        assert comes_true(lambda: noted.exists() and noted.read_text().endswith("\n"))
    finally:
        waiting.kill()
        waiting.wait()
    assert comes_true(lambda: not alive(int(noted.read_text())))


def comes_true(condition: Callable[[], bool]) -> bool:
    """Whether it does within two minutes."""
    for _ in range(1200):
        if condition():
            return True
        time.sleep(0.1)
    return False


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """Where logs cannot be kept nothing is run."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="no folder for logs can be made"):
        run_scenario(server(459), systems.ready, 10, logs=tmp_path / "file" / "logs")


def test_two_tests_at_once_are_refused(tmp_path: Path) -> None:
    """A second test in one process is refused while the first runs, and nothing is written."""
    with alone(), pytest.raises(EvaluationError, match="another test is running"):
        run_scenario(server(459), systems.ready, 10, logs=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_system_that_cannot_be_handed_over_is_told(tmp_path: Path) -> None:
    """A function that another process cannot import is refused with the way out."""
    with pytest.raises(EvaluationError, match="function of a module"):
        run_scenario(server(459), lambda: systems.ready(), 10, logs=tmp_path)
    with pytest.raises(EvaluationError, match="samples must be >= 1, not 0"):
        run_scenario(server(459), systems.ready, 0, logs=tmp_path)


def test_recorded_arrivals_are_replayed(tmp_path: Path) -> None:
    """Queries are scheduled when they once arrived, faster by the factor asked for; calls of the
    warm-up are not among them.
    """
    times = tmp_path / "arrivals.txt"
    times.write_text("100.0\n100.25\n100.25\n100.5\n")
    scenario = Replay(
        kind="replay",
        arrivals_file=Path("arrivals.txt"),
        sha256=hashlib.sha256(times.read_bytes()).hexdigest(),
        speed=2,
    )
    outcome = run_scenario(scenario, systems.ready, 10, logs=tmp_path / "logs", beside=tmp_path)
    assert outcome.valid
    # The settings have the times themselves: the file is not needed to repeat the test.
    assert outcome.settings["arrivals_s"] == [100.0, 100.25, 100.25, 100.5]
    assert outcome.settings["arrivals_file"] is None
    since_first = outcome.scheduled_ns - outcome.scheduled_ns[0]
    assert since_first.tolist() == [0, 125_000_000, 125_000_000, 250_000_000]
    assert (outcome.issued_ns >= outcome.scheduled_ns).all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "at least one arrival time"),
        ("2\n1\n", "ascending order"),
        ("1\nnan\n", "finite"),
        ("soon\n", "a number of seconds"),
    ],
)
def test_arrival_times_that_cannot_be_are_refused(tmp_path: Path, content: str, said: str) -> None:
    """A file of arrival times that is empty, unordered or no numbers is refused before anything
    runs.
    """
    (tmp_path / "arrivals.txt").write_text(content)
    scenario = Replay(kind="replay", arrivals_file=Path("arrivals.txt"))
    with pytest.raises(EvaluationError, match=said) as caught:
        run_scenario(scenario, systems.ready, 10, logs=tmp_path / "logs", beside=tmp_path)
    assert "soon" not in str(caught.value)  # nothing of a file that may be another one
    other = scenario.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(EvaluationError, match="checksum"):
        run_scenario(other, systems.ready, 10, beside=tmp_path)
    with pytest.raises(EvaluationError, match="cannot be read"):
        run_scenario(scenario, systems.ready, 10, beside=tmp_path / "elsewhere")
    for outside in ("../arrivals.txt", str(tmp_path / "arrivals.txt")):
        leading_out = scenario.model_copy(update={"arrivals_file": Path(outside)})
        with pytest.raises(EvaluationError, match="or below it"):
            run_scenario(leading_out, systems.ready, 10, beside=tmp_path / "elsewhere")


def test_batches_are_measured_by_a_sweep(tmp_path: Path) -> None:
    """Each batch size is timed as often as asked for; one that fails is told and marked."""
    scenario = Batched(kind="batched", batch_sizes=(1, 2, 4), iterations=3)

    def up_to_two(indices: Sequence[int]) -> None:
        if len(indices) > 2:
            raise MemoryError("no room")

    failures = run_batches(scenario, up_to_two, Recording(tmp_path), samples=10)
    rows = recorded(tmp_path)
    assert rows[:, 3].tolist() == [1, 1, 1, 2, 2, 2, 4]
    assert rows[:, FAILED].tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert failures == ("batch size 4 failed: MemoryError: no room",)


def test_settings_are_json(smallest: Outcome) -> None:
    """What an outcome tells of its settings and details can be kept as JSON and read again."""
    kept = json.loads(json.dumps({**smallest.settings, **smallest.details}))
    assert kept["rate_per_s"] == 1000.0
    assert Server.model_validate(smallest.settings) == server(459)
