"""Evaluations in the database: written once and whole, read back equal, compared by verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluated_models import manifest_text
from sqlalchemy import create_engine

from xsp.cli import main
from xsp.database import schema
from xsp.database.store import Store
from xsp.errors import DatabaseError, EvaluationError
from xsp.evaluation import running
from xsp.evaluation.artifacts.store import ArtifactStore
from xsp.evaluation.manifest.reading import manifest_of
from xsp.evaluation.records import transport
from xsp.evaluation.records.answers import comparison_values
from xsp.evaluation.records.comparison import DIFFERENT, SAME, WITHIN, compare, sessions_like
from xsp.evaluation.records.evaluation import ACCURACY, Evaluation, Measure, Trace, when
from xsp.evaluation.records.reading import code_of, evaluations, measures, read, traces
from xsp.evaluation.records.writing import write
from xsp.evaluation.scenarios.scenario import Outcome


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        with Store(tmp_path / "evaluations.sqlite") as opened:
            yield opened
        return
    url = request.getfixturevalue("postgresql_server")
    with Store(url) as opened:
        yield opened
    engine = create_engine(url)
    schema.metadata.drop_all(engine)
    engine.dispose()


def outcome(latency_ms: float, seed: int = 0, queries: int = 40) -> Outcome:
    """Queries that took this long, with a scatter of 2 %."""
    generator = np.random.default_rng(seed)
    took = (latency_ms * 1e6 * (1 + 0.02 * generator.standard_normal(queries))).astype(np.int64)
    scheduled = np.arange(queries, dtype=np.int64) * 10**9
    return Outcome(
        scenario="single_stream",
        settings={"kind": "single_stream"},
        scheduled_ns=scheduled,
        issued_ns=scheduled + 5,
        completed_ns=scheduled + took,
        samples=np.ones(queries, np.int64),
        answered=np.ones(queries, bool),
        errors=0,
        valid=True,
        doubts=("measured beside others",),
        details={"lag_ns": 5},
    )


def evaluation(number: int, latency_ms: float = 2.0, **changes: Any) -> Evaluation:
    """One of a trained network; `number` is its id and its time."""
    made = Evaluation(
        id=f"{number:016x}",
        manifest=manifest_of(manifest_text().encode(), "m"),
        system={"cpu": "a processor", "torch": "2.13.0", "labels": {"rack": "a"}},
        predictor="torch",
        runtime="2.13.0",
        outcome=outcome(latency_ms, number),
        measures=(
            Measure("latency_p50", latency_ms * 1e6, "ns", latency_ms * 0.9e6, latency_ms * 1.1e6),
            Measure("energy_joules", None, "joules", reason="no GPU"),
            Measure("top_1", 0.95, ACCURACY, 0.93, 0.97),
        ),
        traces=(Trace("a" * 64, "capture", "FULL", 100_000_000, "b" * 32),),
        measured_at=1.8e9 + number,
    )
    return replace(made, **changes)


def same(a: Evaluation, b: Evaluation) -> bool:
    """Equal in everything; an outcome's columns are arrays, which have no `==` of their own."""
    columns = ("scheduled_ns", "issued_ns", "completed_ns", "samples", "answered")
    alike = all(np.array_equal(getattr(a.outcome, n), getattr(b.outcome, n)) for n in columns)
    rest: dict[str, Any] = dict.fromkeys(columns)
    return alike and replace(a, outcome=replace(a.outcome, **rest)) == replace(
        b, outcome=replace(b.outcome, **rest)
    )


def test_an_evaluation_is_read_back_equal(store: Store) -> None:
    """Everything comes back, by the whole id or its beginning; traces are kept by checksum."""
    given = evaluation(1, doubts=("one",), job="c" * 64)
    assert write(store, given, {"d" * 64: b"def make(): ..."})
    found = read(store, given.id)
    order = {each.name: each for each in found.measures}
    assert same(replace(found, measures=tuple(order[each.name] for each in given.measures)), given)
    assert same(read(store, given.id[:16]), found)
    assert code_of(store, "d" * 64) == b"def make(): ..."
    assert code_of(store, "e" * 64) is None
    assert traces(store)["spans"].tolist() == [100_000_000]
    assert found.accuracy == {"top_1": 0.95}
    with pytest.raises(EvaluationError, match="there is no evaluation"):
        read(store, "ffff")
    write(store, evaluation(2))
    with pytest.raises(EvaluationError, match="several evaluations begin"):
        read(store, "0000")


def test_a_job_is_written_once(store: Store) -> None:
    """The same id or the same job again changes nothing."""
    assert write(store, evaluation(1, job="c" * 64))
    assert not write(store, evaluation(1, latency_ms=9.0))
    assert not write(store, evaluation(2, latency_ms=9.0, job="c" * 64))
    assert len(evaluations(store)) == 1


def test_evaluations_are_a_table(store: Store) -> None:
    """One row each in order of time, a column for each measure, NaN where it is unknown; of what
    was traced, in other runs, the level.
    """
    assert evaluations(store).empty
    for number in (3, 1):
        write(store, evaluation(number, latency_ms=float(number)))
    write(store, evaluation(2, latency_ms=2.0, traces=()))
    table = evaluations(store)
    assert table["traced"].fillna("no").tolist() == ["FULL", "no", "FULL"]
    assert evaluations(store, 2)["traced"].fillna("no").tolist() == ["no", "FULL"]
    assert table["id"].tolist() == [f"{number:016x}" for number in (1, 2, 3)]
    assert table["latency_p50"].tolist() == [1e6, 2e6, 3e6]
    assert table["top_1"].tolist() == [0.95] * 3
    assert "energy_joules" not in table or table["energy_joules"].isna().all()
    assert table["system"].unique().tolist() == ["a processor"]
    assert set(measures(store)["reason"]) == {"", "no GPU"}
    assert (table["model"] == "digits-cnn").all()


def test_nothing_is_there_by_half(store: Store) -> None:
    """A record that the database refuses leaves nothing behind."""
    twice = (Measure("top_1", 0.9), Measure("top_1", 0.8))
    with pytest.raises(DatabaseError):
        write(store, evaluation(1, measures=twice))
    assert evaluations(store).empty
    assert measures(store).empty
    assert write(store, evaluation(1))


@pytest.mark.parametrize(
    ("after_ms", "verdict"), [(2.0, "neutral"), (2.6, "regression"), (1.5, "improved")]
)
def test_latencies_are_compared_by_verdicts(after_ms: float, verdict: str) -> None:
    """The verdict is that of `compare` on the queries' times."""
    found = compare(evaluation(1), evaluation(2, latency_ms=after_ms))
    assert found.latency.name == verdict
    assert found.latency.ratio == pytest.approx(after_ms / 2.0, rel=0.02)
    assert verdict in str(found)


def test_scatter_of_sessions_is_heeded(store: Store) -> None:
    """A slow-down as large as what evaluations of the same manifest differ by is no regression;
    where fewer than three tell what they differ by, the comparison says that it may be that.
    """
    for number, latency in enumerate((2.0, 2.5, 1.7, 2.3)):
        write(store, evaluation(number, latency_ms=latency))
    before, after = read(store, f"{0:016x}"), evaluation(9, latency_ms=2.5)
    alone = compare(before, after)
    assert alone.latency.name == "regression"
    assert "a busy moment of the machine looks the same; evaluate the first 3 times" in str(alone)
    sessions = sessions_like(store, before)
    assert len(sessions) == 4
    among = compare(before, after, sessions=sessions)
    assert among.latency.name == "undecided"
    slower = compare(before, evaluation(9, latency_ms=9.0), sessions=sessions)
    assert slower.latency.name == "regression"
    assert "busy moment" not in f"{among}{slower}"


def test_accuracy_is_compared(store: Store) -> None:
    """Equal values are the same; others are within each other's interval, or different."""

    def with_top_1(number: int, value: float, low: float | None, high: float | None) -> Evaluation:
        return evaluation(number, measures=(Measure("top_1", value, ACCURACY, low, high),))

    first = with_top_1(1, 0.95, 0.93, 0.97)
    words = {
        SAME: with_top_1(2, 0.95, 0.93, 0.97),
        WITHIN: with_top_1(3, 0.96, 0.94, 0.98),
        DIFFERENT: with_top_1(4, 0.80, 0.75, 0.85),
    }
    for word, second in words.items():
        assert compare(first, second).accuracy["word"].tolist() == [word]
    unknown = with_top_1(5, 0.951, None, None)
    assert compare(first, unknown).accuracy["word"].tolist() == [DIFFERENT]


def test_what_else_differs_is_said() -> None:
    """Another manifest, runtime or system is part of the comparison."""
    other = manifest_of(manifest_text(name="other").encode(), "m")
    changed = evaluation(2, manifest=other, runtime="2.14.0", system={"cpu": "another"})
    found = compare(evaluation(1), changed)
    said = found.differences
    assert said[0] == "the manifests differ"
    assert "torch 2.13.0, torch 2.14.0" in said[1]
    assert "cpu a processor before, another after; labels rack=a before, none after" in said[2]
    assert "different systems (cpu, labels)" in found.doubts[0]


def test_a_verdict_carries_what_makes_it_doubtful(store: Store) -> None:
    """Another machine, and an evaluation that is not valid, are doubts of the verdict in words and
    as JSON; another version of what is installed is no other machine, and another runtime no other
    system.
    """
    first = evaluation(1)
    here = first.system
    machine = evaluation(2, system={**here, "gpu": "a GPU", "cpu_flags": ["avx"] * 40})
    broken = evaluation(3, outcome=replace(outcome(2.0), valid=False, reasons=("too few queries",)))
    newer = evaluation(4, system={**here, "torch": "2.14.0"}, runtime="2.14.0")
    other = evaluation(5, system={**here, "onnxruntime": "1.2"}, predictor="onnxruntime")
    for each in (machine, broken):
        write(store, each)
    found = compare(first, read(store, machine.id))
    assert "different systems (cpu_flags, gpu)" in str(found)
    assert "gpu none before, a GPU after" in str(found)
    assert max(map(len, found.differences)) < 200
    assert comparison_values(found)["doubts"] == list(found.doubts)
    assert compare(read(store, broken.id), first).doubts == (
        f"{broken.id} is not valid: too few queries",
    )
    assert not compare(first, newer).doubts
    assert "torch 2.13.0 before, 2.14.0 after" in str(compare(first, newer))
    assert not any("systems" in each for each in compare(first, other).sentences())


def test_an_evaluation_travels_as_json() -> None:
    """What an agent returns is JSON, and equal when it is read."""
    given = evaluation(1)
    text = json.dumps(transport.as_json(given), allow_nan=False)
    assert same(transport.from_json(json.loads(text)), given)
    with pytest.raises(EvaluationError, match="is not an evaluation"):
        transport.from_json({"format": "something"})


def test_a_lost_database_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the database fails after measuring, one sentence names the file that has the
    evaluation, and `xsp evaluate --add` puts it in.
    """
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    place = tmp_path / "db.sqlite"
    given = evaluation(1)
    with Store(place) as store:
        with store.writing() as connection:
            connection.exec_driver_sql("DROP TABLE measures")
        with pytest.raises(DatabaseError, match="The evaluation is kept in") as caught:
            running.record(store, given, ArtifactStore(tmp_path / "artifacts"))
    assert "\n" not in str(caught.value)
    kept = next(tmp_path.glob("xsp-*/evaluation-*.json"))
    assert str(kept) in str(caught.value)
    new = tmp_path / "new.sqlite"
    monkeypatch.setattr("sys.argv", ["xsp", "evaluate", "--add", str(kept), "--database", str(new)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "kept" in capsys.readouterr().out
    with Store(new) as store:
        assert len(evaluations(store)) == 1


DAMAGED: dict[str, dict[str, Any]] = {
    "a time": {"measured_at": "yesterday"},
    "a late time": {"measured_at": 1e300},
    "facts": {"system": [1]},
    "a path for an id": {"id": "../../x"},
    "doubts": {"doubts": "one"},
    "a measure": {"measures": [{"name": "top_1", "value": "much"}]},
    "a measure twice": {"measures": [{"name": "top_1", "value": 0.5}] * 2},
    "no columns": {"outcome": {"queries": ""}},
    "no word on validity": {"outcome": {"valid": "maybe"}},
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_file_that_is_no_evaluation_is_one_sentence(kind: str, tmp_path: Path) -> None:
    """Each value that is not what an evaluation has there is refused before it is in the database,
    as is text that is nested without end.
    """
    given = transport.as_json(evaluation(1))
    for name, value in DAMAGED[kind].items():
        whole = isinstance(value, dict) and isinstance(given[name], dict)
        given[name] = {**given[name], **value} if whole else value
    path = tmp_path / "evaluation.json"
    for text in (json.dumps(given), "[" * 200_000):
        path.write_text(text)
        with pytest.raises(EvaluationError, match="give a file that xsp evaluate wrote") as caught:
            transport.load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE systems SET facts = '{{'",
        "UPDATE systems SET facts = '[1]'",
        "UPDATE evaluations SET doubts = 'none'",
        "UPDATE evaluations SET queries = x''",
        "UPDATE evaluations SET measured_at = 'yesterday'",
        "UPDATE evaluations SET measured_at = 1e300",
        "UPDATE measures SET value = 'much'",
    ],
)
def test_a_damaged_record_is_told_and_the_others_are_listed(change: str, tmp_path: Path) -> None:
    """Whatever somebody wrote into a database, a record that cannot be read is one sentence, and
    the list is shown with what is not known left out.
    """
    with Store(tmp_path / "db.sqlite") as store:
        write(store, evaluation(1))
        with store.writing() as connection:
            connection.exec_driver_sql(change)
        with pytest.raises(DatabaseError, match=r"is damaged .*restore a copy") as caught:
            read(store, f"{1:016x}")
        assert "\n" not in str(caught.value)
        (row,) = evaluations(store).to_dict("records")
    assert when(row["measured_at"]) in {"unknown", "2027-01-15 08:00 UTC"}
